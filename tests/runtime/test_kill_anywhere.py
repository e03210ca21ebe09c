"""Real workers, really killed: whatever dies when, the destination equals the source (I1, I2)."""

from __future__ import annotations

import sys

import pytest

from mycelial.runtime.faults import STEPS
from mycelial.runtime.foreground import run_foreground
from mycelial.schemas.wire import PipelineState

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs unix sockets")

SOURCES = {
    "replayable": {},
    "pruning": {"prunes": True},
    "snapshot": {"snapshot": True},
    "unresumable snapshot": {"snapshot": True, "resumable": False},
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("step", STEPS)
def test_a_worker_killed_at_any_step_loses_and_repeats_nothing(
    world, harness, held_launcher, step, source
):
    spec = world.spec(source=source, transforms=("upper",))
    harness.kill_at = (step, 1 if source.get("resumable") is False else 3)

    killed = run_foreground(world.request(spec, attempt=1), launcher=held_launcher)

    assert harness.killed.is_set()
    assert killed.exit_code == -9
    assert killed.state is PipelineState.FAILED
    if source.get("prunes"):
        assert max(world.acked_ids(), default=0) <= world.committed_id()
        assert all(i > world.committed_id() or i in _ids(world) for i in range(1, 51))

    healed = run_foreground(world.request(spec, attempt=2), launcher=held_launcher)

    assert healed.problem is None
    assert healed.state is PipelineState.FINISHED
    assert world.arrived() == {(i, f"V{i}"): 1 for i in range(1, 51)}
    if source.get("prunes"):
        assert world.left_ids() == set()
        assert world.acked_ids() == sorted(world.acked_ids())


def test_a_worker_killed_again_and_again_still_delivers_each_row_once(
    world, harness, held_launcher
):
    spec = world.spec(source={"prunes": True})
    for attempt, step in enumerate(STEPS, start=1):
        harness.kill_at = (step, 1)
        run_foreground(world.request(spec, attempt=attempt), launcher=held_launcher)

    outcome = run_foreground(world.request(spec, attempt=99), launcher=held_launcher)

    assert outcome.state is PipelineState.FINISHED
    assert world.arrived() == world.made


def _ids(world):
    return {i for i, _ in world.arrived()}
