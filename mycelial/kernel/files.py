"""Files that survive a power cut: written whole, fsynced, renamed, directory fsynced."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def fsync_dir(path: Path) -> None:
    """Make the names inside a directory durable. A no-op where directories cannot be opened."""
    if os.name == "nt":
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_durable(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace `path` by `data`, atomically and durably; readers see the old or the new whole.

    Raises: OSError (disk full, permission). A failure leaves the old content untouched.
    """
    _sweep(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first failure is the one to report
            temporary.unlink()
        raise
    fsync_dir(path.parent)


def _sweep(path: Path) -> None:
    """Remove what writers of `path` left that were killed before the rename (I6)."""
    before, after = f".{path.name}.", ".tmp"
    for other in path.parent.iterdir():
        pid = other.name[len(before) : -len(after)]
        ours = other.name.startswith(before) and other.name.endswith(after) and pid.isdigit()
        if ours and not _is_alive(int(pid)):
            with contextlib.suppress(OSError):
                other.unlink()


def _is_alive(pid: int) -> bool:
    if os.name == "nt":
        return False  # a file that its writer has open cannot be removed there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def make_private_dir(path: Path) -> None:
    """Create a directory (and parents) that only its owner can enter."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
