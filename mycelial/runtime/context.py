"""What the worker hands to plugins; the daemon's local policy is enforced here (I12)."""

from __future__ import annotations

import fnmatch
import ipaddress
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Literal

from mycelial.kernel.clock import Clock
from mycelial.kernel.ports import Log, Meter, NullMeter
from mycelial.kernel.secret import Secret
from mycelial.runtime.ports import WorkerPolicy
from mycelial.sdk.errors import Permanent, PolicyDenied
from mycelial.sdk.plugin import Limits

_FLAGS = {
    "rb": os.O_RDONLY,
    "wb": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "ab": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
}


class SecretBox:
    """The resolved secrets of one pipeline, and the masking of them in texts (I11)."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._secrets = {name: Secret(value) for name, value in values.items()}

    def get(self, ref: Mapping[str, str]) -> Secret:
        """Resolve `{"secret": name}`. Raises: Permanent naming the secret."""
        name = ref["secret"]
        if name not in self._secrets:
            raise Permanent(
                "MYC-RUN-040",
                f'the secret "{name}" is not known on this daemon',
                fix="add it to a provider in the daemon's [secrets]",
            )
        return self._secrets[name]

    def scrub(self, text: str) -> str:
        """Return `text` without any secret's value, also where JSON escaped it."""
        for secret in self._secrets.values():
            text = secret.scrub(text)
            escaped = _json_inside(secret.reveal())
            if escaped:
                text = text.replace(escaped, Secret.MASK)
        return text


class WorkerContext:
    """Implements `sdk.plugin.Context` for one pipeline."""

    def __init__(
        self,
        *,
        policy: WorkerPolicy,
        secrets: SecretBox,
        log: Log,
        clock: Clock,
        state_dir: Path,
        limits: Limits,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._policy, self._secrets = policy, secrets
        self._log, self._clock, self._state_dir = log, clock, state_dir
        self._limits, self._progress = limits, progress
        self._meter = NullMeter()

    @property
    def log(self) -> Log:
        """The pipeline's own log."""
        return self._log

    @property
    def meter(self) -> Meter:
        """Counters."""
        return self._meter

    @property
    def clock(self) -> Clock:
        """The worker's clock."""
        return self._clock

    @property
    def limits(self) -> Limits:
        """Bounds of a batch."""
        return self._limits

    @property
    def state_dir(self) -> Path:
        """A private directory that survives restarts."""
        return self._state_dir

    def with_limits(self, limits: Limits) -> WorkerContext:
        """Return the same context with other batch bounds."""
        return WorkerContext(
            policy=self._policy,
            secrets=self._secrets,
            log=self._log,
            clock=self._clock,
            state_dir=self._state_dir,
            limits=limits,
            progress=self._progress,
        )

    def secret(self, ref: Mapping[str, str]) -> Secret:
        """Resolve a reference. Raises: Permanent, naming the secret, never a value."""
        return self._secrets.get(ref)

    def path(self, text: str, *, write: bool) -> Path:
        """Return the absolute path if the policy allows it. Raises: PolicyDenied."""
        path = Path(self._policy.base_dir or ".", text)
        allowed = self._policy.write_paths if write else self._policy.read_paths
        if allowed is None:
            return Path(os.path.abspath(path))  # noqa: PTH100 - keeps a symlink's own name
        real = Path(os.path.realpath(path))
        self._root_of(real, write=write)
        return real

    def open_path(self, text: str, mode: Literal["rb", "wb", "ab"]) -> IO[bytes]:
        """Open a file; no symlink put there meanwhile leads out of the allowed paths."""
        write = mode != "rb"
        path = self.path(text, write=write)
        allowed = self._policy.write_paths if write else self._policy.read_paths
        if allowed is None or not hasattr(os, "O_NOFOLLOW") or os.open not in os.supports_dir_fd:
            return path.open(mode)
        return os.fdopen(_open_beneath(self._root_of(path, write=write), path, mode), mode)

    def check_host(self, host: str, port: int) -> None:
        """Raise PolicyDenied unless the policy lets this daemon connect there.

        A driver may take several hosts between commas, and a Unix socket's directory: each of the
        hosts has to be allowed, and a directory is, where a rule names it as it stands.
        """
        hosts = self._policy.hosts
        if hosts is None:
            return
        for one in host.split(","):
            if not any(_host_matches(rule, one, port) for rule in hosts):
                raise PolicyDenied(
                    "MYC-RUN-042",
                    f"local policy does not allow a connection to {one}:{port}",
                    fix="add the host to `[policy] hosts` in the daemon's config.toml",
                )

    def progress(self) -> None:
        """Tell the watchdog that a long call is alive."""
        self._progress()

    def _root_of(self, real: Path, *, write: bool) -> Path:
        allowed = (self._policy.write_paths if write else self._policy.read_paths) or ()
        roots = (Path(os.path.realpath(root)) for root in allowed)
        for root in roots:
            if real == root or real.is_relative_to(root):
                return root
        kind = "write" if write else "read"
        raise PolicyDenied(
            "MYC-RUN-041",
            f"local policy does not allow to {kind} {real}",
            fix=f"add its directory to `[policy] {kind}_paths` in the daemon's config.toml",
        )


def require_connectors(policy: WorkerPolicy, names: tuple[str, ...]) -> None:
    """Refuse connectors that the daemon's owner has not allowed. Raises: PolicyDenied."""
    for name in names:
        if policy.connectors is not None and name not in policy.connectors:
            raise PolicyDenied(
                "MYC-RUN-043",
                f'local policy does not allow the connector "{name}"',
                fix="add it to `[policy] connectors` in the daemon's config.toml",
            )


def _open_beneath(root: Path, path: Path, mode: str) -> int:
    """Walk from `root` to the canonical `path`, following no link on the way."""
    names = path.relative_to(root).parts
    flags = _FLAGS[mode] | os.O_NOFOLLOW | os.O_CLOEXEC
    if not names:  # the allowed path is the file itself
        return os.open(root, flags, 0o600)
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names[:-1]:
            step = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            inner = os.open(name, step, dir_fd=here)
            os.close(here)
            here = inner
        return os.open(names[-1], flags, 0o600, dir_fd=here)
    finally:
        os.close(here)


def _host_matches(rule: str, host: str, port: int) -> bool:
    if host.startswith(("/", "@")):
        return rule in (host, "*")
    name, colon, number = rule.rpartition(":")
    if colon and number.isdigit() and not name.endswith(":") and name.count(":") == 0:
        if int(number) != port:
            return False
        rule = name
    if "/" in rule:
        try:
            return ipaddress.ip_address(host) in ipaddress.ip_network(rule, strict=False)
        except ValueError:
            return False
    return fnmatch.fnmatchcase(host.lower(), rule.lower())


def _json_inside(value: str) -> str:
    escaped = json.dumps(value)[1:-1]
    return escaped if escaped != value else ""
