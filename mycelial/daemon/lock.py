"""One daemon per state directory, held by the operating system: a killed holder frees it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from mycelial.kernel.errors import OperationFailed
from mycelial.kernel.files import make_private_dir


@contextlib.contextmanager
def exclusive(state_dir: Path) -> Iterator[None]:
    """Hold the state directory until the block ends.

    The lock belongs to an open file that children started by exec do not inherit, so workers that
    outlive a killed daemon for a moment do not hold it.
    Raises: OperationFailed MYC-DAEMON-020 when another process holds it, MYC-DAEMON-022 when it
    cannot be made or written.
    """
    try:
        make_private_dir(state_dir)
        fd = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise OperationFailed(
            "MYC-DAEMON-022",
            f"the state directory {state_dir} cannot be used: {error.strerror}",
            fix="let this user write there, or name another with --state; nothing was started",
        ) from error
    try:
        if not _try_lock(fd):
            raise OperationFailed(
                "MYC-DAEMON-020",
                f"{state_dir} is in use by another daemon{_holder(fd)}",
                fix="stop that daemon, or give this one its own state_dir",
            )
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0) if hasattr(os, "pwrite") else None
        yield
    finally:
        os.close(fd)


def _holder(fd: int) -> str:
    try:
        text = os.read(fd, 32).decode("ascii", "replace").strip()
    except OSError:  # Windows refuses to read a locked range
        return ""
    return f" (process {text})" if text.isdigit() else ""


if sys.platform == "win32":
    import msvcrt

    def _try_lock(fd: int) -> bool:
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
