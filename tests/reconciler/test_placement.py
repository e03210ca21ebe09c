"""Which daemons run a workflow, and what is said about the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetmodel import daemon, workflow
from mycelial.reconciler.observed import Liveness
from mycelial.reconciler.placement import (
    BAD_SELECTOR,
    LACKS_CAPABILITY,
    NEVER_JOINED,
    NO_MATCH,
    Roster,
    choose_one,
    place,
)

TILLS = [daemon(f"till-{n}", labels={"role": "till", "n": str(n)}) for n in range(4)]
HUB = daemon("hub", labels={"role": "hub"})


@pytest.mark.parametrize(
    ("wanted", "chosen", "reason"),
    [
        pytest.param({"daemon": "hub"}, ("id-hub",), "", id="named"),
        pytest.param({"daemon": "moon"}, (), NEVER_JOINED, id="named-never-joined"),
        pytest.param({"every": "role=till"}, tuple(t.id for t in TILLS), "", id="every-matching"),
        pytest.param({"every": "role=ship"}, (), NO_MATCH, id="none-matches"),
        pytest.param({"every": "role=("}, (), BAD_SELECTOR, id="not-a-selector"),
        pytest.param(
            {"daemon": "hub", "requires": ("connector/kafka",)}, (), LACKS_CAPABILITY, id="unable"
        ),
    ],
)
def test_placement_explains_itself(wanted, chosen, reason):
    result = place(workflow("w", **wanted), Roster([*TILLS, HUB]))
    assert (result.chosen, result.reason) == (chosen, reason)
    assert bool(result.message) == bool(reason)


def test_daemons_that_lack_a_capability_are_named_and_left_out():
    poor = daemon("till-9", labels={"role": "till"}, capabilities=["connector/sqlite"])
    found = place(
        workflow("w", every="role=till", requires=("transform/sql",)), Roster([*TILLS, poor])
    )
    assert "id-till-9" not in found.chosen
    assert found.lacking == {"id-till-9": ("transform/sql",)}
    assert len(found.chosen) == 4


@pytest.mark.parametrize("liveness", [Liveness.REVOKED, Liveness.NEVER_JOINED])
def test_daemons_that_are_not_members_are_never_chosen(liveness):
    gone = replace(TILLS[0], liveness=liveness)
    assert gone.id not in place(workflow("w", every="role"), Roster([gone, *TILLS[1:]])).chosen


def test_a_machine_that_replaces_a_revoked_one_takes_its_name():
    old = replace(HUB, liveness=Liveness.REVOKED)
    new = replace(HUB, id="id-hub-2")
    assert place(workflow("w", daemon="hub"), Roster([new, old])).chosen == ("id-hub-2",)


@pytest.mark.parametrize("liveness", [Liveness.ONLINE, Liveness.LATE, Liveness.OFFLINE])
def test_an_offline_holder_keeps_a_workflow_for_one_daemon(liveness):
    one = workflow("w", one="role=till")
    for holder in TILLS:
        away = replace(holder, liveness=liveness)
        roster = Roster([away, *(t for t in TILLS if t.id != holder.id)])
        assert place(one, roster, holders=[holder.id]).chosen == (holder.id,)


ids = st.lists(st.uuids().map(str), min_size=1, max_size=12, unique=True)


@given(uid=st.text(min_size=1), candidates=ids)
def test_the_choice_does_not_depend_on_order(uid, candidates):
    assert choose_one(uid, candidates) == choose_one(uid, candidates[::-1])


@given(uid=st.text(min_size=1), candidates=ids, newcomer=st.uuids().map(str))
def test_a_newcomer_moves_nothing(uid, candidates, newcomer):
    holder = choose_one(uid, candidates)
    assert choose_one(uid, [*candidates, newcomer], holders=[holder]) == holder


@given(uid=st.text(min_size=1), candidates=ids)
def test_losing_another_candidate_moves_nothing(uid, candidates):
    winner = choose_one(uid, candidates)
    for loser in candidates:
        if loser != winner:
            assert choose_one(uid, [c for c in candidates if c != loser]) == winner


def test_weights_share_the_work_in_proportion():
    weights = {"big": 3.0, "small": 1.0}
    wins = sum(choose_one(f"u{n}", weights, weights=weights) == "big" for n in range(4000))
    assert 0.72 < wins / 4000 < 0.78
