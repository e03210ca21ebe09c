"""The log file of one pipeline: bounded on disk, readable while it is written."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path

from mycelial.kernel.clock import Clock
from mycelial.observability.logs import Level, StructuredLog

BYTES_MAX = 4 * 1024 * 1024


class RotatingFile:
    """Appends lines; at half of `bytes_max` the file becomes `<name>.1`, replacing the old one.

    So a pipeline's log never takes more than `bytes_max` (I9). Thread-safe. A failed write drops
    the line and counts it in `dropped`: a full disk must not stop the rows, and the next line that
    fits says how many are missing.
    """

    def __init__(self, path: Path, *, bytes_max: int = BYTES_MAX) -> None:
        self.path = path
        self.dropped = 0
        self._segment_bytes_max = bytes_max // 2
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._size = 0

    @property
    def previous(self) -> Path:
        """Where the lines before the last rotation are."""
        return self.path.with_name(f"{self.path.name}.1")

    def write(self, line: str) -> None:
        """Append `line` and a newline, cut to what a segment can hold."""
        data = line.encode("utf-8", "backslashreplace")[: self._segment_bytes_max - 1] + b"\n"
        with self._lock:
            try:
                self._append(data)
            except OSError:
                self.dropped += 1
                self._close()

    def close(self) -> None:
        """Release the file; a later write opens it again."""
        with self._lock:
            self._close()

    def _append(self, data: bytes) -> None:
        if self.dropped:
            note = json.dumps({"level": "warning", "event": "lines lost", "count": self.dropped})
            data = note.encode() + b"\n" + data
        if self._fd is None:
            self._open()
        if self._size and self._size + len(data) > self._segment_bytes_max:
            self._close()
            self.path.replace(self.previous)
            self._open()
        assert self._fd is not None
        written = os.write(self._fd, data)
        self._size += written
        if written < len(data):
            raise OSError("short write")
        self.dropped = 0

    def _open(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._fd = os.open(self.path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size

    def _close(self) -> None:
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = None


def pipeline_log(
    path: Path, clock: Clock, *, level: Level = Level.INFO, bytes_max: int = BYTES_MAX
) -> StructuredLog:
    """Return a JSON-lines log on a bounded file."""
    return StructuredLog(RotatingFile(path, bytes_max=bytes_max).write, clock, level=level)
