"""A folder of manifests, for development: the files as they are now are the revision."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from mycelial.gitops.base import BlobId, Commit, CommitInfo, HeadChange, Tree
from mycelial.gitops.git import Limits
from mycelial.gitops.grammar import path_problem
from mycelial.gitops.listing import is_manifest, too_large
from mycelial.gitops.waking import Wakeup
from mycelial.kernel.canonical import digest
from mycelial.kernel.errors import Location, NotAllowed, OperationFailed, Problem

_SNAPSHOTS_KEPT = 3
_DEBOUNCE_MILLISECONDS = 200
# A link put in a file's place is not followed, and a pipe does not block; where the platform can.
_OPEN_FLAGS = os.O_RDONLY
for _name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_CLOEXEC"):
    _OPEN_FLAGS |= getattr(os, _name, 0)


class FolderSource:
    """Manifests of a folder. A snapshot is taken by `probe` and kept in memory for `read`."""

    can_write = False

    def __init__(self, root: Path, *, name: str = "folder", limits: Limits | None = None) -> None:
        self.name = name
        self._root = root
        self._limits = limits or Limits()
        self._wakeup = Wakeup()
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None
        self._lock = threading.Lock()
        self._snapshots: OrderedDict[str, tuple[Tree, Mapping[BlobId, bytes]]] = OrderedDict()

    def probe(self, since: str | None) -> HeadChange:
        """Read the folder. Raises: OperationFailed (MYC-GIT-014) when it is not there (I8)."""
        tree, blobs = _Scan(self._root, self._limits).take()
        with self._lock:
            self._snapshots[tree.revision] = (tree, blobs)
            self._snapshots.move_to_end(tree.revision)
            while len(self._snapshots) > _SNAPSHOTS_KEPT:
                self._snapshots.popitem(last=False)
        return HeadChange(tree.revision, changed=tree.revision != since)

    def tree(self, revision: str) -> Tree:
        """Return a snapshot. Raises: OperationFailed (MYC-GIT-015) when it is no longer kept."""
        with self._lock:
            found = self._snapshots.get(revision)
        if found is None:
            raise OperationFailed(
                "MYC-GIT-015",
                f"{revision[:80]!r} is not a revision that is still at hand",
                fix="a folder has no history: probe it again",
            )
        return found[0]

    def read(self, blobs: Iterable[BlobId]) -> Mapping[BlobId, bytes]:
        """Return bytes as they were when a snapshot was taken."""
        with self._lock:
            held = [contents for _, contents in self._snapshots.values()]
        result = {}
        for blob in blobs:
            data = next((contents[blob] for contents in held if blob in contents), None)
            if data is None:
                raise OperationFailed(
                    "MYC-GIT-009",
                    f"object {blob[:12]} cannot be read: it is in no snapshot at hand",
                    fix="probe the folder again",
                )
            result[blob] = data
        return result

    def commit(self, change: Commit) -> str:
        """Refuse: whoever works in a folder edits its files."""
        raise NotAllowed(
            "MYC-GIT-011",
            f"the folder {self._root} is read, not written, by this server",
            fix="edit the files: " + ", ".join(sorted(change.files)),
        )

    def history(self, *, limit: int, path: str | None = None) -> tuple[CommitInfo, ...]:
        """Return nothing: a folder has no history."""
        return ()

    def wait(self, timeout_seconds: float) -> bool:
        """Return early when a manifest was written or `wake` was called."""
        if self._watcher is None and not self._stop.is_set():
            self._watcher = threading.Thread(
                target=self._watch, name=f"gitops/{self.name}", daemon=True
            )
            self._watcher.start()
        return self._wakeup.wait(timeout_seconds)

    def wake(self) -> None:
        """Make `wait` return."""
        self._wakeup.wake()

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        self.wake()
        if self._watcher is not None:
            self._watcher.join()

    def _watch(self) -> None:
        from watchfiles import watch

        # Whatever changed between the last probe and this moment was not watched by anybody.
        self.wake()
        try:
            for _ in watch(
                self._root,
                watch_filter=lambda _change, path: self._concerns(path),
                debounce=_DEBOUNCE_MILLISECONDS,
                stop_event=self._stop,
                raise_interrupt=False,
            ):
                self.wake()
        except OSError:
            # The folder is gone or cannot be watched; `probe` says so with its own error.
            self.wake()

    def _concerns(self, path: str) -> bool:
        relative = os.path.relpath(path, self._root).replace(os.sep, "/")
        # A removed folder is told by its own name only, so what has no suffix counts too.
        return is_manifest(relative) or "." not in relative.rpartition("/")[2]


class _Scan:
    """One reading of a folder."""

    def __init__(self, root: Path, limits: Limits) -> None:
        self._root, self._limits = root, limits
        self._files: dict[str, BlobId] = {}
        self._blobs: dict[BlobId, bytes] = {}
        self._problems: list[Problem] = []
        self._total = 0

    def take(self) -> tuple[Tree, Mapping[BlobId, bytes]]:
        if not self._root.is_dir():
            raise OperationFailed(
                "MYC-GIT-014",
                f"the folder {self._root} is not there",
                fix="create or mount it; until then the last good revision stays in force",
            )
        for path in sorted(self._walk(self._root)):
            self._add(path)
        problems = tuple(sorted(self._problems, key=lambda problem: str(problem.where)))
        seen = [self._files, [[str(p.where), p.code] for p in problems]]
        revision = f"folder@{digest(seen).removeprefix('sha256:')}"
        return Tree(revision, self._files, not problems, problems), self._blobs

    def _walk(self, folder: Path) -> Iterator[Path]:
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            self._unreadable(self._relative(folder), error)
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue  # .git, .github, and what editors keep beside a file
            path = Path(entry.path)
            if entry.is_symlink():
                self._link(path)
            elif entry.is_dir():
                yield from self._walk(path)
            elif is_manifest(entry.name):
                yield path

    def _link(self, path: Path) -> None:
        if is_manifest(path.name) or path.is_dir():
            self._problems.append(
                Problem(
                    "MYC-GIT-012",
                    "a symbolic link is not followed, so nothing behind it was read",
                    "put the file itself here; until then nothing is deleted",
                    Location(self._relative(path)),
                )
            )

    def _add(self, path: Path) -> None:
        name = self._relative(path)
        if (why := path_problem(name)) is not None:
            shown = name.encode("utf-8", "backslashreplace").decode()
            problem = Problem(
                "MYC-GIT-004", f"the path is refused: {why}", "rename the file", Location(shown)
            )
            self._problems.append(problem)
            return
        try:
            data = _read_settled(path, self._limits.file_bytes + 1)
        except OSError as error:
            self._unreadable(name, error)
            return
        if len(data) > self._limits.file_bytes:
            self._problems.append(too_large(name, path.stat().st_size, self._limits))
            return
        blob = _blob_id(data)
        self._files[name] = blob
        self._blobs[blob] = data
        self._total += len(data)
        limits = self._limits
        if len(self._files) > limits.files or self._total > limits.repository_bytes:
            raise OperationFailed(
                "MYC-GIT-007",
                f"{self._root} holds more than {limits.files} manifests "
                f"or {limits.repository_bytes} bytes of them",
                fix="point the source at the folder that holds manifests only",
            )

    def _unreadable(self, name: str, error: OSError) -> None:
        self._problems.append(
            Problem(
                "MYC-GIT-014",
                f"cannot be read: {error.strerror or type(error).__name__}",
                "make it readable; until then nothing is deleted",
                Location(name.encode("utf-8", "backslashreplace").decode() or "."),
            )
        )

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()


def _read_settled(path: Path, size_max: int) -> bytes:
    """Read a file that is not being written: its size and time are the same before and after."""
    for _ in range(3):
        descriptor = os.open(path, _OPEN_FLAGS)
        with os.fdopen(descriptor, "rb") as file:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                raise OSError(0, "it is not a regular file")
            data = file.read(size_max)
            after = os.fstat(descriptor)
        whole = len(data) == before.st_size or len(data) == size_max
        if whole and (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size):
            return data
    raise OSError(0, "it is being written")


def _blob_id(data: bytes) -> BlobId:
    # Git's own name for these bytes, so that a parse cache serves both kinds of source.
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
