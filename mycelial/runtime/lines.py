"""Lines from a worker's pipe, on an event loop."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator

LINE_BYTES_MAX = 16 * 1024 * 1024


async def read_lines(fd: int) -> AsyncIterator[bytes]:
    """Yield whole lines until end of file. The descriptor is duplicated, not taken."""
    source = _from_thread(fd) if sys.platform == "win32" else _from_loop(fd)
    async for line in source:
        yield line


async def _from_loop(fd: int) -> AsyncIterator[bytes]:
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    pipe = os.fdopen(os.dup(fd), "rb", buffering=0)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    try:
        while line := await reader.readline():
            yield line
    finally:
        transport.close()


async def _from_thread(fd: int) -> AsyncIterator[bytes]:
    """Windows has no loop that reads anonymous pipes."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[bytes] = asyncio.Queue()

    def pump() -> None:
        with os.fdopen(os.dup(fd), "rb") as pipe:
            for line in pipe:
                loop.call_soon_threadsafe(lines.put_nowait, line)
        loop.call_soon_threadsafe(lines.put_nowait, b"")

    threading.Thread(target=pump, name="worker-lines", daemon=True).start()
    while line := await lines.get():
        yield line
