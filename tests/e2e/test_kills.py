"""A seeded slice of the kill matrix; `make chaos` runs all of it (benchmarks/kill_matrix.py)."""

from __future__ import annotations

import sys

import pytest

import kill_world
from kills import OVERLAP, Cell, Scenario

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="holds workers by Linux's /proc and zygote"),
]

TO_SQLITE = (
    Cell("after_commit", "worker"),
    Cell("write", "zygote"),
    Cell("journal", "daemon"),
    Cell("read", "control-plane"),
    OVERLAP,
)
TO_POSTGRES = (
    Cell("before_commit", "worker"),
    Cell("durable", "zygote"),
    Cell("after_commit", "daemon"),
    OVERLAP,
)


def check(result, cells):
    assert set(cells) <= set(result.kills)
    assert result.refused == cells.count(OVERLAP)
    assert result.units >= 400


def test_sqlite_equals_its_source_whatever_was_killed(tmp_path):
    destination = kill_world.ToSqlite(tmp_path)

    result = Scenario(tmp_path, seed=1, destination=destination, cells=TO_SQLITE).run()

    check(result, TO_SQLITE)


@pytest.mark.postgres
def test_postgres_equals_its_source_whatever_was_killed(tmp_path, pg):
    destination = kill_world.ToPostgres(pg)

    result = Scenario(tmp_path, seed=3, destination=destination, cells=TO_POSTGRES).run()

    check(result, TO_POSTGRES)
