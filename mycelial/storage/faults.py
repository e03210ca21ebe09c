"""What a store says when it cannot do its work: code, what, where, how to mend it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from mycelial.kernel.errors import Conflict, Location, OperationFailed, StateCorrupt

CORRUPT = "MYC-STORE-001"
FULL = "MYC-STORE-002"
LOCKED = "MYC-STORE-003"
READ_ONLY = "MYC-STORE-004"
IO_ERROR = "MYC-STORE-005"
NEWER = "MYC-STORE-006"
CLOSED = "MYC-STORE-007"
OTHER = "MYC-STORE-008"
VERSION_MOVED = "MYC-STORE-010"
DAEMON_EXISTS = "MYC-STORE-011"
NAME_TAKEN = "MYC-STORE-012"
NO_DAEMON = "MYC-STORE-013"
NOT_KNOWN = "MYC-STORE-014"
TOKEN_EXISTS = "MYC-STORE-015"  # noqa: S105 - an error code

_CODES = {
    sqlite3.SQLITE_FULL: (FULL, "the disk is full", "free space on the file system, then retry"),
    sqlite3.SQLITE_BUSY: (
        LOCKED,
        "another process holds the database's lock",
        "stop the other control plane or backup that has it open, then retry",
    ),
    sqlite3.SQLITE_READONLY: (
        READ_ONLY,
        "the database cannot be written",
        "give the control plane's user write permission to the file and its directory",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        READ_ONLY,
        "the database cannot be opened",
        "check that its directory exists and belongs to the control plane's user",
    ),
    sqlite3.SQLITE_IOERR: (
        IO_ERROR,
        "the disk failed while the database was used",
        "check the disk and the system log before going on; nothing was acknowledged",
    ),
}
_CODES[sqlite3.SQLITE_LOCKED] = _CODES[sqlite3.SQLITE_BUSY]
_CODES[sqlite3.SQLITE_PERM] = _CODES[sqlite3.SQLITE_READONLY]
_NOT_TRUSTED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def translate(error: sqlite3.Error, path: Path) -> OperationFailed:
    """Return our error for one of SQLite's; its primary code decides, its text is kept."""
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if primary in _NOT_TRUSTED:
        return corrupt(path, str(error))
    code, what, fix = _CODES.get(primary, (OTHER, "the database refused the operation", ""))
    fix = fix or "this is not expected: keep the message and report it"
    return OperationFailed(code, f"{what}: {error}", fix=fix, where=Location(str(path)))


def corrupt(path: Path, detail: str) -> StateCorrupt:
    """Return the error for a file that cannot be trusted. The file itself is left untouched."""
    fix = (
        f"stop the control plane, move {path.name} and its -wal and -shm files into a directory "
        f"beside it for inspection, then restore the newest backup as {path.name}; without one, "
        "start empty: desired state comes back from git and daemons keep running, but each has to "
        "join again"
    )
    what = f"the control plane's store cannot be trusted: {detail}"
    return StateCorrupt(CORRUPT, what, fix=fix, where=Location(str(path)))


def version_moved(*, expected: int, found: int) -> Conflict:
    """Return the error for a write made from an older ledger (R5)."""
    return Conflict(
        VERSION_MOVED,
        f"the ledger is at version {found}, this write was made from {expected}",
        fix="read the ledger again and make the plan anew",
    )


def daemon_exists(daemon_id: str) -> Conflict:
    """Return the error for a second daemon with one id."""
    return Conflict(
        DAEMON_EXISTS,
        f"a daemon with id {daemon_id} has joined already",
        fix="let the machine join with a fresh state directory",
    )


def name_taken(name: str) -> Conflict:
    """Return the error for a second unrevoked daemon of one name."""
    return Conflict(
        NAME_TAKEN,
        f"a daemon named {name!r} has joined already",
        fix=f"choose another name, or revoke {name!r} first if the machine was replaced",
    )


def no_daemon(daemon_id: str) -> OperationFailed:
    """Return the error for a daemon that never joined."""
    return OperationFailed(
        NO_DAEMON, f"no daemon with id {daemon_id} has joined", fix="let it join first"
    )


def not_known(uid: str) -> OperationFailed:
    """Return the error for a duty about a workflow that the ledger does not know."""
    return OperationFailed(
        NOT_KNOWN,
        f"a duty names workflow {uid}, which the ledger does not know",
        fix="write the workflow's identity with its duties",
    )


def token_exists() -> Conflict:
    """Return the error for a join token that is stored already."""
    return Conflict(TOKEN_EXISTS, "this join token exists already", fix="make a new token")
