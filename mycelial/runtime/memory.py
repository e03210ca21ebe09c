"""A worker's memory: what it holds, giving back what is free, and the cap (I9).

RLIMIT_AS is no cap: Arrow and the drivers map far more than they touch. Resident memory is
looked at once a second instead, so a worker may overshoot for that long; the operating system's
own limit is the net below. Where resident memory cannot be read (Windows) there is no cap.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from mycelial.kernel.errors import Problem

CHECK_EVERY_SECONDS = 1.0
_STATM = Path("/proc/self/statm")


def resident_bytes() -> int | None:
    """Return the resident memory of this process; its peak where only that is known."""
    if _STATM.exists():
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def trim() -> None:
    """Give free heap back to the operating system, where the C library can."""
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)


def over_limit(max_bytes: int, held: int) -> Problem:
    """Return what to tell about a worker that outgrew its cap."""
    return Problem(
        code="MYC-RUN-050",
        what=f"the pipeline is over its memory limit: {held // 2**20} MiB of "
        f"{max_bytes // 2**20} MiB",
        fix="raise the daemon's memory limit, or lower delivery.unit bytes and the queue",
    )


def start_watchdog(max_bytes: int, on_over: Callable[[Problem], None]) -> None:
    """Look at the memory once a second and call `on_over` once. The thread ends with the
    process."""
    quiet = threading.Event()

    def run() -> None:
        while not quiet.wait(CHECK_EVERY_SECONDS):
            held = resident_bytes()
            if held is not None and held > max_bytes:
                on_over(over_limit(max_bytes, held))
                return

    threading.Thread(target=run, name="memory", daemon=True).start()
