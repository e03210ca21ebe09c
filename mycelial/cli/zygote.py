"""Composition root of the zygote: `python -m mycelial.cli.zygote <descriptor>`, on Linux."""

from __future__ import annotations

import os
import socket
import sys
import traceback

from mycelial.cli.worker import serve as serve_worker
from mycelial.runtime.zygote import preload, serve
from mycelial.sdk.registry import Registry


def child(in_fd: int, out_fd: int) -> int:
    """Be a worker, after the fork."""
    try:
        return serve_worker(in_fd, out_fd)
    except Exception:  # the process ends right after; say why before
        traceback.print_exc()
        sys.stderr.flush()
        return 70


def main() -> None:
    """Serve the host on the inherited descriptor until its end closes."""
    control = socket.socket(fileno=int(sys.argv[1]))
    preload(name for plugin in Registry.discover() for name in plugin.preload)
    serve(control, child)
    os._exit(0)


if __name__ == "__main__":
    main()
