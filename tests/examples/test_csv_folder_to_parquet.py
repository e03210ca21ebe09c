"""Example 02: the commands of its README against real files, and what arrived."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from arro3.io import read_parquet

import console


@pytest.mark.e2e
def test_readme_holds_and_every_wanted_row_arrives_once(example: Callable[[str], Path]) -> None:
    folder = example("02-csv-folder-to-parquet")

    console.run_file(folder / "README.md", folder)

    rows = []
    for path in (folder / "lake" / "sales").glob("*.parquet"):
        for batch in read_parquet(str(path)):
            columns = [batch.column(name) for name in ("id", "qty", "price", "site")]
            rows += zip(*(column.to_pylist() for column in columns), strict=True)
    assert sorted(rows) == [
        (1, 2, 2.2, "lyon"),
        (2, 1, 1.4, "lyon"),
        (4, 1, 0.8, "lyon"),
        (5, 3, 1.9, "lyon"),
        (6, 1, 2.2, "lyon"),
        (7, 4, 1.4, "lyon"),
        (9, 2, 2.2, "lyon"),
    ]
    done = {path.name for path in (folder / "in" / "done").iterdir()}
    assert done == {f"till-{number}.csv" for number in (1, 2, 3, 4)}
    assert list((folder / "in").glob("*.csv")) == []
