"""What a runner does about trouble, on a manual clock: patience, full disks, new shapes, parts."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace

import pytest
from runner_rig import Rig
from runtime_fakes import SCHEMA, ZERO, Ledger
from scripted import Scripted, rows

from mycelial.runtime.journal import Entry, Journal, parse
from mycelial.runtime.ports import WorkerExit
from mycelial.runtime.reader import ROTATE_AFTER_ENVELOPES
from mycelial.runtime.retry import LONGEST_SECONDS
from mycelial.schemas.desired import Delivery, Retry, Schedule
from mycelial.sdk.envelope import BarrierKind, Column, Envelope, FenceToken, Output, Part

# -- patience -------------------------------------------------------------------------------------


def test_patience_used_up_is_told_and_trying_goes_on_until_it_works(world):
    table = world.directory / "table"
    spec = world.spec(source={"appears": str(table)}, retry=Retry(5.0))
    rig = Rig(world, spec, actions=[*[None] * 8, table.touch])
    assert rig.run() is WorkerExit.DONE
    retrying = [s for s in rig.voice.statuses if s.state == "retrying"]
    assert len(retrying) == 9
    stalled = [s.is_stalled for s in retrying]
    assert stalled == sorted(stalled)  # never taken back while nothing gets through
    assert True in stalled
    passed = itertools.accumulate(rig.host.waits, initial=0.0)
    for is_stalled, waited, at in zip(stalled, rig.host.waits, passed, strict=False):
        assert is_stalled == (at >= 5.0)
        assert (waited == pytest.approx(LONGEST_SECONDS)) == is_stalled
    assert rig.voice.states[-1] == "finished"
    assert world.arrived() == world.made


# -- a full disk ----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(world):
    """A journal already bigger than any other file, and a limit on how far files may grow."""
    resource = pytest.importorskip("resource")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = world.state / "journal"
    journal = Journal(path)
    for seq in range(1, 501):
        filler = json.dumps({"filler": "x" * 400})
        journal.append(Entry("another scope", ZERO, seq, filler, FenceToken(1, 1), 0))
    journal.close()

    def leave_room(count):
        room = hard if count is None else path.stat().st_size + count
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))

    yield leave_room
    leave_room(None)


def journaled(world):
    entries, good = parse((world.state / "journal").read_bytes())
    assert good == (world.state / "journal").stat().st_size  # no half line is left
    found = [json.loads(e.position)["id"] for e in entries if e.scope == "scope-1"]
    return found[-1] if found else 0


@pytest.mark.parametrize("room", [0, 30, 100], ids=lambda room: f"{room} bytes left")
def test_a_journal_on_a_full_disk_is_waited_for_and_nothing_is_lost_or_doubled(
    world, small_disk, room
):
    seen = []

    def look():
        seen.append((world.committed_id(), journaled(world), max(world.acked_ids(), default=0)))

    def free():
        look()
        small_disk(None)

    small_disk(room)
    rig = Rig(world, world.spec(source={"prunes": True}), actions=[look, look, free])
    assert rig.run() is WorkerExit.DONE
    assert rig.voice.states[:3] == ["running", "retrying", "retrying"]
    assert rig.voice.statuses[1].error.code == "MYC-RUN-032"
    for committed, written, told in seen:
        assert told <= written < committed  # the source keeps what the journal does not have
    assert len(set(seen)) == 1  # without room it does not get ahead
    assert rig.voice.states[-1] == "finished"
    assert world.arrived() == world.made
    assert world.left_ids() == set()
    assert journaled(world) == 50


@pytest.mark.parametrize("outcome", ["lost", "landed"])
def test_a_unit_is_journaled_only_once_its_commit_is_known(world, outcome):
    """Where the journal alone holds the position, a line ahead of the commit would lose rows."""
    spec = world.spec(target={"exactly_once": False, "ambiguous": outcome})
    rig = Rig(world, spec, actions=[None] * 3)
    assert rig.run() is WorkerExit.DONE
    assert rig.voice.states[-1] == "finished"
    twice = {row: 1 for row in world.made if outcome == "landed" and 11 <= row[0] <= 20}
    assert world.arrived() == world.made + Counter(twice)  # at least once, and no row is missing


# -- new shapes -----------------------------------------------------------------------------------

WIDER = replace(SCHEMA, columns=(*SCHEMA.columns, Column("extra", "int64")))


def reshaped(position, shape=WIDER):
    return Envelope(ZERO, 0, position, "rows", barrier=BarrierKind.SCHEMA, schema=shape)


def source_that_widens():
    """Rows 1 to 3, a new column, row 4."""
    found = [rows(1, 2), rows(3), reshaped("3.wide"), rows(4)]
    positions = [envelope.end for envelope in found]
    at = {None: 0} | {position: n for n, position in enumerate(positions, start=1)}
    return Scripted({"0": lambda resume: found[at[resume] :]})


@pytest.fixture
def heard(monkeypatch):
    """What the destination is asked, in order."""
    calls = []

    def spy(name, note):
        original = getattr(Ledger, name)

        def told(self, *args):
            calls.append((name, note(*args)))
            return original(self, *args)

        monkeypatch.setattr(Ledger, name, told)

    spy("plan", lambda _, streams: [c.name for c in streams[0].columns])
    spy("migrate", lambda streams: [c.name for c in streams[0].columns])
    spy("commit", lambda checkpoint: checkpoint.position)
    return calls


@pytest.mark.parametrize("transforms", [(), ("upper",)], ids=["plain", "transformed"])
def test_a_new_shape_is_planned_again_downstream_between_two_units(world, heard, transforms):
    spec = world.spec(transforms=transforms)
    rig = Rig(world, spec, build=lambda spec: replace(
        base(spec), source=source_that_widens()
    ))  # fmt: skip
    assert rig.run() is WorkerExit.DONE
    wide = ["id", "value", "extra"]
    assert heard == [
        ("plan", ["id", "value"]),
        ("migrate", ["id", "value"]),
        ("commit", "3"),  # what came before goes in under the old shape
        ("plan", wide),
        ("migrate", wide),
        ("commit", "4"),
    ]
    assert rig.voice.events == ["SchemaChanged"]
    assert sum(world.arrived().values()) == 4


def test_a_new_shape_that_would_lose_values_stops_with_the_position_unmoved(world, heard):
    spec = world.spec(target={"lossy": "extra"})
    rig = Rig(world, spec, build=source_that_widens().build)
    assert rig.run() is WorkerExit.DONE
    failed = next(s for s in rig.voice.statuses if s.state == "failed")
    assert failed.error.code == "MYC-RUN-012"
    assert "extra" in failed.error.what
    assert [call for call in heard if call[0] != "plan"] == [
        ("migrate", ["id", "value"]),
        ("commit", "3"),
    ]
    assert world.arrived() == {(1, "v1"): 1, (2, "v2"): 1, (3, "v3"): 1}
    assert rig.voice.events == []


def test_a_new_shape_that_is_allowed_to_lose_goes_on_after_the_failure(world):
    spec = world.spec(target={"lossy": "extra"})
    Rig(world, spec, build=source_that_widens().build).run()
    allowed = replace(spec, delivery=Delivery(allow_lossy=("extra",)))
    Rig(world, allowed, attempt=2, build=source_that_widens().build).run()
    assert world.arrived() == {(i, f"v{i}"): 1 for i in range(1, 5)}


class Holds:
    """A transform that keeps every row until a barrier."""

    determinism = "stateful"

    def __init__(self):
        self.held = []

    def plan(self, streams):
        return streams

    def open(self, ctx):
        pass

    def apply(self, envelope):
        self.held.append(envelope)
        return ()

    def flush(self, envelope):
        held, self.held = self.held, []
        return [Output(item) for item in (*held, envelope)]

    def close(self):
        pass


def test_rows_that_a_transform_held_back_are_written_before_the_new_shape(
    world, heard, monkeypatch
):
    write = Ledger.write

    def told(self, envelope):
        heard.append(("write", envelope.rows))
        return write(self, envelope)

    monkeypatch.setattr(Ledger, "write", told)
    parts = lambda spec: replace(source_that_widens().build(spec), transforms=(Holds(),))  # noqa: E731
    rig = Rig(world, world.spec(), build=parts)
    rig.run()
    wide = ["id", "value", "extra"]
    order = [call for call in heard if (call[0] == "write" and call[1]) or call[1] == wide]
    assert order == [("write", 2), ("write", 1), ("plan", wide), ("migrate", wide), ("write", 1)]
    assert rig.voice.events == ["SchemaChanged"]
    assert sum(world.arrived().values()) == 4


def base(spec):
    return Scripted({}).build(spec)


# -- many parts -----------------------------------------------------------------------------------


def test_each_part_has_its_own_position_and_is_read_to_its_end(world):
    spec = world.spec(source={"parts": ["a", "b", "c"]})
    rig = Rig(world, spec)
    rig.run()
    assert world.arrived() == world.made + world.made + world.made
    assert {p: json.loads(e.position)["id"] for (_, p), e in rig.journal.latest.items()} == {
        "a": 50, "b": 50, "c": 50,
    }  # fmt: skip
    world.add([51])
    again = Rig(world, spec, attempt=2)
    again.run()
    assert world.arrived() == world.made + world.made + world.made


def test_a_part_that_appears_later_starts_at_its_own_beginning(world):
    Rig(world, world.spec(source={"parts": ["a"]})).run()
    Rig(world, world.spec(source={"parts": ["a", "b"]}), attempt=2).run()
    assert world.arrived() == world.made + world.made


class StopAfter:
    """Faults that make the host say stop at a unit of `part`, or after many envelopes."""

    def __init__(self, source, part, envelopes_max):
        self.source, self.part, self.left, self.host = source, part, envelopes_max, None

    def step(self, name):
        if name == "read":
            self.left -= 1
        if self.left <= 0 or (name == "durable" and self.source.told[-1][0] == self.part):
            self.host.halt = "stop"


def test_a_busy_endless_part_does_not_starve_the_others(world):
    def busy(_resume):
        return (rows(i, part=Part("busy")) for i in itertools.count(1000))

    def calm(_resume):
        yield rows(1, part=Part("calm"))
        while True:
            yield Envelope(Part("calm"), 0, "1", "rows", barrier=BarrierKind.FLUSH)

    source = Scripted({"busy": busy, "calm": calm}, endless=True)
    spec = world.spec(schedule=Schedule("continuous"))
    faults = StopAfter(source, "calm", envelopes_max=10 * ROTATE_AFTER_ENVELOPES)
    rig = Rig(world, spec, build=source.build, faults=faults)
    faults.host = rig.host
    rig.run()
    assert world.arrived()[(1, "v1")] == 1
    before = source.told.index(("calm", "1"))
    assert 1 <= before <= ROTATE_AFTER_ENVELOPES / 10 + 1  # units of ten rows


def test_endless_parts_take_turns_and_none_skips_or_repeats(world):
    spec = world.spec(
        source={"parts": ["a", "b"], "endless": True, "idle": 0.0},
        schedule=Schedule("continuous"),
    )
    rig = Rig(world, spec, faults=StopWhen(lambda: sum(world.arrived().values()) == 100))
    rig.faults.host = rig.host
    rig.run()
    assert world.arrived() == world.made + world.made


class StopWhen:
    def __init__(self, is_over):
        self.is_over, self.host, self.left = is_over, None, 10_000

    def step(self, name):
        self.left -= 1
        if self.left <= 0 or (name == "durable" and self.is_over()):
            self.host.halt = "stop"
