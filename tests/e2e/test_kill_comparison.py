"""The comparison behind the kill matrix must itself be able to fail."""

from __future__ import annotations

import sqlite3
from collections import Counter
from dataclasses import replace

import pytest

from kill_world import Difference, Shop, Snapshot, compare

ROW = (1, 7, "paid", 120, 0.5, None)


@pytest.fixture
def shop(tmp_path):
    shop = Shop(tmp_path / "shop.db", seed=1, keeps_all=True)
    with sqlite3.connect(shop.path) as sold:
        sold.execute("create table orders (id, customer, status, cents, weight, note)")
        sold.executemany("insert into orders values (?,?,?,?,?,?)", [ROW, (2, *ROW[1:])])
    sold.close()
    return shop


def arrived(*numbers):
    return Counter((number, *ROW[1:], "here") for number in numbers)


ALL = Snapshot(arrived(1, 2), position=2, seq=2, counted=2)
BAD = {
    "a row is missing": replace(ALL, rows=arrived(1)),
    "a row came twice": replace(ALL, rows=arrived(1, 2, 2), counted=3),
    "a row changed": replace(ALL, rows=Counter([(1, *ROW[1:], "there"), (2, *ROW[1:], "here")])),
    "a row is beyond the checkpoint": replace(ALL, position=1),
    "the checkpoint counts wrong": replace(ALL, counted=3),
}


def test_equal_rows_pass(shop):
    compare(ALL, shop, complete=True, when="at the end")
    compare(Snapshot(arrived(1), position=1, seq=1, counted=1), shop, complete=False, when="midway")
    compare(Snapshot(Counter()), shop, complete=False, when="before the first unit")


@pytest.mark.parametrize("found", BAD.values(), ids=BAD)
def test_any_difference_is_told(shop, found):
    with pytest.raises(Difference, match="at unit one"):
        compare(found, shop, complete=False, when="at unit one")


def test_an_end_before_the_end_of_the_source_is_told(shop):
    with pytest.raises(Difference, match="1 missing"):
        compare(
            Snapshot(arrived(1), position=1, seq=1, counted=1), shop, complete=True, when="at last"
        )
