"""Make the benchmark data: one table `events` in SQLite. Deterministic (seed 7).

usage: python benchmarks/data.py FILE [--rows N]

events(id INTEGER PRIMARY KEY, ts TIMESTAMP, user TEXT of about 12 characters, amount REAL,
note TEXT of about 40 characters with unicode, quotes, commas and 10 % NULL, flag BOOLEAN)
"""

from __future__ import annotations

import argparse
import datetime as dt
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

SENTENCE = (
    "alpha beta gamma naïve façade Zürich Köln smörgåsbord 東京 Данные поток mycelium spore hypha "
    'node edge pump valve sensor drift café señal "quoted" comma, 42 done'
)
WORDS = SENTENCE.split()
COLUMNS = (
    "id integer primary key, ts timestamp not null, user text not null, amount real not null, "
    "note text, flag boolean not null"
)


def rows(count: int) -> Iterator[tuple[int, str, str, float, str | None, int]]:
    """Yield the rows of the table."""
    chance = random.Random(7)
    start = dt.datetime(2026, 1, 1)
    for number in range(1, count + 1):
        moment = start + dt.timedelta(milliseconds=number * 317)
        note = None
        if chance.random() >= 0.10:
            note = " ".join(chance.choice(WORDS) for _ in range(7))
        yield (
            number,
            moment.isoformat(sep=" ", timespec="milliseconds"),
            f"user{chance.randrange(50_000):08d}",
            round(chance.uniform(-9999, 99999), 2),
            note,
            chance.randrange(2),
        )


def make(path: Path, count: int) -> Path:
    """Write the table unless the file already holds it; return the path."""
    if path.exists():
        with sqlite3.connect(path) as connection:
            if connection.execute("select count(*) from events").fetchone() == (count,):
                return path
        path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    connection = sqlite3.connect(partial)
    connection.execute("pragma journal_mode=off")
    connection.execute(f"create table events ({COLUMNS})")
    connection.executemany("insert into events values (?,?,?,?,?,?)", rows(count))
    connection.commit()
    connection.close()
    partial.replace(path)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    print(make(options.file, options.rows))
