"""What flows through a pipeline: Arrow batches with their positions, barriers, heartbeats."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    from arro3.core import RecordBatch

Part = NewType("Part", str)
"""A partition of a source; checkpointed on its own. `"0"` where there is one."""

Position = NewType("Position", str)
"""A place in a source's part: canonical JSON text, opaque to the engine and to destinations."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `type` is Arrow's name: int64, utf8, timestamp[us], decimal128(20, 2), ...

    `native` names the type at the source (`postgres:jsonb`) where Arrow's says less, so that a
    destination of the same kind restores it.
    """

    name: str
    type: str
    nullable: bool = True
    native: str = ""


@dataclass(frozen=True, slots=True)
class StreamSchema:
    """The declared shape of a stream. `key` names the columns that identify a row, or is empty.

    `incremental` says that batches carry only what is new, so a destination whose mode is `auto`
    appends; otherwise runs are whole snapshots, and it replaces.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    incremental: bool = False

    def column(self, name: str) -> Column | None:
        """Return the column called `name`."""
        return next((column for column in self.columns if column.name == name), None)


class BarrierKind(enum.StrEnum):
    """RUN_START and RUN_END bracket a snapshot run (a source without a cursor). FLUSH asks for
    a commit now (the source caught up). SCHEMA announces `Envelope.schema`."""

    RUN_START = "run_start"
    RUN_END = "run_end"
    FLUSH = "flush"
    SCHEMA = "schema"


@dataclass(frozen=True, slots=True)
class Envelope:
    """A header and at most one of batch or barrier; with neither it is a heartbeat.

    `end` is the position after this envelope: committing it means that everything up to `end`
    need not be read again. `seq` rises by one per part and worker start. The engine may close a
    commit unit after any envelope, never inside one, so a source keeps batches within
    `Context.limits`.
    """

    part: Part
    seq: int
    end: Position
    stream: str = ""
    batch: RecordBatch | None = None
    barrier: BarrierKind | None = None
    schema: StreamSchema | None = None
    event_time: float | None = None  # newest row's time in Unix seconds, for lag
    nbytes: int = 0

    @property
    def rows(self) -> int:
        """The number of rows in the batch."""
        return 0 if self.batch is None else int(self.batch.num_rows)


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that was refused: index in its batch, stable code, message without values."""

    row: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class FenceToken:
    """(epoch, attempt), ordered; compared inside the destination's commit (I4)."""

    epoch: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a destination stores beside the rows of one unit. `seq` counts units of the part."""

    scope: str
    part: Part
    fence: FenceToken
    seq: int
    position: Position
    rows: int
    ends_run: bool = False


@dataclass(frozen=True, slots=True)
class Committed:
    """What a destination already holds for a part."""

    seq: int
    position: Position
    fence: FenceToken
    rows: int = 0  # rows of all units so far
    ends_run: bool = False


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof of a durable commit: the only acknowledgement."""

    part: Part
    seq: int
    position: Position
    rows: int
    bytes: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """What a source will deliver. `replayable`: a range can be read again and gives the same
    rows. `prunes_on_ack`: `durable` lets the upstream forget. `endless`: `read` never returns by
    itself. `rows_estimate` and `resumable` (positions inside a run) are for the plan's reader."""

    streams: tuple[StreamSchema, ...]
    parts: tuple[Part, ...] = (Part("0"),)
    replayable: bool = True
    resumable: bool = True
    prunes_on_ack: bool = False
    incremental: bool = False
    endless: bool = False
    rows_estimate: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LossyEdge:
    """A column whose values may not survive; refused unless the manifest allows it by name."""

    column: str
    source_type: str
    destination_type: str
    reason: str


@dataclass(frozen=True, slots=True)
class DestinationPlan:
    """How rows will arrive. `exactly_once`: positions are stored with the rows, atomically.

    Unit bounds are what suits this destination; the manifest may set others.
    """

    mode: str
    exactly_once: bool
    ddl: tuple[str, ...] = ()
    lossy: tuple[LossyEdge, ...] = ()
    unit_rows: int = 65_536
    unit_bytes: int = 16 * 1024 * 1024
    unit_seconds: float = 1.0
    notes: tuple[str, ...] = ()
    target: str = ""


@dataclass(frozen=True, slots=True)
class Output:
    """What a transform made of one envelope: rows out and rows refused."""

    envelope: Envelope
    rejects: tuple[Reject, ...] = field(default=())
