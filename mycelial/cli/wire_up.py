"""Builds real objects for the processes; the only place that does.

Everything below is imported inside the functions, so that a daemon never loads what only a
control plane needs, and the other way round.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mycelial import __version__
from mycelial.kernel.clock import SystemClock
from mycelial.kernel.entropy import system_rng
from mycelial.kernel.errors import OperationFailed
from mycelial.kernel.files import make_private_dir

if TYPE_CHECKING:
    from mycelial.controlplane.assembly import Plane
    from mycelial.controlplane.datadir import DataDir
    from mycelial.controlplane.server import Listener
    from mycelial.daemon.inventory import Abilities
    from mycelial.gitops.base import ManifestSource
    from mycelial.observability.logs import StructuredLog
    from mycelial.runtime.launcher import Launcher
    from mycelial.schemas.catalog import Catalog, CatalogEntry
    from mycelial.sdk.plugin import Loader, PluginSpec, Role
    from mycelial.sdk.registry import Registry

_ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - told apart here, bound nowhere
_ROLES: tuple[Role, ...] = ("source", "destination", "transform")


def catalog_of(registry: Registry) -> Catalog:
    """Return the installed plugins as data, for those who check manifests."""
    from mycelial.schemas.catalog import Catalog

    return Catalog.deferred(
        {
            (plugin.name, role): partial(_entry, plugin, role, loader)
            for plugin in registry
            for role in _ROLES
            if (loader := plugin.loader(role)) is not None
        }
    )


def installed_catalog() -> Catalog:
    """Return the catalog of what is installed here."""
    from mycelial.sdk.registry import Registry

    return catalog_of(Registry.discover())


def _entry(plugin: PluginSpec, role: Role, loader: Loader) -> CatalogEntry:
    from mycelial.schemas.catalog import entry_for

    return entry_for(plugin.name, role, loader.config(), summary=plugin.summary)


# -- the control plane -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What `mycelial server` was told."""

    data: Path
    listen: tuple[str, int]
    daemon_listen: tuple[str, int]
    advertise: tuple[str, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    repository: str = ""
    folder: Path | None = None
    branch: str = "main"
    poll_seconds: float = 30.0
    push: bool = False
    known_hosts: Path | None = None
    seed: Path | None = None


def _settle() -> None:
    """Collect garbage again, sparing what was imported: it stays for the life of the process."""
    gc.freeze()
    gc.enable()


def run_server(options: ServerOptions) -> None:
    """Run a control plane until SIGINT or SIGTERM. Raises: MycelialError."""
    from mycelial.controlplane.datadir import DataDir, DirLock
    from mycelial.observability.logs import log_to_stderr

    clock = SystemClock()
    log = log_to_stderr(clock)
    data = DataDir(options.data)
    data.create()
    with DirLock(data.root):
        plane, listeners = _build_plane(options, data, clock, log)
        _settle()
        try:
            _serve(plane, listeners, data, log)
        finally:
            plane.close()


def _serve(
    plane: Plane, listeners: tuple[Listener, ...], data: DataDir, log: StructuredLog
) -> None:
    import asyncio

    from mycelial.controlplane.server import new_event_loop, stop_signals

    def started(bound: Mapping[str, tuple[str, int]]) -> None:
        addresses = {name: f"{host}:{port}" for name, (host, port) in bound.items()}
        log.info("serving", **addresses, token_file=str(data.admin_token_file))

    async def serve() -> None:
        stop = asyncio.Event()
        with stop_signals(stop.set):
            await plane.run(listeners, stop=stop, started=started)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve())


def _build_plane(
    options: ServerOptions, data: DataDir, clock: SystemClock, log: StructuredLog
) -> tuple[Plane, tuple[Listener, ...]]:
    import ssl

    from mycelial.controlplane.assembly import Parts, Plane
    from mycelial.controlplane.compiling import Compiler
    from mycelial.controlplane.frontend import SchemasFrontEnd
    from mycelial.controlplane.parsecache import DiskParseCache
    from mycelial.controlplane.server import Listener
    from mycelial.gitops.apply import Editor
    from mycelial.schemas.edit import remove_object, replace_object
    from mycelial.schemas.resolve import resolve
    from mycelial.security import tls
    from mycelial.security.ca import CertificateAuthority
    from mycelial.security.signing import Signer
    from mycelial.storage.sqlite import SqliteStore

    make_private_dir(data.keys)
    authority = CertificateAuthority.create_or_load(data.ca, clock=clock)
    names = (*options.advertise, options.daemon_listen[0])
    files = authority.server_context_files(tuple(n for n in names if n not in _ANY_ADDRESS))
    host, port = options.daemon_listen
    reachable = options.advertise or (host,)
    plane = Plane(
        Parts(
            source=_source(options, data, clock),
            store=SqliteStore(data.store),
            compiler=Compiler(
                SchemasFrontEnd(installed_catalog()),
                disk=DiskParseCache(data.parse_cache, clock=clock, log=log),
            ),
            editor=Editor(replace_object, remove_object),
            resolve=resolve,
            authority=authority,
            signer=Signer.create_or_load(data.keys / "assignments.pem"),
            admin_token=data.admin_token(),
            clock=clock,
            rng=system_rng(),
            log=log,
            endpoints=tuple(f"https://{name}:{port}" for name in reachable),
        )
    )
    people_tls = None
    if options.tls_cert is not None and options.tls_key is not None:
        people_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        people_tls.load_cert_chain(options.tls_cert, options.tls_key)
    daemons_tls = tls.server_context(
        cert=files.cert, key=files.key, ca=files.ca, client_required=False
    )
    listeners = (
        Listener("people", *options.listen, plane.people_app(), people_tls),
        Listener("daemons", host, port, plane.daemon_app(), daemons_tls),
    )
    return plane, listeners


def _source(options: ServerOptions, data: DataDir, clock: SystemClock) -> ManifestSource:
    if options.folder is not None:
        from mycelial.gitops.folder import FolderSource

        return FolderSource(options.folder)
    if options.repository:
        from mycelial.gitops.remote import Access, RemoteSource

        return RemoteSource(
            options.repository,
            cache=data.root / "cache",
            branch=options.branch,
            access=Access(known_hosts=options.known_hosts, allow_local=True),
            can_push=options.push,
            poll_seconds=options.poll_seconds,
            clock=clock,
        )
    from mycelial.gitops.embedded import EmbeddedSource

    source = EmbeddedSource(data.repository, branch=options.branch, clock=clock)
    if options.seed is not None:
        from mycelial.cli.files import find_manifests

        root = options.seed
        found = find_manifests([str(root)])
        source.seed({os.path.relpath(f.path, root).replace(os.sep, "/"): f.read() for f in found})
    return source


# -- the daemon ------------------------------------------------------------------------------------


def join_daemon(
    server_url: str, token: str, *, name: str, labels: Mapping[str, str], state_dir: Path
) -> None:
    """Give a machine its identity. Raises: MycelialError."""
    import asyncio

    from mycelial.daemon.enroll import join
    from mycelial.kernel.ports import NullEvents

    asyncio.run(
        join(
            server_url=server_url, token=token, name=name, labels=labels, state_dir=state_dir,
            clock=SystemClock(), events=NullEvents(),
        )
    )  # fmt: skip


def run_daemon(*, config_file: Path | None, state_dir: Path | None) -> None:
    """Run a daemon until SIGINT or SIGTERM. Raises: MycelialError."""
    import asyncio

    from mycelial.daemon.agent import Agent, Surroundings
    from mycelial.daemon.config import DaemonConfig, load
    from mycelial.daemon.signals import stop_on_signals
    from mycelial.kernel.ports import NullMeter
    from mycelial.observability.events import EventHistory
    from mycelial.observability.logs import log_to_stderr
    from mycelial.runtime.supervisor import Supervisor

    config = load(config_file) if config_file else DaemonConfig(base_dir=str(Path.cwd()))
    directory = _state_dir(config, state_dir)
    clock, rng = SystemClock(), system_rng()
    log = log_to_stderr(clock)
    events = EventHistory(clock, log)
    launcher = _launcher(config.secrets.env_prefix)

    def supervisor(on_change: Callable[[str], None]) -> Supervisor:
        return Supervisor(
            launcher=launcher, state_dir=directory, clock=clock, rng=rng, log=log,
            on_change=on_change, events=events,
        )  # fmt: skip

    agent = Agent(
        config,
        directory,
        Surroundings(
            clock=clock, rng=rng, log=log, meter=NullMeter(), events=events,
            environment=dict(os.environ), version=__version__, abilities=_abilities_of_child,
            supervisor=supervisor,
        ),
    )  # fmt: skip

    async def live() -> None:
        stop = asyncio.Event()
        with stop_on_signals(stop):
            await agent.run(stop)

    _settle()
    try:
        asyncio.run(live())
    finally:
        launcher.close()


def _state_dir(config: object, given: Path | None) -> Path:
    from mycelial.cli.session import data_home

    named = getattr(getattr(config, "node", None), "state_dir", "")
    if given is not None:
        return given.resolve()
    base = Path(getattr(config, "base_dir", "") or Path.cwd())
    return (base / named).resolve() if named else data_home() / "daemon"


def _launcher(secret_prefix: str) -> Launcher:
    """Fork from a zygote where that is safe (Linux), spawn elsewhere."""
    from mycelial.runtime.launcher import HIDDEN_FROM_WORKERS
    from mycelial.runtime.spawn import SpawnLauncher
    from mycelial.runtime.zygote import ZygoteLauncher, is_supported

    hidden = (*HIDDEN_FROM_WORKERS, secret_prefix) if secret_prefix else HIDDEN_FROM_WORKERS
    return ZygoteLauncher(hidden=hidden) if is_supported() else SpawnLauncher(hidden=hidden)


def _abilities_of_child() -> Abilities:
    """Ask a short-lived child what is installed, so that the daemon loads no plugin module."""
    from mycelial.daemon.inventory import Abilities

    script = "from mycelial.cli.wire_up import print_abilities; print_abilities()"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0:
        raise OperationFailed(
            "MYC-CLI-060", f"the installed plugins cannot be listed: {done.stderr.strip()[-500:]}",
            fix="repair or remove the plugin that the message names",
        )  # fmt: skip
    found = json.loads(done.stdout)
    return Abilities(tuple(found["capabilities"]), found["versions"])


def print_abilities() -> None:
    """Print, as JSON, what this installation can run."""
    from mycelial.sdk.registry import Registry, is_available

    registry = Registry.discover()
    versions = {plugin.name: plugin.version for plugin in registry if is_available(plugin)}
    click.echo(json.dumps({"capabilities": registry.capabilities(), "versions": versions}))
