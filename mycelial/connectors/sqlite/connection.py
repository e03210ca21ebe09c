"""Connections to SQLite files and what their failures mean."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from mycelial.sdk.errors import NotYet, Permanent, PluginError, Transient
from mycelial.sdk.kit.adbc import Session
from mycelial.sdk.kit.sql import TableName, parse_table


def connect(path: Path | None, *, write: bool, lock_timeout_seconds: float) -> Session:
    """Open a file; None is an empty database that is nowhere. Raises: Permanent, Transient."""
    from adbc_driver_sqlite import _driver_path

    if path is None:
        return Session({"driver": _driver_path(), "uri": ":memory:"}, _nowhere)
    if not write and not path.exists():
        raise NotYet("MYC-SQLITE-020", f"there is no file {path}", fix="check `path`")
    if not path.parent.is_dir():
        raise NotYet("MYC-SQLITE-020", f"there is no folder {path.parent}", fix="create it")
    is_new = write and not path.exists()
    # Rows inserted through one URI spelling or another are the same file: `path` is absolute.
    uri = f"file:{quote(path.as_posix())}?mode={'rwc' if write else 'ro'}"
    session = Session(
        {"driver": _driver_path(), "uri": uri},
        lambda message, _: classify(message, path),
    )
    try:
        session.rows(f"PRAGMA busy_timeout = {int(lock_timeout_seconds * 1000)}")
        if is_new:
            # Readers and the writer do not wait for each other; the mode stays with the file.
            session.rows("PRAGMA journal_mode = WAL")
        if write:
            session.execute("PRAGMA synchronous = FULL")
        session.rows("SELECT count(*) AS n FROM sqlite_schema")
    except BaseException:
        session.close()
        raise
    return session


def _nowhere(message: str, _: str | None) -> PluginError:
    return classify(message, Path(":memory:"))


def main_table(text: str) -> TableName:
    """Read a table's name; a file has no schemas but `main`. Raises: Permanent."""
    table = parse_table(text)
    if table.schema.lower() not in ("", "main"):
        raise Permanent(
            "MYC-SQLITE-021",
            f"{text}: SQLite has no schemas",
            fix='write the table alone; quote a name that has a dot: "a.b"',
        )
    return TableName(table.name)


UNSURE = "MYC-SQLITE-014"
"""The code of an I/O error, after which a commit may or may not be in the file."""

_RULES = (
    "the rows break a rule of the table: clean them with a transform, drop the rule, "
    "or use mode: upsert for keys that come again"
)
_BY_TEXT: tuple[tuple[str, type[PluginError], str, str], ...] = (
    ("is locked", Transient, "MYC-SQLITE-010", "another program holds the file; it is tried again"),
    ("disk is full", NotYet, "MYC-SQLITE-013", "free space; it goes on from the last commit"),
    ("disk I/O error", Transient, UNSURE, "check the disk"),
    ("interrupted", Transient, "MYC-SQLITE-012", ""),
    ("unable to open", Permanent, "MYC-SQLITE-020", "check `path` and the file's permissions"),
    ("readonly database", Permanent, "MYC-SQLITE-022", "give write permission to file and folder"),
    ("not a database", Permanent, "MYC-SQLITE-023", "check `path`: the file is no SQLite database"),
    ("malformed", Permanent, "MYC-SQLITE-023", "restore the file, or try `.recover`"),
    ("no such table", NotYet, "MYC-SQLITE-024", "check `table`"),
    ("no such column", Permanent, "MYC-SQLITE-025", "check the column's spelling, or plan again"),
    ("constraint failed", Permanent, "MYC-SQLITE-026", _RULES),
    ("Type mismatch in column", Permanent, "MYC-SQLITE-030", "declare the column's type"),
    ("syntax error", Permanent, "MYC-SQLITE-027", "check `query`"),
    ("incomplete input", Permanent, "MYC-SQLITE-027", "check `query`"),
)  # fmt: skip


def classify(message: str, path: Path) -> PluginError:
    """Return the error for SQLite's message."""
    what = f"{' '.join(message.split())[:600]} (in {path})"
    for words, kind, code, fix in _BY_TEXT:
        if words in message:
            return kind(code, what, fix=fix)
    return Permanent("MYC-SQLITE-029", what, fix="see the message")
