"""What the embedded and the remote source share: reading one branch of a bare repository."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from mycelial.gitops.bare import BareRepo, NewCommit
from mycelial.gitops.base import BlobId, Commit, CommitInfo, HeadChange, PathChange, Tree
from mycelial.gitops.grammar import check_branch, sha_of
from mycelial.gitops.listing import build_tree
from mycelial.kernel.errors import OperationFailed


class TrackedBranch:
    """One branch, named `branch@sha` by its revisions."""

    def __init__(self, repo: BareRepo, branch: str) -> None:
        self.repo = repo
        self.branch = check_branch(branch)

    def revision(self, sha: str) -> str:
        """Return a commit id as revision of this branch."""
        return f"{self.branch}@{sha}"

    def head(self) -> str:
        """Return the head's commit id.

        Raises: OperationFailed (MYC-GIT-008): a branch that is gone is never an empty tree (I8).
        """
        sha = self.repo.head(self.branch)
        if sha is not None:
            return sha
        raise OperationFailed(
            "MYC-GIT-008",
            f"there is no branch {self.branch}",
            fix=f"push {self.branch} again; until then the last good revision stays in force",
        )

    def probe(self, since: str | None) -> HeadChange:
        """Compare the head with the revision the caller last saw."""
        sha = self.head()
        if since is None:
            return HeadChange(self.revision(sha), changed=True)
        old = sha_of(since)
        rewritten = not self.repo.is_ancestor(old, sha)
        return HeadChange(self.revision(sha), changed=old != sha, rewritten=rewritten)

    def tree(self, revision: str) -> Tree:
        """List the manifests of a revision."""
        return build_tree(revision, self.repo.list_tree(sha_of(revision)), self.repo.limits)

    def read(self, blobs: Iterable[BlobId]) -> Mapping[BlobId, bytes]:
        """Return the bytes of blobs."""
        return self.repo.read(blobs)

    def history(self, *, limit: int, path: str | None = None) -> tuple[CommitInfo, ...]:
        """Return commits newest first, named as revisions."""
        return tuple(
            self._named(info) for info in self.repo.log(self.head(), limit=limit, path=path)
        )

    def describe(self, revision: str) -> CommitInfo:
        """Return one commit of any branch. Raises: OperationFailed (MYC-GIT-015)."""
        sha = sha_of(revision)
        if not self.repo.contains(sha):
            raise OperationFailed(
                "MYC-GIT-015",
                f"{revision} is not in this repository",
                fix="take a revision from history",
            )
        return self._named(self.repo.log(sha, limit=1)[0])

    def changes(self, old: str, new: str) -> tuple[PathChange, ...]:
        """Return what differs between two revisions."""
        return self.repo.changes(sha_of(old), sha_of(new))

    def _named(self, info: CommitInfo) -> CommitInfo:
        parents = tuple(self.revision(sha) for sha in info.parents)
        return replace(info, revision=self.revision(info.revision), parents=parents)


def new_commit(change: Commit) -> NewCommit:
    """Return the content of a change, without its parent."""
    return NewCommit(change.files, change.author, change.message)
