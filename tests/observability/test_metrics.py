"""Counters and gauges: Prometheus text, bounded series."""

from __future__ import annotations

import pytest

from mycelial.observability.metrics import DROPPED, Registry


def test_exposition_is_sorted_and_escaped():
    registry = Registry(help_texts={"mycelial_rows_total": "Rows\ncommitted"})
    registry.add("mycelial_rows_total", 2, workflow="b")
    registry.add("mycelial_rows_total", workflow="b")
    registry.add("mycelial_rows_total", workflow='a"\\\n')
    registry.set("mycelial_lag_seconds", 0.5)
    assert registry.exposition() == (
        "# TYPE mycelial_lag_seconds gauge\n"
        "mycelial_lag_seconds 0.5\n"
        "# HELP mycelial_rows_total Rows\\ncommitted\n"
        "# TYPE mycelial_rows_total counter\n"
        'mycelial_rows_total{workflow="a\\"\\\\\\n"} 1\n'
        'mycelial_rows_total{workflow="b"} 3\n'
    )


def test_label_sets_are_bounded_and_the_excess_is_visible():
    registry = Registry(series_max=3)
    for number in range(10):
        registry.add("x_total", workflow=str(number))
    registry.add("x_total", workflow="0")
    text = registry.exposition()
    assert text.count("x_total{workflow") == 3
    assert 'x_total{workflow="0"} 2' in text
    assert f'{DROPPED}{{metric="x_total"}} 7' in text


@pytest.mark.parametrize(
    ("use", "match"),
    [
        pytest.param(lambda r: r.add("x_total", -1), "cannot go down", id="negative"),
        pytest.param(lambda r: r.add("rows"), "_total", id="counter-without-total"),
        pytest.param(lambda r: r.set("x_total", 1), "_total", id="gauge-with-total"),
        pytest.param(lambda r: r.set("a-b", 1), "no metric name", id="bad-name"),
    ],
)
def test_misuse_is_an_error(use, match):
    with pytest.raises(ValueError, match=match):
        use(Registry())


def test_a_subject_that_is_gone_leaves_no_series():
    registry = Registry()
    registry.set("lag_seconds", 1, workflow="a", daemon="d")
    registry.set("lag_seconds", 1, workflow="b", daemon="d")
    registry.forget(workflow="a")
    assert 'workflow="a"' not in registry.exposition()
    assert 'workflow="b"' in registry.exposition()


def test_large_counters_keep_every_digit():
    registry = Registry()
    registry.add("x_total", 2**53 - 1)
    registry.add("x_total", 1)
    assert "x_total 9007199254740992\n" in registry.exposition()
