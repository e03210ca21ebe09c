"""Streams Parquet files batch by batch; a position is a row number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

from arro3.core import RecordBatch, RecordBatchReader, Schema
from arro3.io import read_parquet

from mycelial.sdk.envelope import SourcePlan
from mycelial.sdk.errors import NotYet, Permanent
from mycelial.sdk.kit.arrowtypes import conforms, stream_schema
from mycelial.sdk.kit.files import FilesSource, FoundFile, Place, list_files
from mycelial.sdk.plugin import Context

if TYPE_CHECKING:
    from mycelial.connectors.parquet.config import ParquetSourceConfig


class ParquetSource(FilesSource):
    """All files of a pattern, as one incremental stream."""

    def __init__(self, settings: ParquetSourceConfig) -> None:
        folder, _, name = settings.path.replace("\\", "/").rpartition("/")
        stem = name.removesuffix(".parquet").replace("*", "").strip("-_. ")
        stream = settings.stream or stem or folder.rpartition("/")[2] or "parquet"
        super().__init__(settings.path, stream=stream, on_read=settings.on_read, follow=False)
        self._schema: Schema | None = None

    def plan(self, ctx: Context) -> SourcePlan:  # noqa: D102
        files = list_files(ctx, self.pattern)
        if not files:
            raise NotYet(
                "MYC-PARQUET-001",
                f"no file matches {self.pattern} yet, so its columns are not known",
                fix="put a first file there; Parquet files carry their own columns",
            )
        self._ctx = ctx
        try:
            schema = self._schema_of(files[0])
        finally:
            self._ctx = None
        return SourcePlan(
            streams=(stream_schema(self.stream, schema, incremental=True),),
            incremental=True,
            prunes_on_ack=self._on_read != "keep",
            notes=(f"{len(files)} {'file matches' if len(files) == 1 else 'files match'} now",),
        )

    def open(self, ctx: Context) -> None:  # noqa: D102
        super().open(ctx)
        self._schema = None

    def batches(  # noqa: D102
        self, file: FoundFile, start: Place, stop: int | None
    ) -> Iterator[tuple[RecordBatch | None, int, int]]:
        if self._schema is None:
            first = next(iter(list_files(self.ctx, self.pattern)), file)
            self._schema = self._schema_of(first)
        with self.open_file(file) as stream:
            reader = _reader(file, stream, self.ctx.limits.batch_rows)
            yield from self._rows(file, reader, self._schema, start.offset, stop)

    def _rows(
        self,
        file: FoundFile,
        reader: RecordBatchReader,
        schema: Schema,
        start: int,
        stop: int | None,
    ) -> Iterator[tuple[RecordBatch, int, int]]:
        row = 0
        for batch in _guarded(file, reader):
            if not conforms(batch, schema):
                raise Permanent(
                    "MYC-PARQUET-003",
                    f"{file.path} has other columns or types than the first file",
                    fix="use another pattern for files of another shape",
                )
            skip = max(start - row, 0)
            end = batch.num_rows if stop is None else min(batch.num_rows, stop - row)
            if skip < end:
                for part in self._bounded(batch.slice(skip, end - skip)):
                    yield part, (offset := row + skip + part.num_rows), 0
                    skip = offset - row
            row += batch.num_rows
            if stop is not None and row >= stop:
                return

    def _bounded(self, batch: RecordBatch) -> Iterator[RecordBatch]:
        """Cut a batch of wide rows down to the limit in bytes."""
        limit = self.ctx.limits.batch_bytes
        parts = max(1, min(batch.num_rows, -(-int(batch.nbytes) // limit)))
        size = -(-batch.num_rows // parts)
        for begin in range(0, batch.num_rows, size):
            yield batch.slice(begin, min(size, batch.num_rows - begin))

    def _schema_of(self, file: FoundFile) -> Schema:
        with self.open_file(file) as stream:
            return _reader(file, stream, 1).schema.remove_metadata()


def _reader(file: FoundFile, stream: IO[bytes], rows: int) -> RecordBatchReader:
    """Return a reader that goes through the file row group by row group."""
    try:
        return read_parquet(stream, batch_size=rows)
    except Exception as error:  # arro3 raises bare Exception for what is no Parquet
        raise Permanent(
            "MYC-PARQUET-002",
            f"{file.path} cannot be read as Parquet: {error}",
            fix="a file must be complete when its name matches: write it elsewhere and rename",
        ) from error


def _guarded(file: FoundFile, reader: RecordBatchReader) -> Iterator[RecordBatch]:
    batches = iter(reader)
    while True:
        try:
            batch = next(batches, None)
        except Exception as error:  # as above: a damaged page shows while reading
            raise Permanent(
                "MYC-PARQUET-002",
                f"{file.path} is damaged: {error}",
                fix="restore the file; its rows up to here are committed",
            ) from error
        if batch is None:
            return
        yield batch
