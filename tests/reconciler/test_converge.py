"""The machine's half: what is started, renewed, ended, and above all left alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetmodel import Machine, workflow
from mycelial.reconciler.converge import (
    Accepted,
    Refusal,
    accept,
    converge,
    tombstones_done,
    unmanaged,
)
from mycelial.reconciler.running import RunningPipeline
from mycelial.schemas.desired import DeletionPolicy
from mycelial.schemas.wire import (
    Assignment,
    AssignmentSet,
    PipelineState,
    Tombstone,
    spec_hash_of,
)

S = PipelineState


def assignment(uid="u", generation=1, epoch=1, table="orders"):
    spec = workflow(f"name-{uid}", uid=uid, table=table).template
    return Assignment(uid, f"name-{uid}", generation, epoch, spec_hash_of(spec), spec)


def tombstone(uid="u", generation=1, epoch=2, policy=DeletionPolicy.DRAIN, forget=False):
    return Tombstone(uid, f"name-{uid}", generation, epoch, policy, forget=forget)


def whole(*items, rev=1, store="s", daemon_id="d"):
    return AssignmentSet(
        daemon_id,
        store,
        rev,
        tuple(i for i in items if isinstance(i, Assignment)),
        tuple(i for i in items if isinstance(i, Tombstone)),
    )


def running(uid="u", generation=1, epoch=1, table="orders", state=S.RUNNING, process=True):
    spec_hash = assignment(uid, table=table).spec_hash
    return RunningPipeline(uid, f"name-{uid}", generation, epoch, spec_hash, state, process)


def kinds(of, pipeline, last_seen=()):
    found = converge(of, {pipeline.uid: pipeline} if pipeline else {}, last_seen=dict(last_seen))
    return [operation.kind.value for operation in found]


@pytest.mark.parametrize(
    ("item", "pipeline", "expected"),
    [
        pytest.param(assignment(), None, ["start"], id="missing-starts"),
        pytest.param(assignment(), running(), [], id="same-is-left-alone"),
        pytest.param(assignment(table="t2"), running(), ["restart"], id="other-spec-restarts"),
        pytest.param(assignment(generation=2), running(), ["adopt"], id="new-label-is-adopted"),
        pytest.param(assignment(epoch=2), running(), ["restart"], id="new-epoch-restarts"),
        pytest.param(
            assignment(epoch=2), running(state=S.WAITING), ["restart"], id="waiting-restarts"
        ),
        pytest.param(
            assignment(), running(state=S.FAILED, process=False), [], id="failed-stays-failed"
        ),
        pytest.param(
            assignment(generation=2),
            running(state=S.FAILED, process=False),
            ["start"],
            id="failed-tries-a-new-generation",
        ),
        pytest.param(
            assignment(epoch=2),
            running(state=S.FAILED, process=False),
            ["adopt"],
            id="failed-only-notes-an-epoch",
        ),
        pytest.param(
            assignment(table="t2"),
            running(state=S.FAILED, process=False),
            ["start"],
            id="failed-tries-a-new-spec",
        ),
        pytest.param(
            assignment(), running(state=S.FINISHED, process=False), [], id="finished-is-done"
        ),
        pytest.param(
            assignment(generation=2, epoch=2),
            running(state=S.FINISHED, process=False),
            ["adopt"],
            id="finished-is-not-done-twice",
        ),
        pytest.param(
            assignment(table="t2"),
            running(state=S.FINISHED, process=False),
            ["start"],
            id="finished-runs-a-new-spec",
        ),
        pytest.param(assignment(), running(process=False), ["start"], id="lost-process"),
        pytest.param(
            assignment(), running(state=S.STOPPED, process=False), ["start"], id="stopped-starts"
        ),
        pytest.param(
            assignment(),
            running(state=S.RETRYING, process=False),
            [],
            id="between-two-workers-is-the-supervisors",
        ),
        pytest.param(assignment(epoch=1), running(epoch=2), [], id="lower-epoch-is-ignored"),
        pytest.param(
            assignment(table="t2"), running(generation=2), [], id="lower-generation-is-ignored"
        ),
        pytest.param(tombstone(), None, [], id="tomb-of-nothing"),
        pytest.param(tombstone(), running(), ["drain"], id="tomb-drains"),
        pytest.param(tombstone(), running(state=S.DRAINING), [], id="draining-goes-on"),
        pytest.param(
            tombstone(), running(state=S.DRAINING, process=False), ["stop"], id="drain-died"
        ),
        pytest.param(tombstone(policy=DeletionPolicy.STOP), running(), ["stop"], id="tomb-stops"),
        pytest.param(tombstone(policy=DeletionPolicy.ORPHAN), running(), [], id="tomb-orphans"),
        pytest.param(
            tombstone(), running(state=S.STOPPED, process=False), [], id="stopped-keeps-its-state"
        ),
        pytest.param(
            tombstone(forget=True),
            running(state=S.STOPPED, process=False),
            ["forget"],
            id="stopped-is-forgotten",
        ),
        pytest.param(
            tombstone(forget=True), running(), ["drain"], id="forgetting-waits-for-the-end"
        ),
        pytest.param(tombstone(epoch=1), running(epoch=2), [], id="older-tomb-is-ignored"),
    ],
)
def test_one_pipeline(item, pipeline, expected):
    assert kinds(whole(item), pipeline) == expected


@pytest.mark.parametrize("seen", [(2, 1), (1, 2)], ids=["generation", "epoch"])
@pytest.mark.parametrize("item", [assignment(), tombstone(epoch=1)], ids=["assigned", "entombed"])
def test_what_is_lower_than_ever_seen_is_refused(item, seen):
    pipeline = None if isinstance(item, Assignment) else running()
    assert kinds(whole(item), pipeline, {"u": seen}.items()) == []


def test_absence_ends_nothing_but_is_flagged():
    pipeline = running("x")
    assert converge(whole(), {"x": pipeline}, last_seen={}) == ()
    assert unmanaged(whole(), {"x": pipeline}) == (pipeline,)
    assert unmanaged(whole(tombstone("x")), {"x": pipeline}) == ()


def test_ends_come_before_starts():
    found = converge(whole(assignment("a"), tombstone("z")), {"z": running("z")}, last_seen={})
    assert [operation.kind.value for operation in found] == ["drain", "start"]


@pytest.mark.parametrize(
    ("item", "pipeline", "done"),
    [
        pytest.param(tombstone(), None, True, id="nothing-left"),
        pytest.param(tombstone(), running(), False, id="still-running"),
        pytest.param(tombstone(), running(state=S.STOPPED), False, id="process-still-there"),
        pytest.param(tombstone(), running(state=S.STOPPED, process=False), True, id="stopped"),
        pytest.param(
            tombstone(forget=True),
            running(state=S.STOPPED, process=False),
            False,
            id="not-yet-forgotten",
        ),
        pytest.param(tombstone(policy=DeletionPolicy.ORPHAN), running(), True, id="let-go"),
    ],
)
def test_when_a_tombstone_is_done(item, pipeline, done):
    assert bool(tombstones_done(whole(item), {"u": pipeline} if pipeline else {})) == done


OLD = whole(assignment(generation=2, epoch=2), rev=5)


@pytest.mark.parametrize(
    ("new", "code"),
    [
        pytest.param(replace(OLD, daemon_id="other"), "MYC-PLAN-001", id="for-another"),
        pytest.param(replace(OLD, rev=4), "MYC-PLAN-002", id="older-revision"),
        pytest.param(whole(rev=5), "MYC-PLAN-003", id="two-contents-of-one-revision"),
        pytest.param(
            whole(assignment(generation=1, epoch=2), rev=6), "MYC-PLAN-004", id="lower-generation"
        ),
        pytest.param(whole(tombstone(generation=2, epoch=1), rev=6), "MYC-PLAN-004", id="epoch"),
        pytest.param(
            whole(assignment(generation=1, epoch=2), rev=1, store="restored"),
            "MYC-PLAN-004",
            id="restored-store-behind-the-daemon",
        ),
    ],
)
def test_a_set_that_must_not_be_taken(new, code):
    verdict = accept(new, OLD, daemon_id="d", last_seen={"u": (2, 2)})
    assert isinstance(verdict, Refusal)
    assert verdict.code == code


@pytest.mark.parametrize(
    "new",
    [
        pytest.param(OLD, id="the-same-again"),
        pytest.param(whole(rev=6), id="one-that-lacks-a-workflow"),
        pytest.param(replace(OLD, store_id="restored", rev=1), id="a-restored-store"),
        pytest.param(whole(assignment(generation=3, epoch=2), rev=9), id="a-gap-in-revisions"),
    ],
)
def test_a_set_that_may_replace_the_old_one(new):
    verdict = accept(new, OLD, daemon_id="d", last_seen={"u": (2, 2)})
    assert isinstance(verdict, Accepted)
    assert verdict.last_seen["u"] >= (2, 2)


items = st.one_of(
    st.builds(
        assignment,
        uid=st.sampled_from("abc"),
        generation=st.integers(1, 3),
        epoch=st.integers(1, 3),
        table=st.sampled_from(["t1", "t2"]),
    ),
    st.builds(
        tombstone,
        uid=st.sampled_from("abc"),
        generation=st.integers(1, 3),
        epoch=st.integers(1, 3),
        policy=st.sampled_from(DeletionPolicy),
        forget=st.booleans(),
    ),
)
sets = st.lists(st.lists(items, max_size=3, unique_by=lambda i: i.uid), max_size=6)


@given(history=sets)
def test_converge_is_idempotent_whatever_came_before(history):
    machine = Machine("d")
    for rev, found in enumerate(history, start=1):
        machine.receive(whole(*found, rev=rev))
        machine.obey()
        machine.obey()  # what has ended may now be forgotten
        assert machine.operations() == ()
        assigned = {a.uid for a in machine.set.assignments} if machine.set else set()
        assert assigned <= {p.uid for p in machine.running.values() if p.has_process}


@given(history=sets)
def test_only_a_tombstone_ends_a_pipeline(history):
    machine = Machine("d")
    entombed = set()
    for rev, found in enumerate(history, start=1):
        before = {p.uid for p in machine.running.values() if p.has_process}
        machine.receive(whole(*found, rev=rev))
        machine.obey()
        after = {p.uid for p in machine.running.values() if p.has_process}
        entombed = {t.uid for t in machine.set.tombstones} if machine.set else set()
        assert before - after <= entombed
        for uid, pipeline in machine.running.items():
            assert (pipeline.generation, pipeline.epoch) <= machine.last_seen[uid]
