"""What becomes of a batch when a value in it makes the SQL fail: only that row is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from arro3.core import RecordBatch, Schema, Table

from mycelial.sdk.envelope import Reject
from mycelial.sdk.kit.duck import Duck


def by_row(
    duck: Duck, query: str, batch: RecordBatch, params: Mapping[str, Any]
) -> tuple[list[tuple[RecordBatch, RecordBatch]], tuple[Reject, ...]]:
    """Run a row-local query; where it fails, halve the batch until the rows at fault stand alone.

    Returns: (rows in, rows out) pairs in order, and the refused rows by their index in `batch`.
    Messages name the kind of failure and no value.
    """
    done: list[tuple[RecordBatch, RecordBatch]] = []
    rejects: list[Reject] = []
    waiting = [(0, batch)]
    while waiting:
        first, rows = waiting.pop()
        try:
            done.append((rows, duck.run(query, rows, params)))
        except duck.error as error:
            if rows.num_rows == 1:
                kind = type(error).__name__.removesuffix("Exception")
                message = f"the SQL fails on this row: {kind}"
                rejects.append(Reject(first, "MYC-XFORM-004", message))
                continue
            half = rows.num_rows // 2
            waiting.append((first + half, rows.slice(half)))
            waiting.append((first, rows.slice(0, half)))
    return done, tuple(rejects)


def joined(parts: Sequence[RecordBatch], schema: Schema) -> RecordBatch:
    """Return the parts as one batch, which may be empty."""
    whole = Table.from_batches([part for part in parts if part.num_rows], schema=schema)
    batches = whole.combine_chunks().to_batches()
    if batches:
        return batches[0]
    columns = [column.combine_chunks() for column in schema.empty_table().columns]
    return RecordBatch.from_arrays(columns, schema=schema)
