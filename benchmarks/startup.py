"""How long the command line takes to answer: medians over fresh processes.

usage: python benchmarks/startup.py [--repetitions N]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import measure

MYCELIAL = str(Path(sys.executable).parent / "mycelial")
MANIFEST = """\
apiVersion: mycelial/v1
kind: Workflow
metadata: { name: orders-copy }
spec:
  daemon: shop-01
  source: { sqlite: { path: shop.db, table: orders } }
  destination: { sqlite: { path: copy.db, table: orders } }
"""
BOUNDS_MS = {"--help": 200, "validate": 400}


def main() -> int:
    """Print the medians; exit with 1 when a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=11)
    options = parser.parse_args()
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "orders.yaml"
        file.write_text(MANIFEST)
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "--help": [MYCELIAL, "--help"],
            "validate": [MYCELIAL, "validate", str(file)],
        }
        for name, command in commands.items():
            runs = [measure.run(command, memory=False) for _ in range(options.repetitions)]
            assert all(run.exit_code == 0 for run in runs), runs[0].output
            median = statistics.median(run.wall_seconds for run in runs) * 1000
            bound = BOUNDS_MS.get(name)
            missed += bound is not None and median > bound
            print(f"{name:<16} {median:6.0f} ms" + (f"  (bound {bound} ms)" if bound else ""))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
