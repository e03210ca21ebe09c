"""The conformance suite: what passes it is a connector. Imports no test framework.

A driver makes a real endpoint and builds the plugin on it; `source_cases` and
`destination_cases` return named callables that raise AssertionError. A plugin's own tests run
them as rows of a table:

    @pytest.mark.parametrize("case", source_cases(MyDriver()), ids=str)
    def test_conformance(case, tmp_path):
        case.check(tmp_path)

"Crash" means the driver's `crash`, which leaves on the endpoint what a killed process leaves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol

from mycelial.kernel.clock import Clock, SystemClock
from mycelial.kernel.ports import Log, Meter, NullLog, NullMeter
from mycelial.kernel.secret import Secret
from mycelial.sdk.envelope import (
    BarrierKind,
    Checkpoint,
    Column,
    Committed,
    Envelope,
    FenceToken,
    Part,
    Position,
    Receipt,
    StreamSchema,
)
from mycelial.sdk.errors import Fenced, Interrupted, Permanent, PolicyDenied
from mycelial.sdk.plugin import Context, Destination, LifecycleEvent, Limits, Source

if TYPE_CHECKING:
    from arro3.core import RecordBatch

Row = tuple[Any, ...]
PART = Part("0")
SCOPE = "conformance"


@dataclass
class MemoryContext:
    """A host for one plugin under test: everything below `root` is allowed, nothing else."""

    root: Path
    log: Log = field(default_factory=NullLog)
    meter: Meter = field(default_factory=NullMeter)
    clock: Clock = field(default_factory=SystemClock)
    limits: Limits = field(default_factory=Limits)
    secrets: Mapping[str, str] = field(default_factory=dict)

    @property
    def state_dir(self) -> Path:
        """A folder beside the data."""
        folder = self.root / ".state"
        folder.mkdir(exist_ok=True)
        return folder

    def secret(self, ref: Mapping[str, str]) -> Secret:  # noqa: D102
        try:
            return Secret(self.secrets[ref["secret"]])
        except KeyError:
            raise Permanent("MYC-TEST-001", f"no secret called {ref['secret']}") from None

    def path(self, text: str, *, write: bool) -> Path:  # noqa: D102
        path = (self.root / text).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise PolicyDenied("MYC-TEST-002", f"{text} is outside of the test's folder")
        return path

    def open_path(self, text: str, mode: Literal["rb", "wb", "ab"]) -> IO[bytes]:  # noqa: D102
        return self.path(text, write=mode != "rb").open(mode)

    def check_host(self, host: str, port: int) -> None:
        """Every host is allowed."""

    def progress(self) -> None:
        """Nobody watches."""


@dataclass(frozen=True)
class Case:
    """One requirement. `check` takes an empty folder."""

    name: str
    check: Callable[[Path], None]

    def __str__(self) -> str:
        return self.name


class SourceDriver(Protocol):
    """Makes real endpoints for a source."""

    name: str
    snapshot: bool
    """True when the source brackets runs; False when it is incremental."""

    def create(self, root: Path, rows: int) -> None:
        """Make an endpoint under `root` that holds this many distinct rows."""

    def build(self, root: Path) -> Source:
        """Return a new, unopened source on the endpoint."""

    def context(self, root: Path) -> Context:
        """Return a context whose limits make `rows` come in several batches."""


class DestinationDriver(Protocol):
    """Makes real endpoints for a destination."""

    name: str
    exactly_once: bool
    mode: Literal["append", "replace", "upsert"]

    def build(self, root: Path) -> Destination:
        """Return a new, unopened destination on the endpoint under `root`."""

    def context(self, root: Path) -> Context:
        """Return a context."""

    def read(self, root: Path, schema: StreamSchema) -> list[Row]:
        """Return what a reader of the endpoint sees, in any order; [] while there is nothing."""

    def crash(self, root: Path, destination: Destination) -> None:
        """Let go of a destination as a killed process does: nothing is tidied, locks are freed."""


# ---------------------------------------------------------------------------------- data


CORE_TYPES = (
    Column("id", "int64", nullable=False),
    Column("flag", "bool"),
    Column("small", "int32"),
    Column("ratio", "float64"),
    Column("label", "utf8"),
    Column("price", "decimal128(20, 2)"),
    Column("day", "date32"),
    Column("at", "timestamp[us]"),
    Column("seen", "timestamp[us, tz=UTC]"),
    Column("raw", "binary"),
)
"""The types every destination must hold without loss."""

CORE = StreamSchema("core", CORE_TYPES, key=("id",))
NARROW = StreamSchema(
    "narrow", (Column("id", "int64", nullable=False), Column("label", "utf8")), key=("id",)
)
ODD = StreamSchema(
    'odd "name"; drop',
    (
        Column("id", "int64", nullable=False),
        Column('quo"te', "utf8"),
        Column("wei rd,näme", "utf8"),
        Column("select", "utf8"),
    ),
    key=("id",),
)

_TEXTS = ("plain", "", 'quo"te', "com,ma", "line\nfeed", "üñï 🍄", " pad ", "NULL", "'; --", None)
_CORE_VALUES: Mapping[str, Sequence[str | bytes | None]] = {
    "flag": ("true", "false", None),
    "small": ("-2147483648", "0", "2147483647", None),
    "ratio": ("-1.5", "0.1", "1e300", None),
    "label": _TEXTS,
    "price": ("-0.01", "123456789012345678.90", "1.10", None),
    "day": ("1969-12-31", "2000-02-29", "2262-01-01", None),
    "at": ("1969-12-31T23:59:59.999999", "2026-01-31T12:00:00.000001", None),
    "seen": ("1969-12-31T23:59:59.999999Z", "2026-01-31T12:00:00Z", None),
    "raw": (b"\x00\xff", b"", b"text", None),
}


def make_batch(schema: StreamSchema, first: int, count: int) -> RecordBatch:
    """Return rows `first`.. of a test stream, the same ones every time."""
    from arro3.core import Array, RecordBatch

    from mycelial.sdk.kit.arrowtypes import arrow_schema, parse_type
    from mycelial.sdk.kit.casts import cast_exact

    arrays = []
    for column in schema.columns:
        kind = parse_type(column.type)
        if column.name == "id":
            arrays.append(Array(list(range(first, first + count)), kind))
            continue
        choices = _CORE_VALUES.get(column.name, _TEXTS) if schema is CORE else _TEXTS
        values = [choices[n % len(choices)] for n in range(first, first + count)]
        plain = parse_type("binary" if column.type == "binary" else "utf8")
        arrays.append(cast_exact(Array(values, plain), kind).values)
    return RecordBatch.from_arrays(arrays, schema=arrow_schema(schema))


def rows_of(batches: Iterable[RecordBatch]) -> list[Row]:
    """Return rows as tuples, in order."""
    return [
        row
        for batch in batches
        for row in zip(*[column.to_pylist() for column in batch.columns], strict=True)
    ]


def expected_rows(schema: StreamSchema, first: int, count: int) -> list[Row]:
    """Return the rows that `make_batch` holds."""
    return rows_of([make_batch(schema, first, count)])


def same_rows(left: Iterable[Row], right: Iterable[Row]) -> None:
    """Assert that two readers saw the same multiset of rows (I2)."""
    ours, theirs = Counter(left), Counter(right)
    assert ours == theirs, f"missing {[*(theirs - ours)][:3]}, extra {[*(ours - theirs)][:3]}"


# ---------------------------------------------------------------------------------- sources


@dataclass(frozen=True)
class _SourceSuite:
    driver: SourceDriver
    rows: int = 60

    def opened(self, root: Path) -> Source:
        source = self.driver.build(root)
        source.open(self.driver.context(root))
        return source

    def ready(self, root: Path, rows: int | None = None) -> Source:
        self.driver.create(root, self.rows if rows is None else rows)
        return self.opened(root)

    def read(
        self, source: Source, resume: Position | None = None, until: Position | None = None
    ) -> list[Envelope]:
        """Read one run, or up to where an incremental source has caught up."""
        found = []
        for envelope in source.read(PART, resume, until):
            found.append(envelope)
            if envelope.barrier in (BarrierKind.RUN_END, BarrierKind.FLUSH):
                break
        return found

    def plan_matches_what_is_read(self, root: Path) -> None:
        from mycelial.sdk.kit.arrowtypes import arrow_schema

        self.driver.create(root, self.rows)
        plan = self.driver.build(root).plan(self.driver.context(root))
        assert len(plan.streams) >= 1
        assert PART in plan.parts
        planned = {stream.name: arrow_schema(stream) for stream in plan.streams}
        source = self.opened(root)
        for envelope in self.read(source):
            if envelope.batch is not None:
                schema = planned[envelope.stream]
                assert envelope.batch.schema.names == schema.names
                assert envelope.batch.schema.types == schema.types
        source.close()

    def plan_changes_nothing(self, root: Path) -> None:
        self.driver.create(root, self.rows)
        context = self.driver.context(root)
        assert self.driver.build(root).plan(context) == self.driver.build(root).plan(context)
        source = self.opened(root)
        assert len(_rows(self.read(source))) == self.rows
        source.close()

    def every_row_comes_once(self, root: Path) -> None:
        source = self.ready(root)
        rows = _rows(self.read(source))
        source.close()
        assert len(rows) == len(set(rows)) == self.rows

    def batches_keep_the_limits(self, root: Path) -> None:
        source = self.ready(root)
        limit = self.driver.context(root).limits.batch_rows
        sizes = [envelope.rows for envelope in self.read(source)]
        source.close()
        assert max(sizes) <= limit
        assert sum(size > 0 for size in sizes) > 1, "the driver's limits must make several batches"

    def seq_rises_by_one(self, root: Path) -> None:
        source = self.ready(root)
        seqs = [envelope.seq for envelope in self.read(source)]
        source.close()
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))

    def resume_from_every_position_gives_the_rest(self, root: Path) -> None:
        source = self.ready(root)
        whole = self.read(source)
        source.close()
        for index, envelope in enumerate(whole[:-1]):
            source = self.opened(root)
            rest = _rows(self.read(source, envelope.end))
            source.close()
            assert rest == _rows(whole[index + 1 :]), f"after envelope {index}"

    def range_reads_the_same_again(self, root: Path) -> None:
        source = self.ready(root)
        if not source.plan(self.driver.context(root)).replayable:
            source.close()
            return
        source.close()
        source = self.opened(root)
        whole = self.read(source)
        ends = [None, *(e.end for e in whole if e.batch is not None)]
        for begin in range(len(ends) - 1):
            end = min(begin + 2, len(ends) - 1)
            again = _rows(self.read(source, ends[begin], ends[end]))
            batches = [e for e in whole if e.batch is not None]
            assert again == _rows(batches[begin:end]), f"range {begin}..{end}"
        source.close()

    def ends_are_marked(self, root: Path) -> None:
        source = self.ready(root)
        kinds = [e.barrier for e in self.read(source) if e.barrier]
        source.close()
        if self.driver.snapshot:
            assert kinds[0] is BarrierKind.RUN_START
            assert kinds[-1] is BarrierKind.RUN_END
        else:
            assert kinds[-1] is BarrierKind.FLUSH

    def empty_endpoint_ends_too(self, root: Path) -> None:
        source = self.ready(root, rows=0)
        found = self.read(source)
        source.close()
        assert _rows(found) == []
        assert found[-1].barrier in (BarrierKind.RUN_END, BarrierKind.FLUSH)

    def caught_up_source_reads_nothing_again(self, root: Path) -> None:
        source = self.ready(root)
        end = self.read(source)[-1].end
        again = _rows(self.read(source, end))
        source.close()
        assert len(again) == (self.rows if self.driver.snapshot else 0)

    def interrupt_ends_read(self, root: Path) -> None:
        source = self.ready(root)
        reading = source.read(PART, None)
        next(reading)
        source.interrupt()
        later = 0
        try:
            for _ in reading:
                later += 1
        except Interrupted:
            pass
        source.close()
        assert later <= 1, "at most the batch in the making may follow an interrupt"

    def durable_may_be_old_and_repeated(self, root: Path) -> None:
        source = self.ready(root)
        whole = self.read(source)
        ends = [envelope.end for envelope in whole]
        for end in (ends[0], ends[len(ends) // 2], ends[0], ends[-1], ends[-1], ends[0]):
            source.durable(PART, end)
        source.close()

    def close_is_safe_at_any_time(self, root: Path) -> None:
        self.driver.create(root, self.rows)
        unopened = self.driver.build(root)
        unopened.close()
        source = self.opened(root)
        source.close()
        source.close()
        source.open(self.driver.context(root))
        assert len(_rows(self.read(source))) == self.rows
        source.close()

    def closing_a_half_read_source_is_clean(self, root: Path) -> None:
        source = self.ready(root)
        reading = source.read(PART, None)
        next(reading)
        getattr(reading, "close", lambda: None)()
        source.close()

    def bad_position_is_permanent(self, root: Path) -> None:
        source = self.ready(root)
        try:
            self.read(source, Position('"nonsense"'))
        except Permanent:
            return
        finally:
            source.close()
        raise AssertionError("a position that is not the source's own must be refused")

    def lifecycle_is_idempotent(self, root: Path) -> None:
        self.driver.create(root, self.rows)
        context = self.driver.context(root)
        source = self.driver.build(root)
        for event in (LifecycleEvent.CREATED, LifecycleEvent.CREATED, LifecycleEvent.UPDATED):
            source.lifecycle(context, event, None, None)
        source.open(context)
        assert len(_rows(self.read(source))) == self.rows
        source.close()
        for _ in range(2):
            source.lifecycle(context, LifecycleEvent.DELETED, None, None)


def _rows(envelopes: Iterable[Envelope]) -> list[Row]:
    return rows_of(e.batch for e in envelopes if e.batch is not None)


# ---------------------------------------------------------------------------------- destinations


@dataclass
class _Session:
    """One worker's life with a destination, as the engine drives it."""

    suite: _DestinationSuite
    root: Path
    schema: StreamSchema
    fence: FenceToken = FenceToken(1, 1)  # noqa: RUF009 - frozen
    scope: str = SCOPE
    destination: Destination = field(init=False)
    found: Mapping[Part, Committed] = field(init=False)

    def __post_init__(self) -> None:
        driver = self.suite.driver
        self.destination = driver.build(self.root)
        context = driver.context(self.root)
        self.destination.plan(context, (self.schema,))
        self.found = self.destination.open(context, self.scope, self.fence)
        self.destination.migrate((self.schema,))
        before = self.found.get(PART)
        self.seq = before.seq if before else 0
        self._envelope = 0

    def barrier(self, kind: BarrierKind) -> None:
        self._envelope += 1
        self.destination.write(
            Envelope(PART, self._envelope, Position("{}"), self.schema.name, barrier=kind)
        )

    def write(self, first: int, count: int) -> None:
        batch = make_batch(self.schema, first, count)
        self._envelope += 1
        envelope = Envelope(
            PART,
            self._envelope,
            place(first + count),
            self.schema.name,
            batch,
            nbytes=int(batch.nbytes),
        )
        assert self.destination.write(envelope) == ()

    def commit(self, end: int, rows: int, *, ends_run: bool = False) -> Receipt:
        self.seq += 1
        checkpoint = Checkpoint(self.scope, PART, self.fence, self.seq, place(end), rows, ends_run)
        return self.destination.commit(checkpoint)

    def unit(self, first: int, count: int, *, starts: bool = False, ends: bool = False) -> Receipt:
        """Write and commit one unit; `starts` and `ends` bracket a run where the mode needs it."""
        replaces = self.suite.driver.mode == "replace"
        if starts and replaces:
            self.barrier(BarrierKind.RUN_START)
        self.write(first, count)
        if ends and replaces:
            self.barrier(BarrierKind.RUN_END)
        return self.commit(first + count, count, ends_run=ends and replaces)

    def close(self) -> None:
        self.destination.close()


def place(number: int) -> Position:
    """Return the position after `number` rows of a test stream."""
    return Position(f'{{"n":{number}}}')


@dataclass(frozen=True)
class _DestinationSuite:
    driver: DestinationDriver

    def begin(
        self,
        root: Path,
        schema: StreamSchema = NARROW,
        *,
        attempt: int = 1,
        epoch: int = 1,
        scope: str = SCOPE,
    ) -> _Session:
        return _Session(self, root, schema, FenceToken(epoch, attempt), scope)

    def seen(self, root: Path, schema: StreamSchema = NARROW) -> list[Row]:
        return self.driver.read(root, schema)

    def rows_arrive_once(self, root: Path) -> None:
        session = self.begin(root)
        receipt = session.unit(0, 10, starts=True, ends=True)
        session.close()
        assert (receipt.part, receipt.rows) == (PART, 10)
        assert receipt.position == place(10)
        same_rows(self.seen(root), expected_rows(NARROW, 0, 10))

    def many_units_add_up(self, root: Path) -> None:
        session = self.begin(root)
        session.unit(0, 10, starts=True)
        session.unit(10, 5)
        session.unit(15, 20, ends=True)
        session.close()
        same_rows(self.seen(root), expected_rows(NARROW, 0, 35))

    def core_types_arrive_exactly(self, root: Path) -> None:
        session = self.begin(root, CORE)
        session.unit(0, 40, starts=True, ends=True)
        session.close()
        same_rows(self.seen(root, CORE), expected_rows(CORE, 0, 40))

    def odd_names_are_only_names(self, root: Path) -> None:
        session = self.begin(root, ODD)
        session.unit(0, 12, starts=True, ends=True)
        session.close()
        same_rows(self.seen(root, ODD), expected_rows(ODD, 0, 12))

    def plan_changes_nothing(self, root: Path) -> None:
        before = _tree(root)
        context = self.driver.context(root)
        plan = self.driver.build(root).plan(context, (NARROW,))
        assert plan == self.driver.build(root).plan(context, (NARROW,))
        assert plan.exactly_once == self.driver.exactly_once
        assert _tree(root) == before

    def nothing_is_visible_before_commit(self, root: Path) -> None:
        session = self.begin(root)
        if self.driver.mode == "replace":
            session.barrier(BarrierKind.RUN_START)
        session.write(0, 10)
        assert self.seen(root) == []
        session.destination.abort()
        session.close()

    def abort_drops_what_is_staged(self, root: Path) -> None:
        session = self.begin(root)
        if self.driver.mode == "replace":
            session.barrier(BarrierKind.RUN_START)
        session.write(0, 10)
        session.destination.abort()
        session.destination.abort()
        session.unit(20, 5, starts=True, ends=True)
        session.close()
        same_rows(self.seen(root), expected_rows(NARROW, 20, 5))

    def empty_unit_moves_the_position(self, root: Path) -> None:
        session = self.begin(root)
        session.unit(0, 10, starts=True, ends=True)
        receipt = session.commit(11, 0, ends_run=self.driver.mode == "replace")
        session.close()
        assert receipt.rows == 0
        same_rows(self.seen(root), expected_rows(NARROW, 0, 10))
        if self.driver.exactly_once:
            again = self.begin(root, attempt=2)
            assert again.found[PART].position == place(11)
            again.close()

    def close_is_safe_at_any_time(self, root: Path) -> None:
        self.driver.build(root).close()
        session = self.begin(root)
        session.close()
        session.close()

    def interrupt_does_no_harm(self, root: Path) -> None:
        session = self.begin(root)
        session.destination.interrupt()
        session.destination.abort()
        session.close()
        again = self.begin(root, attempt=2)
        again.unit(0, 10, starts=True, ends=True)
        again.close()
        same_rows(self.seen(root), expected_rows(NARROW, 0, 10))

    def migrate_is_idempotent(self, root: Path) -> None:
        session = self.begin(root)
        session.destination.migrate((NARROW,))
        session.destination.migrate((NARROW,))
        session.unit(0, 10, starts=True, ends=True)
        session.close()
        same_rows(self.seen(root), expected_rows(NARROW, 0, 10))

    def heartbeats_stage_nothing(self, root: Path) -> None:
        session = self.begin(root)
        assert session.destination.write(Envelope(PART, 1, place(0), NARROW.name)) == ()
        session.destination.abort()
        session.close()
        assert self.seen(root) == []

    # -- exactly-once only

    def open_returns_what_is_committed(self, root: Path) -> None:
        session = self.begin(root)
        assert dict(session.found) == {}
        session.unit(0, 10, starts=True)
        session.unit(10, 5, ends=True)
        session.close()
        again = self.begin(root, attempt=2)
        again.close()
        found = again.found[PART]
        assert (found.seq, found.position, found.rows) == (2, place(15), 15)
        assert found.ends_run == (self.driver.mode == "replace")

    def crash_before_commit_loses_nothing_and_repeats_nothing(self, root: Path) -> None:
        first = self.begin(root)
        first.unit(0, 10, starts=True)
        first.write(10, 5)
        self.driver.crash(root, first.destination)
        second = self.begin(root, attempt=2)
        assert second.found[PART].position == place(10)
        second.unit(10, 5)
        second.unit(15, 5, ends=True)
        second.close()
        same_rows(self.seen(root), expected_rows(NARROW, 0, 20))

    def lower_fence_is_refused_at_open(self, root: Path) -> None:
        session = self.begin(root, attempt=2)
        session.unit(0, 10, starts=True, ends=True)
        session.close()
        for epoch, attempt in ((1, 1), (0, 9)):
            try:
                self.begin(root, epoch=epoch, attempt=attempt).close()
            except Fenced:
                continue
            raise AssertionError(f"({epoch}, {attempt}) is lower than (1, 2) and was let in")
        self.begin(root, epoch=2, attempt=0).close()

    def lower_fence_is_refused_at_commit(self, root: Path) -> None:
        old = self.begin(root)
        if self.driver.mode == "replace":
            old.barrier(BarrierKind.RUN_START)
        new = self.begin(root, attempt=2)
        try:
            old.write(0, 10)
            old.commit(10, 10, ends_run=True)
        except Fenced:
            pass
        else:
            raise AssertionError("a fenced worker committed (I4)")
        old.destination.abort()
        old.close()
        new.unit(0, 10, starts=True, ends=True)
        new.close()
        same_rows(self.seen(root), expected_rows(NARROW, 0, 10))

    def set_position_is_returned_by_open(self, root: Path) -> None:
        session = self.begin(root)
        session.unit(0, 10, starts=True, ends=True)
        session.destination.set_position(
            Checkpoint(SCOPE, PART, FenceToken(1, 1), 7, place(4), 0, ends_run=True)
        )
        session.close()
        again = self.begin(root, attempt=2)
        again.close()
        assert (again.found[PART].seq, again.found[PART].position) == (7, place(4))
        same_rows(self.seen(root), expected_rows(NARROW, 0, 10))

    # -- by mode

    def scopes_do_not_mix(self, root: Path) -> None:
        one = self.begin(root, scope="one")
        one.unit(0, 10)
        two = self.begin(root, scope="two")
        assert dict(two.found) == {}
        two.unit(100, 5)
        one.unit(10, 5)
        one.close()
        two.close()
        same_rows(self.seen(root), expected_rows(NARROW, 0, 15) + expected_rows(NARROW, 100, 5))
        again = self.begin(root, scope="one", attempt=2)
        again.close()
        assert again.found[PART].position == place(15)

    def old_run_stays_until_the_new_one_is_whole(self, root: Path) -> None:
        session = self.begin(root)
        session.unit(0, 10, starts=True, ends=True)
        session.unit(50, 5, starts=True)
        same_rows(self.seen(root), expected_rows(NARROW, 0, 10))
        session.unit(55, 5, ends=True)
        session.close()
        same_rows(self.seen(root), expected_rows(NARROW, 50, 10))

    def a_run_begun_again_forgets_the_unfinished_one(self, root: Path) -> None:
        first = self.begin(root)
        first.unit(0, 10, starts=True, ends=True)
        first.unit(50, 5, starts=True)
        first.write(55, 5)
        self.driver.crash(root, first.destination)
        second = self.begin(root, attempt=2)
        same_rows(self.seen(root), expected_rows(NARROW, 0, 10))
        second.unit(70, 5, starts=True, ends=True)
        second.close()
        same_rows(self.seen(root), expected_rows(NARROW, 70, 5))

    def an_empty_run_empties_the_target(self, root: Path) -> None:
        session = self.begin(root)
        session.unit(0, 10, starts=True, ends=True)
        session.barrier(BarrierKind.RUN_START)
        session.barrier(BarrierKind.RUN_END)
        session.commit(0, 0, ends_run=True)
        session.close()
        assert self.seen(root) == []


def _tree(root: Path) -> set[str]:
    return {str(path) for path in root.rglob("*") if ".state" not in path.parts}


_COMMON = (
    "rows_arrive_once many_units_add_up core_types_arrive_exactly odd_names_are_only_names "
    "plan_changes_nothing nothing_is_visible_before_commit abort_drops_what_is_staged "
    "empty_unit_moves_the_position close_is_safe_at_any_time interrupt_does_no_harm "
    "migrate_is_idempotent heartbeats_stage_nothing"
)
_EXACTLY_ONCE = (
    "open_returns_what_is_committed crash_before_commit_loses_nothing_and_repeats_nothing "
    "lower_fence_is_refused_at_open lower_fence_is_refused_at_commit "
    "set_position_is_returned_by_open"
)
_SHARED = "scopes_do_not_mix"
_REPLACE = (
    "old_run_stays_until_the_new_one_is_whole a_run_begun_again_forgets_the_unfinished_one "
    "an_empty_run_empties_the_target"
)
_SOURCE = (
    "plan_matches_what_is_read plan_changes_nothing every_row_comes_once batches_keep_the_limits "
    "seq_rises_by_one resume_from_every_position_gives_the_rest range_reads_the_same_again "
    "ends_are_marked empty_endpoint_ends_too caught_up_source_reads_nothing_again "
    "interrupt_ends_read durable_may_be_old_and_repeated close_is_safe_at_any_time "
    "closing_a_half_read_source_is_clean bad_position_is_permanent lifecycle_is_idempotent"
)


def source_cases(driver: SourceDriver) -> list[Case]:
    """Return what a source must do."""
    return list(_cases(_SourceSuite(driver), driver.name, _SOURCE))


def destination_cases(driver: DestinationDriver) -> list[Case]:
    """Return what a destination of the driver's mode and guarantee must do."""
    names = _COMMON
    if driver.exactly_once:
        names += f" {_EXACTLY_ONCE}"
    if driver.exactly_once and driver.mode != "replace":
        names += f" {_SHARED}"
    if driver.mode == "replace":
        names += f" {_REPLACE}"
    return list(_cases(_DestinationSuite(driver), driver.name, names))


def _cases(suite: object, driver: str, names: str) -> Iterator[Case]:
    for name in names.split():
        yield Case(f"{driver}-{name}", getattr(suite, name))
