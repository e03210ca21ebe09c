"""The local journal: the last committed position of every scope and part, a line per unit.

`<crc32 as 8 hex digits> <JSON>\\n`. The last line of a scope's part counts: a workflow that reads
another table has another scope, and finds its way back when the change is reverted. A torn last
line (a power cut while appending) is cut off; a broken line elsewhere means that the file cannot
be trusted.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mycelial.kernel.errors import StateCorrupt
from mycelial.kernel.files import fsync_dir, write_durable
from mycelial.sdk.envelope import FenceToken, Part, Position

COMPACT_AFTER_LINES = 4096


@dataclass(frozen=True, slots=True)
class Entry:
    """One committed unit."""

    scope: str
    part: Part
    seq: int
    position: Position
    fence: FenceToken
    rows: int
    ends_run: bool = False


class Journal:
    """Append-only; owned by one worker at a time. Close it when done."""

    def __init__(self, path: Path, *, compact_after_lines: int = COMPACT_AFTER_LINES) -> None:
        """Open and recover. Raises: StateCorrupt, after which `quarantine` sets the file aside."""
        self._path = path
        self._compact_after = compact_after_lines
        data = path.read_bytes() if path.exists() else b""
        entries, good = parse(data)
        self._lines = len(entries)
        self._latest = {(entry.scope, entry.part): entry for entry in entries}
        is_new = not path.exists()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        if good < len(data):
            os.ftruncate(self._fd, good)
            os.fsync(self._fd)
        if is_new:
            fsync_dir(path.parent)

    @property
    def latest(self) -> Mapping[tuple[str, Part], Entry]:
        """The last entry of each scope and part."""
        return self._latest

    def append(self, entry: Entry) -> None:
        """Add a line and return when it is on disk. Raises: OSError (disk full)."""
        if self._lines >= self._compact_after:
            self._compact()
        data = render(entry)
        before = os.fstat(self._fd).st_size
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
            _sync(self._fd)
        except OSError:
            os.ftruncate(self._fd, before)  # half a line in the middle would poison the file
            raise
        self._lines += 1
        self._latest[entry.scope, entry.part] = entry

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _compact(self) -> None:
        write_durable(self._path, b"".join(render(entry) for entry in self._latest.values()))
        os.close(self._fd)
        self._fd = os.open(self._path, os.O_RDWR | os.O_APPEND)
        self._lines = len(self._latest)


def quarantine(path: Path) -> Path:
    """Set a corrupt journal aside under a free name and return that name."""
    number = 1
    while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    path.replace(aside)
    fsync_dir(path.parent)
    return aside


def render(entry: Entry) -> bytes:
    """Return the line of an entry."""
    fields = [
        entry.scope,
        entry.part,
        entry.seq,
        entry.position,
        entry.fence.epoch,
        entry.fence.attempt,
        entry.rows,
        entry.ends_run,
    ]
    body = json.dumps(fields, separators=(",", ":"), ensure_ascii=True).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def parse(data: bytes) -> tuple[tuple[Entry, ...], int]:
    """Return the entries and the length of the part that is whole.

    Only the last line may be torn. Raises: StateCorrupt when an earlier one is broken.
    """
    entries: list[Entry] = []
    good = 0
    while good < len(data):
        end = data.find(b"\n", good)
        line = data[good:] if end < 0 else data[good:end]
        entry = _parse_line(line) if end >= 0 else None
        if entry is None:
            if end >= 0 and end + 1 < len(data):
                raise StateCorrupt(
                    "MYC-RUN-030",
                    f"line {len(entries) + 1} of the journal fails its checksum",
                    fix="nothing to do: it is set aside and the destination is asked instead",
                )
            break
        entries.append(entry)
        good = end + 1
    return tuple(entries), good


def _parse_line(line: bytes) -> Entry | None:
    checksum, _, body = line.partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(body):
            return None
        scope, part, seq, position, epoch, attempt, rows, ends_run = json.loads(body)
    except ValueError:
        return None
    fence = FenceToken(epoch, attempt)
    return Entry(scope, Part(part), seq, Position(position), fence, rows, bool(ends_run))


def _sync(fd: int) -> None:
    sync = getattr(os, "fdatasync", os.fsync)
    sync(fd)
