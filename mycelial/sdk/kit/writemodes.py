"""What each write mode does with runs, rows and leftovers. Pure: decisions and SQL as values.

append    rows are added.
truncate  a run empties the table in the transaction of its first unit, then adds.
replace   a run fills a staging table over as many units as it takes; its end swaps it in.
upsert    rows replace those with the same key; within a unit the last one wins.
auto      append for incremental streams, replace for snapshots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from mycelial.kernel.canonical import digest_bytes, short
from mycelial.sdk.envelope import BarrierKind, Column, Committed, LossyEdge, Part, StreamSchema
from mycelial.sdk.errors import Permanent
from mycelial.sdk.kit.sql import TableName, add_column, create_table, names
from mycelial.sdk.kit.types import Fit, Stored, lossy_edge

Mode = Literal["append", "truncate", "replace", "upsert"]
RUN_MODES = ("truncate", "replace")


def resolve_mode(declared: str, stream: StreamSchema, key: Sequence[str]) -> Mode:
    """Return the mode to use. Raises: Permanent where the stream cannot be written so."""
    mode = declared if declared != "auto" else ("append" if stream.incremental else "replace")
    if mode in RUN_MODES and stream.incremental:
        raise Permanent(
            "MYC-TYPE-030",
            f"mode {mode} needs whole snapshots, and this source sends only what is new",
            fix="use mode: append or upsert, or take `cursor` off the source",
        )
    if mode == "upsert" and not key:
        raise Permanent(
            "MYC-TYPE-031",
            "mode upsert needs a key, and the stream has none",
            fix="add `key: [column, ...]` to the destination",
        )
    missing = [name for name in key if stream.column(name) is None]
    if missing:
        raise Permanent(
            "MYC-TYPE-032",
            f"the key names columns that the stream does not have: {', '.join(missing)}",
            fix=f"columns are: {', '.join(column.name for column in stream.columns)}",
        )
    match mode:
        case "append" | "truncate" | "replace" | "upsert":
            return mode
        case _:
            raise ValueError(f"unknown write mode {mode!r}")


def staging_table(target: TableName, scope: str) -> TableName:
    """Return the run's staging table: beside the target, one per pipeline."""
    mark = short(digest_bytes(f"{scope}\n{target}".encode()))
    return target.beside(f"_mycelial_run_{mark}")


@dataclass(slots=True)
class Runs:
    """Which parts are inside a run: as committed, and as the open unit has it."""

    mode: Mode
    committed: Mapping[Part, Committed]
    _open: dict[Part, bool] = field(default_factory=dict)

    def is_open(self, part: Part) -> bool:
        """Tell whether rows of this part belong to a run that has begun."""
        if part in self._open:
            return self._open[part]
        stored = self.committed.get(part)
        return stored is not None and not stored.ends_run

    def begin(self, part: Part) -> None:
        """Note RUN_START. Raises: Permanent when another part already fills the same table."""
        others = [p for p in {*self.committed, *self._open} if p != part]
        if self.mode in RUN_MODES and others:
            raise Permanent(
                "MYC-TYPE-033",
                f"mode {self.mode} takes one sender, and {others[0]!r} already writes this table: "
                f"{part!r} would wipe its rows",
                fix="use mode: append or upsert for many senders",
            )
        self._open[part] = True

    def end(self, part: Part) -> None:
        """Note RUN_END."""
        self._open[part] = False

    def check(self, part: Part) -> None:
        """Raise Permanent for rows outside a run where the mode needs one."""
        if self.mode in RUN_MODES and not self.is_open(part):
            raise Permanent(
                "MYC-TYPE-034",
                f"rows came outside a snapshot run, and mode {self.mode} works by runs",
                fix="set mode: append or upsert on this destination",
            )

    def abort(self) -> None:
        """Forget what the open unit did."""
        self._open.clear()

    def commit(self, part: Part, committed: Committed) -> None:
        """Note that a unit landed; the checkpoint's `ends_run` is what a restart will read."""
        self.committed = {**self.committed, part: committed}
        self._open.clear()


def ends_run(barrier: BarrierKind | None) -> bool:
    """Tell whether this envelope completes a run."""
    return barrier is BarrierKind.RUN_END


@dataclass(frozen=True, slots=True)
class ExistingColumn:
    """A column of a table that is there; `filled` without a value of ours (default, identity)."""

    name: str
    declared: str
    nullable: bool = True
    filled: bool = False
    generated: bool = False


@dataclass(frozen=True, slots=True)
class ExistingTable:
    """A table that is there. `unique` lists column sets no two rows share, the key first."""

    columns: tuple[ExistingColumn, ...]
    key: tuple[str, ...] = ()
    unique: tuple[frozenset[str], ...] = ()


class TypeRules(Protocol):
    """A database's side of the type table."""

    label: str

    def store(self, column: Column) -> Stored | None:
        """Return how a column of ours is stored, or None."""

    def fit(self, column: Column, declared: str) -> Fit:
        """Compare a column with one that exists."""

    def same_name(self, name: str) -> str:
        """Return the form in which names are compared."""


@dataclass(frozen=True, slots=True)
class TablePlan:
    """How a stream's columns land in the target. `wire` are (name, Arrow type) pairs as sent;
    `direct` says that the bulk path may write the target itself."""

    mode: Mode
    target: TableName
    key: tuple[str, ...]
    wire: tuple[tuple[str, str], ...]
    staged: tuple[tuple[str, str, bool], ...]
    direct: bool
    ddl: tuple[str, ...]
    lossy: tuple[LossyEdge, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns written."""
        return tuple(name for name, _ in self.wire)


def plan_table(
    rules: TypeRules,
    *,
    stream: StreamSchema,
    target: TableName,
    existing: ExistingTable | None,
    declared_mode: str,
    declared_key: Sequence[str],
) -> TablePlan:
    """Compare a stream with its table. Raises: Permanent when rows cannot be written there."""
    key = tuple(declared_key) or stream.key
    mode = resolve_mode(declared_mode, stream, key)
    stored = {column.name: _stored(rules, target, column) for column in stream.columns}
    staged = tuple((c.name, stored[c.name].declared, c.nullable) for c in stream.columns)
    theirs = {rules.same_name(c.name): c for c in existing.columns} if existing else {}
    if existing is None:
        # Only an upsert needs the key. Elsewhere a manifest that wants the index asks for it:
        # keeping one costs a third of a load, and an appended key may rightly come again.
        table_key = key if mode == "upsert" else tuple(declared_key)
        ddl: tuple[str, ...] = (create_table(target, staged, table_key),)
    else:
        _check_required(rules, target, stream, existing)
        _check_key(rules, target, mode, key, existing)
        added = [c for c in stream.columns if rules.same_name(c.name) not in theirs]
        ddl = tuple(add_column(target, c.name, stored[c.name].declared) for c in added)
    direct, lossy = True, []
    for column in stream.columns:
        there = theirs.get(rules.same_name(column.name))
        fit = Fit(True, True, stored[column.name].loses)
        if there is not None:
            fit = rules.fit(column, there.declared)
            if not fit.possible:
                raise _incompatible(target, column, there)
        direct = direct and fit.direct
        if fit.loses:
            shown = there.declared if there else stored[column.name].declared
            lossy.append(lossy_edge(column, shown, fit.loses))
    wire = tuple((name, stored[name].wire) for name in stored)
    return TablePlan(mode, target, key, wire, staged, direct, ddl, tuple(lossy))


def _stored(rules: TypeRules, target: TableName, column: Column) -> Stored:
    stored = rules.store(column)
    if stored is None:
        raise Permanent(
            "MYC-TYPE-011",
            f'{rules.label} has no type for column "{column.name}" of type {column.type} '
            f"in table {target}",
            fix="turn it into text with a `cast` transform, or leave it out with `select`",
        )
    return stored


def _incompatible(target: TableName, column: Column, there: ExistingColumn) -> Permanent:
    return Permanent(
        "MYC-TYPE-012",
        f'column "{column.name}" arrives as {column.type}, and {target} has it as {there.declared}',
        fix=f'cast "{column.name}" with a `cast` transform, or change the table',
    )


def _check_required(
    rules: TypeRules, target: TableName, stream: StreamSchema, existing: ExistingTable
) -> None:
    ours = {rules.same_name(column.name) for column in stream.columns}
    for column in existing.columns:
        here = rules.same_name(column.name) in ours
        if here and column.generated:
            raise Permanent(
                "MYC-TYPE-013",
                f'column "{column.name}" of {target} is computed by the database',
                fix=f'leave "{column.name}" out with a `select` transform',
            )
        if not here and not column.nullable and not column.filled:
            raise Permanent(
                "MYC-TYPE-014",
                f'column "{column.name}" of {target} is NOT NULL and does not arrive',
                fix=f'give it a default: ALTER TABLE ... ALTER COLUMN "{column.name}", or add it '
                "to the stream",
            )


def _check_key(
    rules: TypeRules, target: TableName, mode: Mode, key: Sequence[str], existing: ExistingTable
) -> None:
    wanted = frozenset(rules.same_name(name) for name in key)
    if mode == "upsert" and wanted not in existing.unique:
        raise Permanent(
            "MYC-TYPE-035",
            f"{target} has no primary key or unique index on ({', '.join(key)}), "
            "so upsert cannot find the rows to replace",
            fix=f"CREATE UNIQUE INDEX ON {target.quoted} ({names(key)})",
        )
