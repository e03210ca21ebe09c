"""Journaled commits of files: what was published, in which order, under which fence.

A dataset has a journal, `_mycelial/journal.jsonl`: one JSON line with a checksum per entry.
`fence` raises the fence of a scope; `intent` announces a publication whose bytes are already
fsynced; `commit` makes it count; `position` stores a position without rows. The order of one
unit is: temporary file, fsync, intent, rename, directory fsync, commit. All from intent to
commit happens under an exclusive lock, with the fence compared inside it (I2, I4), so what a
crash leaves behind is at most one intent per part, whose file is either in place (the commit is
completed) or not (it is as if it had never been).

A file that grows instead has `base` (its length before the first unit) and `append` (its length
after each unit) entries: the bytes are appended and fsynced, then the entry. Whatever is longer
than the last entry says is cut off at open.

`fold` and `recover` are pure; `Journal` does what they decide. The lock needs a file system with
working advisory locks and atomic rename: a local disk, not a network share.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from mycelial.kernel.canonical import canonical_json
from mycelial.kernel.files import fsync_dir, write_durable
from mycelial.sdk.envelope import Checkpoint, Committed, FenceToken, Part, Position, Receipt
from mycelial.sdk.errors import Fenced, Permanent

JOURNAL_DIR = "_mycelial"
TEMPORARY_PREFIX = ".tmp-"

Kind = Literal["fence", "base", "append", "intent", "commit", "position"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line. `file` is relative to the dataset; `size` is the whole file's length in bytes
    after the commit; `total` counts the part's rows so far; `generation` numbers snapshot runs.
    """

    kind: Kind
    scope: str
    fence: FenceToken
    part: str = ""
    seq: int = 0
    position: str = ""
    rows: int = 0
    total: int = 0
    ends_run: bool = False
    file: str = ""
    size: int = 0
    digest: str = ""
    generation: int = 0

    @classmethod
    def of(cls, kind: Kind, checkpoint: Checkpoint, total: int, **facts: Any) -> Entry:
        """Return the entry for a checkpoint of the engine."""
        return cls(
            kind,
            checkpoint.scope,
            checkpoint.fence,
            str(checkpoint.part),
            checkpoint.seq,
            str(checkpoint.position),
            checkpoint.rows,
            total,
            checkpoint.ends_run,
            **facts,
        )

    def committed(self) -> Committed:
        """Return what the engine is told about it."""
        position = Position(self.position)
        return Committed(self.seq, position, self.fence, self.total, self.ends_run)


@dataclass(frozen=True, slots=True)
class State:
    """What a journal's entries add up to. `sizes` holds the last length of files that grow."""

    fences: Mapping[str, FenceToken] = field(default_factory=dict)
    last: Mapping[tuple[str, str], Entry] = field(default_factory=dict)
    intents: Mapping[tuple[str, str], Entry] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)

    def committed(self, scope: str) -> dict[Part, Committed]:
        """Return the last commit of each part of a scope."""
        return {Part(p): e.committed() for (s, p), e in self.last.items() if s == scope}


@dataclass(frozen=True, slots=True)
class Complete:
    """The file of this intent is in place: append its commit."""

    intent: Entry


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete a file that was never committed."""

    file: str


@dataclass(frozen=True, slots=True)
class Truncate:
    """Cut a file that grows by appending back to what was committed."""

    file: str
    size: int


Action = Complete | Remove | Truncate


def fold(entries: Iterable[Entry]) -> State:
    """Return what the entries, oldest first, add up to."""
    fences: dict[str, FenceToken] = {}
    last: dict[tuple[str, str], Entry] = {}
    intents: dict[tuple[str, str], Entry] = {}
    sizes: dict[str, int] = {}
    for entry in entries:
        key = (entry.scope, entry.part)
        fences[entry.scope] = max(entry.fence, fences.get(entry.scope, entry.fence), key=_rank)
        if entry.kind == "intent":
            intents[key] = entry
        elif entry.kind == "base":
            sizes[entry.file] = entry.size
        elif entry.kind != "fence":
            intents.pop(key, None)
            last[key] = entry
            if entry.kind == "append":
                sizes[entry.file] = entry.size
    return State(fences, last, intents, sizes)


def recover(scope: str, state: State, listing: Mapping[str, int]) -> tuple[Action, ...]:
    """Decide what a crash of this scope's writer left to do.

    Args: listing: size by name of the files present, temporaries of this scope included.
    """
    actions: list[Action] = []
    for (owner, _), intent in state.intents.items():
        if owner != scope:
            continue
        if listing.get(intent.file) == intent.size:
            actions.append(Complete(intent))
        elif intent.file in listing:
            actions.append(Remove(intent.file))
    actions += [
        Truncate(name, size)
        for name, size in sorted(state.sizes.items())
        if listing.get(name, size) > size
    ]
    marker = TEMPORARY_PREFIX + scope_token(scope)
    names = sorted(name for name in listing if Path(name).name.startswith(marker))
    return (*actions, *(Remove(name) for name in names))


def check_fence(state: State, scope: str, fence: FenceToken) -> None:
    """Raise Fenced when a higher fence is stored (I4)."""
    held = state.fences.get(scope)
    if held is not None and _rank(held) > _rank(fence):
        raise Fenced(
            "MYC-FILE-001",
            f"a newer worker (epoch {held.epoch}, attempt {held.attempt}) writes these files; "
            f"this one has epoch {fence.epoch}, attempt {fence.attempt}",
            fix="nothing to do: this worker ends and the newer one goes on",
        )


def _rank(fence: FenceToken) -> tuple[int, int]:
    return (fence.epoch, fence.attempt)


def scope_token(scope: str) -> str:
    """Return a short name of a scope that is safe in file names."""
    return sha256(scope.encode()).hexdigest()[:10]


def safe_name(text: str) -> str:
    """Return `text` when it is harmless as a file name, else a readable stem and a digest."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", text)[:40]
    return stem if stem == text else f"{stem}-{sha256(text.encode()).hexdigest()[:8]}"


def unit_name(checkpoint: Checkpoint, suffix: str) -> str:
    """Return the file name of one unit: part, seq, fence, scope; unique for ever."""
    fence = f"{checkpoint.fence.epoch}.{checkpoint.fence.attempt}"
    part = safe_name(str(checkpoint.part))
    return f"{part}-{checkpoint.seq:09d}-{fence}-{scope_token(checkpoint.scope)}{suffix}"


class Journal:
    """The journal of one dataset. Not thread-safe; safe between processes."""

    def __init__(self, root: Path, directory: str = JOURNAL_DIR) -> None:
        self.root = root
        self._dir = root / directory
        self._path = self._dir / "journal.jsonl"
        self._read = 0
        self._entries: list[Entry] = []

    def exists(self) -> bool:
        """Tell whether anything was ever written here."""
        return self._path.exists()

    @contextlib.contextmanager
    def locked(self) -> Iterator[State]:
        """Hold the exclusive lock; the state is fresh inside."""
        self._dir.mkdir(parents=True, exist_ok=True)
        with exclusive(self._dir / "lock"):
            self._refresh()
            yield fold(self._entries)

    def open(
        self, scope: str, fence: FenceToken, listing: Callable[[], Mapping[str, int]]
    ) -> State:
        """Raise the fence and settle what a crash left among the files of `listing`.

        Raises: Fenced; Permanent when the journal or a committed file is damaged.
        """
        with self.locked() as state:
            check_fence(state, scope, fence)
            self.append(Entry("fence", scope, fence))
            self._check_shrunk(state)
            for action in recover(scope, state, listing()):
                self._apply(action)
            return fold(self._entries)

    def append(self, entry: Entry) -> None:
        """Write one entry durably. Call with the lock held."""
        data = _encode(entry)
        new = not self._path.exists()
        with self._path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if new:
            fsync_dir(self._dir)
        self._entries.append(entry)
        self._read += len(data)

    def entries(self) -> tuple[Entry, ...]:
        """Return all entries, oldest first, as they are on disk now."""
        with self.locked():
            return tuple(self._entries)

    def compact(self, *, lines_max: int = 10_000) -> None:
        """Forget all but the last commit of each part and file, once there are many. Only for
        datasets whose journal is not also their list of files."""
        with self.locked() as state:
            if len(self._entries) <= lines_max:
                return
            kept = [Entry("fence", scope, fence) for scope, fence in state.fences.items()]
            sized = {e.file: e for e in self._entries if e.kind in ("base", "append")}
            last = {*state.last.values(), *sized.values(), *state.intents.values()}
            kept += [entry for entry in dict.fromkeys(self._entries) if entry in last]
            data = b"".join(map(_encode, kept))
            write_durable(self._path, data, mode=0o644)
            self._entries, self._read = kept, len(data)

    def _refresh(self) -> None:
        """Read what others appended; cut a torn last line off (its writer died in `append`)."""
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            self._read, self._entries = 0, []
            return
        if size < self._read:  # compacted by another process
            self._read, self._entries = 0, []
        if size == self._read:
            return
        with self._path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        entries, good = decode(data)
        if entries is None:
            self._read, self._entries = 0, []
            raise Permanent(
                "MYC-FILE-002",
                f"the journal {self._path.name} of {self.root} is damaged before its last line",
                fix="restore it from a backup, or move the dataset away and load it again",
            )
        self._entries += entries
        self._read += good
        if good < len(data):
            with self._path.open("r+b") as file:
                file.truncate(self._read)
                os.fsync(file.fileno())

    def _check_shrunk(self, state: State) -> None:
        for name, size in state.sizes.items():
            path = self.root / name
            if path.exists() and path.stat().st_size < size:
                raise Permanent(
                    "MYC-FILE-003",
                    f"{path} is shorter than what was committed to it ({size} bytes)",
                    fix="restore the file, or move it and its journal away and load again",
                )

    def _apply(self, action: Action) -> None:
        match action:
            case Complete(intent):
                fsync_dir((self.root / intent.file).parent)
                self.append(replace(intent, kind="commit"))
            case Remove(name):
                # Windows refuses while a fenced-off writer still holds it; the next open retries.
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    (self.root / name).unlink()
            case Truncate(name, size):
                with (self.root / name).open("r+b") as file:
                    file.truncate(size)
                    os.fsync(file.fileno())


def publish(
    journal: Journal,
    checkpoint: Checkpoint,
    staged: Path,
    name: str,
    *,
    digest: str,
    generation: int = 0,
) -> Entry:
    """Give a fsynced temporary file its name and enter it, as one commit (I2, I4).

    Raises: Fenced; Permanent when the name is taken.
    """
    final = journal.root / name
    with journal.locked() as state:
        check_fence(state, checkpoint.scope, checkpoint.fence)
        if final.exists():
            raise Permanent(
                "MYC-FILE-004",
                f"{final} exists already, and no file is ever overwritten",
                fix="move it away; its name is that of the unit being committed",
            )
        entry = Entry.of(
            "intent",
            checkpoint,
            total_rows(state, checkpoint),
            file=name,
            size=staged.stat().st_size,
            digest=digest,
            generation=generation,
        )
        journal.append(entry)
        staged.replace(final)
        fsync_dir(final.parent)
        entry = replace(entry, kind="commit")
        journal.append(entry)
    return entry


def enter_position(journal: Journal, checkpoint: Checkpoint, *, generation: int = 0) -> Entry:
    """Store a position without rows. Raises: Fenced."""
    with journal.locked() as state:
        check_fence(state, checkpoint.scope, checkpoint.fence)
        total = total_rows(state, checkpoint)
        entry = Entry.of("position", checkpoint, total, generation=generation)
        journal.append(entry)
    return entry


def total_rows(state: State, checkpoint: Checkpoint) -> int:
    """Return the rows of the part after this checkpoint."""
    last = state.last.get((checkpoint.scope, str(checkpoint.part)))
    return checkpoint.rows + (last.total if last else 0)


def receipt(entry: Entry, nbytes: int) -> Receipt:
    """Return the engine's receipt for an entry."""
    return Receipt(
        Part(entry.part), entry.seq, Position(entry.position), entry.rows, nbytes, entry.digest
    )


def temporary_name(scope: str, fence: FenceToken) -> str:
    """Return a hidden name for a file being staged, which `recover` knows as this scope's."""
    return f"{TEMPORARY_PREFIX}{scope_token(scope)}-{fence.epoch}.{fence.attempt}"


def listing_below(root: Path, folder: Path) -> dict[str, int]:
    """Return the size by name, relative to `root`, of the regular files below `folder`."""
    return {
        path.relative_to(root).as_posix(): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def _encode(entry: Entry) -> bytes:
    body = canonical_json({"v": 1, **asdict(entry)})
    return body[:-1] + b',"~":%d}\n' % zlib.crc32(body)


def decode(data: bytes) -> tuple[list[Entry] | None, int]:
    """Return the entries of journal bytes and how many bytes are good.

    Only the last line may be bad (torn); None instead of entries says that another one is.
    """
    entries: list[Entry] = []
    good = 0
    lines = data.split(b"\n")
    for index, line in enumerate(lines[:-1]):
        entry = _decode(line)
        if entry is None:
            return (entries, good) if not any(map(_decode, lines[index + 1 :])) else (None, good)
        entries.append(entry)
        good += len(line) + 1
    return entries, good


def _decode(line: bytes) -> Entry | None:
    body, mark, checksum = line.rpartition(b',"~":')
    if not mark or not checksum.endswith(b"}") or not checksum[:-1].isdigit():
        return None
    body += b"}"
    if zlib.crc32(body) != int(checksum[:-1]):
        return None
    fields = json.loads(body)
    fields.pop("v")
    known = {name: fields[name] for name in Entry.__slots__ if name in fields}
    return Entry(**{**known, "fence": FenceToken(**fields["fence"])})


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold an exclusive advisory lock on a file, created if need be; blocks until it is free.
    The system releases it when the process dies."""
    with path.open("a+b") as file:
        _lock(file.fileno())
        try:
            yield
        finally:
            _unlock(file.fileno())


if sys.platform == "win32":
    import msvcrt

    def _lock(fd: int) -> None:
        os.lseek(fd, 0, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_LOCK, 1)

    def _unlock(fd: int) -> None:
        os.lseek(fd, 0, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX)

    def _unlock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_UN)
