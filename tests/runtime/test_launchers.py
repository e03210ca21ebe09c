"""One suite for every way to start a worker."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from runtime_fakes import World, worker_argv, zygote_argv

from mycelial.runtime.launcher import (
    HIDDEN_FROM_WORKERS,
    UNKNOWN_STATUS,
    control_line,
    environment_of_workers,
)
from mycelial.runtime.ports import Control, WorkerExit, WorkerMessage
from mycelial.runtime.spawn import SpawnLauncher
from mycelial.runtime.zygote import ZygoteLauncher, is_supported
from mycelial.schemas.codec import decode
from mycelial.schemas.desired import Schedule

forks = pytest.mark.skipif(not is_supported(), reason="needs Linux with pidfd")


@pytest.fixture(params=["spawn", pytest.param("zygote", marks=forks)])
def launcher(request):
    if request.param == "spawn":
        made = SpawnLauncher(worker_argv())
    else:
        made = ZygoteLauncher(zygote_argv())
    yield made
    made.close()


@pytest.fixture
def zygote():
    made = ZygoteLauncher(zygote_argv())
    yield made
    made.close()


def messages(worker):
    with os.fdopen(os.dup(worker.out_fd), "rb") as pipe:
        for line in pipe:
            yield decode(WorkerMessage, json.loads(line))


def endless(world):
    spec = world.spec(source={"endless": True}, schedule=Schedule("continuous"))
    return world.request(spec)


def until_committed(worker, rows):
    for message in messages(worker):
        if message.status and message.status.counters.rows_committed == rows:
            return
    raise AssertionError("the worker ended")


def test_a_worker_runs_talks_and_ends_with_its_code(launcher, world):
    worker = launcher.start(world.request())
    said = list(messages(worker))
    assert [worker.wait(10), worker.wait(0)] == [WorkerExit.DONE, WorkerExit.DONE]
    assert said[-1].type == "exit"
    assert world.arrived() == world.made
    worker.close()


def test_a_worker_hears(launcher, world):
    worker = launcher.start(endless(world))
    until_committed(worker, 50)
    assert worker.wait(0) is None
    worker.send(control_line(Control("stop")))
    assert worker.wait(10) == WorkerExit.DONE
    worker.close()


def test_a_killed_worker_is_reported_with_its_signal(launcher, world):
    worker = launcher.start(endless(world))
    until_committed(worker, 50)
    worker.kill()
    assert worker.wait(10) == -signal.SIGKILL
    worker.kill()
    worker.close()
    assert worker.wait(0) == -signal.SIGKILL


def test_closing_the_host_ends_ends_the_worker(launcher, world):
    worker = launcher.start(endless(world))
    until_committed(worker, 50)
    watch = os.pidfd_open(worker.pid) if is_supported() else None
    worker.close()
    if watch is not None:
        import select

        assert select.select([watch], [], [], 10)[0]
        os.close(watch)
    assert worker.wait(10) is not None


def test_many_workers_do_not_hold_each_others_pipes(launcher, tmp_path):
    workers = []
    for number in range(4):
        directory = tmp_path / str(number)
        directory.mkdir()
        workers.append(launcher.start(endless(World(directory))))
    for worker in workers:
        until_committed(worker, 50)
    workers[0].kill()
    assert list(messages(workers[0])) is not None  # reaches end of file although others live
    for worker in workers:
        worker.kill()
        assert worker.wait(10) == -signal.SIGKILL
        worker.close()


@forks
def test_workers_outlive_the_zygote_and_the_next_start_makes_a_new_one(zygote, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    world, other = World(tmp_path / "a"), World(tmp_path / "b")
    orphan = zygote.start(endless(world))
    until_committed(orphan, 50)
    old = zygote.zygote_pid
    os.kill(old, signal.SIGKILL)

    later = zygote.start(other.request())
    assert list(messages(later))[-1].type == "exit"
    assert later.wait(10) == WorkerExit.DONE
    assert zygote.zygote_pid != old

    world.add([51])
    until_committed(orphan, 51)
    orphan.kill()
    assert orphan.wait(10) == UNKNOWN_STATUS
    later.close()
    orphan.close()


@forks
def test_a_forked_worker_is_its_own_session_with_default_signals(zygote, world):
    worker = zygote.start(endless(world))
    until_committed(worker, 50)
    assert os.getsid(worker.pid) == worker.pid
    status = Path(f"/proc/{worker.pid}/status").read_text()
    ignored = int(next(x for x in status.splitlines() if x.startswith("SigIgn")).split()[1], 16)
    # Python ignores these two; those from 32 on are the C library's own and cannot be reset.
    spared = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1
    assert ignored & ~spared & (1 << 31) - 1 == 0
    fds = {str(f.readlink()) for f in Path(f"/proc/{worker.pid}/fd").iterdir()}
    assert not any("socket" in name for name in fds)
    worker.kill()
    worker.wait(10)
    worker.close()


@forks
def test_the_zygote_ends_with_its_host(zygote, world):
    worker = zygote.start(world.request())
    list(messages(worker))
    worker.wait(10)
    worker.close()
    pid = zygote.zygote_pid
    zygote.close()
    assert not Path(f"/proc/{pid}").exists()


@forks
def test_the_zygote_has_one_thread_and_no_forbidden_module(world, zygote):
    worker = zygote.start(world.request())
    list(messages(worker))
    worker.wait(10)
    worker.close()
    maps = Path(f"/proc/{zygote.zygote_pid}/maps").read_text()
    assert len(list(Path(f"/proc/{zygote.zygote_pid}/task").iterdir())) == 1
    assert "arro3" in maps
    assert "pydantic_core" not in maps
    assert "pyarrow" not in maps
    assert sys.platform == "linux"


def test_a_worker_inherits_no_secret_of_its_host(launcher, world, monkeypatch):
    monkeypatch.setenv("MYCELIAL_SECRET_OTHERS_PW", "canary-1")
    monkeypatch.setenv("MYCELIAL_TOKEN", "canary-2")
    monkeypatch.setenv("MYCELIAL_TEST_ORDINARY", "inherited")
    worker = launcher.start(endless(world))
    until_committed(worker, 50)
    process = psutil.Process(worker.pid)
    inherited = "\n".join([*process.environ().values(), *process.cmdline()])
    worker.kill()
    worker.wait(10)
    worker.close()
    assert "canary" not in inherited
    assert "inherited" in inherited


def test_variables_of_a_prefix_of_ones_own_are_hidden_too():
    before = {"SHOP_PW": "x", "PATH": "/bin", "MYCELIAL_SECRET_A": "y"}
    hidden = (*HIDDEN_FROM_WORKERS, "SHOP_")
    assert environment_of_workers(before, {"B": "z"}, hidden) == {"PATH": "/bin", "B": "z"}
