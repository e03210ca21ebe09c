"""10,000 manifests: cold `validate` in a fresh process, and again after a one-file change.

usage: python benchmarks/scale.py [--files N]
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import measure

MYCELIAL = str(Path(sys.executable).parent / "mycelial")
BOUND_COLD_SECONDS, BOUND_WARM_SECONDS = 10.0, 1.5
CONNECTION = """\
apiVersion: mycelial/v1
kind: Connection
metadata: { name: warehouse }
spec:
  sqlite: { path: /data/warehouse.db }
"""
WORKFLOW = """\
# Sales of till {number}, kept for the accountants.
apiVersion: mycelial/v1
kind: Workflow
metadata:
  name: till-{number:05d}
  labels: {{ team: retail, region: r{region} }}
  annotations: {{ owner: "somebody{number}@example.com" }}
spec:
  selector: site, role=till
  schedule: every 30s
  source:
    sqlite:
      path: tills/{number}.db
      table: sales
      cursor: id
  transforms:
    - filter: void = 0
    - rename: {{ cents: amount_cents, ts: sold_at }}
    - tag: {{ site: "${{daemon.labels.site}}" }}
  destination:
    sqlite:
      connection: warehouse
      table: sales_{region}
      mode: upsert
      key: [id]
  delivery:
    guarantee: exactly-once
    unit: {{ rows: 5000, period: 2s }}
  onError:
    retry: {{ upTo: 5m }}
"""


def make(folder: Path, count: int) -> None:
    """Write the repository, aged so that no file's time is in doubt."""
    past = time.time() - 3600
    (folder / "connections").mkdir(parents=True)
    (folder / "connections" / "warehouse.yaml").write_text(CONNECTION)
    for number in range(count):
        region = number % 100
        path = folder / "workflows" / f"r{region}" / f"till-{number:05d}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(WORKFLOW.format(number=number, region=region))
        os.utime(path, (past, past))


def main() -> int:
    """Print the figures; exit with 1 when a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="mycelial-scale-"))
    os.environ["XDG_CACHE_HOME"] = str(work / "cache")
    try:
        make(work / "repo", options.files)
        command = [MYCELIAL, "validate", str(work / "repo")]
        cold = measure.run(command, memory=False)
        changed = work / "repo" / "workflows" / "r7" / "till-00007.yaml"
        changed.write_text(changed.read_text().replace("every 30s", "every 45s"))
        warm = measure.run(command, memory=False)
        memory = measure.run(command).peak_tree_mib
        for name, run, bound in (
            ("cold", cold, BOUND_COLD_SECONDS), ("one file changed", warm, BOUND_WARM_SECONDS),
        ):  # fmt: skip
            print(
                f"validate {options.files:,} files, {name:<17} {run.wall_seconds:6.2f} s "
                f"(bound {bound} s)  "
                f"{run.output.strip().splitlines()[-1]}"
            )
            if run.exit_code != 0:
                sys.exit(run.output[-2000:])
        print(f"peak of the tree, everything known: {memory:.0f} MiB")
        in_time = cold.wall_seconds < BOUND_COLD_SECONDS and warm.wall_seconds < BOUND_WARM_SECONDS
        return 0 if in_time else 1
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
