"""Pure decisions: resume, guarantee, acknowledgement, retry, rate, beats."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycelial.kernel.entropy import seeded_rng
from mycelial.kernel.errors import InternalError
from mycelial.runtime.ack import AckLedger
from mycelial.runtime.beats import ON_CHANGE, first_beat, next_beat
from mycelial.runtime.guarantee import guarantee_of, require_wish
from mycelial.runtime.once import Order, load_order, parts_to_read, save_order
from mycelial.runtime.rate import RowRate
from mycelial.runtime.resume import Remembered, ResumeKind, decide_resume
from mycelial.runtime.retry import LONGEST_SECONDS, Trouble, full_jitter, next_delay
from mycelial.schemas.desired import Schedule
from mycelial.sdk.envelope import (
    Checkpoint,
    Committed,
    DestinationPlan,
    FenceToken,
    Part,
    Position,
    Receipt,
    SourcePlan,
)
from mycelial.sdk.errors import CheckpointRegressed, Permanent

P = Part("0")
FENCE = FenceToken(1, 1)


def held(seq, position="x"):
    return Committed(seq, Position(position), FENCE)


def noted(seq, position="x"):
    return Remembered(seq, Position(position))


@pytest.mark.parametrize(
    ("committed", "remembered", "stores", "replayable", "kind", "seq"),
    [
        pytest.param(None, None, True, True, ResumeKind.FRESH, 0, id="nothing anywhere"),
        pytest.param(held(3), None, True, False, ResumeKind.ADOPT, 3, id="journal lost"),
        pytest.param(held(4), noted(3), True, False, ResumeKind.ADOPT, 4, id="journal behind"),
        pytest.param(held(3), noted(3), True, False, ResumeKind.AGREED, 3, id="both agree"),
        pytest.param(None, noted(3), False, False, ResumeKind.JOURNAL, 3, id="only the journal"),
        pytest.param(held(2), noted(3), True, True, ResumeKind.REPLAY, 2, id="backup restored"),
        pytest.param(None, noted(3), True, True, ResumeKind.REPLAY, 0, id="checkpoint dropped"),
        pytest.param(held(3, "y"), noted(3), True, True, ResumeKind.REPLAY, 3, id="differ"),
        pytest.param(held(2), noted(3), True, False, None, 0, id="restored, cannot replay"),
        pytest.param(None, noted(3), True, False, None, 0, id="dropped, cannot replay"),
    ],
)
def test_where_to_resume(committed, remembered, stores, replayable, kind, seq):
    def decide():
        return decide_resume(
            P, committed, remembered, stores_positions=stores, replayable=replayable
        )

    if kind is None:
        with pytest.raises(CheckpointRegressed, match="MYC-RUN-011"):
            decide()
        return
    found = decide()
    assert (found.kind, found.seq) == (kind, seq)
    if kind in (ResumeKind.ADOPT, ResumeKind.REPLAY):
        assert found.why
    if committed is not None:
        assert found.position == committed.position


@given(
    st.none() | st.builds(held, st.integers(1, 5), st.sampled_from("xy")),
    st.none() | st.builds(noted, st.integers(1, 5), st.sampled_from("xy")),
    st.booleans(),
)
def test_never_resumes_past_what_a_storing_destination_holds(committed, remembered, replayable):
    try:
        found = decide_resume(
            P, committed, remembered, stores_positions=True, replayable=replayable
        )
    except CheckpointRegressed:
        return
    assert found.position == (committed.position if committed else None)


SOURCE = SourcePlan(streams=())
DESTINATION = DestinationPlan("append", True)


@pytest.mark.parametrize(
    ("source", "determinism", "destination", "level"),
    [
        pytest.param(SOURCE, (), DESTINATION, "exactly-once", id="all can"),
        pytest.param(
            SOURCE, (), replace(DESTINATION, exactly_once=False), "at-least-once", id="target"
        ),
        pytest.param(
            replace(SOURCE, replayable=False), (), DESTINATION, "at-least-once", id="forgetful"
        ),
        pytest.param(
            replace(SOURCE, replayable=False, prunes_on_ack=True),
            (),
            DESTINATION,
            "exactly-once",
            id="keeps until acknowledged",
        ),
        pytest.param(
            SOURCE, ("pure", "external"), DESTINATION, "at-least-once", id="calls outside"
        ),
    ],
)
def test_guarantee(source, determinism, destination, level):
    found = guarantee_of(source, determinism, destination)
    assert found.level == level
    if level == "at-least-once":
        with pytest.raises(Permanent, match="MYC-RUN-010"):
            require_wish(found, "exactly-once")
    require_wish(found, "auto")


def checkpoint(seq):
    return Checkpoint("s", P, FENCE, seq, Position(str(seq)), 1)


def receipt(seq):
    return Receipt(P, seq, Position(str(seq)), 1)


@given(st.lists(st.sampled_from(["commit", "journal", "durable"]), max_size=40))
def test_acknowledgement_never_overtakes(steps):
    ledger, seq = AckLedger({}), 0
    for step in steps:
        before = ledger.standing(P)
        try:
            if step == "commit":
                ledger.committed(checkpoint(seq + 1), receipt(seq + 1))
                seq += 1
            elif step == "journal":
                ledger.journaled(P, seq)
            else:
                ledger.durable(P, seq)
        except InternalError:
            assert ledger.standing(P) == before
        after = ledger.standing(P)
        assert after.durable <= after.journaled <= after.committed
        assert (after.durable, after.journaled, after.committed) >= (
            before.durable,
            before.journaled,
            before.committed,
        )


def test_a_receipt_for_another_unit_is_refused():
    with pytest.raises(Permanent, match="MYC-RUN-021"):
        AckLedger({}).committed(checkpoint(1), receipt(2))


@given(st.integers(1, 1000), st.integers(0, 2**32))
def test_backoff_is_bounded(failures, seed):
    delay = full_jitter(failures, seeded_rng(seed))
    assert 0.02 <= delay <= LONGEST_SECONDS


def test_a_stalled_pipeline_keeps_trying_at_the_longest_delay():
    trouble = Trouble(9, since=0.0)
    rng = seeded_rng(1)
    assert next_delay(trouble, rng, now=301.0, up_to_seconds=300.0) == LONGEST_SECONDS
    assert next_delay(trouble, rng, now=301.0, up_to_seconds=300.0, told=7.0) == 7.0


@given(st.lists(st.integers(1, 100), min_size=1, max_size=50), st.floats(1, 1000))
def test_a_rate_is_kept_to_within_one_batch(batches, rate):
    bucket, now, passed = RowRate(rate), 0.0, 0
    for rows in batches:
        now += bucket.take(rows, now)
        assert passed <= rate * now + 1e-6 * max(1, passed)
        passed += rows
    assert now == pytest.approx(sum(batches[:-1]) / rate)


def cron(schedule, after):
    return after + 100


@pytest.mark.parametrize(
    ("schedule", "first", "after"),
    [
        pytest.param(Schedule("once"), 1000.0, None, id="once"),
        pytest.param(Schedule("continuous", poll_seconds=2.0), 1000.0, 1005.0, id="continuous"),
        pytest.param(Schedule("every", every_seconds=60.0), 1000.0, 1060.0, id="every"),
        pytest.param(Schedule("every", every_seconds=2.0), 1000.0, 1003.0, id="every, late"),
        pytest.param(Schedule("cron", cron="* * * * *"), 1100.0, 1103.0, id="cron"),
        pytest.param(Schedule("onChange"), 1000.0, ON_CHANGE, id="onChange"),
    ],
)
def test_beats(schedule, first, after):
    """A beat that began at 1000 and is over at 1003."""
    assert first_beat(schedule, 1000.0, cron) == first
    found = next_beat(schedule, now=1003.0, started_at=1000.0, next_fire=cron)
    assert found == after


@given(st.floats(0.1, 1e5), st.floats(0, 1e6))
def test_every_never_asks_for_the_past(period, took):
    found = next_beat(
        Schedule("every", every_seconds=period),
        now=1e9 + took,
        started_at=1e9,
        next_fire=cron,
    )
    assert 1e9 + took <= found <= 1e9 + took + period + 1e-3
    assert not math.isnan(found)


def test_a_finished_run_is_not_read_again():
    standing = {Part("a"): (5, True), Part("b"): (5, False), Part("c"): (2, True)}
    start = {Part("a"): 2, Part("b"): 2, Part("c"): 2}
    assert parts_to_read(start, standing) == (Part("b"), Part("c"))


def test_a_once_order_survives_the_disk(tmp_path):
    order = Order("o", {P: 3}, done=True)
    save_order(tmp_path / "once.json", order)
    assert load_order(tmp_path / "once.json") == order
    (tmp_path / "once.json").write_text("{")
    assert load_order(tmp_path / "once.json") is None
