"""What a resident daemon costs: PSS of its whole process tree, idle and with live pipelines.

Real processes, as users start them. The daemon has joined and taken one signed set before it is
called idle; every pipeline (SQLite to SQLite, continuous) has committed its rows before it
counts. The control plane's figure is the resident set of its process.

usage: python benchmarks/memory.py [--rows N]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import measure
import stage
from fleet_processes import Fleet

IDLE_MIB, FIRST_MIB, FURTHER_MIB, PLANE_MIB = 45.0, 75.0, 12.0, 90.0
FIRST, FEW, MANY = 1, 2, 12
SETTLE_SECONDS, STEADY_MIB, STEADY_LOOKS_MAX = 2.0, 0.3, 15


def main() -> int:
    """Print the figures beside their bounds; exit with 1 when one is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=5_000, help="rows of each pipeline")
    options = parser.parse_args()
    with stage.fleet() as fleet:
        source = fleet.folder / stage.DATA / "in.db"
        for number in range(MANY):
            stage.make_table(source, f"t{number}", options.rows)
        take_a_set(fleet)
        plane = measure.rss_mib(fleet.server.pid)
        figures = {0: steady_pss(fleet)}
        for count in (FIRST, FEW, MANY):
            run_pipelines(fleet, count, options.rows)
            figures[count] = steady_pss(fleet)
        for count, mib in figures.items():
            print(f"  daemon tree with {count:2d} pipelines  {mib:6.1f} MiB PSS")
        busy = measure.rss_mib(fleet.server.pid)
        print(f"  control plane with {MANY} pipelines  {busy:.1f} MiB RSS")
    return judge(
        [
            ("idle daemon, one signed set taken", figures[0], IDLE_MIB),
            ("the first pipeline adds", figures[FIRST] - figures[0], FIRST_MIB),
            (
                "each further pipeline adds",
                (figures[MANY] - figures[FEW]) / (MANY - FEW),
                FURTHER_MIB,
            ),
            ("idle control plane, RSS", plane, PLANE_MIB),
        ]
    )


def judge(rows: Sequence[tuple[str, float, float]]) -> int:
    """Print each figure with its bound; return the exit code."""
    for what, figure, bound in rows:
        verdict = "ok" if figure <= bound else "MISSED"
        print(f"{what:<36} {figure:6.1f} MiB  (at most {bound:g})  {verdict}")
    return 1 if any(figure > bound for _, figure, bound in rows) else 0


def take_a_set(fleet: Fleet) -> None:
    """Let the daemon take and act on a signed set that has nothing to run.

    It is that of a workflow committed and deleted while the daemon was down: a tombstone, so that
    this daemon process has never started a pipeline or the zygote.
    """
    daemon = fleet.daemons[stage.DAEMON]
    daemon.stop()
    fleet.apply({"workflows/gone.yaml": manifest(0).replace("w0", "gone")})
    fleet.client.delete(("Workflow/gone",))
    daemon.start()
    accepted = fleet.folder / "state" / stage.DAEMON / "assignments.json"

    def taken() -> bool:
        view = fleet.client.daemon(stage.DAEMON)
        return accepted.exists() and view.applied_hash == view.desired_hash != ""

    fleet.until("the daemon has taken a set", taken)


def run_pipelines(fleet: Fleet, count: int, rows: int) -> None:
    """Commit workflows, and wait until each has all of its rows at its destination."""
    fleet.apply({f"workflows/w{number}.yaml": manifest(number) for number in range(count)})
    views = [f"w{number}" for number in range(count)]
    fleet.until(
        f"{count} pipelines have committed",
        lambda: all(fleet.client.workflow(name).rows_committed == rows for name in views),
        seconds=120,
    )
    for number in range(count):
        assert stage.count(out_file(fleet.folder, number), "things") == rows


def steady_pss(fleet: Fleet) -> float:
    """Return the PSS of the daemon's tree once it has stopped changing."""
    last = float("inf")
    for _ in range(STEADY_LOOKS_MAX):
        time.sleep(SETTLE_SECONDS)
        found = measure.pss_mib(measure.tree(fleet.daemons[stage.DAEMON].pid))
        if abs(found - last) <= STEADY_MIB:
            return found
        last = found
    return last


def out_file(folder: Path, number: int) -> Path:
    """Return where a pipeline writes: a file of its own, so that none waits for another."""
    return folder / stage.DATA / f"out{number}.db"


def manifest(number: int) -> str:
    """Return one workflow."""
    return f"""\
apiVersion: mycelial/v1
kind: Workflow
metadata: {{ name: w{number} }}
spec:
  daemon: {stage.DAEMON}
  source: {{ sqlite: {{ path: {stage.DATA}/in.db, table: t{number}, cursor: id }} }}
  destination: {{ sqlite: {{ path: {stage.DATA}/out{number}.db, table: things }} }}
"""


if __name__ == "__main__":
    sys.exit(main())
