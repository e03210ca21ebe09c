"""Applied and Healthy: never True without a fresh report of the very duty."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetmodel import daemon, workflow
from mycelial.kernel.errors import Problem
from mycelial.reconciler import conditions as c
from mycelial.reconciler.observed import Duty, Liveness
from mycelial.schemas.wire import Condition, PipelineState, PipelineStatus, Tombstone, Truth

SPEC = workflow("w", uid="u").template
DUTY = Duty("id-d", "u", "w", generation=2, epoch=3, spec_hash="h", spec=SPEC)
ENTOMBED = replace(DUTY, spec=None, tombstone=Tombstone("u", "w", 2, 3))


def status(observed=2, epoch=3, spec_hash="h", state=PipelineState.RUNNING, **more):
    return PipelineStatus("u", "w", observed, observed, epoch, 1, spec_hash, state, **more)


def holder(found=None, liveness=Liveness.ONLINE):
    state = replace(daemon("d"), liveness=liveness)
    return replace(state, pipelines={"u": found} if found else {})


T, F, U = Truth.TRUE, Truth.FALSE, Truth.UNKNOWN


@pytest.mark.parametrize(
    ("duty", "state", "applied", "healthy"),
    [
        pytest.param(DUTY, holder(status()), (T, c.UP_TO_DATE), (T, c.FLOWING), id="well"),
        pytest.param(DUTY, holder(), (F, c.PROGRESSING), (U, c.NOT_REPORTED), id="not-reported"),
        pytest.param(DUTY, None, (U, c.REPORT_STALE), (U, c.REPORT_STALE), id="unknown-daemon"),
        *(
            pytest.param(
                DUTY,
                holder(status(), liveness),
                (U, c.REPORT_STALE),
                (U, c.REPORT_STALE),
                id=f"silent-{liveness.name.lower()}",
            )
            for liveness in Liveness
            if liveness is not Liveness.ONLINE
        ),
        pytest.param(
            DUTY,
            holder(status(observed=1)),
            (F, c.PROGRESSING),
            (U, c.NOT_YET_APPLIED),
            id="older-generation",
        ),
        pytest.param(
            DUTY,
            holder(status(epoch=2)),
            (F, c.PROGRESSING),
            (U, c.NOT_YET_APPLIED),
            id="older-epoch",
        ),
        pytest.param(
            DUTY,
            holder(status(spec_hash="x")),
            (F, c.PROGRESSING),
            (U, c.NOT_YET_APPLIED),
            id="other-spec",
        ),
        pytest.param(
            DUTY,
            holder(status(observed=3)),
            (U, c.AHEAD_OF_STORE),
            (U, c.NOT_YET_APPLIED),
            id="ahead",
        ),
        pytest.param(
            ENTOMBED,
            holder(status()),
            (F, c.DELETE_PENDING),
            (U, c.NOT_YET_APPLIED),
            id="being-deleted",
        ),
        *(
            pytest.param(
                DUTY, holder(status(state=state)), (T, c.UP_TO_DATE), expected, id=state.value
            )
            for state, expected in {
                PipelineState.STARTING: (U, c.STARTING),
                PipelineState.WAITING: (T, c.WAITING),
                PipelineState.RETRYING: (F, c.RETRYING),
                PipelineState.DRAINING: (U, c.DRAINING),
                PipelineState.STOPPED: (F, c.STOPPED),
                PipelineState.FINISHED: (T, c.FINISHED),
                PipelineState.FAILED: (F, c.FAILED),
            }.items()
        ),
        pytest.param(
            DUTY,
            holder(status(conditions=(Condition(c.STALLED, T, "TooLong", "5 min"),))),
            (T, c.UP_TO_DATE),
            (F, c.STALLED_REASON),
            id="stalled",
        ),
    ],
)
def test_the_two_words(duty, state, applied, healthy):
    placed = c.assess(duty, state, now=9.0)
    assert (placed.applied.status, placed.applied.reason) == applied
    assert (placed.healthy.status, placed.healthy.reason) == healthy
    assert c.violations(placed) == ()


def test_a_failure_says_why():
    failed = status(state=PipelineState.FAILED, error=Problem("MYC-X-001", "no such table"))
    assert c.healthy_condition(DUTY, holder(failed), now=0).message == "no such table"


def test_the_time_of_a_transition_is_kept_while_the_status_stays():
    first = c.applied_condition(DUTY, holder(), now=1.0)
    same = c.carry(first, c.applied_condition(DUTY, holder(status(observed=1)), now=2.0))
    other = c.carry(same, c.applied_condition(DUTY, holder(status()), now=3.0))
    assert (same.last_transition, other.last_transition) == (1.0, 3.0)


WELL = (DUTY, holder(status()))
SICK = (DUTY, holder(status(state=PipelineState.FAILED)))
AWAY = (DUTY, holder(status(), Liveness.OFFLINE))
GOING = (ENTOMBED, holder(status()))


@pytest.mark.parametrize(
    ("pairs", "findings", "counts", "reason"),
    [
        pytest.param([WELL, WELL], [], (2, 2, 2), "", id="all-well"),
        pytest.param([WELL, SICK], [], (2, 2, 1), c.FAILED, id="one-failed"),
        pytest.param([WELL, AWAY], [], (2, 1, 1), c.REPORT_STALE, id="one-away"),
        pytest.param([AWAY, SICK], [], (2, 1, 0), c.FAILED, id="false-is-worse-than-unknown"),
        pytest.param([WELL, GOING], [], (1, 1, 1), "", id="tombstones-do-not-count"),
        pytest.param([], [], (0, 0, 0), c.NOT_PLACED, id="nowhere"),
        pytest.param([], [c.Finding("NeverJoined", "x")], (0, 0, 0), "NeverJoined", id="pending"),
        pytest.param(
            [WELL], [c.Finding(c.DELETION_HELD, "x")], (1, 1, 1), "", id="a-held-deletion-is-benign"
        ),
        pytest.param(
            [WELL],
            [c.Finding(c.UNRESOLVABLE, "x", "id-d")],
            (1, 0, 1),
            c.UNRESOLVABLE,
            id="old-duty-flows-on",
        ),
    ],
)
def test_summary_over_daemons(pairs, findings, counts, reason):
    found = c.summarise(pairs, now=0.0, generation=2, findings=findings)
    assert (found.placed, found.applied, found.healthy) == counts
    assert found.reason == reason


@given(
    observed=st.integers(1, 4),
    epoch=st.integers(2, 4),
    spec_hash=st.sampled_from("hx"),
    state=st.sampled_from(PipelineState),
    liveness=st.sampled_from(Liveness),
    duty=st.sampled_from([DUTY, ENTOMBED]),
)
def test_conditions_never_contradict_themselves(observed, epoch, spec_hash, state, liveness, duty):
    found = status(observed, epoch, spec_hash, state)
    assert c.violations(c.assess(duty, holder(found, liveness), now=0.0)) == ()


def test_the_checker_sees_a_lie():
    placed = c.assess(DUTY, holder(status(), Liveness.OFFLINE), now=0.0)
    lie = replace(placed, healthy=replace(placed.healthy, status=T))
    assert "True needs a fresh report" in c.violations(lie)
