"""Manifest files named on the command line: folders, globs of the shell, stdin."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mycelial.kernel.errors import OperationFailed, UsageError

SUFFIXES = (".yaml", ".yml")
STDIN = "<stdin>"


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A manifest on disk, with what tells whether it has changed since it was last read."""

    path: str
    size: int
    mtime_ns: int

    def read(self) -> bytes:
        """Return the content. Raises: OperationFailed."""
        return _read(Path(self.path))


def find_manifests(paths: Iterable[str]) -> list[FoundFile]:
    """Return the manifests under `paths`, sorted; hidden folders are passed over.

    Raises: UsageError when a path does not exist, or when nothing matched at all: a check that
    looked at no file must not pass.
    """
    asked = list(paths)
    found = {item.path: item for path in asked for item in _walk(path)}
    if not found:
        raise UsageError(
            "MYC-CLI-030",
            f"no manifest (*.yaml, *.yml) under {', '.join(asked)}",
            fix="name a file or folder that holds manifests",
        )
    return [found[path] for path in sorted(found)]


def read_manifests(paths: Iterable[str]) -> dict[str, bytes]:
    """Return path -> content of every manifest under `paths`; `-` is stdin."""
    asked = list(paths)
    contents = {STDIN: sys.stdin.buffer.read()} if "-" in asked else {}
    named = [path for path in asked if path != "-"]
    if named:
        contents |= {item.path: item.read() for item in find_manifests(named)}
    return contents


def _walk(path: str) -> Iterator[FoundFile]:
    try:
        status = Path(path).stat()
    except OSError as error:
        raise UsageError("MYC-CLI-031", f"cannot read {path}: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode):
        yield FoundFile(_display(path), status.st_size, status.st_mtime_ns)
        return
    pending = [path]
    while pending:
        folder = pending.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            raise OperationFailed(
                "MYC-CLI-032", f"cannot list {folder}: {error.strerror}"
            ) from error
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
            elif entry.name.endswith(SUFFIXES) and entry.is_file():
                status = entry.stat()
                yield FoundFile(_display(entry.path), status.st_size, status.st_mtime_ns)


def _display(path: str) -> str:
    """Return the path as people write it: no leading `./`, forward slashes."""
    return os.path.normpath(path).replace(os.sep, "/")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OperationFailed("MYC-CLI-032", f"cannot read {path}: {error.strerror}") from error
