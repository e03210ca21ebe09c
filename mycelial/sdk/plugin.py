"""The protocols a plugin implements, and the constant by which it is found.

Threading: `read` runs in the reader thread together with the transforms; `write`, `commit`,
`abort` in the writer thread; `durable` in the writer thread after the journal's fsync;
`interrupt` comes from any thread and only makes a blocked call return soon (raising Interrupted
or ending the iterator). `open` and `close` run in the thread that uses the object.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from pydantic import BaseModel

    from mycelial.kernel.clock import Clock
    from mycelial.kernel.ports import Log, Meter
    from mycelial.kernel.secret import Secret
    from mycelial.sdk.envelope import (
        Checkpoint,
        Committed,
        DestinationPlan,
        Envelope,
        FenceToken,
        Output,
        Part,
        Position,
        Receipt,
        Reject,
        SourcePlan,
        StreamSchema,
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that a source keeps its batches under, so that a unit can close where it should."""

    batch_rows: int = 16_384
    batch_bytes: int = 1024 * 1024


class Context(Protocol):
    """What the host gives a plugin. Local policy is enforced here (I12): a plugin reaches files,
    secrets and the network only through it."""

    @property
    def log(self) -> Log: ...  # noqa: D102
    @property
    def meter(self) -> Meter: ...  # noqa: D102
    @property
    def clock(self) -> Clock: ...  # noqa: D102
    @property
    def limits(self) -> Limits: ...  # noqa: D102
    @property
    def state_dir(self) -> Path:
        """A private directory of this pipeline that survives restarts."""

    def secret(self, ref: Mapping[str, str]) -> Secret:
        """Resolve `{"secret": name}`. Raises: Permanent, naming the secret and where it is
        looked for, never a value."""

    def path(self, text: str, *, write: bool) -> Path:
        """Return the absolute path if the policy allows it. Raises: PolicyDenied."""

    def open_path(self, text: str, mode: Literal["rb", "wb", "ab"]) -> IO[bytes]:
        """Open a file beneath the allowed paths without following symlinks out of them."""

    def check_host(self, host: str, port: int) -> None:
        """Raise PolicyDenied unless the policy lets this daemon connect there."""

    def progress(self) -> None:
        """Tell the watchdog that a long call is alive."""


class LifecycleEvent(enum.StrEnum):
    """Why `lifecycle` is called; each may be repeated and must be idempotent."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"


class Source(Protocol):
    """The reading half of a connector."""

    def plan(self, ctx: Context) -> SourcePlan:
        """Look at the real thing and say what will come. Opens and closes what it needs."""

    def lifecycle(
        self, ctx: Context, event: LifecycleEvent, old: object | None, new: object | None
    ) -> None:
        """Make or drop what outlives a worker: slots, triggers, publications."""

    def open(self, ctx: Context) -> None: ...  # noqa: D102

    def read(
        self, part: Part, resume: Position | None, until: Position | None = None
    ) -> Iterator[Envelope]:
        """Yield from just after `resume`. An incremental source returns when it has caught up,
        after a FLUSH barrier; the engine calls again at the schedule's next beat. A snapshot
        source brackets its run with RUN_START and RUN_END; `resume` inside a run goes on with it,
        `resume` at a RUN_END begins the next run. An endless source yields heartbeats when idle.
        """

    def durable(self, part: Part, position: Position) -> None:
        """Everything up to `position` is safe; the upstream may be trimmed (I1)."""

    def interrupt(self) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class Destination(Protocol):
    """The writing half of a connector."""

    def plan(self, ctx: Context, streams: tuple[StreamSchema, ...]) -> DestinationPlan:
        """Compare with the real thing: modes, guarantee, DDL, lossy edges. Changes nothing."""

    def open(self, ctx: Context, scope: str, fence: FenceToken) -> Mapping[Part, Committed]:
        """Recover what a crash left, raise the stored fence, return what is already in.

        Raises: Fenced if a higher fence has been stored.
        """

    def migrate(self, streams: tuple[StreamSchema, ...]) -> None:
        """Make the tables or folders as planned. Idempotent, outside the data transaction."""

    def write(self, envelope: Envelope) -> tuple[Reject, ...]:
        """Stage a batch or act on a barrier. Nothing is durable, nothing visible to readers."""

    def commit(self, checkpoint: Checkpoint) -> Receipt:
        """Make staged rows and the checkpoint durable as one; compare the fence inside (I2, I4).

        Raises: Fenced; Ambiguous when the outcome is unknown; Transient or Permanent when
        nothing was committed.
        """

    def set_position(self, checkpoint: Checkpoint) -> None:
        """Store a position without rows, on a person's order (`state set`)."""

    def abort(self) -> None:
        """Drop what is staged."""

    def interrupt(self) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class Transform(Protocol):
    """A step between source and destination; sees one batch at a time."""

    determinism: Literal["pure", "stateful", "external"]

    def plan(self, streams: tuple[StreamSchema, ...]) -> tuple[StreamSchema, ...]:
        """Return the shape of what comes out. Raises: Permanent with a located message."""

    def open(self, ctx: Context) -> None: ...  # noqa: D102

    def apply(self, envelope: Envelope) -> Iterator[Output]:
        """Transform one batch. Positions are preserved; exactly one output carries `end`."""

    def flush(self, envelope: Envelope) -> Iterator[Output]:
        """Pass a barrier on, after whatever was held back."""

    def close(self) -> None: ...  # noqa: D102


Role = Literal["source", "destination", "transform"]


@dataclass(frozen=True, slots=True)
class Loader:
    """One role of a plugin. `config` returns the pydantic model and is called only where
    manifests are checked; `build` gets a `Settings` view with the model's attribute names and
    imports the driver."""

    config: Callable[[], type[BaseModel]]
    build: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class PluginSpec:
    """The constant `PLUGIN` of a plugin module. Importing the module imports no driver.

    `requires` are importable module names without which the plugin is not a capability of the
    daemon; `extra` is the pip extra that brings them. `preload` is safe to import in the zygote
    before forking (starts no thread). `summary` and `guarantee` go into the generated docs.
    """

    name: str
    summary: str
    source: Loader | None = None
    destination: Loader | None = None
    transform: Loader | None = None
    requires: tuple[str, ...] = ()
    extra: str = ""
    preload: tuple[str, ...] = ()
    guarantee: str = ""
    version: str = "1"

    @property
    def origin(self) -> str:
        """The file of the plugin's module, or nothing where it has none."""
        loader = self.source or self.destination or self.transform
        module = sys.modules.get(loader.config.__module__) if loader else None
        return getattr(module, "__file__", None) or ""

    def loader(self, role: Role) -> Loader | None:
        """Return the loader of `role`, or None when the plugin lacks it."""
        match role:
            case "source":
                return self.source
            case "destination":
                return self.destination
            case "transform":
                return self.transform
