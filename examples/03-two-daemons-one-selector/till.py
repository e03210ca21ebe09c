"""`till.py sell lyon 300` sells at a till; `till.py hub` prints what the hub has."""

import sqlite3
import sys
from pathlib import Path


def sell(site: str, count: int) -> None:
    Path(site).mkdir(exist_ok=True)
    till = sqlite3.connect(f"{site}/till.db", timeout=30)
    till.execute("pragma journal_mode=wal")
    till.execute(
        "create table if not exists sales (id integer primary key, item text, cents integer, "
        "void integer not null)"
    )
    (last,) = till.execute("select coalesce(max(id), 0) from sales").fetchone()
    till.executemany(
        "insert into sales values (?,?,?,?)",
        [
            (n, f"item {n % 11}", n * 37 % 1000, n % 10 == 0)
            for n in range(last + 1, last + count + 1)
        ],
    )
    till.commit()


def hub() -> None:
    hub = sqlite3.connect("file:hub/sales.db?mode=ro", uri=True, timeout=30)
    for site, count, cents in hub.execute(
        "select site, count(*), sum(cents) from sales group by site order by site"
    ):
        print(f"{site}: {count} sales, {cents} cents")


if __name__ == "__main__":
    if sys.argv[1] == "sell":
        sell(sys.argv[2], int(sys.argv[3]))
    else:
        hub()
