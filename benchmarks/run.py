"""All benchmarks, one after the other; exits with 1 when any bound is missed.

usage: python benchmarks/run.py [NAME ...]
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ALL = ("startup", "scale", "latency", "memory", "throughput")


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all."""
    # As an installed product has it: bytecode is cached.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    missed = []
    for name in names or ALL:
        print(f"-- {name}", flush=True)
        begun = time.monotonic()
        command = [sys.executable, str(HERE / f"{name}.py")]
        done = subprocess.run(command, env=environment, check=False)
        print(f"-- {name}: {time.monotonic() - begun:.0f} s, exit {done.returncode}\n", flush=True)
        missed += [name] if done.returncode else []
    print(f"missed: {', '.join(missed)}" if missed else "all bounds held")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
