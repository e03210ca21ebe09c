"""The log of one pipeline: JSON lines in a bounded file that rotates once."""

from __future__ import annotations

import copy
import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mycelial.kernel.clock import Clock, rfc3339
from mycelial.kernel.ports import Log

MAX_BYTES = 1024 * 1024
LINE_BYTES_MAX = 16 * 1024


class PipeLog:
    """Implements `kernel.ports.Log`. `scrub` masks secrets in every text (I11). Thread-safe.

    A file of `max_bytes` becomes `<name>.1`, replacing the old one: so a pipeline's log stays
    within a little more than twice that (I9).
    """

    def __init__(
        self,
        path: Path,
        clock: Clock,
        *,
        scrub: Callable[[str], str] = str,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._file = _File(path, max_bytes)
        self._clock, self._scrub = clock, scrub
        self._fields: dict[str, object] = {}

    def debug(self, event: str, **fields: object) -> None:
        """Write a line that only a developer wants."""
        self._write("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Write a line."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Write a line somebody should look at."""
        self._write("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Write a line somebody has to act on."""
        self._write("error", event, fields)

    def bind(self, **fields: object) -> Log:
        """Return a log on the same file that adds `fields` to every line."""
        bound = copy.copy(self)
        bound._fields = {**self._fields, **fields}
        return bound

    def _write(self, level: str, event: str, fields: Mapping[str, object]) -> None:
        line = {"at": rfc3339(self._clock.now()), "level": level, "event": event}
        text = json.dumps({**line, **self._fields, **fields}, default=str, ensure_ascii=False)
        data = self._scrub(text).encode(errors="replace")
        if len(data) > LINE_BYTES_MAX:
            data = json.dumps({**line, "truncated": True}, ensure_ascii=False).encode()
        self._file.append(data + b"\n")


class _File:
    """Appends lines and rotates. A failed write drops its line: a full disk must not stop the rows.

    The next line that fits says how many are missing (I10).
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path, self._max_bytes = path, max_bytes
        self._lock = threading.Lock()
        self._dropped = 0

    def append(self, line: bytes) -> None:
        with self._lock:
            try:
                self._append(line)
            except OSError:
                self._dropped += 1
            else:
                self._dropped = 0

    def _append(self, line: bytes) -> None:
        if self._dropped:
            note = {"level": "warning", "event": "lines lost", "count": self._dropped}
            line = json.dumps(note).encode() + b"\n" + line
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(fd).st_size
            if os.write(fd, line) < len(line):
                os.ftruncate(fd, size)  # half a line would run into the next one
                raise OSError("short write")
        finally:
            os.close(fd)
        if size + len(line) > self._max_bytes:
            self._path.replace(self._path.with_name(self._path.name + ".1"))


def tail(path: Path, lines: int, cursor: str = "") -> tuple[tuple[dict[str, Any], ...], str]:
    """Return the newest `lines` lines, oldest first, and a cursor to go on from.

    With a cursor: only what came after it. A cursor outlives one rotation.
    """
    sources = [_read(path.with_name(path.name + ".1")), _read(path)]
    found = [(inode, end, line) for inode, data in sources for end, line in _lines(data)]
    seen_inode, _, seen_offset = cursor.partition(":")
    inodes = [str(inode) for inode, _ in sources]
    if cursor and seen_inode in inodes:
        newer = inodes[inodes.index(seen_inode) + 1 :]
        found = [
            item
            for item in found
            if str(item[0]) in newer or (str(item[0]) == seen_inode and item[1] > int(seen_offset))
        ]
    kept = found[-lines:] if lines > 0 else []
    if kept:
        cursor = f"{kept[-1][0]}:{kept[-1][1]}"
    return tuple(line for _, _, line in kept), cursor


def _read(path: Path) -> tuple[int, bytes]:
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_ino, file.read()
    except FileNotFoundError:
        return 0, b""


def _lines(data: bytes) -> list[tuple[int, dict[str, Any]]]:
    result, start = [], 0
    while (end := data.find(b"\n", start)) >= 0:
        try:
            result.append((end + 1, json.loads(data[start:end])))
        except ValueError:
            result.append((end + 1, {"event": data[start:end].decode(errors="replace")}))
        start = end + 1
    return result
