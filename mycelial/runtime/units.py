"""Where a commit unit begins and ends. Pure: the engine asks, the engine acts.

A unit is a run of envelopes of one part. It closes at rows, bytes, period or barrier, and never
inside an envelope or between the outputs that a transform made of one envelope.
"""

from __future__ import annotations

from dataclasses import dataclass

from mycelial.schemas.desired import Delivery
from mycelial.sdk.envelope import BarrierKind, DestinationPlan, Envelope, Part, Position
from mycelial.sdk.plugin import Limits


@dataclass(frozen=True, slots=True)
class UnitBounds:
    """A unit closes at whichever comes first. `at_barriers_only` is set where a position inside
    a run cannot be resumed from, or where a transform holds rows back."""

    rows: int
    bytes: int
    seconds: float
    at_barriers_only: bool = False


@dataclass(frozen=True, slots=True)
class OpenUnit:
    """What has been staged since the last commit of `part`."""

    part: Part
    position: Position
    opened_at: float
    rows: int = 0
    bytes: int = 0
    has_barrier: bool = False
    ends_run: bool = False
    closable: bool = True

    @property
    def is_empty(self) -> bool:
        """True when only heartbeats came: nothing but the position would be committed."""
        return self.rows == 0 and not self.has_barrier


def bounds_for(
    delivery: Delivery, plan: DestinationPlan | None, *, at_barriers_only: bool = False
) -> UnitBounds:
    """Return the manifest's bounds, and the destination's where the manifest is silent."""
    suits = plan or DestinationPlan(mode="", exactly_once=False)
    return UnitBounds(
        rows=max(1, suits.unit_rows if delivery.unit_rows is None else delivery.unit_rows),
        bytes=max(1, suits.unit_bytes if delivery.unit_bytes is None else delivery.unit_bytes),
        seconds=suits.unit_seconds if delivery.unit_seconds is None else delivery.unit_seconds,
        at_barriers_only=at_barriers_only,
    )


def limits_for(bounds: UnitBounds, rows_per_second: float | None = None) -> Limits:
    """Return the batch limits that let units close where they should, and a rate be smooth."""
    default = Limits()
    rows = min(default.batch_rows, bounds.rows)
    if rows_per_second is not None:
        rows = max(1, min(rows, int(rows_per_second)))
    return Limits(batch_rows=rows, batch_bytes=min(default.batch_bytes, bounds.bytes))


def closes_before(unit: OpenUnit, envelope: Envelope, bounds: UnitBounds) -> bool:
    """Tell whether `unit` must be committed before `envelope` is written."""
    if not unit.closable:
        return False
    if envelope.part != unit.part:
        return True
    if unit.is_empty:
        return False
    if envelope.barrier in (BarrierKind.RUN_START, BarrierKind.SCHEMA):
        return True
    if bounds.at_barriers_only or unit.rows == 0:
        return False
    return unit.rows + envelope.rows > bounds.rows or unit.bytes + envelope.nbytes > bounds.bytes


def grown(unit: OpenUnit | None, envelope: Envelope, *, now: float, closable: bool) -> OpenUnit:
    """Return the unit with `envelope` in it; the period counts from its first row or barrier."""
    barrier = envelope.barrier in (BarrierKind.RUN_START, BarrierKind.RUN_END)
    ends_run = envelope.barrier is BarrierKind.RUN_END
    if unit is None:
        return OpenUnit(
            part=envelope.part,
            position=envelope.end,
            opened_at=now,
            rows=envelope.rows,
            bytes=envelope.nbytes,
            has_barrier=barrier,
            ends_run=ends_run,
            closable=closable,
        )
    return OpenUnit(
        part=unit.part,
        position=envelope.end,
        opened_at=now if unit.is_empty else unit.opened_at,
        rows=unit.rows + envelope.rows,
        bytes=unit.bytes + envelope.nbytes,
        has_barrier=unit.has_barrier or barrier,
        ends_run=ends_run,
        closable=closable,
    )


def closes_after(
    unit: OpenUnit, bounds: UnitBounds, *, barrier: BarrierKind | None, now: float
) -> bool:
    """Tell whether `unit` is complete. `barrier` is that of the last envelope; None on a tick."""
    if not unit.closable or unit.is_empty:
        return False
    if barrier is BarrierKind.RUN_END:
        return True
    if barrier is BarrierKind.FLUSH:
        return True
    if bounds.at_barriers_only:
        return False
    return unit.rows > 0 and (
        unit.rows >= bounds.rows
        or unit.bytes >= bounds.bytes
        or now - unit.opened_at >= bounds.seconds
    )


def seconds_left(unit: OpenUnit | None, bounds: UnitBounds, *, now: float) -> float | None:
    """Return how long the engine may wait for more, or None when nothing waits for a commit."""
    if unit is None or unit.rows == 0 or bounds.at_barriers_only or not unit.closable:
        return None
    return max(0.0, unit.opened_at + bounds.seconds - now)
