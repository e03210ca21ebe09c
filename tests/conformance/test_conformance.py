"""Every connector passes the same suite. To add one: write a driver, append it to a list."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
from arro3.core import RecordBatch
from arro3.io import read_parquet, write_csv, write_parquet

from mycelial.sdk.envelope import StreamSchema
from mycelial.sdk.plugin import Limits, PluginSpec, Role
from mycelial.sdk.registry import Registry
from mycelial.sdk.settings import Settings
from mycelial.sdk.testing import (
    CORE,
    NARROW,
    Case,
    MemoryContext,
    Row,
    destination_cases,
    make_batch,
    rows_of,
    source_cases,
)

REGISTRY = Registry.discover_only(["csv", "parquet", "generate", "inspect"])
SMALL = Limits(batch_rows=16, batch_bytes=64 * 1024)


def build(name: str, role: Role, **manifest: Any) -> Any:
    """Build a plugin the way the product does: checked by its model, handed over as Settings."""
    plugin: PluginSpec | None = REGISTRY.get(name)
    assert plugin is not None
    loader = plugin.loader(role)
    assert loader is not None
    config = loader.config().model_validate(manifest).model_dump(mode="json")
    return loader.build(Settings(config))


class FilesDriver:
    """What the file sources have in common."""

    snapshot = False

    def context(self, root: Path) -> MemoryContext:
        return MemoryContext(root, limits=SMALL)


class CsvSourceDriver(FilesDriver):
    name = "csv"

    def create(self, root: Path, rows: int) -> None:
        (root / "in").mkdir()
        half = rows // 2
        for name, first, count in (("a", 0, half), ("b", half, rows - half)):
            out = io.BytesIO()
            write_csv(make_batch(CORE, first, count).select(["id", "label", "price"]), out)
            (root / "in" / f"{name}.csv").write_bytes(out.getvalue())

    def build(self, root: Path) -> Any:
        types = {"id": "int64", "price": "decimal128(20, 2)"}
        return build("csv", "source", path="in/*.csv", columns=types)


class ParquetSourceDriver(FilesDriver):
    name = "parquet"

    def create(self, root: Path, rows: int) -> None:
        (root / "in").mkdir()
        half = rows // 2
        for name, first, count in (("a", 0, half), ("b", half, rows - half)):
            batch = make_batch(CORE, first, count)
            write_parquet(batch, root / "in" / f"{name}.parquet", max_row_group_size=24)

    def build(self, root: Path) -> Any:
        return build("parquet", "source", path="in/*.parquet")


class GenerateDriver(FilesDriver):
    name = "generate"

    def create(self, root: Path, rows: int) -> None:
        (root / "rows").write_text(str(rows))

    def build(self, root: Path) -> Any:
        return build("generate", "source", rows=int((root / "rows").read_text()))


class FileDestinationDriver:
    """What the file destinations have in common."""

    exactly_once = True
    mode: Literal["append", "replace"] = "append"

    def context(self, root: Path) -> MemoryContext:
        return MemoryContext(root)

    def crash(self, root: Path, destination: Any) -> None:
        """Keep the files as they are at this moment, whatever `close` would do to them."""
        moment = root.with_name(root.name + "-moment")
        shutil.copytree(root, moment, symlinks=True)
        destination.close()
        shutil.rmtree(root)
        moment.rename(root)


class ParquetAppendDriver(FileDestinationDriver):
    name = "parquet-append"
    glob = "out/*.parquet"

    def build(self, root: Path) -> Any:
        return build("parquet", "destination", path="out", mode=self.mode, rowGroupRows=1024)

    def read(self, root: Path, schema: StreamSchema) -> list[Row]:
        batches: list[RecordBatch] = []
        for path in sorted(root.glob(self.glob)):
            batches += list(read_parquet(path))
        return rows_of(batches)


class ParquetReplaceDriver(ParquetAppendDriver):
    name = "parquet-replace"
    glob = "out/current/*.parquet"
    mode: Literal["append", "replace"] = "replace"


class CsvAppendDriver(FileDestinationDriver):
    """Reads back through the csv source, so that both halves must agree on every value."""

    name = "csv-append"
    pattern = "out.csv"
    settings: dict[str, Any] = {}  # noqa: RUF012

    def build(self, root: Path) -> Any:
        return build("csv", "destination", **{"path": "out.csv", "mode": self.mode} | self.settings)

    def read(self, root: Path, schema: StreamSchema) -> list[Row]:
        if not list(root.glob(self.pattern)):
            return []
        types = {column.name: column.type for column in schema.columns}
        source = build("csv", "source", path=self.pattern, columns=types)
        source.open(MemoryContext(root))
        batches = [e.batch for e in source.read("0", None) if e.batch is not None]
        source.close()
        return rows_of(batches)


class CsvReplaceDriver(CsvAppendDriver):
    name = "csv-replace"
    mode: Literal["append", "replace"] = "replace"


class CsvFilesDriver(CsvAppendDriver):
    name = "csv-files"
    pattern = "out/*.csv"
    settings = {"path": "out", "layout": "files"}  # noqa: RUF012


class InspectDriver(FileDestinationDriver):
    name = "inspect"
    exactly_once = False

    def build(self, root: Path) -> Any:
        return build("inspect", "destination", path="seen.jsonl")

    def read(self, root: Path, schema: StreamSchema) -> list[Row]:
        import json

        path = root / "seen.jsonl"
        if not path.exists():
            return []
        shown = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        ids = [row["id"] for row in shown]
        # JSON shows some types as text: compare what is shown, then answer with the real rows.
        real = {row[0]: row for row in rows_of([make_batch(schema, 0, 200)])}
        labels = [c.name for c in schema.columns].index("label") if schema is NARROW else None
        for row in shown:
            if labels is not None:
                assert row["label"] == real[row["id"]][labels]
            assert list(row) == [c.name for c in schema.columns]
        return [real[number] for number in ids]


SOURCES = [CsvSourceDriver(), ParquetSourceDriver(), GenerateDriver()]
DESTINATIONS = [
    ParquetAppendDriver(),
    ParquetReplaceDriver(),
    CsvAppendDriver(),
    CsvReplaceDriver(),
    CsvFilesDriver(),
    InspectDriver(),
]


@pytest.mark.parametrize("case", [c for d in SOURCES for c in source_cases(d)], ids=str)
def test_source_conforms(case: Case, tmp_path: Path) -> None:
    case.check(tmp_path)


@pytest.mark.parametrize("case", [c for d in DESTINATIONS for c in destination_cases(d)], ids=str)
def test_destination_conforms(case: Case, tmp_path: Path) -> None:
    case.check(tmp_path)
