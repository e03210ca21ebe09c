"""Reads CSV in pieces of whole records, so that every batch ends at a known byte."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from arro3.core import DataType, Field, RecordBatch, Schema

from mycelial.connectors.csv.infer import infer_types
from mycelial.connectors.csv.parse import Piece, RecordParser, records
from mycelial.connectors.csv.records import Dialect, cut
from mycelial.kernel.canonical import digest, short
from mycelial.kernel.files import write_durable
from mycelial.sdk.envelope import SourcePlan, StreamSchema
from mycelial.sdk.errors import NotYet, Permanent
from mycelial.sdk.kit.arrowtypes import parse_type, stream_schema
from mycelial.sdk.kit.files import FilesSource, FoundFile, Place, list_files
from mycelial.sdk.plugin import Context

if TYPE_CHECKING:
    from mycelial.connectors.csv.config import CsvSourceConfig

RECORD_BYTES_MAX = 16 * 1024 * 1024
HEADER_BYTES_MAX = 1024 * 1024
_BOM = b"\xef\xbb\xbf"


class CsvSource(FilesSource):
    """All files of a pattern, as one incremental stream."""

    def __init__(self, settings: CsvSourceConfig) -> None:
        name = settings.path.replace("\\", "/").rpartition("/")[2].replace("*", "").strip("-_. ")
        stream = settings.stream or name.removesuffix(".csv") or "csv"
        super().__init__(
            settings.path, stream=stream, on_read=settings.on_read, follow=settings.follow
        )
        self._settings = settings
        self._dialect = Dialect(settings.delimiter.encode(), settings.quote.encode())
        self._parser: RecordParser | None = None

    def plan(self, ctx: Context) -> SourcePlan:  # noqa: D102
        files = list_files(ctx, self.pattern)
        self._ctx = ctx
        try:
            schema = self._schema(files)
        finally:
            self._ctx = None
        notes = []
        if self._settings.infer:
            shown = ", ".join(f"{c.name}: {c.type}" for c in schema.columns)
            notes.append(f"inferred from the first file, and held from now on: {{{shown}}}")
        if self._settings.on_read != "keep":
            notes.append(f"files are {_ON_READ[self._settings.on_read]} once committed")
        return SourcePlan(
            streams=(schema,),
            incremental=True,
            prunes_on_ack=self._settings.on_read != "keep",
            notes=(
                f"{len(files)} {'file matches' if len(files) == 1 else 'files match'} now",
                *notes,
            ),
        )

    def open(self, ctx: Context) -> None:  # noqa: D102
        super().open(ctx)
        self._parser = None

    def batches(  # noqa: D102
        self, file: FoundFile, start: Place, stop: int | None
    ) -> Iterator[tuple[RecordBatch | None, int, int]]:
        offset, line = start.offset, start.line
        with self.open_file(file) as stream:
            if offset == 0:
                offset, line = self._check_header(file, stream)
                yield None, offset, line
            stream.seek(offset)
            parser = self._parser_for(file)
            for data in self._pieces(file, stream, line, None if stop is None else stop - offset):
                batch = parser.parse(Piece(str(file.path), line, data))
                offset, line = offset + len(data), line + data.count(b"\n")
                yield batch, offset, line

    def _pieces(
        self, file: FoundFile, stream: IO[bytes], line: int, left: int | None
    ) -> Iterator[bytes]:
        """Cut what follows into whole records within the limits of a batch."""
        limits = self.ctx.limits
        target = limits.batch_bytes
        buffer, at_end = b"", False
        while True:
            if not at_end and len(buffer) < target:
                want = target - len(buffer) if left is None else min(target - len(buffer), left)
                more = stream.read(want)
                buffer += more
                left = None if left is None else left - len(more)
                at_end = len(more) < want or left == 0
            if not buffer:
                if at_end:
                    return
                continue
            size = cut(buffer, self._dialect)
            if at_end and (size == 0 or not self._follow) and len(buffer) <= target:
                size = 0 if self._follow else len(buffer)
                if size == 0:
                    return  # follow: the last line is still being written
            if size == 0:
                target = self._wider(file, line, target)
                continue
            size = _within_rows(buffer, size, limits.batch_rows, self._dialect)
            yield buffer[:size]
            line += buffer.count(b"\n", 0, size)
            buffer = buffer[size:]
            target = min(limits.batch_bytes, max(size + size // 50, 4096))

    def _wider(self, file: FoundFile, line: int, target: int) -> int:
        """Return a larger read size for a record that did not fit."""
        if target >= RECORD_BYTES_MAX:
            raise Permanent(
                "MYC-CSV-002",
                f"{file.path}:{line + 1}: a record longer than {RECORD_BYTES_MAX} bytes: a quote "
                "is never closed",
                fix="close the quote, or set `quote` to a character that the file does not use",
            )
        return min(target * 2, RECORD_BYTES_MAX)

    def _check_header(self, file: FoundFile, stream: IO[bytes]) -> tuple[int, int]:
        """Return where the rows begin, after comparing the header with the plan's columns."""
        names, offset, lines = self._head(file, stream)
        parser = self._parser_for(file)
        expected = parser.schema.names
        if names is not None and names != expected:
            missing = [name for name in expected if name not in names]
            extra = [name for name in names if name not in expected]
            raise Permanent(
                "MYC-CSV-007",
                f"{file.path}:1: the header differs from the plan: missing {missing}, "
                f"unexpected {extra}" + ("" if missing or extra else ", in another order"),
                fix="use another pattern for files of another shape, or plan again",
            )
        return offset, lines

    def _head(self, file: FoundFile, stream: IO[bytes]) -> tuple[list[str] | None, int, int]:
        """Return the header's names (None without one), and bytes and lines before the rows."""
        data = stream.read(HEADER_BYTES_MAX)
        skip = len(_BOM) if self._settings.encoding == "utf-8" and data.startswith(_BOM) else 0
        if not self._settings.header or len(data) == skip:
            return None, skip, 0
        end, size = skip - 1, 0
        while size == 0:
            end = data.find(b"\n", end + 1)
            size = len(data) - skip if end < 0 else cut(data[skip : end + 1], self._dialect)
        head = data[skip : skip + size]
        try:
            text = head.decode(self._settings.encoding)
        except UnicodeDecodeError as error:
            raise Permanent(
                "MYC-CSV-001",
                f"{file.path}:1: the header is not {self._settings.encoding}",
                fix="set `encoding` to what the file uses, such as latin-1 or cp1252",
            ) from error
        found = records(text.strip("\r\n"), self._dialect)
        names = found[0][1] if found else []
        if len(found) != 1 or not all(names) or len(set(names)) != len(names):
            raise Permanent(
                "MYC-CSV-008",
                f"{file.path}:1: the header must name every column, each once",
                fix="correct the header, or set header: false and name the columns",
            )
        return names, skip + size, head.count(b"\n")

    def _parser_for(self, file: FoundFile) -> RecordParser:
        """Return the parser; its columns are those of the first file unless all are declared."""
        if self._parser is None:
            stream = self._schema(list_files(self.ctx, self.pattern) or [file])
            fields = [Field(column.name, parse_type(column.type)) for column in stream.columns]
            self._parser = RecordParser(
                Schema(fields),
                self._dialect,
                encoding=self._settings.encoding,
                null=self._settings.null,
            )
        return self._parser

    def _schema(self, files: list[FoundFile]) -> StreamSchema:
        declared = {name: _declared(name, text) for name, text in self._settings.columns.items()}
        names = list(declared)
        if self._settings.header and files:
            held = self._held()
            if held is not None:
                return held
            names = self._first_names(files)
        elif not declared:
            raise NotYet(
                "MYC-CSV-009",
                f"no file matches {self._settings.path} yet, so its columns are not known",
                fix="put a first file there, or declare all `columns`",
            )
        for name in declared:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                raise Permanent(
                    "MYC-CSV-010",
                    f'`columns` names "{name}", which is not in the header of {files[0].path}',
                    fix=(f'did you mean "{near[0]}"? ' if near else "")
                    + f"columns: {', '.join(names)}",
                )
        types = {name: declared.get(name, DataType.utf8()) for name in names}
        if self._settings.infer and files:
            types = self._inferred(files[0], types, declared)
        schema = Schema([Field(n, t) for n, t in types.items()])
        return stream_schema(self.stream, schema, incremental=True)

    def _first_names(self, files: list[FoundFile]) -> list[str]:
        """Return the columns of the first file that has any content."""
        for file in files:
            with self.open_file(file) as stream:
                names, _, _ = self._head(file, stream)
            if names is not None:
                return names
        raise Permanent(
            "MYC-CSV-009",
            f"every file that matches {self._settings.path} is empty: no header to plan from",
            fix="put a first file there, or declare all `columns` with header: false",
        )

    def _inferred(
        self, file: FoundFile, types: dict[str, DataType], declared: dict[str, DataType]
    ) -> dict[str, DataType]:
        with self.open_file(file) as stream:
            _, offset, _ = self._head(file, stream)
            stream.seek(offset)
            data = stream.read(HEADER_BYTES_MAX)
        text = data[: cut(data, self._dialect) or len(data)].decode(self._settings.encoding)
        rows = [fields for _, fields in records(text, self._dialect) if fields][:10_000]
        guessed = infer_types(rows, len(types), null=self._settings.null)
        guesses = zip(types.items(), guessed, strict=True)
        found = {
            name: kind if name in declared else parse_type(guess) for (name, kind), guess in guesses
        }
        self._hold(found)
        return found

    def _held_path(self) -> Any:
        key = short(digest(dict(sorted(self._settings.columns.items())) | {"": self.pattern}))
        return self.ctx.state_dir / f"csv-columns-{key}.json"

    def _hold(self, types: dict[str, DataType]) -> None:
        """Keep a guess for the life of the pipeline: later files do not change it."""
        schema = stream_schema(self.stream, Schema([Field(n, t) for n, t in types.items()]))
        columns = [[column.name, column.type] for column in schema.columns]
        self.ctx.state_dir.mkdir(parents=True, exist_ok=True)
        write_durable(self._held_path(), json.dumps(columns).encode())

    def _held(self) -> StreamSchema | None:
        if not self._settings.infer or not self._held_path().exists():
            return None
        columns = json.loads(self._held_path().read_text("utf-8"))
        fields = [Field(name, parse_type(kind)) for name, kind in columns]
        return stream_schema(self.stream, Schema(fields), incremental=True)


_ON_READ = {"moveToDone": "moved to a folder `done`", "delete": "deleted"}


def _declared(name: str, text: str) -> DataType:
    try:
        kind = parse_type(text)
    except ValueError as error:
        raise Permanent("MYC-CSV-011", f'column "{name}": {error}') from error
    if bool(DataType.is_nested(kind)):
        raise Permanent(
            "MYC-CSV-011",
            f'column "{name}": {text} cannot be read from CSV',
            fix="declare it as text and take it apart in a `sql` transform",
        )
    return kind


def _within_rows(data: bytes, size: int, rows_max: int, dialect: Dialect) -> int:
    """Return a cut at or before `size` with at most `rows_max` line ends, if there is one."""
    while (count := data.count(b"\n", 0, size)) > rows_max:
        shorter = cut(data[: size * rows_max * 49 // (count * 50)], dialect)
        if shorter == 0:
            break
        size = shorter
    return size
