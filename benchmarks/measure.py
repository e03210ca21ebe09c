"""Time a command as a process tree: wall seconds from exec to exit, and memory while it ran."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Measured:
    """One run. `peak_tree_mib` is the largest sum of PSS over the tree, sampled every 20 ms (0 when
    nobody looked); `peak_process_mib` the largest resident set of one process, as the kernel
    says."""

    exit_code: int
    wall_seconds: float
    cpu_seconds: float
    peak_process_mib: float
    peak_tree_mib: float
    output: str


def tree(pid: int) -> list[int]:
    """Return the pid and its descendants."""
    found = [pid]
    for process in found:
        try:
            for task in Path(f"/proc/{process}/task").iterdir():
                found += [int(word) for word in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


def pss_mib(pids: Sequence[int]) -> float:
    """Return the proportional set size of processes: shared pages counted once among sharers."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total / 1024


def rss_mib(pid: int) -> float:
    """Return the resident set size of one process."""
    text = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if "VmRSS" in line) / 1024


def run(command: Sequence[str], *, cwd: Path | None = None, memory: bool = True) -> Measured:
    """Run a command to its end."""
    peak = 0.0
    ended = threading.Event()
    started = time.monotonic()
    process = subprocess.Popen(
        list(command), cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip

    def sample() -> None:
        nonlocal peak
        while not ended.wait(0.02):
            peak = max(peak, pss_mib(tree(process.pid)))

    sampler = threading.Thread(target=sample, daemon=True)
    if memory:
        sampler.start()
    assert process.stdout is not None
    output = process.stdout.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    ended.set()
    return Measured(
        process.returncode, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, peak,
        output,
    )  # fmt: skip
