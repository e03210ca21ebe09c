"""Bring a database to the newest schema: numbered SQL files, each applied whole or not at all."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from mycelial.kernel.errors import Location, OperationFailed
from mycelial.storage import faults

APPLICATION_ID = 0x4D59434C  # "MYCL": tells our file from anybody else's database


@dataclass(frozen=True, slots=True)
class Migration:
    """One step. `version` is what `PRAGMA user_version` says after it."""

    version: int
    sql: str


def migrations() -> tuple[Migration, ...]:
    """Return all steps in order, from `sql/NNNN_*.sql`."""
    folder = resources.files("mycelial.storage") / "sql"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    return tuple(Migration(int(f.name[:4]), f.read_text(encoding="utf-8")) for f in files)


def migrate(db: sqlite3.Connection, path: Path) -> int:
    """Apply the steps that are missing and return the version reached.

    Raises: OperationFailed when the file was made by a newer release.
    """
    steps = migrations()
    found = int(db.execute("PRAGMA user_version").fetchone()[0])
    newest = steps[-1].version
    if found > newest:
        raise OperationFailed(
            faults.NEWER,
            f"the store has schema {found}; this release knows up to {newest}",
            fix="run the release that last wrote it, or a newer one",
            where=Location(str(path)),
        )
    for step in steps:
        if step.version > found:
            _apply(db, step)
    return newest


def _apply(db: sqlite3.Connection, step: Migration) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        for statement in statements(step.sql):
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {step.version}")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def statements(sql: str) -> Iterator[str]:
    """Split a script; `executescript` would commit in the middle of our transaction."""
    text = ""
    for line in sql.splitlines(keepends=True):
        text += line
        if sqlite3.complete_statement(text):
            yield text
            text = ""
