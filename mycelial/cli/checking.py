"""Check many manifest files quickly: what is known from before is not parsed again, and what is
new is shared between processes when there is much of it."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mycelial import __version__
from mycelial.cli.files import FoundFile
from mycelial.kernel.canonical import digest
from mycelial.kernel.clock import Clock

if TYPE_CHECKING:
    from mycelial.schemas.catalog import Catalog
    from mycelial.schemas.checked import CheckedFile
    from mycelial.schemas.validate import Validation

REMEMBER_FROM_FILES = 20
SHARE_FROM_FILES = 400
CHUNK_FILES = 250
# A file that changed twice within the clock's grain would look unchanged: trust only old times.
SETTLED_NS = 2_000_000_000


def validate_found(
    found: Sequence[FoundFile], catalog: Catalog, *, strict: bool, cache: Path, clock: Clock
) -> Validation:
    """Check files as one tree. Raises: OperationFailed when one cannot be read."""
    from mycelial.schemas.compile import compile_tree
    from mycelial.schemas.validate import Validation, framed, made_strict

    if len(found) < REMEMBER_FROM_FILES:
        # The cache's edition depends on every plugin's model; a few files are checked sooner.
        ordered = tuple(check_files(found, catalog))
    else:
        known = _Known(cache, _edition(), clock)
        checked = known.recall(found)
        fresh = check_files([file for file in found if file.path not in checked], catalog)
        known.keep(found, fresh)
        checked |= {file.path: file for file in fresh}
        ordered = tuple(checked[file.path] for file in found)
    desired = compile_tree(ordered, revision="", complete=True, catalog=catalog)
    paths = {p.where.file for p in desired.problems if p.where and not p.frame}
    texts = {file.path: file.read() for file in found if file.path in paths}
    problems = framed(desired.problems, texts, ordered)
    problems = made_strict(problems) if strict else problems
    return Validation(problems, replace(desired, problems=problems), ordered)


def _edition() -> str:
    """Return what tells one judgement from another: the code that checks, and every plugin's.

    Looked at as files: the catalog's own digest would need every plugin's model to be built.
    """
    import mycelial.schemas
    from mycelial.sdk.registry import Registry

    modules = [mycelial.schemas.__file__, *(p.origin for p in Registry.discover())]
    folders = sorted({str(Path(name).parent) for name in modules if name})
    entries = (entry for folder in folders for entry in os.scandir(folder))
    sources = sorted(
        (entry.path, stat.st_size, stat.st_mtime_ns)
        for entry in entries
        if entry.name.endswith(".py") and (stat := entry.stat())
    )
    return digest([__version__, sys.version, sources])


def check_files(found: Sequence[FoundFile], catalog: Catalog) -> list[CheckedFile]:
    """Parse and check files, in parallel when there are many."""
    from mycelial.schemas.check import check_file
    from mycelial.schemas.checked import CheckedFile
    from mycelial.schemas.parse import parse_file

    workers = min(os.cpu_count() or 1, 8)
    if len(found) < SHARE_FROM_FILES or workers == 1:
        return [check_file(parse_file(file.path, file.read()), catalog) for file in found]
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    chunks = [list(found[i : i + CHUNK_FILES]) for i in range(0, len(found), CHUNK_FILES)]
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    with ProcessPoolExecutor(workers, multiprocessing.get_context(method)) as pool:
        return [
            CheckedFile.from_json(item)
            for texts in pool.map(_check_chunk, chunks)
            for item in json.loads(texts)
        ]


def _check_chunk(found: list[FoundFile]) -> str:
    """Check a share of the files in another process; JSON crosses faster than objects."""
    from mycelial.cli.wire_up import installed_catalog
    from mycelial.schemas.check import check_file
    from mycelial.schemas.parse import parse_file

    catalog = installed_catalog()
    return json.dumps(
        [check_file(parse_file(file.path, file.read()), catalog).to_json() for file in found]
    )


class _Known:
    """Checked files of earlier runs. A cache: losing it, or failing to write it, costs time."""

    def __init__(self, path: Path, edition: str, clock: Clock) -> None:
        self._edition = edition
        self._clock = clock
        self._db: sqlite3.Connection | None = None
        with contextlib.suppress(sqlite3.Error, OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=1)
            self._db.execute("pragma synchronous=off")
            self._db.execute(
                "create table if not exists checked (path text primary key, edition text, "
                "size integer, mtime_ns integer, seen_ns integer, value text) without rowid"
            )

    def recall(self, found: Iterable[FoundFile]) -> dict[str, CheckedFile]:
        """Return what is still true of the files."""
        from mycelial.schemas.checked import CheckedFile

        wanted = {os.path.abspath(file.path): file for file in found}  # noqa: PTH100 - hot
        fresh: list[FoundFile] = []
        values: list[str] = []
        for path, size, mtime_ns, seen_ns, value in self._rows(wanted):
            file = wanted.get(path)
            settled = mtime_ns < seen_ns - SETTLED_NS
            if file is None or not settled or (file.size, file.mtime_ns) != (size, mtime_ns):
                continue
            fresh.append(file)
            values.append(value)
        recalled = {}
        try:
            items = json.loads(f"[{','.join(values)}]")  # one call, not one for each file
        except ValueError:
            return {}
        for file, item in zip(fresh, items, strict=True):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                # A file with problems at another relative path is simply checked again.
                recalled[file.path] = CheckedFile.from_json(item, path=file.path)
        return recalled

    def _rows(self, wanted: dict[str, FoundFile]) -> Iterable[tuple[str, int, int, int, str]]:
        if self._db is None:
            return []
        query = "select path, size, mtime_ns, seen_ns, value from checked where edition = ?"
        arguments: list[str] = [self._edition]
        if len(wanted) < CHUNK_FILES:
            query += f" and path in ({','.join('?' * len(wanted))})"
            arguments += wanted
        try:
            return self._db.execute(query, arguments).fetchall()
        except sqlite3.Error:
            return []

    def keep(self, found: Sequence[FoundFile], fresh: Sequence[CheckedFile]) -> None:
        """Remember checked files for the next run."""
        if self._db is None or not fresh:
            return
        facts = {file.path: file for file in found}
        seen_ns = int(self._clock.now() * 1e9)
        rows = [
            (
                os.path.abspath(file.path),  # noqa: PTH100 - hot
                self._edition,
                facts[file.path].size,
                facts[file.path].mtime_ns,
                seen_ns,
                json.dumps(file.to_json()),
            )
            for file in fresh
        ]
        with contextlib.suppress(sqlite3.Error), self._db:
            self._db.executemany("insert or replace into checked values (?,?,?,?,?,?)", rows)
