"""Events: repeats collapse, history is bounded, only the first of a run is told."""

from __future__ import annotations

from mycelial.kernel.clock import ManualClock
from mycelial.kernel.ports import NullLog
from mycelial.observability.events import EventHistory
from mycelial.observability.metrics import Registry


def history(**options):
    clock = ManualClock()
    return clock, EventHistory(clock, NullLog(), **options)


def test_repeats_become_one_entry_with_a_count():
    told = []
    clock, events = history(forward=told.append)
    for number in range(5):
        events.emit("Stalled", "Workflow/orders", f"try {number}", severity="warning")
        clock.advance(10)
    (event,) = events.recent()
    assert (event.count, event.message, event.last - event.first) == (5, "try 4", 40)
    assert len(told) == 1


def test_after_the_window_it_is_a_new_event():
    clock, events = history(window_seconds=60)
    events.emit("Stalled", "Workflow/orders", "a")
    clock.advance(61)
    events.emit("Stalled", "Workflow/orders", "b")
    assert [event.message for event in events.recent()] == ["b", "a"]


def test_other_subjects_reasons_and_severities_stay_apart():
    _, events = history()
    events.emit("A", "Workflow/x", "m")
    events.emit("A", "Workflow/y", "m")
    events.emit("B", "Workflow/x", "m")
    events.emit("A", "Workflow/x", "m", severity="error")
    assert len(events.recent()) == 4


def test_history_is_bounded_and_keeps_the_newest():
    clock, events = history(events_max=10)
    for number in range(100):
        events.emit("A", f"Workflow/{number}", "m")
        clock.advance(1)
    assert [event.subject for event in events.recent()] == [
        f"Workflow/{number}" for number in range(99, 89, -1)
    ]


def test_every_event_is_a_metric_and_control_characters_are_escaped():
    meter = Registry()
    _, events = history(meter=meter)
    events.emit("A", "Workflow/x", "one\ntwo")
    events.emit("A", "Workflow/x", "one\ntwo")
    assert 'mycelial_events_total{reason="A",severity="info"} 2' in meter.exposition()
    assert events.recent()[0].message == "one\\ntwo"
