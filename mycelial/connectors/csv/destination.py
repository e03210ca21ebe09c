"""Writes CSV exactly once: rows are staged beside the file and appended under the journal."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import IO, TYPE_CHECKING

from arro3.core import RecordBatch

from mycelial.connectors.csv.records import Dialect
from mycelial.connectors.csv.render import Renderer, check_writable
from mycelial.kernel.entropy import new_hex
from mycelial.kernel.files import fsync_dir
from mycelial.sdk.envelope import (
    BarrierKind,
    Checkpoint,
    Committed,
    DestinationPlan,
    Envelope,
    FenceToken,
    Part,
    Receipt,
    Reject,
    StreamSchema,
)
from mycelial.sdk.errors import Permanent
from mycelial.sdk.kit import filecommit
from mycelial.sdk.kit.arrowtypes import arrow_schema, conforms
from mycelial.sdk.kit.filecommit import Entry, Journal, State
from mycelial.sdk.plugin import Context

if TYPE_CHECKING:
    from mycelial.connectors.csv.config import CsvDestinationConfig

_COPY_BYTES = 1024 * 1024


class CsvDestination:
    """One CSV file that grows or is replaced by each run, or a folder of files."""

    def __init__(self, settings: CsvDestinationConfig) -> None:
        self._settings = settings
        self._dialect = Dialect(settings.delimiter.encode(), settings.quote.encode())
        self._renderer: Renderer | None = None
        self._schema = arrow_schema(StreamSchema("", ()))
        self._journal: Journal | None = None
        self._path = Path()
        self._staged = Path()
        self._stage: IO[bytes] | None = None
        self._starts_run = False
        self._in_run = False

    def plan(self, ctx: Context, streams: tuple[StreamSchema, ...]) -> DestinationPlan:  # noqa: D102
        schema = arrow_schema(_only(streams))
        check_writable(schema, null=self._settings.null)
        path = ctx.path(self._settings.path, write=True)
        notes = ["exactly-once on a local disk; a network share promises nothing"]
        if not self._settings.escape_formulas:
            notes.append("text that starts with = + - @ is a formula to spreadsheets, and kept")
        return DestinationPlan(
            mode=self._settings.mode,
            exactly_once=True,
            ddl=() if path.exists() else (f"create {path}",),
            unit_rows=1_000_000 if self._whole_files else 65_536,
            unit_bytes=256 * 1024 * 1024 if self._whole_files else 16 * 1024 * 1024,
            unit_seconds=60.0 if self._whole_files else 1.0,
            notes=tuple(notes),
            target=str(path),
        )

    @property
    def _whole_files(self) -> bool:
        return self._settings.layout == "files"

    @property
    def _target(self) -> str:
        """The name, relative to the journal's root, of the file that grows."""
        name = self._path.name
        return f".{name}.run" if self._settings.mode == "replace" else name

    def open(  # noqa: D102
        self, ctx: Context, scope: str, fence: FenceToken
    ) -> Mapping[Part, Committed]:
        self._path = ctx.path(self._settings.path, write=True)
        root = self._path if self._whole_files else self._path.parent
        root.mkdir(parents=True, exist_ok=True)
        folder = "_mycelial" if self._whole_files else f".{self._path.name}.mycelial"
        self._journal = journal = Journal(root, folder)
        area = root if self._whole_files else root / folder
        self._staged = area / filecommit.temporary_name(scope, fence)
        state = journal.open(scope, fence, lambda: self._listing(area))
        journal.compact()
        committed = state.committed(scope)
        if self._settings.mode == "replace":
            self._open_run(state, committed)
        return committed

    def _listing(self, area: Path) -> dict[str, int]:
        assert self._journal is not None
        found = filecommit.listing_below(self._journal.root, area)
        target = self._journal.root / self._target
        if not self._whole_files and target.is_file():
            found[self._target] = target.stat().st_size
        return found

    def _open_run(self, state: State, committed: Mapping[Part, Committed]) -> None:
        """Go on with a run that a crash left, or finish the swap of one that was complete."""
        if len(committed) > 1:
            raise _one_part()
        self._in_run = any(not found.ends_run for found in committed.values())
        if committed and not self._in_run:
            self._swap(state.sizes.get(self._target))

    def migrate(self, streams: tuple[StreamSchema, ...]) -> None:  # noqa: D102
        self._schema = arrow_schema(_only(streams))
        self._renderer = Renderer(
            self._schema,
            self._dialect,
            null=self._settings.null,
            escape_formulas=self._settings.escape_formulas,
            marker=f"null-{new_hex(12)}",
        )

    def write(self, envelope: Envelope) -> tuple[Reject, ...]:  # noqa: D102
        if self._settings.mode == "replace" and envelope.barrier is BarrierKind.RUN_START:
            self._discard()
            self._starts_run = self._in_run = True
        if envelope.batch is not None and envelope.rows:
            self._append(envelope.batch)
        return ()

    def _append(self, batch: RecordBatch) -> None:
        if self._settings.mode == "replace" and not self._in_run:
            raise Permanent(
                "MYC-CSV-022",
                "mode replace needs a source that delivers whole snapshot runs",
                fix="remove the source's cursor, or set mode: append",
            )
        if self._renderer is None or not conforms(batch, self._schema):
            raise Permanent(
                "MYC-CSV-023",
                "a batch arrived that has not the planned columns",
                fix="plan again: the source has changed",
            )
        if self._stage is None:
            self._stage = self._staged.open("wb")
            if self._whole_files and self._settings.header:
                self._stage.write(self._renderer.header())
        self._stage.write(self._renderer.rows(batch))

    def commit(self, checkpoint: Checkpoint) -> Receipt:  # noqa: D102
        journal = self._require_journal()
        if self._stage is not None:
            self._stage.flush()
            os.fsync(self._stage.fileno())
            self._stage.close()
        has_rows = self._stage is not None
        outside_run = self._settings.mode == "replace" and not self._in_run
        if not self._whole_files and not outside_run:
            entry, size = self._commit_growth(journal, checkpoint, has_rows=has_rows)
        elif has_rows:
            size = self._staged.stat().st_size
            name = filecommit.unit_name(checkpoint, ".csv")
            digest = f"sha256:{_digest_of(self._staged)}"
            entry = filecommit.publish(journal, checkpoint, self._staged, name, digest=digest)
        else:
            entry, size = filecommit.enter_position(journal, checkpoint), 0
        self._discard()
        return filecommit.receipt(entry, size)

    def _commit_growth(
        self, journal: Journal, checkpoint: Checkpoint, *, has_rows: bool
    ) -> tuple[Entry, int]:
        """Append what is staged and enter the new length, under the lock (I2, I4)."""
        with journal.locked() as state:
            filecommit.check_fence(state, checkpoint.scope, checkpoint.fence)
            size = self._base(journal, state, checkpoint)
            wants_header = self._settings.header and (has_rows or checkpoint.ends_run)
            added, digest = 0, ""
            if has_rows or wants_header:
                assert self._renderer is not None
                header = self._renderer.header() if wants_header and size == 0 else b""
                staged = self._staged if has_rows else None
                added, digest = _grow(journal.root / self._target, size, header, staged)
            entry = Entry.of(
                "append",
                checkpoint,
                filecommit.total_rows(state, checkpoint),
                file=self._target,
                size=size + added,
                digest=digest,
            )
            journal.append(entry)
            if self._settings.mode == "replace" and checkpoint.ends_run:
                self._swap(entry.size)
                self._in_run = False
        self._starts_run = False
        return entry, added

    def _base(self, journal: Journal, state: State, checkpoint: Checkpoint) -> int:
        """Return the length to append at, entering it when the file is new to the journal."""
        path = journal.root / self._target
        known = state.sizes.get(self._target)
        if self._settings.mode == "replace":
            if any(s == checkpoint.scope and p != checkpoint.part for s, p in state.last):
                raise _one_part()
            if self._starts_run or known is None:
                path.unlink(missing_ok=True)
                known = None
            elif known and not path.exists() and self._in_run:
                raise Permanent(
                    "MYC-CSV-024",
                    f"{path}, the unfinished run, is gone",
                    fix="set the position to nothing with `mycelial state set` to begin again",
                )
        present = path.stat().st_size if path.exists() else 0
        if known is None or (known and not path.exists()):  # a file moved away: begin a new one
            entry = Entry("base", checkpoint.scope, checkpoint.fence, file=self._target)
            journal.append(replace(entry, size=present))
            return present
        return known

    def _swap(self, size: int | None) -> None:
        """Give the finished run its name; it may have it already."""
        run = self._path.with_name(self._target)
        if size is not None and run.exists() and run.stat().st_size == size:
            run.replace(self._path)
            fsync_dir(self._path.parent)

    def set_position(self, checkpoint: Checkpoint) -> None:  # noqa: D102
        filecommit.enter_position(self._require_journal(), checkpoint)
        self._in_run = not checkpoint.ends_run

    def abort(self) -> None:  # noqa: D102
        self._discard()

    def _discard(self) -> None:
        if self._stage is not None:
            self._stage.close()
            self._stage = None
            with contextlib.suppress(FileNotFoundError):
                self._staged.unlink()

    def interrupt(self) -> None:
        """Nothing here blocks for long."""

    def close(self) -> None:  # noqa: D102
        self._discard()
        self._journal = None

    def _require_journal(self) -> Journal:
        assert self._journal is not None, "open() comes first"
        return self._journal


def _only(streams: tuple[StreamSchema, ...]) -> StreamSchema:
    if len(streams) != 1:
        raise Permanent(
            "MYC-CSV-025",
            f"a csv destination takes one stream, the source has {len(streams)}",
            fix="make one workflow per stream",
        )
    return streams[0]


def _one_part() -> Permanent:
    return Permanent(
        "MYC-CSV-026",
        "mode replace needs a source with one partition",
        fix="set mode: append, or read the source unpartitioned",
    )


def _grow(path: Path, size: int, header: bytes, staged: Path | None) -> tuple[int, str]:
    """Append header and staged bytes at `size` and fsync; return the bytes added and digest."""
    new = not path.exists()
    added, digest = len(header), sha256(header)
    with path.open("r+b" if not new else "w+b") as out:
        out.truncate(size)  # a dead writer may have left half a unit behind
        out.seek(size)
        out.write(header)
        if staged is not None:
            with staged.open("rb") as source:
                while data := source.read(_COPY_BYTES):
                    out.write(data)
                    digest.update(data)
                    added += len(data)
        out.flush()
        os.fsync(out.fileno())
    if new:
        fsync_dir(path.parent)
    return added, f"sha256:{digest.hexdigest()}"


def _digest_of(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while data := file.read(_COPY_BYTES):
            digest.update(data)
    return digest.hexdigest()
