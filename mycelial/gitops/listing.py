"""From `git ls-tree` to a Tree: which entries are manifests, and what cannot be read. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mycelial.gitops.base import Tree
from mycelial.gitops.git import Limits
from mycelial.gitops.grammar import path_problem
from mycelial.kernel.errors import Location, OperationFailed, Problem, Severity

SYMLINK, GITLINK = "120000", "160000"
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of `git ls-tree -r -l`. `size` is -1 for what is not a blob."""

    mode: str
    blob: str
    size: int
    path: str


def parse_listing(output: bytes) -> Iterator[Entry]:
    """Yield the entries of `git ls-tree -r -z -l --full-tree`.

    Raises: OperationFailed (MYC-GIT-009) for an object that is not there.
    """
    for line in output.split(b"\0"):
        if not line:
            continue
        facts, _, path = line.partition(b"\t")
        mode, _kind, blob, size = facts.decode("ascii").split()
        if size != "-" and not size.isdecimal():  # git prints BAD and goes on
            raise OperationFailed(
                "MYC-GIT-009",
                f"object {blob[:12]} cannot be read: it is missing or damaged",
                fix="the last good revision stays in force; restore the repository, "
                "or remove a remote one's cache to fetch it anew",
            )
        name = path.decode("utf-8", "surrogateescape")
        yield Entry(mode, blob, -1 if size == "-" else int(size), name)


def is_manifest(path: str) -> bool:
    """Tell whether a path names a manifest: YAML, with no hidden part such as `.github`."""
    return path.lower().endswith(_SUFFIXES) and not is_hidden(path)


def is_hidden(path: str) -> bool:
    """Tell whether a part of the path starts with a dot."""
    return any(part.startswith(".") for part in path.split("/"))


def build_tree(revision: str, entries: Iterable[Entry], limits: Limits) -> Tree:
    """Return the manifests; what is refused becomes a problem and makes the tree incomplete.

    Raises: OperationFailed (MYC-GIT-007) when the tree as a whole is beyond the limits.
    """
    files: dict[str, str] = {}
    problems: list[Problem] = []
    total = 0
    for entry in entries:
        if not is_manifest(entry.path):
            problems.extend(_unseen(entry))
            continue
        problem = _refusal(entry, limits)
        if problem is not None:
            problems.append(problem)
            continue
        files[entry.path] = entry.blob
        total += entry.size
        if len(files) > limits.files or total > limits.repository_bytes:
            raise OperationFailed(
                "MYC-GIT-007",
                f"{revision} holds more than {limits.files} manifests "
                f"or {limits.repository_bytes} bytes of them",
                fix="split the repository, and name the parts as several sources",
            )
    complete = all(problem.severity is not Severity.ERROR for problem in problems)  # I8
    return Tree(revision, files, complete, tuple(problems))


def _refusal(entry: Entry, limits: Limits) -> Problem | None:
    where = Location(entry.path.encode("utf-8", "backslashreplace").decode())
    if (why := path_problem(entry.path)) is not None:
        return Problem("MYC-GIT-004", f"the path is refused: {why}", "rename the file", where)
    if entry.mode == SYMLINK:
        return Problem(
            "MYC-GIT-012",
            "a symbolic link is not followed, so this manifest was not read",
            "commit the file itself; until then nothing is deleted",
            where,
        )
    if entry.mode == GITLINK:
        return Problem(
            "MYC-GIT-012",
            "a submodule is not read, so manifests in it were not seen",
            "add its repository as a source of its own; until then nothing is deleted",
            where,
        )
    if entry.size > limits.file_bytes:
        return too_large(entry.path, entry.size, limits)
    return None


def too_large(path: str, size: int, limits: Limits) -> Problem:
    """Return the problem of a manifest beyond the limit; also for what a folder holds."""
    return Problem(
        "MYC-GIT-013",
        f"the manifest has {size} bytes; at most {limits.file_bytes} are read",
        "split it into several files; until then nothing is deleted",
        Location(path),
    )


def _unseen(entry: Entry) -> Iterator[Problem]:
    """Warn of what may hide a folder of manifests: a submodule, or a link without a suffix."""
    name = entry.path.rpartition("/")[2]
    may_be_folder = entry.mode == GITLINK or (entry.mode == SYMLINK and "." not in name)
    if may_be_folder and not is_hidden(entry.path):
        kind = "submodule" if entry.mode == GITLINK else "symbolic link"
        yield Problem(
            "MYC-GIT-012",
            f"a {kind} is not followed; manifests behind it are not seen",
            "move manifests into this repository, or add the other one as a source",
            Location(entry.path.encode("utf-8", "backslashreplace").decode()),
            Severity.WARNING,
        )
