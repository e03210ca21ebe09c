"""The bare driver loop: ADBC to ADBC with arro3, no checkpoint, no retry, no plan.

usage: python benchmarks/bare_adbc.py sqlite-postgres SQLITE_FILE POSTGRES_URL
       python benchmarks/bare_adbc.py postgres-parquet POSTGRES_URL PARQUET_FILE

It is the other side of `throughput.py`: what the drivers alone can do on this machine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import adbc_driver_postgresql.dbapi as postgres
from arro3.core import DataType, Field, RecordBatch, RecordBatchReader, Schema


def sqlite_to_postgres(database: str, url: str) -> None:
    """Copy `events` into a new table, casting what SQLite has no type for."""
    import adbc_driver_sqlite.dbapi as sqlite
    from arro3.compute import cast

    types = {
        "id": DataType.int64(), "ts": DataType.timestamp("us"), "user": DataType.utf8(),
        "amount": DataType.float64(), "note": DataType.utf8(), "flag": DataType.bool(),
    }  # fmt: skip
    schema = Schema([Field(name, kind) for name, kind in types.items()])
    source = sqlite.connect(f"file:{database}?mode=ro")
    cursor = source.cursor()
    cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": "16384"})
    cursor.execute("select * from events")
    reader = RecordBatchReader.from_arrow(cursor.fetch_arrow())

    def typed() -> Iterator[RecordBatch]:
        for batch in reader:
            columns = [
                cast(batch.column(i), kind) if name in ("ts", "flag") else batch.column(i)
                for i, (name, kind) in enumerate(types.items())
            ]
            yield RecordBatch.from_arrays(columns, schema=schema)

    with postgres.connect(url) as target, target.cursor() as writer:
        writer.execute("drop table if exists bare_events")
        writer.adbc_ingest("bare_events", RecordBatchReader.from_batches(schema, typed()))
        target.commit()


def postgres_to_parquet(url: str, path: str) -> None:
    """Stream `events` into one file."""
    from arro3.io import write_parquet

    source = postgres.connect(url)
    cursor = source.cursor()
    cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": "1048576"})
    cursor.execute("select * from events")
    reader = RecordBatchReader.from_arrow(cursor.fetch_arrow())
    write_parquet(reader, path, compression="zstd(1)", max_row_group_size=65_536)


if __name__ == "__main__":
    case, *operands = sys.argv[1:]
    {"sqlite-postgres": sqlite_to_postgres, "postgres-parquet": postgres_to_parquet}[case](
        *operands
    )
    sys.stdout.flush()
    os._exit(0)  # as the measured script did: the time of interpreter teardown is not the point
