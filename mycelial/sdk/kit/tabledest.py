"""Writing a table with its checkpoint in one transaction: shared by the SQL destinations.

A unit is held as Arrow batches and lands at its commit: rows, swap of a finished run, fence,
checkpoint, COMMIT. So no lock is held while the source reads (in SQLite it would be the whole
file), and one bulk load per unit costs a fifth less than one per batch, as measured with units of
64k rows; reading overlaps with it through the engine's queue. A connector gives the connection,
the catalog and its own SQL.
"""

# ruff: noqa: S608  names and literals are quoted by sdk/kit/sql.py, which is tested for it
from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mycelial.kernel.clock import rfc3339
from mycelial.sdk.envelope import (
    BarrierKind,
    Checkpoint,
    Committed,
    DestinationPlan,
    Envelope,
    FenceToken,
    Part,
    Position,
    Receipt,
    Reject,
    StreamSchema,
)
from mycelial.sdk.errors import Ambiguous, CheckpointRegressed, Fenced, Permanent, PluginError
from mycelial.sdk.kit.adbc import Session
from mycelial.sdk.kit.sql import FENCE_PART, CheckpointSql, TableName, names
from mycelial.sdk.kit.writemodes import (
    ExistingTable,
    Runs,
    TablePlan,
    TypeRules,
    plan_table,
    staging_table,
)

if TYPE_CHECKING:
    from arro3.core import RecordBatch, Schema

    from mycelial.sdk.plugin import Context


@dataclass(frozen=True, slots=True)
class Rows:
    """A batch for a table, in its wire types."""

    table: TableName
    batch: RecordBatch
    temporary: bool = False


Action = Rows | str | Callable[[], None]
"""A piece of a unit: rows, a statement, or statements that depend on what is there."""


class TableDestination(abc.ABC):
    """The flow of a destination that keeps rows and positions in one database."""

    area: ClassVar[str]
    begin: ClassVar[str] = "BEGIN"
    unsure: ClassVar[str]
    """The code of a failure after which a COMMIT may or may not have landed."""
    unit_temp: ClassVar[TableName] = TableName("_mycelial_unit")

    def __init__(self, table: TableName, mode: str, key: Sequence[str]) -> None:
        self._target = table
        self._declared_mode = mode
        self._declared_key = tuple(key)
        self._session: Session | None = None
        self._scope = ""
        self._fence = FenceToken(0, 0)
        self._committed: dict[Part, Committed] = {}
        self._runs: Runs | None = None
        self._table: TablePlan | None = None
        self._schema: Schema | None = None
        self._staging_is_there = False
        self._reset_unit()

    # What a connector provides.

    rules: TypeRules
    _checkpoints: CheckpointSql
    _ctx: Context | None = None

    @abc.abstractmethod
    def _connect(self, ctx: Context, purpose: str) -> Session: ...

    @abc.abstractmethod
    def _inspect(self, session: Session, table: TableName) -> ExistingTable | None: ...

    @abc.abstractmethod
    def _create_run_table(self, staging: TableName) -> Sequence[str]: ...

    @abc.abstractmethod
    def _swap(self, staging: TableName) -> None: ...

    @abc.abstractmethod
    def _merge(self, table: TablePlan) -> Sequence[str]:
        """Return the statements that move the unit's temporary rows where they belong."""

    @abc.abstractmethod
    def _create_unit_temp(self, table: TablePlan) -> str: ...

    # The protocol.

    def plan(self, ctx: Context, streams: tuple[StreamSchema, ...]) -> DestinationPlan:
        """Compare the stream with the table; changes nothing."""
        session = self._connect(ctx, "plan")
        try:
            table = self._plan_table(session, streams)
        finally:
            session.close()
        return DestinationPlan(
            mode=table.mode,
            exactly_once=True,
            ddl=table.ddl,
            lossy=table.lossy,
            target=str(self._target),
            notes=self._notes(table),
        )

    def _notes(self, table: TablePlan) -> tuple[str, ...]:
        if table.direct or table.mode == "upsert":
            return ()
        return ("types differ from the table's: rows go through a temporary table",)

    def open(self, ctx: Context, scope: str, fence: FenceToken) -> Mapping[Part, Committed]:
        """Store the fence, drop what a dead run left behind, return what is in."""
        self.close()
        self._ctx, self._scope, self._fence = ctx, scope, fence
        self._reset_unit()
        session = self._reconnect()
        found = self._read_committed(session)
        staging = staging_table(self._target, scope)
        staged = self._inspect(session, staging) is not None
        mid_run = [part for part, stored in found.items() if not stored.ends_run]
        if staged and not mid_run:
            session.execute(f"DROP TABLE {staging.quoted}")
        self._staging_is_there = staged and bool(mid_run)
        self._committed = found
        self._runs = None
        return dict(found)

    def _reconnect(self) -> Session:
        assert self._ctx is not None
        session = self._session = self._connect(self._ctx, "write")
        session.execute(self._checkpoints.create())
        if (
            session.execute(self._checkpoints.raise_fence(self._scope, self._fence, self._now()))
            < 1
        ):
            raise self._fenced()
        return session

    def migrate(self, streams: tuple[StreamSchema, ...]) -> None:
        """Create the table or add its missing columns; safe to repeat."""
        from mycelial.sdk.kit.arrowtypes import parse_type

        session = self._live()
        table = self._plan_table(session, streams)
        for statement in table.ddl:
            session.execute(statement)
        if table.ddl:
            table = self._plan_table(session, streams)
        from arro3.core import Field, Schema

        self._table = table
        self._schema = Schema([Field(n, parse_type(t), nullable=True) for n, t in table.wire])
        self._runs = Runs(table.mode, dict(self._committed))
        self._check_staging(table)
        if table.mode != "replace":
            session.execute(
                f"DROP TABLE IF EXISTS {staging_table(self._target, self._scope).quoted}"
            )

    def _check_staging(self, table: TablePlan) -> None:
        open_runs = [part for part, stored in self._committed.items() if not stored.ends_run]
        if table.mode == "replace" and open_runs and not self._staging_is_there:
            staging = staging_table(self._target, self._scope)
            raise CheckpointRegressed(
                f"MYC-{self.area}-041",
                f"a run into {self._target} is under way, and its staging table {staging} is gone",
                fix="reset the pipeline with `mycelial state set`, so that the run starts again",
            )

    def write(self, envelope: Envelope) -> tuple[Reject, ...]:
        """Put rows into the unit, or note where a run begins or ends."""
        if self._broken:
            raise self._is_broken()
        runs, _ = self._ready()
        try:
            match envelope.barrier:
                case BarrierKind.RUN_START:
                    runs.begin(envelope.part)
                    self._start_run()
                case BarrierKind.RUN_END:
                    runs.end(envelope.part)
                    self._run_done = True
                case _:
                    pass
            if envelope.batch is not None and envelope.batch.num_rows:
                runs.check(envelope.part)
                self._write_rows(envelope.batch)
        except BaseException:
            self._fail()
            raise
        return ()

    def commit(self, checkpoint: Checkpoint) -> Receipt:
        """Commit the unit's rows and the checkpoint as one."""
        if self._broken:
            raise self._is_broken()
        runs, _ = self._ready()
        try:
            self._drain_temp()
            if self._run_done:
                self._finish_run()
            self._land(lambda session: self._store(session, checkpoint))
        except BaseException:
            self._fail()
            raise
        before = self._committed.get(checkpoint.part)
        self._committed[checkpoint.part] = Committed(
            checkpoint.seq, checkpoint.position, checkpoint.fence,
            checkpoint.rows + (before.rows if before else 0), checkpoint.ends_run,
        )  # fmt: skip
        nbytes = self._nbytes
        self._reset_unit()
        runs.commit(checkpoint.part, self._committed[checkpoint.part])
        return Receipt(
            checkpoint.part, checkpoint.seq, checkpoint.position, checkpoint.rows, nbytes
        )

    def set_position(self, checkpoint: Checkpoint) -> None:
        """Store a position without rows."""
        self.abort()
        self._land(lambda session: self._store(session, checkpoint))
        before = self._committed.get(checkpoint.part)
        self._committed[checkpoint.part] = Committed(
            checkpoint.seq, checkpoint.position, checkpoint.fence,
            before.rows if before else 0, checkpoint.ends_run,
        )  # fmt: skip

    def abort(self) -> None:
        """Forget the unit."""
        self._reset_unit()
        if self._runs is not None:
            self._runs.abort()

    def interrupt(self) -> None:
        """Make a running statement return."""
        session = self._session
        if session is not None:
            session.interrupt()

    def close(self) -> None:
        """Roll back and disconnect."""
        session, self._session = self._session, None
        self._reset_unit()
        if session is not None:
            session.close()

    # Inside.

    def _reset_unit(self) -> None:
        self._unit: list[Action] = []
        self._broken = False
        self._run_done = False
        self._temp_used = False
        self._nbytes = 0

    def _fail(self) -> None:
        self._reset_unit()
        self._broken = True
        if self._runs is not None:
            self._runs.abort()

    def _is_broken(self) -> Permanent:
        return Permanent(
            f"MYC-{self.area}-090",
            "the unit failed and was rolled back; it must be aborted before more is written",
            fix="this is a defect of the caller; please report it",
        )

    def _live(self) -> Session:
        return self._session or self._reconnect()

    def _ready(self) -> tuple[Runs, TablePlan]:
        if self._runs is None or self._table is None:
            raise Permanent(
                f"MYC-{self.area}-091",
                "rows or a commit came before the table was prepared",
                fix="this is a defect of the caller; please report it",
            )
        return self._runs, self._table

    def _plan_table(self, session: Session, streams: tuple[StreamSchema, ...]) -> TablePlan:
        if len(streams) != 1:
            raise Permanent(
                f"MYC-{self.area}-031",
                f"{len(streams)} streams arrive, and a table takes one",
                fix="give each stream a destination of its own",
            )
        return plan_table(
            self.rules,
            stream=streams[0],
            target=self._target,
            existing=self._inspect(session, self._target),
            declared_mode=self._declared_mode,
            declared_key=self._declared_key,
        )

    def _read_committed(self, session: Session) -> dict[Part, Committed]:
        rows = session.rows(self._checkpoints.select(self._scope))
        return {
            Part(part): Committed(
                seq, Position(position), FenceToken(epoch, attempt), total, bool(ends)
            )
            for part, epoch, attempt, seq, position, total, ends in rows
            if part != FENCE_PART
        }

    def _store(self, session: Session, checkpoint: Checkpoint) -> None:
        now = self._now()
        # I4: this also locks the row, so a successor's `open` waits for our commit or abort.
        if session.execute(self._checkpoints.check_fence(self._scope, checkpoint.fence, now)) < 1:
            raise self._fenced()
        session.execute(self._checkpoints.store(checkpoint, now))

    def _write_rows(self, batch: RecordBatch) -> None:
        from mycelial.sdk.kit.casts import cast_batch

        _, table = self._ready()
        assert self._schema is not None
        if tuple(batch.schema.names) != table.columns:
            raise Permanent(
                f"MYC-{self.area}-032",
                f"a batch has the columns {', '.join(batch.schema.names)}, "
                f"the plan says {', '.join(table.columns)}",
                fix="plan again: the source's schema has changed",
            )
        self._check_values(batch)
        sent = cast_batch(batch, self._schema)
        self._nbytes += int(sent.nbytes)
        if table.direct and table.mode != "upsert":
            self._unit.append(Rows(self._destination(table), sent))
            return
        if not self._temp_used:
            self._unit.append(self._create_unit_temp(table))
            self._temp_used = True
        self._unit.append(Rows(self.unit_temp, sent, temporary=True))

    def _check_values(self, batch: RecordBatch) -> None:  # noqa: B027
        """Refuse values that the database would change without a word."""

    def _destination(self, table: TablePlan) -> TableName:
        replaces = table.mode == "replace"
        return staging_table(self._target, self._scope) if replaces else self._target

    def _drain_temp(self) -> None:
        if self._temp_used:
            _, table = self._ready()
            for statement in self._merge(table):
                self._unit.append(statement)
            self._temp_used = False

    def _start_run(self) -> None:
        _, table = self._ready()
        if self._run_done:
            self._drain_temp()
            self._finish_run()
        match table.mode:
            case "replace":
                staging = self._destination(table)
                self._unit.append(f"DROP TABLE IF EXISTS {staging.quoted}")
                for statement in self._create_run_table(staging):
                    self._unit.append(statement)
            case "truncate":
                self._unit.append(f"DELETE FROM {self._target.quoted}")
            case "append" | "upsert":
                pass

    def _finish_run(self) -> None:
        _, table = self._ready()
        self._run_done = False
        if table.mode == "replace":
            staging = self._destination(table)
            self._unit.append(lambda: self._swap(staging))

    def _copy_rows(self, source: TableName, target: TableName, table: TablePlan) -> str:
        columns = names(table.columns)
        return f"INSERT INTO {target.quoted} ({columns}) SELECT {columns} FROM {source.quoted}"

    def _fenced(self) -> Fenced:
        return Fenced(
            f"MYC-{self.area}-040",
            f"a newer worker holds {self._target}: "
            f"({self._fence.epoch}, {self._fence.attempt}) is no longer the highest fence",
            fix="nothing to do: this worker ends, its successor goes on",
        )

    def _now(self) -> str:
        assert self._ctx is not None
        return rfc3339(self._ctx.clock.now())

    def _land(self, finish: Callable[[Session], None]) -> None:
        session = self._live()
        try:
            session.execute(self.begin)
            for action in _joined(self._unit):
                match action:
                    case list(rows):
                        self._ingest(session, rows)
                    case str(statement):
                        session.execute(statement)
                    case step:
                        step()
            finish(session)
        except BaseException:
            self._undo(session)
            raise
        try:
            session.execute("COMMIT")
        except PluginError as error:
            if error.problem.code != self.unsure:
                self._undo(session)
                raise
            self._drop_session()
            raise Ambiguous(
                f"MYC-{self.area}-011",
                f"the answer to a commit to {self._target} is lost; it may have landed: "
                f"{error.problem.what}",
                fix="nothing to do: the destination is asked what it has",
            ) from error

    def _ingest(self, session: Session, rows: list[Rows]) -> None:
        session.ingest(
            rows[0].table.name,
            rows[0].batch.schema,
            [r.batch for r in rows],
            db_schema="" if rows[0].temporary else rows[0].table.schema,
            temporary=rows[0].temporary,
        )

    def _undo(self, session: Session) -> None:
        try:
            session.execute("ROLLBACK")
        except PluginError:
            # The database rolled back by itself, or will when the connection is gone.
            self._drop_session()

    def _drop_session(self) -> None:
        """Forget the connection, so that the next unit makes a new one."""
        session, self._session = self._session, None
        if session is not None:
            session.close()


def _joined(actions: Sequence[Action]) -> list[list[Rows] | str | Callable[[], None]]:
    """Join neighbouring rows for one table, so that they go in as one stream."""
    joined: list[list[Rows] | str | Callable[[], None]] = []
    for action in actions:
        if not isinstance(action, Rows):
            joined.append(action)
            continue
        last = joined[-1] if joined else None
        if isinstance(last, list) and last[0].table == action.table:
            last.append(action)
        else:
            joined.append([action])
    return joined
