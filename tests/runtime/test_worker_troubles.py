"""Workers as processes: failures of plugins, two writers at once, lost state."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
import threading
from pathlib import Path

import pytest
from runtime_fakes import Live, endless, events

from mycelial.runtime.foreground import run_foreground
from mycelial.runtime.journal import Journal
from mycelial.runtime.ports import WorkerExit, WorkerPolicy
from mycelial.schemas.desired import Delivery, Schedule
from mycelial.schemas.wire import PipelineState as S

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs unix sockets")


def test_a_once_run_finishes_and_its_order_is_not_run_twice(world, launcher):
    spec = world.spec(source={"snapshot": True})
    first = run_foreground(world.request(spec, order="a"), launcher=launcher)
    again = run_foreground(world.request(spec, attempt=2, order="a"), launcher=launcher)
    assert (first.state, again.state) == (S.FINISHED, S.FINISHED)
    assert first.status.counters.rows_committed == 50
    assert world.arrived() == world.made
    run_foreground(world.request(spec, attempt=3, order="b"), launcher=launcher)
    assert world.arrived() == world.made + world.made


def test_the_plan_comes_before_the_first_row_and_says_why(world, launcher):
    with Live(world.request(), launcher) as live:
        plan = live.until(lambda m: m.type == "plan").plan
        assert (plan.guarantee, plan.mode) == ("exactly-once", "append")
        assert [c.name for c in plan.columns] == ["id", "value"]
        live.state(S.FINISHED)


def test_exactly_once_is_refused_before_any_row_when_it_cannot_be_kept(world, launcher):
    spec = world.spec(
        target={"exactly_once": False}, delivery=Delivery("exactly-once", unit_rows=10)
    )
    outcome = run_foreground(world.request(spec), launcher=launcher)
    assert (outcome.state, outcome.problem.code) == (S.FAILED, "MYC-RUN-010")
    assert not world.target.exists()


def test_a_destination_without_positions_resumes_from_the_journal(world, launcher):
    spec = world.spec(target={"exactly_once": False})
    run_foreground(world.request(spec, order="a"), launcher=launcher)
    world.add(range(51, 61))
    run_foreground(world.request(spec, attempt=2, order="b"), launcher=launcher)
    assert world.arrived() == world.made


@pytest.mark.parametrize("outcome", ["landed", "lost"])
def test_an_ambiguous_commit_is_looked_up_not_guessed(world, outcome, launcher):
    spec = world.spec(source={"prunes": True}, target={"ambiguous": outcome})
    result = run_foreground(world.request(spec), launcher=launcher)
    assert result.state is S.FINISHED
    assert world.arrived() == world.made
    assert world.left_ids() == set()
    assert ("CheckpointAdopted" in events(world)) == (outcome == "landed")


def test_a_transient_failure_is_retried(world, launcher):
    spec = world.spec(source={"fail_open": str(world.directory / "failed")})
    with Live(world.request(spec), launcher) as live:
        status = live.state(S.RETRYING)
        assert status.error.code == "MYC-TEST-001"
        assert status.retry_at
        live.state(S.FINISHED)
    assert world.arrived() == world.made


def test_a_defect_of_a_plugin_fails_the_pipeline_with_a_report_and_no_secret(world, launcher):
    spec = world.spec(source={"bug": True})
    with Live(world.request(spec, secrets={"pw": "hunter2"}), launcher) as live:
        status = live.state(S.FAILED)
        assert status.error.code == "MYC-RUN-090"
        assert "pw=(secret)" in status.error.what
        live.send("stop")
        assert live.end() == WorkerExit.DONE
    log = (world.state / "log").read_text()
    assert "Traceback" in log
    assert "hunter2" not in log


def test_a_refused_row_stops_with_its_place_and_the_position_unmoved(world, launcher):
    world.add([])
    with contextlib.closing(sqlite3.connect(world.source)) as db, db:
        db.execute("update rows set value = 'bad' where id = 33")
    with Live(world.request(), launcher) as live:
        status = live.state(S.FAILED)
        assert status.error.code == "MYC-TEST-003"
        assert "row 2 of the batch ending at" in status.error.what
        assert world.committed_id() == 30
        with contextlib.closing(sqlite3.connect(world.source)) as db, db:
            db.execute("update rows set value = 'v33' where id = 33")
        live.send("retry")
        live.state(S.FINISHED)
    assert world.arrived() == world.made


def test_losing_the_host_never_cuts_a_commit(world, launcher):
    gate = world.directory / "gate"
    spec = endless(world, delivery=Delivery(unit_rows=10, unit_seconds=60.0))
    spec = world.spec(
        source={"endless": True}, target={"gate": str(gate)}, schedule=Schedule("continuous")
    )
    with Live(world.request(spec), launcher) as live:
        entered = Path(f"{gate}.in")
        while not entered.exists():
            threading.Event().wait(0.01)
        live.worker.close()
        gate.touch()
        assert live.end() == WorkerExit.HOST_GONE
    assert world.committed_id() == 10
    assert sum(world.arrived().values()) == 10
    journal = Journal(world.state / "journal")
    assert json.loads(journal.latest["scope-1", "0"].position)["id"] == 10


def test_of_two_workers_the_older_is_fenced_and_nothing_comes_twice(
    world, harness, launcher, held_launcher
):
    harness.hold_at = ("before_commit", 3)
    with Live(world.request(attempt=1), held_launcher) as old:
        assert harness.held.wait(20)
        new = run_foreground(world.request(attempt=2), launcher=launcher)
        assert new.state is S.FINISHED
        harness.release.set()
        assert old.state(S.FAILED).error.code == "MYC-TEST-002"
        assert old.end() == WorkerExit.FENCED
    assert world.arrived() == world.made


@pytest.mark.parametrize("replayable", [True, False], ids=["replayable", "not"])
def test_a_restored_destination_is_never_resumed_silently(world, replayable, launcher):
    spec = world.spec(source={"replayable": replayable, "batch": 10})
    run_foreground(world.request(spec, order="a"), launcher=launcher)
    with contextlib.closing(sqlite3.connect(world.target)) as db, db:
        db.execute("delete from rows where id > 20")
        db.execute("update mark set seq = 2, position = '{\"id\": 20}'")
    outcome = run_foreground(world.request(spec, attempt=2, order="b"), launcher=launcher)
    if replayable:
        assert outcome.state is S.FINISHED
        assert world.arrived() == world.made
        assert "CheckpointReplayed" in events(world)
    else:
        assert outcome.problem.code == "MYC-RUN-011"
        assert world.committed_id() == 20
        set_to = json.dumps({"id": 20})
        request = world.request(spec, attempt=3, job="state-set", part="0", position=set_to)
        assert run_foreground(request, launcher=launcher).problem is None
        run_foreground(world.request(spec, attempt=4, order="c"), launcher=launcher)
        assert world.arrived() == world.made


def test_a_position_the_source_cannot_read_is_refused_before_it_is_stored(world, launcher):
    run_foreground(world.request(order="a"), launcher=launcher)
    before = world.committed_id()
    request = world.request(attempt=2, job="state-set", part="0", position='{"a": 1}')
    assert run_foreground(request, launcher=launcher).problem is not None
    assert world.committed_id() == before
    world.add([51])
    outcome = run_foreground(world.request(attempt=3, order="b"), launcher=launcher)
    assert (outcome.state, world.arrived()) == (S.FINISHED, world.made)


def test_a_corrupt_journal_is_set_aside_and_the_destination_decides(world, launcher):
    run_foreground(world.request(order="a"), launcher=launcher)
    (world.state / "journal").write_bytes(b"junk\njunk\njunk\n")
    world.add([51])
    outcome = run_foreground(world.request(attempt=2, order="b"), launcher=launcher)
    assert outcome.state is S.FINISHED
    assert world.arrived() == world.made
    assert {"JournalCorrupt", "CheckpointAdopted"} <= set(events(world))


def test_local_policy_refuses_a_connector(world, launcher):
    request = world.request(policy=WorkerPolicy(connectors=("ledger",)))
    outcome = run_foreground(request, launcher=launcher)
    assert outcome.problem.code == "MYC-RUN-043"
    assert not world.target.exists()


def test_a_worker_over_its_memory_limit_says_so_and_ends(world, launcher):
    spec = endless(world)
    request = world.request(spec, policy=WorkerPolicy(memory_max_bytes=2**20))
    with Live(request, launcher) as live:
        assert live.state(S.FAILED).error.code == "MYC-RUN-050"
        assert live.end() == WorkerExit.OVER_MEMORY
