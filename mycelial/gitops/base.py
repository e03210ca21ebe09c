"""The source of manifests, as a protocol. One conformance suite runs on every implementation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from mycelial.kernel.errors import Problem

BlobId = str


@dataclass(frozen=True, slots=True)
class Tree:
    """The manifests of one revision: path -> blob id, for `*.yaml`, `*.yml` and what they name.

    `complete` is false when anything could not be listed (symlink refused, too large, unreadable);
    `problems` say what (I8: an incomplete tree deletes nothing).
    """

    revision: str  # "main@<sha>", or "folder@<digest>"
    files: Mapping[str, BlobId]
    complete: bool = True
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class CommitInfo:
    """One line of history."""

    revision: str
    parents: tuple[str, ...]
    author: str
    message: str
    committed_at: float
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HeadChange:
    """What `probe` found: the head, and whether history was rewritten since `since`."""

    revision: str
    changed: bool
    rewritten: bool = False


@dataclass(frozen=True, slots=True)
class Commit:
    """A change to make: path -> new bytes, or None to remove. Compare-and-swap on `parent`."""

    parent: str
    message: str
    author: str = "mycelial <mycelial@localhost>"
    files: Mapping[str, bytes | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PathChange:
    """One path that differs between two revisions. None: the path is not there on that side.

    `is_regular` is false when what was there before is no plain file (a link, a submodule).
    """

    path: str
    before: BlobId | None
    after: BlobId | None
    is_regular: bool = True


class ManifestSource(Protocol):
    """Reads and, where it can, writes manifests. Blocking; call it from a thread.

    Every method raises OperationFailed (MYC-GIT-...) when the repository cannot be reached or
    read; the caller keeps the last good state.
    """

    name: str
    can_write: bool

    def probe(self, since: str | None) -> HeadChange:
        """Fetch if remote, and tell the head of the tracked branch."""

    def tree(self, revision: str) -> Tree: ...  # noqa: D102

    def read(self, blobs: Iterable[BlobId]) -> Mapping[BlobId, bytes]:
        """Return the bytes of blobs of any known revision, bounded in size."""

    def commit(self, change: Commit) -> str:
        """Commit on the tracked branch and return the new revision.

        Raises: Conflict when the head is not `change.parent`; NotAllowed when read-only.
        """

    def history(self, *, limit: int, path: str | None = None) -> tuple[CommitInfo, ...]:
        """Return commits newest first; of one path if given. Empty for a folder."""

    def wait(self, timeout_seconds: float) -> bool:
        """Block until something may have changed, or the timeout; return whether it may have."""

    def wake(self) -> None:
        """Make `wait` return (a webhook, a push through us, shutdown). Any thread."""

    def close(self) -> None: ...  # noqa: D102


class VersionedSource(ManifestSource, Protocol):
    """A source with a history: what a rollback needs beside reading and committing."""

    def describe(self, revision: str) -> CommitInfo:
        """Return one commit. Raises: OperationFailed (MYC-GIT-015) when it is not there."""

    def changes(self, old: str, new: str) -> tuple[PathChange, ...]:
        """Return every path, manifest or not, that differs between two revisions."""
