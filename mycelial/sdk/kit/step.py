"""The part of a row-local transform that is the same in all of them."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from mycelial.sdk.envelope import Envelope, Output, Reject, StreamSchema
from mycelial.sdk.errors import Permanent
from mycelial.sdk.plugin import Context

if TYPE_CHECKING:
    from arro3.core import RecordBatch


class RowStep:
    """Subclasses say what becomes of a schema and of a batch; batches and positions pass 1:1."""

    determinism: Literal["pure", "stateful", "external"] = "pure"

    def shape(self, stream: StreamSchema) -> StreamSchema:
        """Return the stream's shape after this step. Raises: Permanent."""
        raise NotImplementedError

    def transform(self, stream: str, batch: RecordBatch) -> tuple[RecordBatch, tuple[Reject, ...]]:
        """Return the rows after this step, and those refused by their index in `batch`."""
        raise NotImplementedError

    def plan(self, streams: tuple[StreamSchema, ...]) -> tuple[StreamSchema, ...]:  # noqa: D102
        return tuple(self.shape(stream) for stream in streams)

    def open(self, ctx: Context) -> None:
        """Nothing to open."""

    def apply(self, envelope: Envelope) -> Iterator[Output]:
        """Yield one output, also when no row is left: it carries the position."""
        if envelope.batch is None:
            yield Output(envelope)
            return
        batch, rejects = self.transform(envelope.stream, envelope.batch)
        yield Output(replace(envelope, batch=batch, nbytes=int(batch.nbytes)), rejects)

    def flush(self, envelope: Envelope) -> Iterator[Output]:
        """Pass a barrier on; a new schema is passed on as it looks after this step."""
        if envelope.schema is not None:
            envelope = replace(envelope, schema=self.plan((envelope.schema,))[0])
        yield Output(envelope)

    def close(self) -> None:
        """Nothing to close."""


def unknown_column(code: str, name: str, stream: StreamSchema) -> Permanent:
    """Return the error for a column that the stream does not have."""
    names = [column.name for column in stream.columns]
    near = difflib.get_close_matches(name, names, n=1)
    return Permanent(
        code,
        f'there is no column "{name}" in {stream.name or "the stream"}',
        fix=(f'did you mean "{near[0]}"? ' if near else "") + f"columns: {', '.join(names)}",
    )


def repeated(names: Iterable[str]) -> list[str]:
    """Return the names that occur more than once."""
    return [name for name, count in Counter(names).items() if count > 1]
