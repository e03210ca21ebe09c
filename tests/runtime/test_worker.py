"""Workers as processes: orders from the host, failures of plugins, two writers at once."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import sys
import threading
from pathlib import Path

import pytest
from runtime_fakes import Harness, World, worker_argv

from mycelial.runtime.foreground import prestart, run_foreground
from mycelial.runtime.journal import Journal
from mycelial.runtime.launcher import control_line, request_line
from mycelial.runtime.pipelog import tail
from mycelial.runtime.ports import Control, WorkerExit, WorkerMessage, WorkerPolicy
from mycelial.runtime.spawn import SpawnLauncher
from mycelial.schemas.codec import decode
from mycelial.schemas.desired import Delivery, Schedule
from mycelial.schemas.wire import PipelineState as S

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs unix sockets")
LAUNCHER = SpawnLauncher(worker_argv())


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


@pytest.fixture
def harness(tmp_path):
    harness = Harness(tmp_path / "faults.sock")
    yield harness
    harness.close()


class Live:
    """A worker and its messages."""

    def __init__(self, request, launcher=LAUNCHER):
        self.worker = launcher.start(request)
        self.pipe = os.fdopen(os.dup(self.worker.out_fd), "rb")
        self.seen = []

    def until(self, wanted):
        for line in self.pipe:
            message = decode(WorkerMessage, json.loads(line))
            self.seen.append(message)
            if wanted(message):
                return message
        raise AssertionError(f"the worker ended; it said {self.seen[-3:]}")

    def state(self, state):
        return self.until(lambda m: m.status is not None and m.status.state is state).status

    def send(self, *args, **fields):
        self.worker.send(control_line(Control(*args, **fields)))

    def end(self):
        self.pipe.read()
        return self.worker.wait(10)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.worker.kill()
        self.worker.wait(5)
        self.pipe.close()
        self.worker.close()


def endless(world, **fields):
    return world.spec(source={"endless": True}, schedule=Schedule("continuous"), **fields)


def events(world):
    lines, _ = tail(world.state / "log", 1000)
    return [line.get("reason") for line in lines if line.get("kind") == "event"]


def test_a_once_run_finishes_and_its_order_is_not_run_twice(world):
    spec = world.spec(source={"snapshot": True})
    first = run_foreground(world.request(spec, order="a"), launcher=LAUNCHER)
    again = run_foreground(world.request(spec, attempt=2, order="a"), launcher=LAUNCHER)
    assert (first.state, again.state) == (S.FINISHED, S.FINISHED)
    assert first.status.counters.rows_committed == 50
    assert world.arrived() == world.made
    run_foreground(world.request(spec, attempt=3, order="b"), launcher=LAUNCHER)
    assert world.arrived() == world.made + world.made


def test_the_plan_comes_before_the_first_row_and_says_why(world):
    with Live(world.request()) as live:
        plan = live.until(lambda m: m.type == "plan").plan
        assert (plan.guarantee, plan.mode) == ("exactly-once", "append")
        assert [c.name for c in plan.columns] == ["id", "value"]
        live.state(S.FINISHED)


def test_exactly_once_is_refused_before_any_row_when_it_cannot_be_kept(world):
    spec = world.spec(
        target={"exactly_once": False}, delivery=Delivery("exactly-once", unit_rows=10)
    )
    outcome = run_foreground(world.request(spec), launcher=LAUNCHER)
    assert (outcome.state, outcome.problem.code) == (S.FAILED, "MYC-RUN-010")
    assert not world.target.exists()


def test_a_destination_without_positions_resumes_from_the_journal(world):
    spec = world.spec(target={"exactly_once": False})
    run_foreground(world.request(spec, order="a"), launcher=LAUNCHER)
    world.add(range(51, 61))
    run_foreground(world.request(spec, attempt=2, order="b"), launcher=LAUNCHER)
    assert world.arrived() == world.made


@pytest.mark.parametrize("outcome", ["landed", "lost"])
def test_an_ambiguous_commit_is_looked_up_not_guessed(world, outcome):
    spec = world.spec(source={"prunes": True}, target={"ambiguous": outcome})
    result = run_foreground(world.request(spec), launcher=LAUNCHER)
    assert result.state is S.FINISHED
    assert world.arrived() == world.made
    assert world.left_ids() == set()
    assert ("CheckpointAdopted" in events(world)) == (outcome == "landed")


def test_a_transient_failure_is_retried(world):
    spec = world.spec(source={"fail_open": str(world.directory / "failed")})
    with Live(world.request(spec)) as live:
        status = live.state(S.RETRYING)
        assert status.error.code == "MYC-TEST-001"
        assert status.retry_at
        live.state(S.FINISHED)
    assert world.arrived() == world.made


def test_a_defect_of_a_plugin_fails_the_pipeline_with_a_report_and_no_secret(world):
    spec = world.spec(source={"bug": True})
    with Live(world.request(spec, secrets={"pw": "hunter2"})) as live:
        status = live.state(S.FAILED)
        assert status.error.code == "MYC-RUN-090"
        assert "pw=(secret)" in status.error.what
        live.send("stop")
        assert live.end() == WorkerExit.DONE
    log = (world.state / "log").read_text()
    assert "Traceback" in log
    assert "hunter2" not in log


def test_a_refused_row_stops_with_its_place_and_the_position_unmoved(world):
    world.add([])
    with contextlib.closing(sqlite3.connect(world.source)) as db, db:
        db.execute("update rows set value = 'bad' where id = 33")
    with Live(world.request()) as live:
        status = live.state(S.FAILED)
        assert status.error.code == "MYC-TEST-003"
        assert "row 2 of the batch ending at" in status.error.what
        assert world.committed_id() == 30
        with contextlib.closing(sqlite3.connect(world.source)) as db, db:
            db.execute("update rows set value = 'v33' where id = 33")
        live.send("retry")
        live.state(S.FINISHED)
    assert world.arrived() == world.made


def test_draining_commits_what_is_in_flight(world):
    spec = endless(world, delivery=Delivery(unit_rows=1000, unit_seconds=600.0))
    with Live(world.request(spec)) as live:
        live.until(lambda m: m.status and m.status.counters.rows_committed == 50)
        world.add(range(51, 54))
        live.send("drain", deadline_seconds=20.0)
        assert live.state(S.STOPPED).counters.rows_committed in (50, 53)
        assert live.end() == WorkerExit.DONE
    assert world.arrived().keys() <= world.made.keys()
    assert world.committed_id() == max(i for i, _ in world.arrived())


@pytest.mark.parametrize("how", ["stop", "host gone"])
def test_ending_at_once_drops_the_open_unit(world, harness, how):
    launcher = SpawnLauncher(worker_argv(), environment=harness.environment)
    harness.hold_at = ("write", 3)
    with Live(world.request(endless(world)), launcher) as live:
        assert harness.held.wait(20)
        before = world.committed_id()
        if how == "stop":
            live.send("stop")
        else:
            live.worker._in.close()
        harness.release.set()
        code = live.end()
    assert code == (WorkerExit.DONE if how == "stop" else WorkerExit.HOST_GONE)
    assert world.committed_id() == before == 10
    assert sum(world.arrived().values()) == 10


def test_losing_the_host_never_cuts_a_commit(world):
    gate = world.directory / "gate"
    spec = endless(world, delivery=Delivery(unit_rows=10, unit_seconds=60.0))
    spec = world.spec(
        source={"endless": True}, target={"gate": str(gate)}, schedule=Schedule("continuous")
    )
    with Live(world.request(spec)) as live:
        entered = Path(f"{gate}.in")
        while not entered.exists():
            threading.Event().wait(0.01)
        live.worker._in.close()
        gate.touch()
        assert live.end() == WorkerExit.HOST_GONE
    assert world.committed_id() == 10
    assert sum(world.arrived().values()) == 10
    journal = Journal(world.state / "journal")
    assert json.loads(journal.latest["0"].position)["id"] == 10


def test_of_two_workers_the_older_is_fenced_and_nothing_comes_twice(world, harness):
    launcher = SpawnLauncher(worker_argv(), environment=harness.environment)
    harness.hold_at = ("before_commit", 3)
    with Live(world.request(attempt=1), launcher) as old:
        assert harness.held.wait(20)
        new = run_foreground(world.request(attempt=2), launcher=LAUNCHER)
        assert new.state is S.FINISHED
        harness.release.set()
        assert old.state(S.FAILED).error.code == "MYC-TEST-002"
        assert old.end() == WorkerExit.FENCED
    assert world.arrived() == world.made


@pytest.mark.parametrize("replayable", [True, False], ids=["replayable", "not"])
def test_a_restored_destination_is_never_resumed_silently(world, replayable):
    spec = world.spec(source={"replayable": replayable, "batch": 10})
    run_foreground(world.request(spec, order="a"), launcher=LAUNCHER)
    with contextlib.closing(sqlite3.connect(world.target)) as db, db:
        db.execute("delete from rows where id > 20")
        db.execute("update mark set seq = 2, position = '{\"id\": 20}'")
    outcome = run_foreground(world.request(spec, attempt=2, order="b"), launcher=LAUNCHER)
    if replayable:
        assert outcome.state is S.FINISHED
        assert world.arrived() == world.made
        assert "CheckpointReplayed" in events(world)
    else:
        assert outcome.problem.code == "MYC-RUN-011"
        assert world.committed_id() == 20
        set_to = json.dumps({"id": 20})
        request = world.request(spec, attempt=3, job="state-set", part="0", position=set_to)
        assert run_foreground(request, launcher=LAUNCHER).problem is None
        run_foreground(world.request(spec, attempt=4, order="c"), launcher=LAUNCHER)
        assert world.arrived() == world.made


def test_a_corrupt_journal_is_set_aside_and_the_destination_decides(world):
    run_foreground(world.request(order="a"), launcher=LAUNCHER)
    (world.state / "journal").write_bytes(b"junk\njunk\njunk\n")
    world.add([51])
    outcome = run_foreground(world.request(attempt=2, order="b"), launcher=LAUNCHER)
    assert outcome.state is S.FINISHED
    assert world.arrived() == world.made
    assert {"JournalCorrupt", "CheckpointAdopted"} <= set(events(world))


def test_every_reads_again_without_a_restart(world):
    spec = world.spec(schedule=Schedule("every", every_seconds=0.2))
    with Live(world.request(spec)) as live:
        live.state(S.WAITING)
        world.add([51, 52])
        live.until(lambda m: m.status and m.status.counters.rows_committed == 52)
        live.send("stop")
        live.end()
    assert world.arrived() == world.made


def test_on_change_reads_when_the_file_changes(world):
    spec = world.spec(schedule=Schedule("onChange"))
    with Live(world.request(spec)) as live:
        live.state(S.WAITING)
        world.add([51, 52])
        live.until(lambda m: m.status and m.status.counters.rows_committed == 52)
        live.send("stop")
        assert live.end() == WorkerExit.DONE


def test_swap_goes_on_with_another_spec_in_the_same_process(world):
    with Live(world.request(endless(world))) as live:
        live.until(lambda m: m.status and m.status.counters.rows_committed == 50)
        live.send("swap", spec=endless(world, transforms=("upper",)))
        live.until(lambda m: m.type == "plan")
        world.add([51])
        live.until(lambda m: m.status and m.status.counters.rows_committed == 51)
    assert world.arrived()[(51, "V51")] == 1
    assert sum(world.arrived().values()) == 51


def test_a_rate_is_kept(world):
    spec = world.spec(rate_rows_per_second=100.0, source={"batch": 10})
    outcome = run_foreground(world.request(spec), launcher=LAUNCHER)
    lines, _ = tail(world.state / "log", 1000)
    assert outcome.state is S.FINISHED
    seconds = [float(line["at"][17:23]) for line in (lines[0], lines[-1])]
    assert (seconds[1] - seconds[0]) % 60 >= 0.38


def test_probe_and_lifecycle_answer_and_change_nothing(world):
    probe = run_foreground(world.request(job="probe"), launcher=LAUNCHER)
    assert probe.plan.guarantee == "exactly-once"
    assert not world.target.exists()
    done = run_foreground(world.request(job="lifecycle", event="deleted"), launcher=LAUNCHER)
    assert done.problem is None
    with contextlib.closing(sqlite3.connect(world.source)) as db:
        assert db.execute("select what from told").fetchall() == [("deleted",)]


def test_local_policy_refuses_a_connector(world):
    request = world.request(policy=WorkerPolicy(connectors=("ledger",)))
    outcome = run_foreground(request, launcher=LAUNCHER)
    assert outcome.problem.code == "MYC-RUN-043"
    assert not world.target.exists()


def test_a_worker_over_its_memory_limit_says_so_and_ends(world):
    spec = endless(world)
    request = world.request(spec, policy=WorkerPolicy(memory_max_bytes=2**20))
    with Live(request) as live:
        assert live.state(S.FAILED).error.code == "MYC-RUN-050"
        assert live.end() == WorkerExit.OVER_MEMORY


def test_a_prestarted_worker_ends_when_nobody_needs_it(world):
    worker = prestart(LAUNCHER)
    worker.close()
    assert worker.wait(10) == WorkerExit.HOST_GONE


def test_the_stop_event_drains_the_foreground(world):
    stop = threading.Event()
    outcome = run_foreground(
        world.request(endless(world)),
        prestarted=prestart(LAUNCHER),
        on_status=lambda s: s.counters.rows_committed == 50 and stop.set(),
        stop_event=stop,
    )
    assert (outcome.state, outcome.problem, outcome.exit_code) == (S.STOPPED, None, 0)
    assert world.arrived() == world.made


def test_a_worker_loads_no_pydantic_no_asyncio_no_pyarrow(world):
    code = (
        "import sys; import mycelial.cli.worker; "
        "print([m for m in ('pydantic', 'asyncio', 'pyarrow', 'arro3') if m in sys.modules])"
    )
    import subprocess

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_request_is_one_line(world):
    assert request_line(world.request()).count(b"\n") == 1
