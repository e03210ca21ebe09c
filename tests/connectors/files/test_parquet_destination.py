"""What the Parquet destination takes from other connectors."""

from __future__ import annotations

from pathlib import Path

from arro3.core import Array, DataType, Field, RecordBatch, Schema
from arro3.io import read_parquet

from mycelial.connectors.parquet import PLUGIN
from mycelial.connectors.parquet.config import ParquetDestinationConfig
from mycelial.sdk.envelope import (
    Checkpoint,
    Column,
    Envelope,
    FenceToken,
    Part,
    Position,
    StreamSchema,
)
from mycelial.sdk.settings import Settings
from mycelial.sdk.testing import MemoryContext


def test_batches_whose_fields_carry_driver_metadata_go_into_one_file(tmp_path: Path) -> None:
    config = ParquetDestinationConfig.model_validate({"path": "out"}).model_dump(mode="json")
    assert PLUGIN.destination is not None
    destination = PLUGIN.destination.build(Settings(config))
    streams = (StreamSchema("s", (Column("id", "int64"),)),)
    context = MemoryContext(tmp_path)
    destination.plan(context, streams)
    destination.open(context, "scope", FenceToken(1, 1))
    destination.migrate(streams)
    noted = Schema([Field("id", DataType.int64(), nullable=False, metadata={"typname": "int8"})])
    for number, schema in enumerate((noted, Schema([Field("id", DataType.int64())]))):
        batch = RecordBatch.from_arrays([Array([number], DataType.int64())], schema=schema)
        destination.write(Envelope(Part("0"), number, Position(str(number)), "s", batch))
    destination.commit(Checkpoint("scope", Part("0"), FenceToken(1, 1), 1, Position("1"), 2))
    destination.close()
    (written,) = sorted((tmp_path / "out").glob("*.parquet"))
    rows = [value for batch in read_parquet(written) for value in batch.column("id").to_pylist()]
    assert rows == [0, 1]
