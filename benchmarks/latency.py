"""From a commit to the control plane saying Applied for it, on the loopback.

Each commit changes a constant of a transform, so each leads to a new spec and a restart of its
worker. The clock starts when the commit is asked for; validation and the plan shown before it
have their own line. `--remote` pushes to a bare repository that the control plane polls instead.

usage: python benchmarks/latency.py [--commits N] [--remote] [--poll SECONDS]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import stage
from fleet_processes import Fleet
from git_checkout import Checkout
from mycelial.schemas.views import ApplyRequest, PlanRequest

BOUND_SECONDS = 1.0
PATH = "workflows/orders.yaml"
ROWS = 5_000
Commit = Callable[[str], tuple[float, str]]  # text -> (since when it counts, its revision)


def manifest(constant: int) -> str:
    """Return the workflow; another constant is another spec."""
    return f"""\
apiVersion: mycelial/v1
kind: Workflow
metadata: {{ name: orders }}
spec:
  daemon: {stage.DAEMON}
  source: {{ sqlite: {{ path: {stage.DATA}/in.db, table: orders, cursor: id }} }}
  transforms:
    - tag: {{ version: "v{constant}" }}
  destination: {{ sqlite: {{ path: {stage.DATA}/out.db, table: orders }} }}
"""


def main() -> int:
    """Print the percentiles; exit with 1 when the bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--commits", type=int, default=100)
    parser.add_argument("--remote", action="store_true", help="git push to a bare repository")
    parser.add_argument("--poll", type=float, default=0.2, help="seconds between looks at it")
    options = parser.parse_args()
    how = "pushed" if options.remote else "applied"
    print(f"{options.commits} commits, each with a new spec, {how}")
    with tempfile.TemporaryDirectory(prefix="mycelial-bench-") as folder:
        checkout = Checkout(Path(folder)) if options.remote else None
        arguments: list[str] = []
        if checkout is not None:
            checkout.push({PATH: manifest(-1)})
            poll = f"{options.poll * 1000:.0f}ms"
            arguments = ["--repository", str(checkout.bare), "--poll", poll]
        with stage.fleet(*arguments) as fleet:
            stage.make_table(fleet.folder / stage.DATA / "in.db", "orders", ROWS)
            planning: list[float] = []
            commit = pusher(checkout) if checkout else applier(fleet, planning)
            measure_one(fleet, commit, 0)
            planning.clear()
            generation = fleet.client.workflow("orders").generation
            timed = [measure_one(fleet, commit, n) for n in range(1, options.commits + 1)]
            check_end(fleet, generation + options.commits)
    if planning:
        show("plan, before the commit", planning)
    applied = [applied for applied, _ in timed]
    show("commit to Applied", applied)
    show("commit to running", [running for _, running in timed])
    p95 = stage.percentile(applied, 0.95)
    print(f"p95 of commit to Applied {p95:.3f} s (bound {BOUND_SECONDS:g} s)")
    return 1 if p95 >= BOUND_SECONDS else 0


def measure_one(fleet: Fleet, commit: Commit, constant: int) -> tuple[float, float]:
    """Commit, and return the seconds until it is Applied and until its worker runs."""
    began, revision = commit(manifest(constant))
    applied = 0.0
    while True:
        with_it = fleet.client.workflow("orders") if is_known(fleet) else None
        if with_it is not None and with_it.revision == revision and with_it.applied == 1:
            applied = applied or time.monotonic() - began
            if with_it.healthy == 1:
                return applied, time.monotonic() - began
        if time.monotonic() - began > 30:
            raise SystemExit(f"commit {constant} was not running after 30 s: {with_it}")
        time.sleep(0.005)


def is_known(fleet: Fleet) -> bool:
    """True once the control plane has the workflow."""
    return any(workflow.name == "orders" for workflow in fleet.client.workflows())


def check_end(fleet: Fleet, generation: int) -> None:
    """Check that every commit did what it says: a new generation, and no row read twice."""
    (place,) = fleet.client.workflow("orders").placements
    assert place.status is not None
    assert place.status.observed_generation == generation, place
    assert place.status.counters.rows_read == ROWS, place.status.counters
    assert stage.count(fleet.folder / stage.DATA / "out.db", "orders") == ROWS


def applier(fleet: Fleet, planning: list[float]) -> Commit:
    """Return a function that commits to the embedded repository, as `mycelial apply` does."""

    def commit(text: str) -> tuple[float, str]:
        request = PlanRequest(files={PATH: text})
        began = time.monotonic()
        plan = fleet.client.plan(request)
        asked = time.monotonic()
        planning.append(asked - began)
        reply = fleet.client.apply(
            ApplyRequest(request=request, message="Change", plan_hash=plan.plan_hash)
        )
        return asked, reply.revision

    return commit


def pusher(checkout: Checkout) -> Commit:
    """Return a function that commits in a clone and pushes, as people do."""

    def commit(text: str) -> tuple[float, str]:
        revision = checkout.push({PATH: text})
        return time.monotonic(), revision

    return commit


def show(what: str, seconds: list[float]) -> None:
    """Print one line of percentiles."""
    p50, p95 = stage.percentile(seconds, 0.5), stage.percentile(seconds, 0.95)
    print(f"  {what:<24} p50 {p50:.3f} s   p95 {p95:.3f} s   max {max(seconds):.3f} s")


if __name__ == "__main__":
    sys.exit(main())
