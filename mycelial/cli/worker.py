"""Composition root of a worker: `python -m mycelial.cli.worker [--warm]`, started by a launcher.

`--warm` imports Arrow and ADBC before the request arrives, for a host that is still preparing it.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterable

from mycelial.kernel.clock import SystemClock
from mycelial.kernel.entropy import system_rng
from mycelial.runtime.faults import faults_from
from mycelial.runtime.worker import work
from mycelial.sdk.registry import Registry


def serve(
    in_fd: int, out_fd: int, registry_of: Callable[[Iterable[str]], Registry] | None = None
) -> int:
    """Run one worker on two descriptors and return its exit code."""
    return work(
        in_fd=in_fd,
        out_fd=out_fd,
        registry_of=registry_of or Registry.discover_only,
        faults=faults_from(os.environ),
        clock=SystemClock(),
        rng=system_rng(),
    )


def take_stdio() -> tuple[int, int]:
    """Keep stdin and stdout for the host, so that a plugin's print harms nobody."""
    in_fd, out_fd = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return in_fd, out_fd


def main() -> None:
    """Serve the request on stdin; the process ends here, whatever threads are left."""
    gc.disable()
    in_fd, out_fd = take_stdio()
    code = 70
    try:
        if "--warm" in sys.argv[1:]:
            from mycelial.runtime.zygote import preload

            preload()
        gc.freeze()
        gc.enable()
        code = serve(in_fd, out_fd)
    except Exception:  # the process ends in `finally`; say why before
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
