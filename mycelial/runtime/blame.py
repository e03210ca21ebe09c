"""Which part of the manifest a failure is about, and what the operating system's refusals mean."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import replace

from mycelial.sdk.errors import NotYet, PluginError

_NO_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG}
_REFUSED = {
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}


@contextlib.contextmanager
def blaming(path: str) -> Iterator[None]:
    """Note the field path (`spec.source`) in failures that do not name one yet."""
    try:
        yield
    except PluginError as error:
        if not error.problem.path:
            error.problem = replace(error.problem, path=path)
        raise
    except OSError as error:
        meant = meaning(error)
        if meant is None:
            raise
        meant.problem = replace(meant.problem, path=path)
        raise meant from error


def meaning(error: OSError) -> PluginError | None:
    """Return what a file system's refusal means to people; None when it is not one.

    All of them can be mended without a change of the manifest, so a daemon tries again.
    """
    what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    if error.errno in _NO_SPACE:
        return NotYet("MYC-RUN-091", what, fix="free space; it goes on from the last commit")
    if error.errno in _REFUSED:
        return NotYet(
            "MYC-RUN-092",
            what,
            fix="check the path, and that the user who runs this may use file and folder",
        )
    return None
