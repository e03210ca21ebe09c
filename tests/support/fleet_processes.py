"""A real control plane and real daemons, as processes in a folder of their own.

```python
with Fleet(tmp_path) as fleet:
    fleet.start_server()
    shop = fleet.add_daemon("shop-01", reads=["shop"], writes=["warehouse"])   # joined and running
    fleet.until_online()
    fleet.apply({"workflows/orders.yaml": manifest})          # one commit, planned and applied
    fleet.until("all rows are there", lambda: count() == 100)
    shop.kill()                                               # kill -9; the rest lives on
    shop.start()                                              # as an init system would
    fleet.client.workflow("orders")                           # mycelial.client.api.Client
    fleet.stop()
    assert fleet.leftovers() == []
```

Paths in manifests are relative to the fleet's folder, where each daemon's config lies. Logs are
`<folder>/<name>.log`, state is `<folder>/state/<name>`. Leaving the block ends every process.
Every process carries a mark in its environment that its children inherit, so that `leftovers`
and `workers` find what the product started, whoever its parent is by now.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from mycelial.client.api import Client
from mycelial.kernel.errors import CheckSaysNo, MycelialError
from mycelial.kernel.secret import Secret
from mycelial.schemas.views import ApplyReply, ApplyRequest, PlanRequest

MYCELIAL = (sys.executable, "-m", "mycelial")
MARK = "MYCELIAL_TEST_FLEET"
STOP_SECONDS = 15.0
_numbers = itertools.count(1)


class FleetError(AssertionError):
    """A process ended unasked, or something did not come about in time."""


@dataclass
class Process:
    """One process of the product, which can be ended in any way and started again."""

    name: str
    argv: Sequence[str]
    folder: Path
    environment: Mapping[str, str]
    _child: subprocess.Popen[bytes] | None = None
    _is_wanted: bool = False

    @property
    def log(self) -> Path:
        """Where its output goes; it grows over restarts."""
        return self.folder / f"{self.name}.log"

    @property
    def pid(self) -> int:
        """The process id of the last start."""
        assert self._child is not None, f"{self.name} was never started"
        return self._child.pid

    @property
    def is_running(self) -> bool:
        """True while it lives."""
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        """Start it, or start it again."""
        assert not self.is_running, f"{self.name} is running"
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )
        self._is_wanted = True

    def kill(self) -> None:
        """End it at once, as by kill -9 or a power cut; its children are not told."""
        self._is_wanted = False
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def stop(self, seconds: float = STOP_SECONDS) -> int:
        """Ask it to end, and return its exit code. Raises: FleetError when it does not."""
        self._is_wanted = False
        assert self._child is not None, f"{self.name} was never started"
        self._child.terminate()
        try:
            return self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise FleetError(f"{self.name} did not end in {seconds:g} s\n{self.tail()}") from None

    def check(self) -> None:
        """Raise FleetError when it has ended unasked."""
        if self._is_wanted and not self.is_running:
            assert self._child is not None
            raise FleetError(f"{self.name} ended with {self._child.returncode}\n{self.tail()}")

    def tail(self, characters: int = 3000) -> str:
        """Return the end of its log."""
        return self.log.read_text("utf-8", "replace")[-characters:] if self.log.exists() else ""


@dataclass
class Fleet:
    """The processes, their folder and a client of the people's API."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    server: Process = field(init=False)
    daemons: dict[str, Process] = field(default_factory=dict)
    url: str = field(init=False)
    daemon_url: str = field(init=False)
    _client: Client | None = None

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._mark = f"{os.getpid()}-{next(_numbers)}"
        people, machines = free_ports(2)
        self.url = f"http://127.0.0.1:{people}"
        self.daemon_url = f"https://127.0.0.1:{machines}"
        self.server = self._process(
            "server",
            ["server", "--data", str(self.folder / "server"), "--listen", f"127.0.0.1:{people}",
             "--daemon-listen", f"127.0.0.1:{machines}"],
            {},
        )  # fmt: skip

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:  # after a failure an orderly end would only hide it
                self.stop()
        finally:
            if self._client is not None:
                self._client.close()
            for process in self._marked():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    # -- processes -------------------------------------------------------------------------------

    def start_server(self, seconds: float = 60.0) -> None:
        """Start the control plane (again) and wait until it answers."""
        self.server.start()
        self.until("the control plane answers", self.answers, seconds=seconds)

    def answers(self) -> bool:
        """True when the control plane answers a person."""
        if not self._token_file.exists():
            return False
        with contextlib.suppress(MycelialError):
            self.client.whoami()
            return True
        return False

    def add_daemon(
        self,
        name: str,
        *,
        reads: Iterable[str] = (),
        writes: Iterable[str] = (),
        labels: Mapping[str, str] | None = None,
        config: str = "",
        environment: Mapping[str, str] | None = None,
        start: bool = True,
    ) -> Process:
        """Join a daemon and start it. It may read and write only the folders named (what it
        writes it may read); they are made. `config` is added to its config.toml."""
        reads, writes = [*reads, *writes], list(writes)
        for folder in reads:
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name}.toml"
        path.write_text(
            f'[node]\nname = "{name}"\n\n[policy]\n'
            f"read_paths = {_toml(reads)}\nwrite_paths = {_toml(writes)}\n{config}",
            "utf-8",
        )
        state = str(self.folder / "state" / name)
        words = [f"--label={key}={value}" for key, value in (labels or {}).items()]
        token = self.client.create_token(name=name, labels=labels or {}).token
        joined = subprocess.run(
            [*MYCELIAL, "daemon", "join", "--server", self.daemon_url, "--name", name, *words,
             "--state", state],
            env={**os.environ, **self.environment, "MYCELIAL_JOIN_TOKEN": token},
            capture_output=True,
            text=True,
        )  # fmt: skip
        if joined.returncode != 0:
            raise FleetError(f"{name} could not join: {joined.stderr}")
        daemon = self.daemons[name] = self._process(
            name,
            ["daemon", "run", "--config", str(path), "--state", state],
            environment or {},
        )
        if start:
            daemon.start()
        return daemon

    def until_online(self, *names: str, seconds: float = 60.0) -> None:
        """Wait until these daemons, or all, are online."""
        wanted = set(names or self.daemons)

        def online() -> bool:
            live = {d.name for d in self.client.daemons() if d.liveness == "Online"}
            return wanted <= live

        self.until(f"{', '.join(sorted(wanted))} online", online, seconds=seconds)

    def zygote_pid(self, daemon: str) -> int | None:
        """Return the process that forks a daemon's workers, if there is one now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.daemons[daemon].pid).children():
                if _is_zygote_or_worker(child):
                    return child.pid
        return None

    def worker_pids(self, daemon: str) -> list[int]:
        """Return a daemon's workers, those of its past lives included. Linux (zygotes)."""
        roots = {self.daemons[daemon].pid, self.zygote_pid(daemon)}
        return [
            process.pid
            for process in self._marked(daemon)
            if process.pid not in roots and _is_zygote_or_worker(process)
        ]

    def leftovers(self) -> list[str]:
        """Return every process of the fleet that lives, as `pid command`."""
        found = []
        for process in self._marked():
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(f"{process.pid} {' '.join(process.cmdline())}")
        return found

    def stop(self) -> None:
        """End daemons, then the control plane, in order; waits. Harmless when they have ended."""
        if self._client is not None:
            self._client.close()
            self._client = None
        running = [p for p in (*self.daemons.values(), self.server) if p.is_running]
        problems = []
        for process in running:
            try:
                process.stop()
            except FleetError as error:
                problems.append(str(error))
        if problems:
            raise FleetError("\n".join(problems))

    # -- use -------------------------------------------------------------------------------------

    @property
    def client(self) -> Client:
        """A client with the administrator's token, once the control plane was started."""
        if self._client is None:
            token = self._token_file.read_text("utf-8").strip()
            self._client = Client(self.url, Secret(token))
        return self._client

    def apply(
        self, files: Mapping[str, str], message: str = "Change", *, confirmed: tuple[str, ...] = ()
    ) -> ApplyReply:
        """Plan and commit files (path -> text). Raises: FleetError with what is wrong in them."""
        request = PlanRequest(files=files)
        try:
            plan = self.client.plan(request)
            return self.client.apply(
                ApplyRequest(
                    request=request,
                    message=message,
                    plan_hash=plan.plan_hash,
                    confirmed=confirmed,
                )
            )
        except CheckSaysNo as error:
            raise FleetError(f"refused: {error}") from error

    def until(self, what: str, done: Callable[[], bool], *, seconds: float = 30.0) -> None:
        """Wait for a state of the world; ends early when a process has ended unasked."""
        deadline = time.monotonic() + seconds
        pause = threading.Event()
        while not done():
            for process in (self.server, *self.daemons.values()):
                process.check()
            if time.monotonic() > deadline:
                tails = "\n".join(f"--- {p.name}\n{p.tail()}" for p in self._all())
                raise FleetError(f"after {seconds:g} s still waiting until {what}\n{tails}")
            pause.wait(0.03)

    # -- inside ----------------------------------------------------------------------------------

    @property
    def _token_file(self) -> Path:
        return self.folder / "server" / "admin.token"

    def _all(self) -> list[Process]:
        return [self.server, *self.daemons.values()]

    def _process(self, name: str, words: list[str], environment: Mapping[str, str]) -> Process:
        marked = {**self.environment, **environment, MARK: f"{self._mark}/{name}"}
        return Process(name, [*MYCELIAL, *words], self.folder, marked)

    def _marked(self, name: str = "") -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                fleet, _, whose = process.environ().get(MARK, "").partition("/")
                is_ours = fleet == self._mark and (not name or whose == name)
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback that are free and that no client is given by the system, so
    that a server finds its own again after a restart."""
    chosen: list[int] = []
    candidates = random.Random(f"{os.getpid()}/{next(_numbers)}")
    while len(chosen) < count:
        port = candidates.randrange(15_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            chosen.append(port)
    return chosen


def _is_zygote_or_worker(process: psutil.Process) -> bool:
    words = process.cmdline()
    return "mycelial.cli.zygote" in words or "mycelial.cli.worker" in words


def _toml(texts: list[str]) -> str:
    return "[" + ", ".join(f'"{text}"' for text in texts) + "]"
