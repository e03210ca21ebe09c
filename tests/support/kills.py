"""Kills processes of a real fleet at named steps, and looks after each kill whether rows were
lost or doubled. One `Scenario` is one fleet, one destination, one seed.

The load is a cursor read of a live SQLite table, throttled, in units of a few rows. A kill is
keyed to a step: a worker is caught there and stands still; then the process dies. What was killed
is started as an init system would (control plane, daemon) or by the product (zygote, worker).
The last kill is followed by a run to the end of the source, and a full comparison.

An *overlap* kills the daemon while its worker stands before a commit, and keeps the worker's
pipes open, so that it cannot notice. A second worker starts and opens the destination; only then
is the first let go: its commit must be refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from fault_socket import FaultSocket, Held
from fleet_processes import Fleet
from kill_world import UNIT_ROWS, Destination, Difference, Shop, ToParquet, compare
from mycelial.runtime import journal
from mycelial.runtime.faults import STEPS

PROCESSES = ("worker", "zygote", "daemon", "control-plane")
DAEMON = "shop-01"
UNITS = 400
LONGEST_SKIP = 24

_MANIFEST = """\
apiVersion: mycelial/v1
kind: Workflow
metadata: {{ name: orders }}
spec:
  daemon: {daemon}
  schedule: {{ continuous: {{ poll: 20ms }} }}
  source:
    sqlite: {{ path: shop/shop.db, table: orders, cursor: id }}
  transforms:
    - tag: {{ site: here }}
{filter}  destination:
    {destination}
  delivery: {{ guarantee: exactly-once, unit: {{ rows: {unit} }} }}
  rate: {{ rows: 1500 }}
"""


@dataclass(frozen=True, order=True)
class Cell:
    """A step and the process that dies there."""

    step: str
    process: str

    def __str__(self) -> str:
        return f"{self.step}:{self.process}"


OVERLAP = Cell("before_commit", "overlap")
MATRIX: tuple[Cell, ...] = tuple(Cell(step, process) for step in STEPS for process in PROCESSES)


@dataclass
class Result:
    """What a scenario did."""

    kills: Counter[Cell] = field(default_factory=Counter)
    refused: int = 0
    units: int = 0
    rows: int = 0
    seconds: float = 0.0
    troubles: Counter[str] = field(default_factory=Counter)


class Scenario:
    """One fleet in `folder`. `run` raises AssertionError when anything is not as promised."""

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        destination: Destination,
        cells: Sequence[Cell],
        units: int = UNITS,
    ) -> None:
        self._rng = random.Random(f"kills {seed}")
        self._left = list(cells)
        self._units = units
        self._destination = destination
        keeps_all = seed % 3 != 0  # a filter opens units that take several writes
        (folder / "shop").mkdir(parents=True)
        self._shop = Shop(folder / "shop" / "shop.db", seed, keeps_all)
        self._faults = FaultSocket(self._shop.was_read)
        self._fleet = Fleet(folder)
        self._gone: set[int] = set()
        self._workers_killed = 0
        self._result = Result()

    def run(self) -> Result:
        """Kill in every cell, run to the end of the source, compare."""
        begun = time.monotonic()
        with self._faults, self._fleet:
            try:
                self._begin()
                while self._left:
                    self._kill(self._next_cell())
                self._finish()
            finally:
                self._shop.close()
        self._result.seconds = time.monotonic() - begun
        return self._result

    # -- the story -------------------------------------------------------------------------------

    def _begin(self) -> None:
        fleet = self._fleet
        fleet.start_server()
        fleet.add_daemon(
            DAEMON, reads=["shop"], writes=["warehouse"], environment=self._faults.environment
        )
        fleet.until_online()
        self._shop.open()
        keep = "" if self._shop.keeps_all else "    - filter: cents % 5 in (0, 1)\n"
        text = _MANIFEST.format(
            daemon=DAEMON,
            filter=keep,
            destination=self._destination.manifest(),
            unit=UNIT_ROWS,
        )
        reply = fleet.apply({"workflows/orders.yaml": text}, "Move the orders")
        assert reply.committed, reply.problems

    def _next_cell(self) -> Cell:
        """Choose by chance among the cells whose victim is alive."""
        zygote = self._zygote() is not None
        server = self._fleet.answers()
        may = [
            index
            for index, cell in enumerate(self._left)
            if (zygote or cell.process != "zygote") and (server or cell.process != "control-plane")
        ]
        if may:
            return self._left.pop(self._rng.choice(may))
        if not server and any(cell.process == "control-plane" for cell in self._left):
            self._fleet.until("the control plane is back", self._fleet.answers, seconds=60)
            return self._next_cell()
        return Cell(self._rng.choice(STEPS), "worker")  # its successor brings a new zygote

    def _kill(self, cell: Cell) -> None:
        held = self._catch(cell.step, skip=self._rng.randint(0, LONGEST_SKIP))
        self._look(f"before the kill at {cell}")
        match cell.process:
            case "worker":
                self._kill_worker(held)
            case "zygote":
                zygote = self._zygote()
                assert zygote is not None
                _kill_and_wait(zygote)
                held.release()
                self._catch("durable", pid=held.pid).release()  # its workers do not mind
            case "daemon":
                self._kill_daemon(held)
            case "control-plane":
                self._fleet.server.kill()
                held.release()
                self._catch("durable", pid=held.pid).release()
                self._fleet.server.start()
            case "overlap":
                self._overlap(held)
        self._result.kills[cell] += 1

    def _kill_worker(self, held: Held) -> None:
        os.kill(held.pid, signal.SIGKILL)
        self._gone.add(held.pid)
        self._workers_killed += 1
        held.release()

    def _kill_daemon(self, held: Held) -> None:
        """Its worker dies by itself: at once, or when the step lets it, beside its successor."""
        self._fleet.daemons[DAEMON].kill()
        self._gone.add(held.pid)
        waits = self._rng.random() < 0.5
        if not waits:
            held.release()
        self._fleet.daemons[DAEMON].start()
        if waits:
            self._catch("read").release()
            held.release()
        self._until_ended(held.pid)

    def _overlap(self, held: Held) -> None:
        """Let a worker that knows nothing of its daemon's death commit beside its successor."""
        refused = self._refusals()
        with _pipes_kept_open(held.pid):
            self._fleet.daemons[DAEMON].kill()
            self._gone.add(held.pid)
            self._fleet.daemons[DAEMON].start()
            successor = self._catch(self._rng.choice(("read", "write", "durable")))
            held.release()
            if successor.step != "durable":  # or nothing would show that the first was refused
                self._until_ended(held.pid)
            successor.release()
            self._until_ended(held.pid)
        if self._refusals() != refused + 1:
            raise Difference(f"worker {held.pid} was not refused beside worker {successor.pid}")
        self._result.refused += 1

    def _finish(self) -> None:
        """Go on to the number of units asked for and to the end of the source; compare all."""
        fleet = self._fleet
        while self._destination.standing()[0] < self._units:
            self._catch("durable", skip=10).release()
        self._shop.close()
        last = self._shop.last_id
        fleet.until(
            "the source is exhausted",
            lambda: self._destination.standing()[1] == last,
            seconds=60,
        )
        fleet.until("the control plane is back", fleet.answers, seconds=60)
        fleet.until("the workflow is healthy", self._is_healthy, seconds=90)
        assert len(fleet.worker_pids(DAEMON)) == 1, fleet.leftovers()
        fleet.stop()
        fleet.until("nothing is left", lambda: fleet.leftovers() == [], seconds=10)
        self._compare_all()

    def _compare_all(self) -> None:
        found = self._destination.snapshot()
        compare(found, self._shop, complete=True, when="at the end")
        if isinstance(self._destination, ToParquet) and self._destination.loose_files():
            raise Difference(f"files that nobody committed: {self._destination.loose_files()}")
        entries, _ = journal.parse((self._state() / "journal").read_bytes())
        told = (entries[-1].seq, str(entries[-1].position))
        if told != (found.seq, found.raw_position):
            raise Difference(f"journal {told}, destination {(found.seq, found.raw_position)}")
        self._check_crashes()
        self._check_litter()
        self._result.units, self._result.rows = found.seq, found.rows.total()
        self._result.troubles = Counter(
            line["code"] for line in self._log() if line["event"] in ("will try again", "failed")
        )

    # -- looking ---------------------------------------------------------------------------------

    def _catch(self, step: str, *, skip: int = 0, pid: int | None = None) -> Held:
        return self._faults.catch(
            step, skip=skip, pid=pid, other_than=self._gone, check=self._check_processes
        )

    def _check_processes(self) -> None:
        self._fleet.server.check()
        self._fleet.daemons[DAEMON].check()

    def _check_crashes(self) -> None:
        """No worker may have died but by our hand."""
        log = self._fleet.daemons[DAEMON].log.read_text("utf-8").splitlines()
        crashes = sum('"worker crashed"' in line for line in log)
        if crashes != self._workers_killed:
            raise Difference(f"{crashes} workers crashed, {self._workers_killed} were killed")

    def _check_litter(self) -> None:
        """No process may have left a temporary file behind (I6)."""
        litter = [p for p in self._fleet.folder.rglob(".*") if ".tmp" in p.name]
        if litter:
            raise Difference(f"temporary files are left: {litter}")

    def _look(self, when: str) -> None:
        compare(self._destination.snapshot(), self._shop, complete=False, when=when)

    def _zygote(self) -> int | None:
        return self._fleet.zygote_pid(DAEMON)

    def _is_healthy(self) -> bool:
        view = self._fleet.client.workflow("orders")
        return (view.placed, view.applied, view.healthy) == (1, 1, 1)

    def _state(self) -> Path:
        (directory,) = (self._fleet.folder / "state" / DAEMON / "pipelines").iterdir()
        return directory

    def _log(self) -> list[dict[str, str]]:
        lines: list[dict[str, str]] = []
        for path in sorted(self._state().glob("log*"), reverse=True):
            lines += [json.loads(line) for line in path.read_bytes().splitlines()]
        return lines

    def _refusals(self) -> int:
        return sum(line["event"] == "fenced" for line in self._log())

    def _until_ended(self, pid: int) -> None:
        self._fleet.until(f"worker {pid} has ended", lambda: not psutil.pid_exists(pid), seconds=60)


@contextlib.contextmanager
def _pipes_kept_open(pid: int) -> Iterator[None]:
    """Hold both ends of a process's pipes, so that it cannot see its host die. Linux."""
    held = [
        os.open(entry, os.O_RDWR | os.O_NONBLOCK)
        for entry in Path(f"/proc/{pid}/fd").iterdir()
        if str(entry.readlink()).startswith("pipe:")
    ]
    assert len(held) >= 2, f"worker {pid} has no pipes to its host"
    try:
        yield
    finally:
        for fd in held:
            os.close(fd)


def _kill_and_wait(pid: int) -> None:
    """Kill a process that is not our child, and wait until it is dead (or a zombie)."""
    process = psutil.Process(pid)
    watch = os.pidfd_open(pid)
    try:
        process.kill()
        import select

        poll = select.poll()
        poll.register(watch, select.POLLIN)
        assert poll.poll(10_000), f"process {pid} survived a kill"
    finally:
        os.close(watch)
