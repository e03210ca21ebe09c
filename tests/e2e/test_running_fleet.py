"""What a fleet goes through while it runs: no control plane, restarts, kills, tampering.

One fleet serves all tests: three pipelines, SQLite to SQLite, on one daemon. Each test leaves
everything running.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from fleet_processes import Fleet
from live_table import LiveTable
from mycelial.schemas.views import DaemonView
from mycelial.schemas.wire import PipelineState, PipelineStatus

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc and forks workers"),
]
NAMES = ("apples", "pears", "plums")


def manifest(name: str) -> str:
    return f"""\
apiVersion: mycelial/v1
kind: Workflow
metadata: {{ name: {name} }}
spec:
  daemon: box
  schedule: {{ continuous: {{ poll: 100ms }} }}
  source: {{ sqlite: {{ path: in/fruit.db, table: {name}, cursor: id }} }}
  destination: {{ sqlite: {{ path: out/{name}.db, table: {name} }} }}
"""


class World:
    """The fleet, its tables, and looks at both."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.tables = {n: LiveTable(fleet.folder / "in" / "fruit.db", n) for n in NAMES}

    @property
    def box(self) -> DaemonView:
        return self.fleet.client.daemon("box")

    def statuses(self) -> Mapping[str, PipelineStatus]:
        return {status.name: status for status in self.box.pipelines}

    def arrived(self, name: str) -> list[tuple[object, ...]]:
        path = self.fleet.folder / "out" / f"{name}.db"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:
            return sorted(connection.execute(f"select id, name, cents from {name}"))

    def until_rows_move(self) -> None:
        """Add rows to every table, and wait until just they have arrived (I2)."""
        for table in self.tables.values():
            table.add(25)
        for name, table in self.tables.items():
            rows = table.rows()
            self.fleet.until(
                f"{name} is complete", lambda name=name, rows=rows: self.arrived(name) == rows
            )

    def is_converged(self) -> bool:
        """True when the daemon has acted on what is desired, and says that all is well."""
        box = self.box
        return (
            box.liveness == "Online"
            and box.applied_hash == box.desired_hash != ""
            and box.applied == len(NAMES)
            and all(w.healthy == 1 for w in self.fleet.client.workflows())
        )

    def until_converged(self) -> None:
        self.fleet.until("the daemon has converged", self.is_converged)

    def worker_of(self, name: str) -> int:
        """Return the process that runs a pipeline: the one that has its destination open."""
        destination = str(self.fleet.folder / "out" / f"{name}.db")
        found: list[int] = []

        def is_found() -> bool:
            found[:] = [p for p in self.fleet.worker_pids("box") if destination in open_files(p)]
            return len(found) == 1

        self.fleet.until(f"{name} has one worker", is_found)
        return found[0]

    def workers(self) -> dict[str, int]:
        return {name: self.worker_of(name) for name in NAMES}

    def attempts(self) -> dict[str, int]:
        return {name: status.attempt for name, status in self.statuses().items()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Fleet(tmp_path_factory.mktemp("running-fleet")) as fleet:
        fleet.start_server()
        fleet.add_daemon("box", reads=["in"], writes=["out"])
        fleet.until_online()
        found = World(fleet)
        fleet.apply({f"workflows/{name}.yaml": manifest(name) for name in NAMES})
        found.until_converged()
        found.until_rows_move()
        yield found
        fleet.stop()
        assert fleet.leftovers() == []


def open_files(pid: int) -> set[str]:
    with contextlib.suppress(psutil.Error):
        return {file.path for file in psutil.Process(pid).open_files()}
    return set()


def libraries(pid: int, *words: str) -> list[str]:
    """Return the shared objects in a process whose path has one of the words."""
    lines = Path(f"/proc/{pid}/maps").read_text("utf-8").splitlines()
    paths = {line[line.index("/") :] for line in lines if "/" in line and ".so" in line}
    return sorted(path for path in paths if any(word in path for word in words))


def test_rows_move_without_a_control_plane_and_its_return_restarts_nothing(world: World) -> None:
    workers, attempts = world.workers(), world.attempts()
    world.fleet.server.kill()
    world.until_rows_move()
    assert world.workers() == workers

    world.fleet.start_server()
    world.until_converged()
    world.until_rows_move()
    assert world.attempts() == attempts
    assert world.workers() == workers

    slower = manifest("pears").replace("100ms", "150ms")
    world.fleet.apply({"workflows/pears.yaml": slower})
    world.until_converged()
    now = world.workers()
    assert {name for name in NAMES if now[name] != workers[name]} == {"pears"}


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_daemon_restarted_without_a_control_plane_goes_on(world: World, how: str) -> None:
    box, attempts = world.fleet.daemons["box"], world.attempts()
    world.fleet.server.kill()
    box.kill() if how == "kill" else box.stop()
    box.start()
    world.until_rows_move()
    workers = world.workers()

    world.fleet.start_server()
    world.until_converged()
    world.until_rows_move()
    assert world.workers() == workers, "the return of the control plane restarted a pipeline"
    assert world.attempts() == {name: attempt + 1 for name, attempt in attempts.items()}


def test_a_killed_worker_is_shown_and_healed(world: World) -> None:
    before = world.statuses()
    victim = world.worker_of("plums")
    os.kill(victim, signal.SIGKILL)
    world.fleet.until(
        "the crash is shown",
        lambda: (
            world.statuses()["plums"].counters.restarts == before["plums"].counters.restarts + 1
        ),
    )
    world.until_rows_move()
    world.until_converged()
    after = world.statuses()
    assert after["plums"].state in (PipelineState.RUNNING, PipelineState.WAITING)
    assert after["plums"].attempt == before["plums"].attempt + 1
    assert world.worker_of("plums") != victim
    for name in ("apples", "pears"):
        assert after[name].attempt == before[name].attempt


def test_an_assignment_removed_on_the_machine_is_refused_and_healed(world: World) -> None:
    box = world.fleet.daemons["box"]
    box.stop()
    stored = world.fleet.folder / "state" / "box" / "assignments.json"
    text = stored.read_text("utf-8")
    assert "apples" in text
    stored.write_text(text.replace("apples", "appels"), "utf-8")
    box.start()
    world.until_converged()
    world.until_rows_move()
    assert "apples" in stored.read_text("utf-8")
    aside = [path for path in stored.parent.iterdir() if path.name.startswith("assignments.json.")]
    assert len(aside) == 1, "the tampered file is kept for whoever looks into it"


def test_the_daemon_has_loaded_no_arrow_and_no_driver(world: World) -> None:
    pid = world.fleet.daemons["box"].pid
    found = libraries(pid, "arro3", "arrow", "adbc", "duckdb", "polars", "psycopg", "pydantic")
    assert found == []
    assert libraries(pid, "libpython", "/python3") != [], "the look itself works"


def test_a_plain_worker_has_loaded_arro3_and_neither_pyarrow_nor_an_engine(world: World) -> None:
    for name in NAMES:
        pid = world.worker_of(name)
        assert libraries(pid, "pyarrow", "duckdb", "polars", "pydantic", "cryptography") == []
        assert libraries(pid, "arro3") != []
