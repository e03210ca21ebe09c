from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtime_fakes import Rows

from mycelial.runtime.units import (
    UnitBounds,
    bounds_for,
    closes_after,
    closes_before,
    grown,
    limits_for,
    seconds_left,
)
from mycelial.schemas.desired import Delivery
from mycelial.sdk.envelope import BarrierKind, DestinationPlan, Envelope, Part, Position

BARRIERS = [None, None, None, None, *BarrierKind]


def cut(envelopes, bounds, closable=lambda _: True):
    """Run the rules as the engine does, and return the units as lists of envelope numbers."""
    units, unit, inside = [], None, []
    for number, envelope in enumerate(envelopes):
        now = float(number)
        if unit is not None and closes_before(unit, envelope, bounds):
            units.append((unit, inside))
            unit, inside = None, []
        unit = grown(unit, envelope, now=now, closable=closable(number))
        inside.append(number)
        if closes_after(unit, bounds, barrier=envelope.barrier, now=now):
            units.append((unit, inside))
            unit, inside = None, []
    if unit is not None:
        units.append((unit, inside))
    return units


@st.composite
def streams(draw):
    envelopes = []
    for number in range(draw(st.integers(0, 40))):
        barrier = draw(st.sampled_from(BARRIERS))
        rows = draw(st.integers(0, 12)) if barrier is None else 0
        envelopes.append(
            Envelope(
                Part(draw(st.sampled_from("01"))),
                number,
                Position(str(number)),
                batch=Rows(((0, ""),) * rows) if rows else None,
                barrier=barrier,
                nbytes=rows * 10,
            )
        )
    return envelopes


BOUNDS = st.builds(
    UnitBounds,
    rows=st.integers(1, 30),
    bytes=st.integers(1, 300),
    seconds=st.sampled_from([0.0, 3.0, 1e9]),
    at_barriers_only=st.booleans(),
)


@given(streams(), BOUNDS)
def test_units_joined_are_the_stream(envelopes, bounds):
    units = cut(envelopes, bounds)
    assert [n for _, inside in units for n in inside] == list(range(len(envelopes)))
    assert sum(unit.rows for unit, _ in units) == sum(e.rows for e in envelopes)


@given(streams(), BOUNDS)
def test_a_unit_is_of_one_part_and_ends_at_its_last_envelope(envelopes, bounds):
    for unit, inside in cut(envelopes, bounds):
        assert {envelopes[n].part for n in inside} == {unit.part}
        assert unit.position == envelopes[inside[-1]].end


@given(streams(), BOUNDS)
def test_a_unit_over_its_bounds_is_a_single_batch(envelopes, bounds):
    for unit, inside in cut(envelopes, bounds):
        batches = [n for n in inside if envelopes[n].rows]
        if not bounds.at_barriers_only and len(batches) > 1:
            assert unit.rows <= bounds.rows
            assert unit.bytes <= bounds.bytes


@given(streams(), BOUNDS)
def test_runs_bracket_units(envelopes, bounds):
    for unit, inside in cut(envelopes, bounds):
        kinds = [envelopes[n].barrier for n in inside]
        assert BarrierKind.RUN_END not in kinds[:-1]
        filled = [n for n in inside if envelopes[n].rows or envelopes[n].barrier == "run_end"]
        starts = [n for n in inside if envelopes[n].barrier is BarrierKind.RUN_START]
        assert not starts or not filled or min(filled) > min(starts)
        assert unit.ends_run == (kinds[-1] is BarrierKind.RUN_END)


@given(streams(), BOUNDS)
def test_no_unit_ends_between_the_outputs_of_one_envelope(envelopes, bounds):
    one_part = [e for e in envelopes if e.part == "0"]
    units = cut(one_part, bounds, closable=lambda n: n % 3 == 2)
    for _, inside in units[:-1]:
        assert inside[-1] % 3 == 2


@pytest.mark.parametrize(
    ("delivery", "rows", "batch"),
    [
        pytest.param(Delivery(), 65_536, 16_384, id="the destination's choice"),
        pytest.param(Delivery(unit_rows=50), 50, 50, id="small units make small batches"),
        pytest.param(Delivery(unit_rows=10**6), 10**6, 16_384, id="large units do not"),
    ],
)
def test_the_manifest_bounds_units_and_so_batches(delivery, rows, batch):
    bounds = bounds_for(delivery, DestinationPlan("append", True))
    assert (bounds.rows, limits_for(bounds).batch_rows) == (rows, batch)


def test_a_slow_rate_makes_batches_of_a_second():
    bounds = bounds_for(Delivery(), None)
    assert limits_for(bounds, 100.0).batch_rows == 100
    assert limits_for(bounds, 0.5).batch_rows == 1


def test_the_period_counts_from_the_first_row():
    bounds = UnitBounds(100, 1000, 5.0)
    heartbeat = Envelope(Part("0"), 0, Position("1"))
    batch = Envelope(Part("0"), 1, Position("2"), batch=Rows(((1, "a"),)), nbytes=10)
    unit = grown(None, heartbeat, now=0.0, closable=True)
    assert seconds_left(unit, bounds, now=9.0) is None
    unit = grown(unit, batch, now=10.0, closable=True)
    assert seconds_left(unit, bounds, now=11.0) == 4.0
    assert not closes_after(unit, bounds, barrier=None, now=14.9)
    assert closes_after(unit, bounds, barrier=None, now=15.0)
