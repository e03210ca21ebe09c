"""Writes one file per unit and publishes it whole; runs of `replace` swap a link."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mycelial.connectors.parquet.writer import UnitWriter
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
from mycelial.sdk.kit.filecommit import Journal
from mycelial.sdk.plugin import Context

if TYPE_CHECKING:
    from mycelial.connectors.parquet.config import ParquetDestinationConfig

CURRENT = "current"


class ParquetDestination:
    """A folder of Parquet files."""

    def __init__(self, settings: ParquetDestinationConfig) -> None:
        self._settings = settings
        self._schema = arrow_schema(StreamSchema("", ()))
        self._root = Path()
        self._staged = Path()
        self._scope = ""
        self._journal: Journal | None = None
        self._writer: UnitWriter | None = None
        self._generation = 0
        self._in_run = False

    @property
    def _replaces(self) -> bool:
        return self._settings.mode == "replace"

    def plan(self, ctx: Context, streams: tuple[StreamSchema, ...]) -> DestinationPlan:  # noqa: D102
        arrow_schema(_only(streams))
        path = ctx.path(self._settings.path, write=True)
        if path.exists() and not path.is_dir():
            raise Permanent(
                "MYC-PARQUET-011",
                f"{path} is a file; a Parquet destination is a folder",
                fix="name a folder, or move the file away",
            )
        notes = ["exactly-once on a local disk; a network share promises nothing"]
        if self._replaces:
            notes.append(f"read {path}/{CURRENT}/*.parquet: it moves to each run when it is whole")
        return DestinationPlan(
            mode=self._settings.mode,
            exactly_once=True,
            ddl=() if path.exists() else (f"create folder {path}",),
            unit_rows=1_000_000,
            unit_bytes=256 * 1024 * 1024,
            unit_seconds=60.0,
            notes=tuple(notes),
            target=str(path),
        )

    def open(  # noqa: D102
        self, ctx: Context, scope: str, fence: FenceToken
    ) -> Mapping[Part, Committed]:
        if self._replaces and os.name == "nt":
            raise Permanent(
                "MYC-PARQUET-012",
                "mode replace needs links that can be swapped, which Windows does not give",
                fix="use mode: append with a path per run",
            )
        self._scope = scope
        self._root = ctx.path(self._settings.path, write=True)
        self._root.mkdir(parents=True, exist_ok=True)
        self._staged = self._root / filecommit.temporary_name(scope, fence)
        self._journal = journal = Journal(self._root)
        state = journal.open(scope, fence, lambda: filecommit.listing_below(self._root, self._root))
        last = {part: e for (owner, part), e in state.last.items() if owner == scope}
        if self._replaces and last:
            if len(last) > 1:
                raise _one_part()
            entry = next(iter(last.values()))
            self._generation, self._in_run = entry.generation, not entry.ends_run
            if entry.ends_run:
                self._swap()
        return state.committed(scope)

    def migrate(self, streams: tuple[StreamSchema, ...]) -> None:  # noqa: D102
        self._schema = arrow_schema(_only(streams))

    def write(self, envelope: Envelope) -> tuple[Reject, ...]:  # noqa: D102
        if self._replaces and envelope.barrier is BarrierKind.RUN_START:
            self.abort()
            self._generation += 1
            self._in_run = True
            self._remove_run(self._generation)
        if envelope.batch is None or not envelope.rows:
            return ()
        if self._replaces and not self._in_run:
            raise Permanent(
                "MYC-PARQUET-013",
                "mode replace needs a source that delivers whole snapshot runs",
                fix="remove the source's cursor, or set mode: append",
            )
        if not conforms(envelope.batch, self._schema):
            raise Permanent(
                "MYC-PARQUET-014",
                "a batch arrived that has not the planned columns",
                fix="plan again: the source has changed",
            )
        if self._writer is None:
            self._writer = UnitWriter(
                self._staged,
                self._schema,
                scope=self._scope,
                compression=self._settings.compression,
                max_row_group_size=self._settings.row_group_rows,
            )
        # Drivers leave notes in field metadata; one file has one schema, to the letter.
        self._writer.write(envelope.batch.with_schema(self._schema))
        return ()

    def commit(self, checkpoint: Checkpoint) -> Receipt:  # noqa: D102
        journal = self._require_journal()
        if self._replaces:
            self._check_part(journal, checkpoint)
        generation = self._generation
        if self._writer is None:
            entry = filecommit.enter_position(journal, checkpoint, generation=generation)
            size = 0
        else:
            size, digest = self._writer.finish()
            self._writer = None
            name = filecommit.unit_name(checkpoint, ".parquet")
            if self._replaces:
                self._run_folder(generation).mkdir(exist_ok=True)
                name = f"{self._run_folder(generation).name}/{name}"
            entry = filecommit.publish(
                journal, checkpoint, self._staged, name, digest=digest, generation=generation
            )
        if self._replaces and checkpoint.ends_run:
            self._swap()
            self._in_run = False
        return filecommit.receipt(entry, size)

    def _check_part(self, journal: Journal, checkpoint: Checkpoint) -> None:
        with journal.locked() as state:
            if any(s == checkpoint.scope and p != checkpoint.part for s, p in state.last):
                raise _one_part()

    def _run_folder(self, generation: int) -> Path:
        return self._root / f".run-{filecommit.scope_token(self._scope)}-{generation:06d}"

    def _swap(self) -> None:
        """Point `current` at the finished run; repeating it changes nothing."""
        folder = self._run_folder(self._generation)
        folder.mkdir(exist_ok=True)
        link = self._root / CURRENT
        if not (link.is_symlink() and link.readlink() == Path(folder.name)):
            fresh = self._root / f"{self._staged.name}.link"
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(folder.name, target_is_directory=True)
            fresh.replace(link)
            fsync_dir(self._root)
        for old in range(self._generation - 2, 0, -1):
            if not self._remove_run(old):
                break

    def _remove_run(self, generation: int) -> bool:
        folder = self._run_folder(generation)
        if not folder.exists():
            return False
        shutil.rmtree(folder)
        return True

    def set_position(self, checkpoint: Checkpoint) -> None:  # noqa: D102
        filecommit.enter_position(self._require_journal(), checkpoint, generation=self._generation)
        self._in_run = not checkpoint.ends_run

    def abort(self) -> None:  # noqa: D102
        if self._writer is not None:
            self._writer.abort()
            self._writer = None

    def interrupt(self) -> None:
        """Nothing here blocks for long."""

    def close(self) -> None:  # noqa: D102
        self.abort()
        self._journal = None

    def _require_journal(self) -> Journal:
        assert self._journal is not None, "open() comes first"
        return self._journal


def _only(streams: tuple[StreamSchema, ...]) -> StreamSchema:
    if len(streams) != 1:
        raise Permanent(
            "MYC-PARQUET-015",
            f"a parquet destination takes one stream, the source has {len(streams)}",
            fix="make one workflow per stream",
        )
    return streams[0]


def _one_part() -> Permanent:
    return Permanent(
        "MYC-PARQUET-016",
        "mode replace needs a source with one partition",
        fix="set mode: append, or read the source unpartitioned",
    )
