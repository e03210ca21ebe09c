"""A bare repository: read by blobs, written by plumbing, never checked out.

There is no worktree, so a hostile tree has nothing to land in: no links, hooks, filters or
submodules. A commit is built beside the repository and becomes visible by one compare-and-swap
of the branch; killed at any point before, it leaves only unreferenced objects.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mycelial.gitops.base import BlobId, CommitInfo, PathChange
from mycelial.gitops.git import Finished, GitCommand, Limits
from mycelial.gitops.grammar import check_branch, check_path, check_sha, path_problem, split_author
from mycelial.gitops.listing import Entry, parse_listing
from mycelial.kernel.clock import Clock, SystemClock
from mycelial.kernel.errors import Conflict, NotAllowed, OperationFailed, StateCorrupt

_COMMITTER = {"GIT_COMMITTER_NAME": "mycelial", "GIT_COMMITTER_EMAIL": "mycelial@localhost"}
_ZERO = "0" * 40
_LEFTOVERS = (
    "*.lock",
    "refs/heads/**/*.lock",
    "index-*",
    "objects/pack/tmp_*",
    "objects/??/tmp_obj_*",
    "fast_import_crash_*",
)


@dataclass(frozen=True, slots=True)
class NewCommit:
    """What a commit is made of. `files`: path -> bytes, or None to remove."""

    files: Mapping[str, bytes | None]
    author: str
    message: str


class BareRepo:
    """One bare repository on this machine. Blocking; safe from several threads and processes."""

    def __init__(
        self, directory: Path, *, limits: Limits | None = None, clock: Clock | None = None
    ) -> None:
        self.directory = directory
        self.limits = limits or Limits()
        self.clock = clock or SystemClock()
        self._git = GitCommand(directory, limits=self.limits, clock=self.clock)

    @classmethod
    def init(
        cls,
        directory: Path,
        *,
        branch: str = "main",
        limits: Limits | None = None,
        clock: Clock | None = None,
    ) -> BareRepo:
        """Create an empty bare repository with no hooks, whose HEAD names `branch`."""
        directory.mkdir(parents=True, exist_ok=True)
        repo = cls(directory, limits=limits, clock=clock)
        repo._git.run(
            "init", "--quiet", "--bare", "--template=", f"--initial-branch={check_branch(branch)}"
        )
        return repo

    @classmethod
    def open(
        cls, directory: Path, *, limits: Limits | None = None, clock: Clock | None = None
    ) -> BareRepo:
        """Open a bare repository. Raises: StateCorrupt (MYC-GIT-009) when it is none."""
        repo = cls(directory, limits=limits, clock=clock)
        try:
            bare = repo._git.run("rev-parse", "--is-bare-repository").stdout.strip() == b"true"
        except OperationFailed as error:
            raise _corrupt(directory, error.problem.what) from error
        if not bare:
            raise _corrupt(directory, "it has a worktree")
        return repo

    # -- refs ------------------------------------------------------------------------------

    def head(self, branch: str) -> str | None:
        """Return the commit that a branch points at, or None when there is no such branch."""
        return self._resolve(f"refs/heads/{check_branch(branch)}")

    def _resolve(self, ref: str) -> str | None:
        found = self._git.run("for-each-ref", "--format=%(objectname) %(refname)", "--", ref)
        for line in found.stdout.decode().splitlines():
            sha, _, name = line.partition(" ")
            if name == ref:
                return check_sha(sha)
        return None

    def move(self, branch: str, *, new: str, old: str | None) -> None:
        """Move a branch by compare-and-swap. Raises: Conflict (MYC-GIT-010)."""
        ref = f"refs/heads/{check_branch(branch)}"
        update = f"update {ref}\0{check_sha(new)}\0{check_sha(old) if old else _ZERO}\0"
        try:
            self._git.run("update-ref", "--no-deref", "-z", "--stdin", stdin=[update.encode()])
        except OperationFailed as error:
            if self._resolve(ref) == old and not _is_lock(error):
                raise
            raise Conflict(
                "MYC-GIT-010",
                f"{branch} has moved on since {old[:12] if old else 'it was created'}",
                fix="plan again on the new head, and retry",
            ) from error

    def clear_stale(self) -> None:
        """Remove what a git killed by a power cut left: locks and half-written files.

        No command of ours lives longer than its time limit, so what is twice as old is nobody's.
        """
        before = self.clock.now() - 2 * self.limits.seconds
        for pattern in _LEFTOVERS:
            for path in self.directory.glob(pattern):
                try:
                    if path.stat().st_mtime >= before:
                        continue
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                except FileNotFoundError:  # another process of ours was faster
                    continue

    def contains(self, sha: str) -> bool:
        """Tell whether a commit is in this repository."""
        found = self._git.run("cat-file", "-e", f"{check_sha(sha)}^{{commit}}", ok=(0, 1, 128))
        return found.status == 0

    def is_ancestor(self, old: str, new: str) -> bool:
        """Tell whether `new` was built on `old`; False when `old` is not even here."""
        if old == new:
            return True
        if not self.contains(old):
            return False
        found = self._git.run(
            "merge-base", "--is-ancestor", check_sha(old), check_sha(new), ok=(0, 1)
        )
        return found.status == 0

    # -- reading ---------------------------------------------------------------------------

    def list_tree(self, sha: str) -> Iterator[Entry]:
        """Return every entry of a commit's tree. Raises: OperationFailed (MYC-GIT-009)."""
        try:
            listed = self._git.run(
                "ls-tree", "-r", "-z", "-l", "--full-tree", check_sha(sha), output_max=128 << 20
            )
        except OperationFailed as error:
            raise _unreadable(f"the tree of {sha[:12]}", error) from error
        return parse_listing(listed.stdout)

    def read(self, blobs: Iterable[BlobId]) -> dict[BlobId, bytes]:
        """Return the bytes of blobs, in one process.

        Raises: OperationFailed: MYC-GIT-009 for a missing or damaged one, -007 beyond the limits.
        """
        wanted = list(dict.fromkeys(check_sha(blob) for blob in blobs))
        if not wanted:
            return {}
        try:
            found = self._git.run(
                "cat-file",
                "--batch",
                "--buffer",
                stdin=(f"{blob}\n".encode() for blob in wanted),
                output_max=self.limits.repository_bytes + 128 * len(wanted),
            )
        except OperationFailed as error:
            if error.code == "MYC-GIT-007":
                raise
            raise _unreadable(f"one of {len(wanted)} objects", error) from error
        return dict(self._split(wanted, found.stdout))

    def _split(self, wanted: list[BlobId], output: bytes) -> Iterator[tuple[BlobId, bytes]]:
        view, at = memoryview(output), 0
        for blob in wanted:
            end = output.find(b"\n", at)
            header = output[at:end].split()
            if end < 0 or len(header) != 3 or header[1] != b"blob" or header[0] != blob.encode():
                raise _unreadable(f"object {blob[:12]}", None)
            size = int(header[2])
            if size > self.limits.file_bytes:
                raise OperationFailed(
                    "MYC-GIT-007",
                    f"object {blob[:12]} has {size} bytes; at most "
                    f"{self.limits.file_bytes} are read",
                    fix="split the file",
                )
            at = end + 1 + size + 1
            if at > len(output):
                raise _unreadable(f"object {blob[:12]}", None)
            yield blob, bytes(view[end + 1 : end + 1 + size])

    def log(self, sha: str, *, limit: int, path: str | None = None) -> tuple[CommitInfo, ...]:
        """Return commits newest first. `revision` in them is the bare commit id."""
        operands = ["--", check_path(path)] if path is not None else ["--"]
        found = self._git.run(
            "log",
            "-z",
            "--raw",
            "--no-abbrev",
            "--no-renames",
            "--no-color",
            "--no-decorate",
            "--diff-merges=first-parent",
            "--full-diff",
            "--format=tformat:%H%x00%P%x00%an <%ae>%x00%ct%x00%B",
            f"--max-count={int(limit)}",
            check_sha(sha),
            *operands,
        )
        return tuple(_parse_log(found.stdout.decode("utf-8", "replace")))

    def changes(self, old: str | None, new: str) -> tuple[PathChange, ...]:
        """Return what differs between two trees, path by path, without guessing renames."""
        base = check_sha(old) if old else self._empty_tree()
        found = self._git.run(
            "diff-tree", "-r", "-z", "--raw", "--no-abbrev", "--no-renames", base, check_sha(new)
        )
        tokens = iter(found.stdout.decode("utf-8", "surrogateescape").split("\0"))
        return tuple(
            _parse_change(header, next(tokens)) for header in tokens if header.startswith(":")
        )

    def _empty_tree(self) -> str:
        return self._git.run("mktree").stdout.decode().strip()

    def verify(self) -> None:
        """Check every object. Raises: StateCorrupt (MYC-GIT-009)."""
        try:
            self._git.run("fsck", "--full", "--no-dangling", "--no-progress")
        except OperationFailed as error:
            raise _corrupt(self.directory, error.problem.what) from error

    def pack(self) -> None:
        """Gather loose objects into packs; unreferenced ones are kept for two weeks."""
        self._git.run("gc", "--quiet", "--prune=2.weeks.ago")

    # -- writing ---------------------------------------------------------------------------

    def commit(self, branch: str, *, parent: str | None, change: NewCommit) -> str:
        """Commit on a branch whose head must be `parent`; None: the branch must not exist yet.

        A change that changes nothing returns `parent` and makes no commit.
        Raises: Conflict (MYC-GIT-010) when the head is another one; NotAllowed (-004) for a path.
        """
        if self.head(branch) != parent:
            raise Conflict(
                "MYC-GIT-010",
                f"{branch} is no longer at {parent[:12] if parent else 'its beginning'}",
                fix="plan again on the new head, and retry",
            )
        sha = self.build(parent=parent, change=change)
        if sha != parent:
            self.move(branch, new=sha, old=parent)
        return sha

    def build(self, *, parent: str | None, change: NewCommit) -> str:
        """Write the objects of a commit and return its id; no branch moves."""
        self.clear_stale()
        self._check_size(change.files)
        name, email = split_author(change.author)
        tree = self._write_tree(parent, change.files)
        if parent is not None and tree == self._tree_of(parent):
            return parent
        date = f"{int(self.clock.now())} +0000"
        made = self._git.run(
            "commit-tree",
            "--no-gpg-sign",
            *(["-p", parent] if parent else []),
            "-F",
            "-",
            tree,
            stdin=[change.message.replace("\0", "").encode("utf-8", "replace")],
            environment={
                **_COMMITTER,
                "GIT_AUTHOR_NAME": name,
                "GIT_AUTHOR_EMAIL": email,
                "GIT_AUTHOR_DATE": date,
                "GIT_COMMITTER_DATE": date,
            },
        )
        return check_sha(made.stdout.decode().strip())

    def _tree_of(self, sha: str) -> str:
        shown = self._git.run("rev-parse", "--verify", "--quiet", f"{check_sha(sha)}^{{tree}}")
        return check_sha(shown.stdout.decode().strip())

    def _check_size(self, files: Mapping[str, bytes | None]) -> None:
        sizes = [len(data) for data in files.values() if data is not None]
        if max(sizes, default=0) > self.limits.file_bytes or sum(sizes) > self.limits.commit_bytes:
            raise NotAllowed(
                "MYC-GIT-013",
                f"a commit takes files of {self.limits.file_bytes} bytes, "
                f"and {self.limits.commit_bytes} bytes in all",
                fix="split the file, or the change",
            )

    def _write_tree(self, parent: str | None, files: Mapping[str, bytes | None]) -> str:
        for path in files:
            check_path(path)
        written = [path for path, data in files.items() if data is not None]
        blobs = self._write_blobs([data for data in files.values() if data is not None])
        lines = [f"100644 {blob}\t{path}\0" for path, blob in zip(written, blobs, strict=True)]
        # Removals first: a file may make room for a folder of its name.
        gone = [f"0 {_ZERO}\t{path}\0" for path, data in files.items() if data is None]
        with tempfile.TemporaryDirectory(prefix="index-", dir=self.directory) as folder:
            # An index of its own for each commit, so that two of them cannot meet in one file.
            own = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            if parent is not None:
                self._git.run("read-tree", check_sha(parent), environment=own)
            edits = "".join([*gone, *lines]).encode()
            self._git.run("update-index", "-z", "--index-info", stdin=[edits], environment=own)
            tree = self._git.run("write-tree", environment=own).stdout.decode().strip()
        return check_sha(tree)

    def _write_blobs(self, contents: list[bytes]) -> list[BlobId]:
        if not contents:
            return []
        written = self._git.run("fast-import", "--quiet", "--done", stdin=_import_stream(contents))
        return [check_sha(line) for line in written.stdout.decode().split()]

    # -- other repositories ----------------------------------------------------------------

    def run_with_remote(
        self, *arguments: str, environment: Mapping[str, str], ok: tuple[int, ...] = (0,)
    ) -> Finished:
        """Run fetch or push, ended when the repository outgrows its limit."""
        self.clear_stale()
        return self._git.run(*arguments, environment=environment, guard=self._outgrown, ok=ok)

    def _outgrown(self) -> str | None:
        size = sum(_sizes(self.directory / "objects" / "pack"))
        limit = self.limits.repository_bytes
        return f"the repository would be larger than {limit} bytes" if size > limit else None


def _sizes(folder: Path) -> Iterator[int]:
    for path in folder.iterdir():
        try:
            yield path.stat().st_size
        except FileNotFoundError:  # git renames a pack when it is whole
            continue


def _import_stream(contents: list[bytes]) -> Iterator[bytes]:
    for number, data in enumerate(contents, start=1):
        yield f"blob\nmark :{number}\ndata {len(data)}\n".encode()
        yield data
        yield f"\nget-mark :{number}\n".encode()
    yield b"done\n"


def _parse_log(text: str) -> Iterator[CommitInfo]:
    tokens = text.split("\0")
    at = 0
    while at + 4 < len(tokens):
        sha, parents, author, when, message = tokens[at : at + 5]
        at += 5
        paths = []
        while at < len(tokens) and tokens[at].lstrip("\n").startswith(":"):
            paths.append(tokens[at + 1])
            at += 2
        yield CommitInfo(
            sha.strip("\n"),
            tuple(parents.split()),
            author,
            message.strip("\n"),
            float(when),
            tuple(paths),
        )
        if at < len(tokens) and tokens[at] == "":
            at += 1


def _parse_change(header: str, path: str) -> PathChange:
    old_mode, _new_mode, old, new, _status = header[1:].split(" ")
    return PathChange(
        path=path,
        before=None if set(old) == {"0"} else old,
        after=None if set(new) == {"0"} else new,
        is_regular=old_mode in ("000000", "100644", "100755") and path_problem(path) is None,
    )


def _is_lock(error: OperationFailed) -> bool:
    return "cannot lock ref" in error.problem.what or "Unable to create" in error.problem.what


def _unreadable(what: str, error: OperationFailed | None) -> OperationFailed:
    if error is not None and error.code in ("MYC-GIT-001", "MYC-GIT-006", "MYC-GIT-007"):
        return error
    return OperationFailed(
        "MYC-GIT-009",
        f"{what} cannot be read: {error.problem.what if error else 'it is missing or damaged'}",
        fix="the last good revision stays in force; restore the repository, "
        "or remove a remote one's cache to fetch it anew",
    )


def _corrupt(directory: Path, why: str) -> StateCorrupt:
    return StateCorrupt(
        "MYC-GIT-009",
        f"{directory} cannot be used as a bare repository: {why}",
        fix="restore it from a backup or another clone; it is never recreated empty",
    )
