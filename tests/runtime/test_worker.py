"""Workers as processes: what they do when all is well, and orders from the host."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading

import pytest
from runtime_fakes import Live, endless, worker_argv

from mycelial.runtime.foreground import prestart, run_foreground
from mycelial.runtime.launcher import request_line
from mycelial.runtime.pipelog import tail
from mycelial.runtime.ports import WorkerExit
from mycelial.runtime.spawn import SpawnLauncher
from mycelial.schemas.desired import Delivery, Schedule
from mycelial.schemas.wire import PipelineState as S

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs unix sockets")


def test_draining_commits_what_is_in_flight(world, launcher):
    spec = endless(world, delivery=Delivery(unit_rows=1000, unit_seconds=600.0))
    with Live(world.request(spec), launcher) as live:
        live.until(lambda m: m.status and m.status.counters.rows_committed == 50)
        world.add(range(51, 54))
        live.send("drain", deadline_seconds=20.0)
        assert live.state(S.STOPPED).counters.rows_committed in (50, 53)
        assert live.end() == WorkerExit.DONE
    assert world.arrived().keys() <= world.made.keys()
    assert world.committed_id() == max(i for i, _ in world.arrived())


@pytest.mark.parametrize("how", ["stop", "host gone"])
def test_ending_at_once_leaves_whole_units_only(world, harness, how, held_launcher):
    harness.hold_at = ("write", 3)
    with Live(world.request(endless(world)), held_launcher) as live:
        assert harness.held.wait(20)
        before = world.committed_id()
        if how == "stop":
            live.send("stop")
        else:
            live.worker.close()
        harness.release.set()
        code = live.end()
    assert code == (WorkerExit.DONE if how == "stop" else WorkerExit.HOST_GONE)
    # The order may come in just after the held write: then its unit is still committed, whole.
    assert before == 10
    assert world.committed_id() in (10, 20)
    assert sum(world.arrived().values()) == world.committed_id()


def test_every_reads_again_without_a_restart(world, launcher):
    spec = world.spec(schedule=Schedule("every", every_seconds=0.2))
    with Live(world.request(spec), launcher) as live:
        live.until(lambda m: m.status and m.status.counters.rows_committed == 50)
        world.add([51, 52])
        said = live.until(lambda m: m.status and m.status.counters.rows_committed == 52)
        live.send("stop")
        live.end()
    assert said.status.state is S.RUNNING
    assert said.status.rows_per_second > 0
    assert world.arrived() == world.made


def test_on_change_reads_when_the_file_changes(world, launcher):
    spec = world.spec(schedule=Schedule("onChange"))
    with Live(world.request(spec), launcher) as live:
        live.state(S.WAITING)
        world.add([51, 52])
        live.until(lambda m: m.status and m.status.counters.rows_committed == 52)
        live.send("stop")
        assert live.end() == WorkerExit.DONE


def test_swap_goes_on_with_another_spec_in_the_same_process(world, launcher):
    with Live(world.request(endless(world)), launcher) as live:
        live.until(lambda m: m.status and m.status.counters.rows_committed == 50)
        live.send("swap", spec=endless(world, transforms=("upper",)))
        live.until(lambda m: m.type == "plan")
        world.add([51])
        live.until(lambda m: m.status and m.status.counters.rows_committed == 51)
    assert world.arrived()[(51, "V51")] == 1
    assert sum(world.arrived().values()) == 51


def test_a_rate_is_kept(world, launcher):
    spec = world.spec(rate_rows_per_second=100.0, source={"batch": 10})
    outcome = run_foreground(world.request(spec), launcher=launcher)
    lines, _ = tail(world.state / "log", 1000)
    assert outcome.state is S.FINISHED
    seconds = [float(line["at"][17:23]) for line in (lines[0], lines[-1])]
    assert (seconds[1] - seconds[0]) % 60 >= 0.38


def test_probe_and_lifecycle_answer_and_change_nothing(world, launcher):
    probe = run_foreground(world.request(job="probe"), launcher=launcher)
    assert probe.plan.guarantee == "exactly-once"
    assert not world.target.exists()
    done = run_foreground(world.request(job="lifecycle", event="deleted"), launcher=launcher)
    assert done.problem is None
    with contextlib.closing(sqlite3.connect(world.source)) as db:
        assert db.execute("select what from told").fetchall() == [("deleted",)]


def test_a_prestarted_worker_ends_when_nobody_needs_it():
    worker = prestart(SpawnLauncher(worker_argv()))
    worker.close()
    assert worker.wait(10) == WorkerExit.HOST_GONE


def test_the_stop_event_drains_the_foreground(world):
    stop = threading.Event()
    outcome = run_foreground(
        world.request(endless(world)),
        prestarted=prestart(SpawnLauncher(worker_argv())),
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

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_request_is_one_line(world):
    assert request_line(world.request()).count(b"\n") == 1
