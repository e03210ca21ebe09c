"""Kill every process of a fleet at every named step, and compare rows each time.

usage: python benchmarks/kill_matrix.py [--seed N] [--cells all|slice] [--kills-per-cell 10]
                                        [--only STEP:PROCESS] [--destination KIND] [--scenarios N]

A cell is a step of a unit (read, transform, write, before and after commit, journal, durable) and
the process that dies there (worker, zygote, daemon, control plane); beside the matrix stands the
overlap: a daemon dies while its worker stands before a commit, a second worker starts, and the
first must be refused. Every scenario is a fleet of its own with one kill in each cell and two
overlaps, under a load of at least 400 units with live inserts; the destination takes turns. After
every kill the destination is compared with the source up to its checkpoint, at the end whole.

Prints the kills per cell. Exit 1 at the first difference, with the command that plays it again
(a seed fixes rows, cells, their order and the occurrence of each step; the rest is the machine's
timing); logs and state of that scenario are kept.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests" / "support")]

import kill_world
import kills
import postgres_server
from kills import MATRIX, OVERLAP, Cell

TURNS = ("sqlite", "postgres", "sqlite", "postgres", "parquet")
OVERLAPS_PER_SCENARIO = 2
SLICE = tuple(cell for index, cell in enumerate(MATRIX) if index % 5 == 0)


@dataclass
class Tally:
    """What all scenarios did together."""

    kills: Counter[tuple[Cell, str]] = field(default_factory=Counter)
    troubles: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    units: int = 0
    rows: int = 0
    scenarios: int = 0

    def add(self, kind: str, result: kills.Result) -> None:
        """Count a scenario."""
        for cell, count in result.kills.items():
            self.kills[cell, kind] += count
        self.troubles += result.troubles
        self.refused += result.refused
        self.units += result.units
        self.rows += result.rows
        self.scenarios += 1

    def of(self, cell: Cell) -> str:
        """Return a cell of the table: all kills, and how they fall on the destinations."""
        counts = [self.kills[cell, kind] for kind in dict.fromkeys(TURNS)]
        return f"{sum(counts)} ({'/'.join(map(str, counts))})" if any(counts) else "-"


def main() -> int:
    """Run the scenarios; return the exit code."""
    options = _arguments()
    if sys.platform != "linux":
        sys.exit("the matrix needs Linux: zygotes, and /proc to hold a worker's pipes open")
    cells = _cells(options)
    begun = time.monotonic()
    tally = Tally()
    with contextlib.ExitStack() as stack:
        postgres = None
        for index in range(options.scenarios or options.kills_per_cell):
            seed = options.seed + index
            kind = options.destination or TURNS[index % len(TURNS)]
            if kind == "postgres" and postgres is None:
                postgres = stack.enter_context(_postgres())
            print(f"seed {seed:<6} {kind:<9}", end=" ", flush=True)
            folder = Path(tempfile.mkdtemp(prefix=f"mycelial-kills-{seed}-"))
            try:
                result = _scenario(folder, seed, kind, cells, postgres)
            except Exception:
                _tell_failure(options, seed, kind, folder)
                return 1
            shutil.rmtree(folder)
            tally.add(kind, result)
            print(
                f"equal: {result.rows:,} rows in {result.units:,} units, "
                f"{result.kills.total()} kills, {result.refused} refused, {result.seconds:.0f} s",
                flush=True,
            )
    _print_table(tally, time.monotonic() - begun)
    return 0


def _arguments() -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seed", type=int, default=1, help="of the first scenario")
    parser.add_argument("--cells", choices=("all", "slice"), default="all")
    parser.add_argument("--kills-per-cell", type=int, default=10)
    parser.add_argument("--only", metavar="STEP:PROCESS", help="one cell, such as write:worker")
    parser.add_argument("--destination", choices=sorted(set(TURNS)), help="instead of taking turns")
    parser.add_argument("--scenarios", type=int, help="instead of one for each kill of a cell")
    return parser.parse_args()


def _cells(options: argparse.Namespace) -> list[Cell]:
    every = (*(MATRIX if options.cells == "all" else SLICE), *[OVERLAP] * OVERLAPS_PER_SCENARIO)
    if options.only is None:
        return list(every)
    known = {str(cell): cell for cell in (*MATRIX, OVERLAP)}
    if options.only not in known:
        sys.exit(f"unknown cell {options.only!r}; known: {', '.join(known)}")
    return [known[options.only]]


@contextlib.contextmanager
def _postgres() -> Iterator[postgres_server.Server]:
    server = postgres_server.start()
    try:
        yield server
    finally:
        server.stop()


def _scenario(
    folder: Path,
    seed: int,
    kind: str,
    cells: list[Cell],
    postgres: postgres_server.Server | None,
) -> kills.Result:
    destination: kill_world.Destination
    if kind == "postgres":
        assert postgres is not None
        destination = kill_world.ToPostgres(postgres.create_database())
    else:
        destination = kill_world.LOCAL[kind](folder)
    return kills.Scenario(folder, seed=seed, destination=destination, cells=cells).run()


def _tell_failure(options: argparse.Namespace, seed: int, kind: str, folder: Path) -> None:
    print("FAILED", flush=True)
    traceback.print_exc()
    only = f" --only {options.only}" if options.only else ""
    print(
        f"\nseed {seed}, {kind}; logs and state are kept in {folder}\nplay it again: "
        f"python benchmarks/kill_matrix.py --seed {seed} --scenarios 1 --destination {kind} "
        f"--cells {options.cells}{only}",
        flush=True,
    )


def _print_table(tally: Tally, seconds: float) -> None:
    columns = (*kills.PROCESSES, OVERLAP.process)
    print(f"\nkills per cell, all ({'/'.join(dict.fromkeys(TURNS))}):\n")
    print(f"{'':<15}" + "".join(f"{name:>16}" for name in columns))
    for step in kills.STEPS:
        print(f"{step:<15}" + "".join(f"{tally.of(Cell(step, name)):>16}" for name in columns))
    total = tally.kills.total()
    print(
        f"\n{total} kills in {tally.scenarios} scenarios, {tally.units:,} units, "
        f"{tally.rows:,} rows; every destination equal to its source after each kill and at the "
        f"end; {tally.refused} overlapping workers refused; {seconds:.0f} s"
    )
    if tally.troubles:
        told = ", ".join(f"{code} {count}" for code, count in sorted(tally.troubles.items()))
        print(f"errors that pipelines retried on the way: {told}")


if __name__ == "__main__":
    sys.exit(main())
