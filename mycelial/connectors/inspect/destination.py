"""Prints rows when their unit commits."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from arro3.core import RecordBatch

from mycelial.sdk.envelope import (
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
from mycelial.sdk.plugin import Context

if TYPE_CHECKING:
    from mycelial.connectors.inspect.config import InspectConfig

MASK = "***"


class InspectDestination:
    """JSON lines on standard output or in a file."""

    def __init__(self, settings: InspectConfig) -> None:
        self._settings = settings
        self._ctx: Context | None = None
        self._staged: list[RecordBatch] = []
        self._shown = 0

    def plan(self, ctx: Context, streams: tuple[StreamSchema, ...]) -> DestinationPlan:  # noqa: D102
        if self._settings.path:
            ctx.path(self._settings.path, write=True)
        known = {column.name for stream in streams for column in stream.columns}
        unknown = [name for name in self._settings.mask if name not in known]
        return DestinationPlan(
            mode="append",
            exactly_once=False,
            unit_rows=1_000,
            notes=tuple(f'mask names "{name}", which no stream has' for name in unknown),
            target=self._settings.path or "standard output",
        )

    def open(  # noqa: D102
        self, ctx: Context, scope: str, fence: FenceToken
    ) -> Mapping[Part, Committed]:
        self._ctx = ctx
        self._staged = []
        return {}

    def migrate(self, streams: tuple[StreamSchema, ...]) -> None:
        """Nothing to make."""

    def write(self, envelope: Envelope) -> tuple[Reject, ...]:  # noqa: D102
        if envelope.batch is not None:
            self._staged.append(envelope.batch)
        return ()

    def commit(self, checkpoint: Checkpoint) -> Receipt:  # noqa: D102
        if self._settings.counts_only:
            lines = [json.dumps({"rows": checkpoint.rows, "position": str(checkpoint.position)})]
        else:
            lines = [line for batch in self._staged for line in self._lines(batch)]
        size = self._print("".join(line + "\n" for line in lines))
        self._staged = []
        return Receipt(checkpoint.part, checkpoint.seq, checkpoint.position, checkpoint.rows, size)

    def _lines(self, batch: RecordBatch) -> list[str]:
        limit = self._settings.limit
        if limit is not None:
            batch = batch.slice(0, max(0, min(batch.num_rows, limit - self._shown)))
        self._shown += batch.num_rows
        names = batch.schema.names
        masked = [name in self._settings.mask for name in names]
        columns = [column.to_pylist() for column in batch.columns]
        return [
            json.dumps(
                {
                    name: MASK if hidden and value is not None else value
                    for name, hidden, value in zip(names, masked, row, strict=True)
                },
                default=_plain,
                ensure_ascii=False,
            )
            for row in zip(*columns, strict=True)
        ]

    def _print(self, text: str) -> int:
        data = text.encode()
        if self._settings.path:
            assert self._ctx is not None, "open() comes first"
            with self._ctx.open_path(self._settings.path, "ab") as file:
                file.write(data)
        else:
            sys.stdout.write(text)
            sys.stdout.flush()
        return len(data)

    def set_position(self, checkpoint: Checkpoint) -> None:
        """Nothing remembers positions here."""

    def abort(self) -> None:  # noqa: D102
        self._staged = []

    def interrupt(self) -> None:
        """Nothing here blocks for long."""

    def close(self) -> None:  # noqa: D102
        self._staged = []
        self._ctx = None


def _plain(value: Any) -> Any:
    """Return what JSON shows for a value it does not know."""
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
