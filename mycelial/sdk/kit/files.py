"""What sources of files share: which files there are, the place in them, what happens when read.

The rule: files are taken in the order of their names, each once. A position holds the file being
read with the offset in it, and what was read of every earlier file that still exists, so a file
that arrives later is read whatever its name. A file that is done must not change: that stops the
pipeline, unless the source follows growing files and it only became longer.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from mycelial.kernel.canonical import canonical_json
from mycelial.sdk.envelope import BarrierKind, Envelope, Part, Position
from mycelial.sdk.errors import Interrupted, Permanent
from mycelial.sdk.plugin import Context, LifecycleEvent

if TYPE_CHECKING:
    from arro3.core import RecordBatch

OnRead = Literal["keep", "moveToDone", "delete"]
DONE_FILES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file that matches. `name` is relative to the pattern's fixed part, with slashes."""

    name: str
    path: Path
    size: int
    stamp: int = 0  # modification time in nanoseconds: tells a new file from the old of its name


@dataclass(frozen=True, slots=True)
class Place:
    """How far a file was read: `offset` in bytes or rows, `line` lines; size and stamp it had."""

    offset: int = 0
    line: int = 0
    size: int = 0
    stamp: int = 0

    def is_of(self, file: FoundFile) -> bool:
        """Tell whether the file is still the one that was read."""
        return (self.size, self.stamp) == (file.size, file.stamp)


@dataclass(frozen=True, slots=True)
class FilesPosition:
    """A place in a set of files; `file` is empty between files."""

    file: str = ""
    place: Place = field(default_factory=Place)
    done: Mapping[str, Place] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: Position | None) -> FilesPosition:
        """Read the position's JSON. Raises: Permanent when it is not one of ours."""
        if text is None:
            return cls()
        try:
            data = json.loads(text)
            done = {name: Place(*values) for name, values in data["done"].items()}
            return cls(data["file"], Place(*data["place"]), done)
        except (ValueError, KeyError, TypeError) as error:
            raise Permanent(
                "MYC-FILE-010",
                "the position is not a position in files",
                fix='set one of the form {"done":{},"file":"a.csv","place":[0,0,0,0]}',
            ) from error

    def text(self) -> Position:
        """Return canonical JSON."""
        done = {name: _numbers(place) for name, place in self.done.items()}
        value = {"file": self.file, "place": _numbers(self.place), "done": done}
        return Position(canonical_json(value).decode())

    def at(self, file: FoundFile, offset: int, line: int) -> FilesPosition:
        """Return the place inside `file`."""
        rest = {name: place for name, place in self.done.items() if name != file.name}
        return FilesPosition(file.name, Place(offset, line, file.size, file.stamp), rest)

    def finished(self, file: FoundFile, offset: int, line: int) -> FilesPosition:
        """Return the place after `file`."""
        return FilesPosition(
            done={**self.done, file.name: Place(offset, line, file.size, file.stamp)}
        )

    def reaches(self, goal: FilesPosition) -> bool:
        """Tell whether reading can stop because `goal` is behind or here."""
        if any(name not in self.done for name in goal.done):
            return False
        if not goal.file or goal.file in self.done:
            return True
        return self.file == goal.file and self.place.offset >= goal.place.offset


def _numbers(place: Place) -> list[int]:
    return [place.offset, place.line, place.size, place.stamp]


def split_pattern(text: str) -> tuple[str, str]:
    """Return the part of a path before its first wildcard, and the pattern below it."""
    parts = re.split(r"[/\\]", text)
    wild = next(
        (i for i, part in enumerate(parts) if any(c in part for c in "*?[")), len(parts) - 1
    )
    return "/".join(parts[:wild]) or ("/" if text.startswith("/") else "."), "/".join(parts[wild:])


def list_files(ctx: Context, pattern: str) -> list[FoundFile]:
    """Return the files that match, by name; hidden ones (`.x`, `_x`) only when named outright."""
    root_text, below = split_pattern(pattern)
    root = ctx.path(root_text, write=False)
    found = []
    for path in root.glob(below):
        name = path.relative_to(root).as_posix()
        if name != below and any(part[0] in "._" for part in name.split("/")):
            continue
        if path.is_file():
            facts = path.stat()
            found.append(FoundFile(name, path, facts.st_size, facts.st_mtime_ns))
    return sorted(found, key=lambda file: file.name)


class FilesSource:
    """The part of a file source that does not depend on the format; subclass per format."""

    def __init__(self, pattern: str, *, stream: str, on_read: OnRead, follow: bool) -> None:
        self.pattern = pattern
        self.stream = stream
        self._on_read = on_read
        self._follow = follow
        self._ctx: Context | None = None
        self._interrupted = threading.Event()

    @property
    def ctx(self) -> Context:
        """The context of `open`."""
        assert self._ctx is not None, "open() comes first"
        return self._ctx

    def batches(
        self, file: FoundFile, start: Place, stop: int | None
    ) -> Iterator[tuple[RecordBatch | None, int, int]]:
        """Yield (batch, offset after it, line after it); the batch may be None for a header."""
        raise NotImplementedError

    def lifecycle(
        self, ctx: Context, event: LifecycleEvent, old: object | None, new: object | None
    ) -> None:
        """Files need nothing."""

    def open(self, ctx: Context) -> None:  # noqa: D102
        self._ctx = ctx
        self._interrupted.clear()

    def read(  # noqa: D102
        self, part: Part, resume: Position | None, until: Position | None = None
    ) -> Iterator[Envelope]:
        here = FilesPosition.parse(resume)
        goal = None if until is None else FilesPosition.parse(until)
        if resume is not None and until is None:  # a bounded read repeats, or probes a position
            self.durable(part, resume)  # a crash may have come between commit and `durable`
        files = list_files(self.ctx, self.pattern)
        here = _without_missing(here, files)
        seq = 0
        for seq, (batch, place) in enumerate(self._walk(files, here, goal), start=1):
            here = place
            nbytes = 0 if batch is None else int(batch.nbytes)
            yield Envelope(part, seq, here.text(), self.stream, batch, nbytes=nbytes)
        if goal is None:
            flush = BarrierKind.FLUSH
            yield Envelope(part, seq + 1, here.text(), self.stream, barrier=flush)

    def _walk(
        self, files: list[FoundFile], here: FilesPosition, goal: FilesPosition | None
    ) -> Iterator[tuple[RecordBatch | None, FilesPosition]]:
        for file in _in_order(files, here):
            if goal is not None:
                if here.reaches(goal):
                    return
                if file.name not in goal.done and file.name != goal.file:
                    continue
            start = self._start(file, here)
            if start is None:
                continue
            stop = goal.place.offset if goal and goal.file == file.name else None
            offset, line = start.offset, start.line
            for batch, offset, line in self.batches(file, start, stop):
                if self._interrupted.is_set():
                    raise Interrupted
                if batch is not None:
                    here = here.at(file, offset, line)
                    yield batch, here
            if goal is not None and goal.file == file.name:
                return
            here = replace(here, done={n: p for n, p in here.done.items() if n != file.name})
            here = here.finished(file, offset, line)
            yield None, here

    def _start(self, file: FoundFile, here: FilesPosition) -> Place | None:
        """Return where to read the file from, or None when it is done."""
        if here.file == file.name:
            if not self._follow and not here.place.is_of(file):
                raise _changed(file, here.place)
            return here.place
        done = here.done.get(file.name)
        if done is None:
            if len(here.done) >= DONE_FILES_MAX:
                raise Permanent(
                    "MYC-FILE-011",
                    f"more than {DONE_FILES_MAX} files that were read are still in place",
                    fix="set onRead to moveToDone or delete, or clear old files away",
                )
            return Place()
        if self._follow and file.size >= done.size:
            return done if file.size > done.offset else None
        if done.is_of(file):
            return None
        if self._on_read == "keep":
            raise _changed(file, done)
        return Place()  # the file that was read is gone, and this one took its name

    def durable(self, part: Part, position: Position) -> None:
        """Move or delete the files that are done (I1: only after their rows are committed)."""
        if self._on_read == "keep":
            return
        done = FilesPosition.parse(position).done
        for file in list_files(self.ctx, self.pattern):
            place = done.get(file.name)
            if place is None or not place.is_of(file):
                continue
            path = self.ctx.path(str(file.path), write=True)
            if self._on_read == "delete":
                path.unlink(missing_ok=True)
            else:
                folder = self.ctx.path(str(path.parent / "done"), write=True)
                folder.mkdir(exist_ok=True)
                path.replace(_free_name(folder / path.name))

    def interrupt(self) -> None:  # noqa: D102
        self._interrupted.set()

    def close(self) -> None:  # noqa: D102
        self._ctx = None

    def open_file(self, file: FoundFile) -> IO[bytes]:
        """Open a found file under the daemon's policy."""
        return self.ctx.open_path(str(file.path), "rb")


def _in_order(files: list[FoundFile], here: FilesPosition) -> list[FoundFile]:
    """The file that was being read goes on first."""
    return sorted(files, key=lambda file: (file.name != here.file, file.name))


def _changed(file: FoundFile, before: Place) -> Permanent:
    return Permanent(
        "MYC-FILE-012",
        f"{file.path} changed after it was read: {before.size} bytes then, {file.size} now",
        fix="give new data a new file name, or set follow: true for a file that only grows",
    )


def _without_missing(here: FilesPosition, files: list[FoundFile]) -> FilesPosition:
    """Forget what was read of files that are gone. A half-read file that is gone stops us."""
    names = {file.name for file in files}
    if here.file and here.file not in names:
        raise Permanent(
            "MYC-FILE-013",
            f'the file "{here.file}" is gone, and only its first {here.place.offset} were read',
            fix="put it back, or set the position with `mycelial state set`",
        )
    return replace(here, done={name: place for name, place in here.done.items() if name in names})


def _free_name(path: Path) -> Path:
    """Return a name that is not taken: moving must never overwrite an earlier file."""
    number, free = 1, path
    while free.exists():
        free = path.with_name(f"{path.stem}.{number}{path.suffix}")
        number += 1
    return free
