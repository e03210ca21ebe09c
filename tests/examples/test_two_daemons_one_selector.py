"""Example 03: the commands of its README with a real fleet, and what arrived at the hub."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import console
import fleet_processes


@pytest.mark.e2e
def test_readme_holds_and_the_hub_has_what_both_tills_sold(
    example: Callable[[str], Path],
) -> None:
    folder = example("03-two-daemons-one-selector")
    people, daemons = fleet_processes.free_ports(2)

    console.run_file(
        folder / "README.md",
        folder,
        changes={"127.0.0.1:7777": f"127.0.0.1:{people}", "127.0.0.1:7443": f"127.0.0.1:{daemons}"},
    )

    sold = [
        (site, f"till-{site}", *row)
        for site in ("lyon", "porto")
        for row in _rows(
            folder / site / "till.db",
            "select id, item, cents, void from sales where void = 0",
        )
    ]
    arrived = _rows(
        folder / "hub" / "sales.db", "select site, till, id, item, cents, void from sales"
    )
    assert sorted(arrived) == sorted(sold)


def _rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(query).fetchall()
