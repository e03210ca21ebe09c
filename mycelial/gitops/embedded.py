"""The control plane's own repository: the default source, writable by `apply` and by push."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from mycelial.gitops.bare import BareRepo, NewCommit
from mycelial.gitops.base import BlobId, Commit, CommitInfo, HeadChange, PathChange, Tree
from mycelial.gitops.git import Limits
from mycelial.gitops.grammar import sha_of
from mycelial.gitops.tracked import TrackedBranch, new_commit
from mycelial.gitops.waking import Wakeup
from mycelial.kernel.clock import Clock
from mycelial.kernel.entropy import new_hex
from mycelial.kernel.errors import Conflict
from mycelial.kernel.files import fsync_dir

_AUTHOR = "mycelial <mycelial@localhost>"
_LOOK_SECONDS = 0.25  # between two looks at the branch: a push reaches us through the disk only


class EmbeddedSource:
    """A bare repository under the data directory. `probe` and `commit` from any thread."""

    can_write = True

    def __init__(
        self,
        directory: Path,
        *,
        name: str = "embedded",
        branch: str = "main",
        limits: Limits | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        if not directory.exists():
            _create(directory, branch=branch, limits=limits, clock=clock)
        # An existing directory is opened, never created anew: a lost branch is an error (I8).
        self._tracked = TrackedBranch(BareRepo.open(directory, limits=limits, clock=clock), branch)
        self._wakeup = Wakeup()
        self._seen = self._stamp()

    def seed(self, files: Mapping[str, bytes], *, message: str = "Import manifests") -> str | None:
        """Commit `files` into a repository that still has nothing but its first, empty commit.

        Returns: the new revision, or None when the repository is already in use.
        """
        head = self._tracked.head()
        if len(self._tracked.repo.log(head, limit=2)) > 1:
            return None
        try:
            return self.commit(Commit(self._tracked.revision(head), message, files=dict(files)))
        except Conflict:  # somebody committed first, so it is in use
            return None

    def probe(self, since: str | None) -> HeadChange:
        """Tell the head of the branch."""
        self._seen = self._stamp()
        return self._tracked.probe(since)

    def tree(self, revision: str) -> Tree:
        """List the manifests of a revision."""
        return self._tracked.tree(revision)

    def read(self, blobs: Iterable[BlobId]) -> Mapping[BlobId, bytes]:
        """Return the bytes of blobs."""
        return self._tracked.read(blobs)

    def commit(self, change: Commit) -> str:
        """Commit on the branch by compare-and-swap."""
        sha = self._tracked.repo.commit(
            self._tracked.branch, parent=sha_of(change.parent), change=new_commit(change)
        )
        self.wake()
        return self._tracked.revision(sha)

    def history(self, *, limit: int, path: str | None = None) -> tuple[CommitInfo, ...]:
        """Return commits newest first."""
        return self._tracked.history(limit=limit, path=path)

    def describe(self, revision: str) -> CommitInfo:
        """Return one commit."""
        return self._tracked.describe(revision)

    def changes(self, old: str, new: str) -> tuple[PathChange, ...]:
        """Return what differs between two revisions."""
        return self._tracked.changes(old, new)

    def wait(self, timeout_seconds: float) -> bool:
        """Return early when woken, or when another process moved the branch."""
        left = timeout_seconds
        while not (woken := self._wakeup.wait(min(_LOOK_SECONDS, left))):
            left -= _LOOK_SECONDS
            if self._stamp() != self._seen:
                return True
            if left <= 0:
                break
        return woken

    def wake(self) -> None:
        """Make `wait` return."""
        self._wakeup.wake()

    def maintain(self) -> None:
        """Gather loose objects. Slow; call it rarely, from a thread."""
        self._tracked.repo.pack()

    def close(self) -> None:
        """Release a waiter; no process or file is held open between calls."""
        self.wake()

    def _stamp(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Return what changes when a ref is written, at the price of two stat calls."""
        root = self._tracked.repo.directory
        paths = (root / "refs" / "heads" / self._tracked.branch, root / "packed-refs")
        return tuple(_stat(path) for path in paths)


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _create(directory: Path, *, branch: str, limits: Limits | None, clock: Clock | None) -> None:
    """Make the repository with its first commit beside its place, then rename it there.

    Killed half-way it leaves a folder that nobody opens, so no repository lacks its branch.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = directory.with_name(f".{directory.name}.{new_hex()}.tmp")
    try:
        repo = BareRepo.init(temporary, branch=branch, limits=limits, clock=clock)
        start = NewCommit({}, _AUTHOR, "Start the repository")
        repo.commit(branch, parent=None, change=start)
        temporary.rename(directory)
        fsync_dir(directory.parent)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)
