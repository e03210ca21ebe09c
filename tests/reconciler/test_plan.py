"""The fleet's half: what each daemon is told, and what nothing may take away."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fleetmodel import World, daemon, desired, workflow
from mycelial.reconciler import conditions
from mycelial.reconciler.conditions import summarise, violations
from mycelial.reconciler.observed import Liveness
from mycelial.reconciler.placement import LACKS_CAPABILITY, NEVER_JOINED
from mycelial.schemas.desired import DeletionPolicy, ProjectSettings
from mycelial.schemas.plan import Effect


def world():
    return World(
        daemon("shop-01", labels={"role": "till", "site": "oslo"}),
        daemon("shop-02", labels={"role": "till", "site": "bergen"}),
        daemon("hub"),
    )


def effects(outcome):
    return [(c.name, c.effect, c.daemons) for c in outcome.plan.changes]


def reasons(outcome, uid):
    return [finding.reason for finding in outcome.conditions.get(uid, ())]


def test_a_new_workflow_is_created_and_then_nothing_is_left_to_do():
    w = world()
    first = w.apply(desired(workflow("a")))
    assert effects(first) == [("a", Effect.CREATE, ("shop-01",))]
    assert list(first.sets) == ["id-shop-01"]
    again = w.plan(desired(workflow("a")))
    assert again.plan.is_empty
    assert again.write.is_empty
    assert again.plan.unchanged == 1


def test_generation_rises_with_the_digest_only():
    w = world()
    w.settle(desired(workflow("a")))
    w.settle(desired(workflow("a")))
    assert w.ledger.known["uid-a"].generation == 1
    w.settle(desired(workflow("a", table="t2")))
    assert w.ledger.known["uid-a"].generation == 2


def test_labels_alone_change_in_place():
    w = world()
    w.settle(desired(workflow("a")))
    outcome = w.apply(desired(workflow("a", labels={"team": "x"})))
    assert effects(outcome) == [("a", Effect.IN_PLACE, ("shop-01",))]
    w.deliver()
    assert [o.kind.value for o in w.machines["id-shop-01"].history] == ["start", "adopt"]


def test_a_renamed_workflow_goes_on_untouched():
    w = world()
    w.settle(desired(workflow("old", uid="u")))
    new = replace(workflow("new", uid="u", moved_from=("old",)))
    outcome = w.apply(desired(new))
    (change,) = outcome.plan.changes
    assert (change.effect, change.name, change.moved_from) == (Effect.IN_PLACE, "new", "old")
    w.deliver()
    assert [o.kind.value for o in w.machines["id-shop-01"].history] == ["start"]
    assert outcome.sets["id-shop-01"].assignments[0].name == "new"
    assert w.plan(desired(new)).write.is_empty


def test_a_deleted_workflow_is_entombed_until_its_daemon_confirms():
    w = world()
    w.settle(desired(workflow("a"), workflow("b")))
    outcome = w.apply(desired(workflow("b")))
    assert effects(outcome) == [("a", Effect.DELETE, ("shop-01",))]
    assert w.ledger.known["uid-a"].deleted
    assert w.ledger.duties[("id-shop-01", "uid-a")].tombstone is not None
    w.settle(desired(workflow("b")))
    assert ("id-shop-01", "uid-a") not in w.ledger.duties
    assert w.running_on("shop-01") == {"uid-b"}


def test_an_offline_daemon_keeps_its_tombstone():
    w = world()
    w.settle(desired(workflow("a"), workflow("b")))
    w.set_daemon("shop-01", liveness=Liveness.OFFLINE)
    outcome = w.settle(desired(workflow("b")))
    assert reasons(outcome, "uid-a") == [conditions.DELETE_PENDING]
    assert outcome.requeue_after is not None
    w.set_daemon("shop-01", liveness=Liveness.ONLINE)
    w.settle(desired(workflow("b")))
    assert w.running_on("shop-01") == {"uid-b"}


def test_a_late_confirmation_of_an_earlier_life_ends_nothing():
    w = world()
    both = desired(workflow("a"), workflow("b"))
    w.settle(both)
    w.apply(desired(workflow("b")))
    w.deliver()  # the daemon has confirmed; the control plane does not act on it yet
    w.apply(both)
    w.apply(desired(workflow("b")))  # deleted again: a new tombstone, the old report still stands
    outcome = w.apply(desired(workflow("b")))
    assert outcome.write.ended == ()
    assert ("id-shop-01", "uid-a") in w.ledger.duties


def test_a_workflow_that_returns_keeps_its_uid_and_raises_generation_and_epoch():
    w = world()
    both = desired(workflow("a"), workflow("b"))
    w.settle(both)
    before = w.ledger.known["uid-a"]
    w.settle(desired(workflow("b")))
    outcome = w.apply(both)
    after = w.ledger.known["uid-a"]
    assert after.generation == before.generation + 1
    assert after.epoch > before.epoch
    assert effects(outcome) == [("a", Effect.CREATE, ("shop-01",))]
    w.settle(both)
    assert w.running_on("shop-01") == {"uid-a", "uid-b"}
    assert w.machines["id-shop-01"].refused == []


@pytest.mark.parametrize("policy", list(DeletionPolicy))
def test_the_deletion_policy_outlives_the_manifest(policy):
    w = world()
    w.settle(desired(workflow("a", on_delete=policy), workflow("b")))
    outcome = w.apply(desired(workflow("b")))
    assert outcome.sets["id-shop-01"].tombstones[0].policy is policy
    w.settle(desired(workflow("b")))
    kept = {"uid-a"} if policy is DeletionPolicy.ORPHAN else set()
    assert w.running_on("shop-01") == {"uid-b"} | kept


def test_a_higher_incarnation_forgets():
    w = world()
    w.settle(desired(workflow("a"), workflow("b")))
    project = ProjectSettings(incarnations={"Workflow/a": 1})
    outcome = w.apply(desired(workflow("b"), project=project))
    assert outcome.sets["id-shop-01"].tombstones[0].forget
    w.settle(desired(workflow("b"), project=project))
    assert set(w.machines["id-shop-01"].running) == {"uid-b"}


def many(count, **more):
    return [workflow(f"w{n:03d}", **more) for n in range(count)]


@pytest.mark.parametrize(
    ("total", "removed", "held"),
    [
        pytest.param(1, 1, True, id="the-only-one"),
        pytest.param(40, 40, True, id="every-one"),
        pytest.param(100, 10, False, id="ten"),
        pytest.param(100, 11, True, id="eleven"),
        pytest.param(10, 2, False, id="two-of-ten"),
        pytest.param(10, 3, True, id="three-of-ten"),
        pytest.param(15, 3, False, id="a-fifth"),
        pytest.param(3, 2, False, id="two-are-below-the-floor"),
    ],
)
def test_the_delete_guard(total, removed, held):
    w = world()
    w.settle(desired(*many(total)))
    outcome = w.apply(desired(*many(total)[removed:]))
    deletions = [c for c in outcome.plan.changes if c.effect is Effect.DELETE]
    assert len(deletions) == removed
    assert all(bool(change.held) == held for change in deletions)
    w.deliver()
    assert len(w.running_on("shop-01")) == (total if held else total - removed)


def test_additions_beside_a_held_deletion_do_not_release_it():
    w = world()
    w.settle(desired(*many(12)))
    replaced = desired(*(workflow(f"new{n}") for n in range(12)))
    w.settle(replaced)
    outcome = w.settle(replaced)
    assert len(w.running_on("shop-01")) == 24
    assert len([c for c in outcome.plan.changes if c.held]) == 12


def test_exactly_the_confirmed_deletions_pass_the_guard():
    w = world()
    w.settle(desired(*many(12)))
    names = frozenset(f"Workflow/w{n:03d}" for n in range(6))
    w.ledger = replace(w.ledger, confirmed_deletions=names)
    w.settle(desired())
    assert w.running_on("shop-01") == {f"uid-w{n:03d}" for n in range(6, 12)}
    assert w.ledger.confirmed_deletions == frozenset()


def test_an_incomplete_revision_adds_and_changes_but_removes_nothing():
    w = world()
    w.settle(desired(workflow("a"), workflow("b"), workflow("c")))
    seen = desired(workflow("a", table="t2"), workflow("d"), complete=False)
    outcome = w.settle(seen)
    assert w.running_on("shop-01") == {"uid-a", "uid-b", "uid-c", "uid-d"}
    assert w.ledger.known["uid-a"].generation == 2
    assert all(c.held for c in outcome.plan.changes)
    assert {c.name for c in outcome.plan.changes} == {"b", "c"}


def test_a_blocked_object_keeps_its_last_good_version():
    w = world()
    w.settle(desired(workflow("a"), workflow("b")))
    outcome = w.settle(desired(workflow("b"), blocked=frozenset({"Workflow/a"})))
    assert w.running_on("shop-01") == {"uid-a", "uid-b"}
    assert outcome.plan.is_empty
    assert reasons(outcome, "uid-a") == [conditions.INVALID_MANIFEST]


def test_labels_of_an_unread_daemon_object_take_no_duty_away():
    w = world()
    till = workflow("t", every="role=till")
    w.settle(desired(till))
    w.set_daemon("shop-02", labels={})
    outcome = w.settle(desired(till, complete=False))
    assert w.running_on("shop-02") == {"uid-t"}
    assert reasons(outcome, "uid-t") == [conditions.DEPARTURE_HELD]
    w.settle(desired(till))
    assert w.running_on("shop-02") == set()
    assert w.running_on("shop-01") == {"uid-t"}


def test_a_daemon_that_comes_to_match_is_one_more():
    w = world()
    till = workflow("t", every="role=till")
    w.settle(desired(till))
    w.set_daemon("hub", labels={"role": "till"})
    outcome = w.apply(desired(till))
    assert effects(outcome) == [("t", Effect.CREATE, ("hub",))]
    assert list(outcome.sets) == ["id-hub"]
    epochs = {i: d.epoch for (i, _), d in w.ledger.duties.items()}
    assert epochs["id-hub"] > epochs["id-shop-01"] == epochs["id-shop-02"]


def test_a_move_waits_for_the_old_daemon_to_stop():
    w = world()
    w.settle(desired(workflow("a", daemon="shop-01")))
    moved = desired(workflow("a", daemon="shop-02"))
    outcome = w.apply(moved)
    assert reasons(outcome, "uid-a") == [
        conditions.WAITING_FOR_HANDOVER,
        conditions.DELETE_PENDING,
    ]
    assert [c.effect for c in outcome.plan.changes] == [Effect.RESTART]
    assert ("id-shop-02", "uid-a") not in w.ledger.duties
    w.settle(moved)
    assert w.running_on("shop-01") == set()
    assert w.running_on("shop-02") == {"uid-a"}


def test_a_move_from_a_dead_daemon_does_not_wait():
    w = world()
    w.settle(desired(workflow("a", daemon="shop-01")))
    w.set_daemon("shop-01", liveness=Liveness.OFFLINE)
    w.apply(desired(workflow("a", daemon="shop-02")))
    old, new = (w.ledger.duties[(f"id-shop-0{n}", "uid-a")] for n in (1, 2))
    assert old.tombstone is not None
    assert new.epoch > 1


def test_a_move_to_a_daemon_that_never_joined_leaves_the_workflow_where_it_is():
    w = world()
    w.settle(desired(workflow("a", daemon="shop-01")))
    outcome = w.settle(desired(workflow("a", daemon="shop-99")))
    assert w.running_on("shop-01") == {"uid-a"}
    assert NEVER_JOINED in reasons(outcome, "uid-a")


def test_a_daemon_that_already_runs_another_scope_waits_for_the_one_it_takes_over():
    w = world()
    w.settle(desired(workflow("c", every="role=till")))
    one = workflow("c", one="role=till")
    w.apply(desired(one, complete=False))
    scopes = {i: duty.spec.scope for (i, _), duty in w.ledger.duties.items()}
    w.set_daemon("shop-02", labels={"role": "hub"})
    unread = w.settle(desired(one, complete=False))
    assert reasons(unread, "uid-c") == [
        conditions.DEPARTURE_HELD,
        conditions.WAITING_FOR_HANDOVER,
    ]
    assert {i: duty.spec.scope for (i, _), duty in w.ledger.duties.items()} == scopes
    w.settle(desired(one))
    (duty,) = w.ledger.duties.values()
    assert (duty.daemon_id, duty.spec.scope) == ("id-shop-01", scopes["id-shop-02"])
    assert w.running_on("shop-01") == {"uid-c"}
    assert w.running_on("shop-02") == set()


@pytest.mark.parametrize("away", [Liveness.OFFLINE, Liveness.ONLINE])
def test_whoever_takes_a_scope_over_gets_a_higher_epoch(away):
    w = world()
    w.settle(desired(workflow("c", every="role=till")))
    one = workflow("c", one="role=till")
    w.apply(desired(one, complete=False))
    before = w.ledger.duties[("id-shop-02", "uid-c")]
    w.set_daemon("shop-02", labels={"role": "hub"}, liveness=away)
    w.settle(desired(one))
    after = w.ledger.duties[("id-shop-01", "uid-c")]
    assert after.spec.scope == before.spec.scope
    assert after.epoch > before.epoch


def test_a_revoked_holder_is_replaced_at_once_with_a_higher_epoch():
    w = world()
    one = desired(workflow("a", one="role=till"))
    w.settle(one)
    (holder,) = (daemon_id for daemon_id, _ in w.ledger.duties)
    w.set_daemon(holder.removeprefix("id-"), liveness=Liveness.REVOKED)
    w.settle(one)
    ((other, _),) = w.ledger.duties
    assert other != holder
    assert w.ledger.duties[(other, "uid-a")].epoch == 2


def test_losing_a_capability_takes_no_duty_away():
    w = world()
    state = desired(workflow("a", requires=("connector/sqlite",)))
    w.settle(state)
    w.set_daemon("shop-01", inventory=None)
    outcome = w.settle(state)
    assert w.running_on("shop-01") == {"uid-a"}
    assert LACKS_CAPABILITY in reasons(outcome, "uid-a")


def test_what_cannot_be_resolved_on_one_daemon_keeps_its_old_duty_there():
    w = world()
    w.settle(desired(workflow("t", every="role=till")))
    w.set_daemon("shop-02", labels={"role": "till"})
    state = desired(workflow("t", every="role=till", table="${site}"))
    outcome = w.settle(state)
    assert reasons(outcome, "uid-t") == [conditions.UNRESOLVABLE]
    spec = {i: duty.spec.source.config["table"] for (i, _), duty in w.ledger.duties.items()}
    assert spec == {"id-shop-01": "oslo", "id-shop-02": "orders"}
    assert [c.held for c in outcome.plan.changes] == ["shop-02: shop-02 has no label site"]
    pairs = [(d, w.daemons[d.daemon_id]) for d in w.ledger.duties.values()]
    found = summarise(pairs, now=w.now, generation=2, findings=outcome.conditions["uid-t"])
    assert (found.placed, found.applied, found.reason) == (2, 1, conditions.UNRESOLVABLE)


def test_an_irrelevant_label_resolves_again_but_tells_nobody():
    w = world()
    w.settle(desired(workflow("a")))
    w.set_daemon("shop-01", labels={"role": "till", "site": "oslo", "colour": "red"})
    outcome = w.apply(desired(workflow("a")))
    assert outcome.sets == {}
    assert outcome.plan.is_empty
    assert w.plan(desired(workflow("a"))).write.is_empty


def test_plans_are_ordered_with_deletions_last_and_pinned_to_their_base():
    w = world()
    w.settle(desired(workflow("a"), workflow("m"), workflow("z")))
    state = desired(workflow("z", table="t2"), workflow("m"), workflow("b"))
    plan = w.plan(state).plan
    assert [c.name for c in plan.changes] == ["b", "z", "a"]
    assert plan.hash() == w.plan(state).plan.hash()
    base = plan.base
    w.apply(state)
    assert w.plan(state).plan.base != base


# -- properties ----------------------------------------------------------------------------------

NAMES = ["a", "b", "c", "d"]
PLACES = [
    {"daemon": "shop-01"},
    {"daemon": "shop-02"},
    {"every": "role=till"},
    {"one": "role=till"},
    {"daemon": "never"},
]
workflows = st.lists(
    st.builds(
        lambda name, place, table: workflow(name, table=table, **place),
        st.sampled_from(NAMES),
        st.sampled_from(PLACES),
        st.sampled_from(["orders", "sales"]),
    ),
    max_size=4,
    unique_by=lambda w: w.name,
)
complete = st.builds(lambda found: desired(*found), workflows)
partial = st.builds(
    lambda found, blocked: desired(*found, complete=False, blocked=frozenset(blocked)),
    workflows,
    st.sets(st.sampled_from([f"Workflow/{name}" for name in NAMES])),
)
moves = st.one_of(
    st.tuples(st.just("desired"), complete),
    st.tuples(st.just("desired"), partial),
    st.tuples(st.just("deliver"), st.none()),
    st.tuples(
        st.just("liveness"),
        st.tuples(
            st.sampled_from(["shop-01", "shop-02"]),
            st.sampled_from([Liveness.ONLINE, Liveness.LATE, Liveness.OFFLINE]),
        ),
    ),
    st.tuples(st.just("labels"), st.sampled_from([{"role": "till"}, {"role": "hub"}])),
)
slower = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def unconfirmed_losses(before, after):
    """The uids that had an assignment somewhere and have none any more."""
    had = {uid for (_, uid), d in before.duties.items() if d.tombstone is None}
    has = {uid for (_, uid), d in after.duties.items() if d.tombstone is None}
    return had - has


@slower
@given(state=complete)
def test_carrying_a_plan_out_reaches_the_desired_state(state):
    w = world()
    w.settle(state)
    assert w.plan(state).plan.is_empty
    for wanted in state.workflows.values():
        holders = [n for n in ("shop-01", "shop-02", "hub") if wanted.uid in w.running_on(n)]
        expected = {"named": 1, "one": 1, "every": 2}[wanted.placement.mode]
        assert len(holders) == (0 if wanted.placement.daemon == "never" else expected)


@slower
@given(first=complete, then=partial)
def test_no_incomplete_input_deletes_anything(first, then):
    w = world()
    w.settle(first)
    before = w.ledger
    w.apply(then)
    gone = {k.uid for k in w.ledger.known.values() if k.deleted}
    assert gone <= {k.uid for k in before.known.values() if k.deleted}
    moving = {x.uid for x in then.workflows.values() if x.placement.mode == "named"}
    assert unconfirmed_losses(before, w.ledger) <= moving


@slower
@given(first=complete)
def test_an_emptied_revision_deletes_nothing_unconfirmed(first):
    w = world()
    w.settle(first)
    before = w.ledger
    outcome = w.apply(desired())
    assert w.ledger.duties == before.duties
    assert all(change.held for change in outcome.plan.changes)


FROM_EVERY_TO_ONE_WHOSE_HOLDER_LEAVES = [
    ("desired", desired(workflow("c", every="role=till"))),
    ("desired", desired(workflow("c", one="role=till"), complete=False)),
    ("labels", {"role": "hub"}),
]


@slower
@given(history=st.lists(moves, max_size=14))
@example(history=FROM_EVERY_TO_ONE_WHOSE_HOLDER_LEAVES)
def test_whatever_happens_the_invariants_hold(history):
    w = world()
    state = desired()
    numbered = {}
    for kind, value in history:
        before = w.ledger
        match kind:
            case "desired":
                state = value
            case "deliver":
                w.deliver()
            case "liveness":
                w.set_daemon(value[0], liveness=value[1])
            case "labels":
                w.set_daemon("shop-02", labels=value)
        outcome = w.apply(state)
        assert_rises(before, w.ledger)
        assert w.plan(state).write.is_empty, "planning twice on one observation"
        assert_single_holder(w, state)
        assert_a_fence_tells_daemons_apart(w, numbered)
        for duty in w.ledger.duties.values():
            placed = conditions.assess(duty, w.daemons[duty.daemon_id], now=w.now)
            assert violations(placed) == ()
        assert set(outcome.sets) <= set(outcome.write.revs)
    for machine in w.machines.values():
        assert machine.refused == []
    for name in ("shop-01", "shop-02"):
        w.set_daemon(name, liveness=Liveness.ONLINE)
    w.settle(state, rounds=10)
    for machine in w.machines.values():
        assert machine.operations() == ()


def assert_rises(before, after):
    for uid, old in before.known.items():
        new = after.known[uid]
        assert new.generation >= old.generation
        assert new.epoch >= old.epoch
        assert new.generation == old.generation or new.digest != old.digest or old.deleted
    for pair, old in before.duties.items():
        new = after.duties.get(pair)
        assert new is None or (new.generation >= old.generation and new.epoch >= old.epoch)
    assert all(after.revs[i] >= rev for i, rev in before.revs.items())


def assert_single_holder(w, state):
    for wanted in state.workflows.values():
        if wanted.placement.mode == "every":
            continue
        held = [d for (_, u), d in w.ledger.duties.items() if u == wanted.uid and not d.tombstone]
        scopes = [d.spec.scope for d in held]
        assert len(scopes) == len(set(scopes))


def assert_a_fence_tells_daemons_apart(w, numbered):
    """Attempts are each daemon's own: under one epoch, two daemons could not fence each other."""
    for (daemon_id, _), duty in w.ledger.duties.items():
        if duty.tombstone is None:
            assert numbered.setdefault((duty.spec.scope, duty.epoch), daemon_id) == daemon_id
