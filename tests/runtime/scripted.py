"""A source whose reads are written down in a test, and a count of what the engine did with it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from runtime_fakes import SCHEMA, ZERO, Rows, registry_of

from mycelial.runtime.plan import build_parts
from mycelial.sdk.envelope import Envelope, SourcePlan


@dataclass
class Scripted:
    """`reads` maps a part to a function from the resume position to envelopes.

    One object for all sessions: `opened` counts them, `told` is what it was told is durable.
    """

    reads: dict
    clock: object = None
    endless: bool = False
    resumable: bool = True

    def __post_init__(self):
        self.opened, self.told = 0, []

    def build(self, spec):
        """Stand in for `build_parts`, with this source in the place of the spec's."""
        return replace(build_parts(registry_of(()), spec), source=self)

    def plan(self, ctx):
        return SourcePlan(
            streams=(SCHEMA,),
            parts=tuple(self.reads),
            replayable=True,
            resumable=self.resumable,
            incremental=True,
            endless=self.endless,
        )

    def lifecycle(self, ctx, event, old, new):
        pass

    def open(self, ctx):
        self.opened += 1

    def read(self, part, resume, until=None):
        yield from self.reads[part](resume)

    def durable(self, part, position):
        self.told.append((part, position))

    def interrupt(self):
        pass

    def close(self):
        pass


def rows(*ids, part=ZERO, end=None, **fields):
    """An envelope with the rows that World makes under these ids."""
    batch = Rows(tuple((i, f"v{i}") for i in ids))
    return Envelope(
        part, 0, end or f"{ids[-1]}", "rows", batch=batch, nbytes=batch.nbytes, **fields
    )


def idle_positions():
    """A read that has no rows, ever, while its position moves on by one at each call."""
    numbers = itertools.count(1)
    return lambda _resume: [Envelope(ZERO, 0, f"{next(numbers)}", "rows")]
