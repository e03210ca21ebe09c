"""A shop that sells: `shop.py open 5000` makes shop.db with 5,000 orders, `shop.py sell 300` adds
some in small transactions, `shop.py count` prints what there is."""

import sqlite3
import sys

STATUSES = ("paid", "paid", "paid", "shipped", "test")


def order(number: int) -> tuple[object, ...]:
    cents = 100 + number * 7919 % 20_000
    note = None if number % 3 else f"order {number}, ünïcode"
    return number, 1 + number % 97, STATUSES[number % 5], cents, note


def main(verb: str, count: int) -> None:
    shop = sqlite3.connect("shop.db", timeout=30, isolation_level=None)
    shop.execute("pragma journal_mode=wal")
    shop.execute(
        "create table if not exists orders (id integer primary key, customer integer not null, "
        "status text not null, cents integer not null, note text)"
    )
    (last,) = shop.execute("select coalesce(max(id), 0) from orders").fetchone()
    for first in range(last + 1, last + count + 1, 100):
        numbers = range(first, min(first + 100, last + count + 1))
        shop.execute("begin")
        shop.executemany("insert into orders values (?,?,?,?,?)", map(order, numbers))
        shop.execute("commit")
    total = "select count(*), sum(cents) from orders where status <> 'test'"
    orders, cents = shop.execute(total).fetchone()
    print(f"{orders} orders that are no tests, {cents} cents")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0)
