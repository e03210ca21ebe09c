"""The state directory, typed: identity, the last signed set, the highest fences, command memory.

Every file starts with a checksum line and is replaced whole and durably. One that does not match
its checksum is set aside as `<name>.corrupt-<time>` and reported, never guessed at: assignments
come back from the control plane, an identity from joining again.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from mycelial.kernel.canonical import canonical_json, digest_bytes
from mycelial.kernel.clock import Clock
from mycelial.kernel.errors import Location, OperationFailed, StateCorrupt
from mycelial.kernel.files import make_private_dir, write_durable
from mycelial.kernel.ports import EventSink
from mycelial.schemas.codec import DecodeError, decode, encode
from mycelial.schemas.desired import Uid
from mycelial.schemas.wire import SignedSet

T = TypeVar("T")

_MARK = b"# mycelial state, checksum "
_FULL = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this machine is to its control plane. The private key stays in its own file."""

    daemon_id: str
    name: str
    urls: tuple[str, ...]
    ca_pin: str  # sha256:<hex>
    signing_keys: Mapping[str, str]  # key id -> base64 raw Ed25519 public key
    labels: Mapping[str, str] = field(default_factory=dict)
    joined_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Accepted:
    """The last accepted set, and the highest (generation, epoch) ever accepted for each workflow;
    written together so that they never differ."""

    signed: SignedSet
    seen: Mapping[Uid, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CommandMemory:
    """Commands begun, by id, with their expiry: none is done twice, also over a restart."""

    begun: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Boot:
    """One start of the daemon. `was_clean` tells how the previous one ended."""

    boot_id: str
    started_at: float
    was_clean: bool = True


@dataclass(frozen=True, slots=True)
class _BootFile:
    boot_id: str
    started_at: float
    is_ended: bool = False


class LocalState:
    """Typed access to one state directory. Calls block on fsync; use a thread from the loop."""

    def __init__(self, state_dir: Path, *, clock: Clock, events: EventSink) -> None:
        self.state_dir = state_dir
        self._clock = clock
        self._events = events
        make_private_dir(state_dir)

    @property
    def key_file(self) -> Path:
        """The private key, PEM, readable by its owner only."""
        return self.state_dir / "key.pem"

    @property
    def cert_file(self) -> Path:
        """The daemon's certificate, PEM."""
        return self.state_dir / "cert.pem"

    @property
    def ca_file(self) -> Path:
        """The control plane's CA bundle, PEM."""
        return self.state_dir / "ca.pem"

    def identity(self) -> Identity | None:
        """Return who we are, or None before joining.

        Raises: StateCorrupt MYC-DAEMON-011 (exit 3) when any of its files is damaged or missing.
        """
        found = self._identity_part("identity.json")
        if found is None:
            return None
        for path in (self.key_file, self.cert_file, self.ca_file):
            if self._identity_part(path.name) is None:
                aside = self.set_aside(path.name)
                why = f", it was damaged and set aside as {aside}" if aside else ""
                raise self._rejoin(path, f"{path.name} is missing{why}")
        try:
            return decode(Identity, json.loads(found))
        except (DecodeError, ValueError) as error:
            path = self.state_dir / "identity.json"
            raise self._rejoin(path, f"identity.json cannot be read: {error}") from error

    def save_identity(self, identity: Identity, *, certificate: str, ca_bundle: str) -> None:
        """Write the reply to an enrolment. identity.json goes last: it says that the rest is in."""
        self.save(self.ca_file.name, ca_bundle.encode())
        self.save(self.cert_file.name, certificate.encode())
        self.save("identity.json", canonical_json(encode(identity)))

    def accepted(self) -> Accepted | None:
        """Return the last accepted set, or None when there is none that can be trusted."""
        return self._lenient("assignments.json", Accepted)

    def save_accepted(self, accepted: Accepted) -> None:
        """Persist a verified set and its marks. Call it before acting on the set."""
        self.save("assignments.json", canonical_json(encode(accepted)))

    def commands(self) -> CommandMemory:
        """Return which commands have been begun; an unreadable memory is an empty one."""
        return self._lenient("commands.json", CommandMemory) or CommandMemory()

    def save_commands(self, memory: CommandMemory) -> None:
        """Persist which commands have been begun."""
        self.save("commands.json", canonical_json(encode(memory)))

    def begin_boot(self, boot_id: str) -> Boot:
        """Note a start; tells whether the previous run ended by itself or was killed."""
        previous = self._lenient("boot.json", _BootFile)
        boot = _BootFile(boot_id, self._clock.now())
        self.save("boot.json", canonical_json(encode(boot)))
        return Boot(boot_id, boot.started_at, was_clean=previous is None or previous.is_ended)

    def end_boot(self, boot: Boot) -> None:
        """Note an orderly end."""
        ended = _BootFile(boot.boot_id, boot.started_at, is_ended=True)
        self.save("boot.json", canonical_json(encode(ended)))

    def save(self, name: str, body: bytes) -> None:
        """Replace a file durably, with its checksum line.

        Raises: OperationFailed MYC-DAEMON-012 on a full disk, MYC-DAEMON-013 otherwise; the old
        content stays whole.
        """
        path = self.state_dir / name
        line = _MARK + digest_bytes(body).encode() + b"\n"
        try:
            write_durable(path, line + body)
        except OSError as error:
            raise _write_failed(path, error) from error

    def load(self, name: str) -> bytes | None:
        """Return a file's content, or None when it is not there.

        Raises: StateCorrupt MYC-DAEMON-010 after setting a damaged file aside.
        """
        path = self.state_dir / name
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OperationFailed(
                "MYC-DAEMON-013",
                f"cannot read {path}: {error.strerror or error}",
                fix="check the owner and the permissions of the state directory, and the disk",
            ) from error
        head, _, body = data.partition(b"\n")
        if head == _MARK + digest_bytes(body).encode():
            return body
        self.quarantine(path, "its checksum does not match")
        raise StateCorrupt(
            "MYC-DAEMON-010",
            f"{name} is damaged: its checksum does not match",
            fix="it was set aside; look for disk errors on this machine",
            where=Location(str(path)),
        )

    def quarantine(self, path: Path, why: str) -> None:
        """Rename a file so that nobody trusts it and somebody can look at it."""
        stamp = int(self._clock.now())
        aside = path.with_name(f"{path.name}.corrupt-{stamp}")
        count = 0
        while aside.exists():
            count += 1
            aside = path.with_name(f"{path.name}.corrupt-{stamp}-{count}")
        try:
            path.replace(aside)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _write_failed(path, error) from error
        self._events.emit(
            "StateQuarantined",
            f"File/{path.name}",
            f"{path.name} was set aside as {aside.name}: {why}",
            severity="error",
        )

    def set_aside(self, name: str) -> str:
        """Return the name under which a file was set aside last; empty when it never was."""
        found = self.state_dir.glob(f"{name}.corrupt-*")
        newest = max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
        return newest.name if newest else ""

    def _lenient(self, name: str, cls: type[T]) -> T | None:
        """Read what can be had again elsewhere: damage is quarantined and reported, not raised."""
        try:
            body = self.load(name)
        except StateCorrupt:
            return None
        if body is None:
            return None
        try:
            return decode(cls, json.loads(body))
        except (DecodeError, ValueError) as error:
            self.quarantine(self.state_dir / name, f"cannot be read: {error}")
            return None

    def _identity_part(self, name: str) -> bytes | None:
        try:
            return self.load(name)
        except StateCorrupt as error:
            raise self._rejoin(self.state_dir / name, error.problem.what) from error

    def _rejoin(self, path: Path, what: str) -> StateCorrupt:
        return StateCorrupt(
            "MYC-DAEMON-011",
            f"this daemon's identity cannot be trusted: {what}",
            fix=f"restore {path.name} from a backup, or move identity.json aside and join again "
            "with a new token: mycelial daemon join",
            where=Location(str(path)),
        )


def _write_failed(path: Path, error: OSError) -> OperationFailed:
    if error.errno in _FULL:
        return OperationFailed(
            "MYC-DAEMON-012",
            f"the disk under {path.parent} is full: {path.name} was not written",
            fix="free some space; running pipelines go on, and this is tried again by itself",
            where=Location(str(path)),
        )
    return OperationFailed(
        "MYC-DAEMON-013",
        f"cannot write {path}: {error.strerror or error}",
        fix="check the owner and the permissions of the state directory, and the disk",
        where=Location(str(path)),
    )
