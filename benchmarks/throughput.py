"""`mycelial run`, from exec to exit, beside the bare driver loop, in one run.

usage: python benchmarks/throughput.py [--rows N] [--repetitions N] [--large N]

Both sides start from a dropped target and a fresh process; what arrived is counted and summed.
The two sides take turns, so that a slow spell of the machine hits both. Prints the medians and
the ratio of rates (1.0: as fast as the drivers alone). `--large` adds a run of N rows to show
that memory does not follow the row count; 0 leaves it out.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests" / "support")]

import data
import measure
import postgres_server

SQLITE_TO_POSTGRES = """\
apiVersion: mycelial/v1
kind: Workflow
metadata: {{ name: sqlite-to-postgres }}
spec:
  daemon: here
  source:
    sqlite: {{ path: {database}, table: events }}
  destination:
    postgres: {{ host: 127.0.0.1, port: {port}, user: mycelial, database: bench, table: events }}
  delivery: {{ guarantee: exactly-once }}
"""
POSTGRES_TO_PARQUET = """\
apiVersion: mycelial/v1
kind: Workflow
metadata: {{ name: postgres-to-parquet }}
spec:
  daemon: here
  source:
    postgres: {{ host: 127.0.0.1, port: {port}, user: mycelial, database: bench, table: events }}
  destination:
    parquet: {{ path: {folder} }}
  delivery: {{ guarantee: exactly-once }}
"""


def expected(database: Path) -> tuple[object, ...]:
    """Return count, sum of ids, rounded sum of amounts and count of notes at the source."""
    import sqlite3

    query = "select count(*), sum(id), round(sum(amount)), count(note) from events"
    return tuple(sqlite3.connect(database).execute(query).fetchone())


def arrived_in_postgres(url: str, table: str) -> tuple[object, ...]:
    """Return the same figures of a table."""
    query = (
        f"select count(*), sum(id)::int8, round(sum(amount)::numeric)::float8, count(note) "
        f"from {table}"
    )
    return postgres_server.query(url, query)[0]


def arrived_in_parquet(path: Path) -> tuple[object, ...]:
    """Return the same figures of a file or folder of files."""
    import duckdb

    files = str(path / "**" / "*.parquet") if path.is_dir() else str(path)
    query = f"select count(*), sum(id)::int8, round(sum(amount)), count(note) from '{files}'"
    row = duckdb.sql(query).fetchone()
    assert row is not None
    return tuple(row)


class Bench:
    """One server, one source file, and the four commands."""

    def __init__(self, rows: int, work: Path, server: postgres_server.Server) -> None:
        self.rows = rows
        self.work = work
        self.server = server
        self.url = server.url_of("bench")
        self.database = data.make(HERE.parent / ".bench" / f"events-{rows}.db", rows)
        self.expected = expected(self.database)
        self.folder = work / "parquet"

    def manifest(self, text: str, name: str) -> Path:
        """Write a manifest with this bench's addresses."""
        path = self.work / f"{name}.yaml"
        path.write_text(
            text.format(database=self.database, port=self.server.port, folder=self.folder)
        )
        return path

    def ours(self, text: str, name: str, *, memory: bool) -> measure.Measured:
        """Run a workflow in a fresh process with fresh state."""
        shutil.rmtree(self.work / "state", ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        if name == "sqlite-postgres":
            postgres_server.execute(
                self.url, "drop table if exists events", "drop table if exists _mycelial_checkpoint"
            )
        command = [
            str(Path(sys.executable).parent / "mycelial"), "run",
            str(self.manifest(text, name)), "--state", str(self.work / "state"),
        ]  # fmt: skip
        return measure.run(command, cwd=self.work, memory=memory)

    def bare(self, *operands: str, memory: bool) -> measure.Measured:
        """Run the bare loop."""
        command = [sys.executable, str(HERE / "bare_adbc.py"), *operands]
        return measure.run(command, cwd=self.work, memory=memory)

    def check(self, side: str, found: tuple[object, ...]) -> None:
        """Fail when what arrived is not what was there."""
        if tuple(map(float, map(str, found))) != tuple(map(float, map(str, self.expected))):
            sys.exit(f"{side}: {found} arrived, {self.expected} were at the source")


def compare(
    name: str,
    repetitions: int,
    sides: dict[str, Callable[[bool], measure.Measured]],
    check: dict[str, Callable[[], tuple[object, ...]]],
    bench: Bench,
) -> float:
    """Run the sides in turn, print a line each and return the ratio of our rate to the bare."""
    walls: dict[str, list[float]] = {side: [] for side in sides}
    peaks: dict[str, float] = dict.fromkeys(sides, 0.0)
    # Looking at memory fifty times a second costs time, so the last round is not timed.
    for is_timed in [True] * repetitions + [False]:
        for side, run in sides.items():
            done = run(not is_timed)
            if done.exit_code != 0:
                sys.exit(f"{name} {side} ended with {done.exit_code}:\n{done.output}")
            bench.check(f"{name} {side}", check[side]())
            if is_timed:
                walls[side].append(done.wall_seconds)
            peaks[side] = max(peaks[side], done.peak_tree_mib)
    for side, seconds in walls.items():
        wall = statistics.median(seconds)
        print(
            f"{name:<20} {bench.rows:>9,} rows  {side:<9} {wall:6.2f} s  "
            f"{bench.rows / wall:>11,.0f} rows/s  peak of the tree {peaks[side]:6.1f} MiB",
            flush=True,
        )
    return statistics.median(walls["bare"]) / statistics.median(walls["mycelial"])


def main() -> int:
    """Print the figures; exit with 1 when a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--large", type=int, default=5_000_000)
    options = parser.parse_args()
    server = postgres_server.start({"shared_buffers": "512MB", "max_wal_size": "4GB"})
    work = Path(tempfile.mkdtemp(prefix="mycelial-bench-"))
    bare_file = work / "bare.parquet"
    missed = []
    try:
        postgres_server.execute(server.url, "create database bench")
        sizes = [(options.rows, options.repetitions)]
        sizes += [(options.large, 1)] if options.large else []
        for rows, repetitions in sizes:
            bench = Bench(rows, work, server)
            first = compare(
                "SQLite -> PostgreSQL", repetitions,
                {
                    "bare": lambda memory, b=bench: b.bare(
                        "sqlite-postgres", str(b.database), b.url, memory=memory
                    ),
                    "mycelial": lambda memory, b=bench: b.ours(
                        SQLITE_TO_POSTGRES, "sqlite-postgres", memory=memory
                    ),
                },
                {
                    "bare": lambda b=bench: arrived_in_postgres(b.url, "bare_events"),
                    "mycelial": lambda b=bench: arrived_in_postgres(b.url, "events"),
                },
                bench,
            )  # fmt: skip
            second = compare(
                "PostgreSQL -> Parquet", repetitions,
                {
                    "bare": lambda memory, b=bench: b.bare(
                        "postgres-parquet", b.url, str(bare_file), memory=memory
                    ),
                    "mycelial": lambda memory, b=bench: b.ours(
                        POSTGRES_TO_PARQUET, "postgres-parquet", memory=memory
                    ),
                },
                {
                    "bare": lambda: arrived_in_parquet(bare_file),
                    "mycelial": lambda b=bench: arrived_in_parquet(b.folder),
                },
                bench,
            )  # fmt: skip
            print(f"ratio of rates to the bare loop: {first:.2f} and {second:.2f}", flush=True)
            if rows == options.rows:
                missed = [ratio for ratio in (first, second) if ratio < 0.6]
    finally:
        server.stop()
        shutil.rmtree(work, ignore_errors=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
