"""What a kill scenario moves: a shop that keeps selling, and destinations that can be compared.

Every destination is read as one snapshot: its rows beside its own checkpoint. At any moment the
rows must be exactly those of the source up to the checkpoint's position, whatever was killed.
"""

from __future__ import annotations

import json
import random
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import postgres_server

Row = tuple[Any, ...]
COLUMNS = ("id", "customer", "status", "cents", "weight", "note", "site")
UNIT_ROWS = 5


class Difference(AssertionError):
    """The destination is not what the source says."""


@dataclass(frozen=True)
class Snapshot:
    """A destination at one moment. `position` is the highest id read, 0 before the first unit."""

    rows: Counter[Row]
    position: int = 0
    raw_position: str = ""
    seq: int = 0
    counted: int = 0


class Destination(Protocol):
    """Where the rows go."""

    kind: str

    def manifest(self) -> str:
        """Return the destination as YAML."""

    def snapshot(self) -> Snapshot:
        """Return rows and checkpoint of one moment."""

    def standing(self) -> tuple[int, int]:
        """Return the checkpoint's unit and the highest id read; cheap."""


@dataclass
class Shop:
    """A SQLite file into which a thread inserts as fast as it is read, and a little more."""

    path: Path
    seed: int
    keeps_all: bool
    _budget: int = 150
    _next_id: int = 1
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closing: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _error: BaseException | None = None

    def open(self) -> None:
        """Make the table, sell a first lot, and go on in a thread."""
        with sqlite3.connect(self.path) as shop:
            shop.execute("pragma journal_mode=wal")
            shop.execute(
                "create table orders (id integer primary key, customer integer not null, "
                "status text not null, cents integer not null, weight real, note text)"
            )
        shop.close()
        self._thread = threading.Thread(target=self._sell, name="shop", daemon=True)
        self._thread.start()

    def was_read(self, step: str) -> None:
        """Sell about as much as one read takes, so that there is always more to come."""
        if step == "read":
            with self._lock:
                self._budget = min(self._budget + UNIT_ROWS, 400)

    def close(self) -> None:
        """Stop selling."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error

    def expected(self, position: int | None = None) -> Counter[Row]:
        """Return what must have arrived once everything up to `position` was read."""
        keep = "1" if self.keeps_all else "cents % 5 in (0, 1)"
        shop = sqlite3.connect(self.path, timeout=30)
        try:
            return Counter(
                shop.execute(
                    "select id, customer, status, cents, weight, note, 'here' from orders "
                    f"where {keep} and (?1 is null or id <= ?1)",
                    (position,),
                )
            )
        finally:
            shop.close()

    @property
    def last_id(self) -> int:
        """The last row sold."""
        return self._next_id - 1

    def _sell(self) -> None:
        rng = random.Random(f"shop {self.seed}")
        try:
            shop = sqlite3.connect(self.path, timeout=30, isolation_level=None)
            while not self._closing.wait(0.01):
                with self._lock:
                    count = min(self._budget, rng.randint(1, 12))
                    self._budget -= count
                if count or rng.random() < 0.1:
                    self._insert(shop, rng, max(1, count))
            shop.close()
        except BaseException as error:  # told by `close`
            self._error = error

    def _insert(self, shop: sqlite3.Connection, rng: random.Random, count: int) -> None:
        first = self._next_id
        shop.execute("begin")
        shop.executemany(
            "insert into orders values (?,?,?,?,?,?)",
            [_order(first + n, rng) for n in range(count)],
        )
        shop.execute("commit")
        self._next_id = first + count


def _order(number: int, rng: random.Random) -> Row:
    return (
        number,
        rng.randint(1, 50),
        rng.choice(("paid", "open", "zurück", "")),
        rng.randint(-10, 9_999),
        rng.choice((None, 0.1, 2.5, -1e300, rng.random())),
        rng.choice((None, "", "naïve ✓ “quoted”, 'text'\n", "x" * rng.randint(1, 60))),
    )


_SELECT = (
    f"select c.seq, c.position, c.rows, {', '.join('o.' + name for name in COLUMNS)} "
    "from _mycelial_checkpoint c left join orders o on true where c.part <> ''"
)
_COUNT = "select count(*) from orders"
_STANDING = "select seq, position from _mycelial_checkpoint where part <> ''"


def _place(raw: str) -> int:
    return int(json.loads(raw)["c"] or 0)


def _joined(found: list[Row], when_empty: int) -> Snapshot:
    if not found:
        if when_empty:
            raise Difference(f"{when_empty} rows without a checkpoint")
        return Snapshot(Counter())
    seq, raw, counted = found[0][:3]
    rows = Counter(row[3:] for row in found if row[3] is not None)
    return Snapshot(rows, _place(raw), raw, int(seq), int(counted))


@dataclass
class ToSqlite:
    """A SQLite file."""

    folder: Path
    kind: str = "sqlite"

    def manifest(self) -> str:
        return "sqlite: { path: warehouse/warehouse.db, table: orders }"

    def snapshot(self) -> Snapshot:
        found = self._query(_SELECT)
        return _joined(found, 0 if found else sum(n for (n,) in self._query(_COUNT)))

    def standing(self) -> tuple[int, int]:
        return next(((seq, _place(raw)) for seq, raw in self._query(_STANDING)), (0, 0))

    def _query(self, statement: str) -> list[Row]:
        path = self.folder / "warehouse" / "warehouse.db"
        if not path.exists():
            return []
        warehouse = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)
        try:
            return warehouse.execute(statement).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return []
            raise
        finally:
            warehouse.close()


@dataclass
class ToPostgres:
    """A database of a private server."""

    database: postgres_server.Database
    kind: str = "postgres"

    def manifest(self) -> str:
        server = self.database.server
        return (
            f"postgres: {{ host: 127.0.0.1, port: {server.port}, user: mycelial, "
            f"database: {self.database.name}, table: orders }}"
        )

    def snapshot(self) -> Snapshot:
        if not self._is_there():
            return Snapshot(Counter())
        found = self.database.query(_SELECT)
        return _joined(found, 0 if found else int(str(self.database.query(_COUNT)[0][0])))

    def standing(self) -> tuple[int, int]:
        if not self._is_there():
            return (0, 0)
        found = self.database.query(_STANDING)
        return next(((int(str(seq)), _place(str(raw))) for seq, raw in found), (0, 0))

    def _is_there(self) -> bool:
        made = "select to_regclass('orders') is not null"
        return self.database.query(made) == [(True,)]


@dataclass
class ToParquet:
    """A folder of files; its journal says which of them are committed."""

    folder: Path
    kind: str = "parquet"

    @property
    def root(self) -> Path:
        """The dataset."""
        return self.folder / "warehouse" / "orders"

    def manifest(self) -> str:
        return "parquet: { path: warehouse/orders }"

    def snapshot(self) -> Snapshot:
        committed = [e for e in self._entries() if e["kind"] in ("commit", "position")]
        if not committed:
            return Snapshot(Counter())
        last = committed[-1]
        files = [self.root / e["file"] for e in committed if e["kind"] == "commit"]
        rows = Counter(row for path in files for row in _parquet_rows(path))
        place = _place(last["position"])
        return Snapshot(rows, place, last["position"], last["seq"], last["total"])

    def standing(self) -> tuple[int, int]:
        committed = [e for e in self._entries() if e["kind"] in ("commit", "position")]
        return (committed[-1]["seq"], _place(committed[-1]["position"])) if committed else (0, 0)

    def loose_files(self) -> set[str]:
        """Return the files a reader would see that no entry commits, and leftovers of staging."""
        named = {e["file"] for e in self._entries() if e["kind"] == "commit"}
        inside = (p.relative_to(self.root) for p in self.root.rglob("*") if p.is_file())
        return {
            path.as_posix()
            for path in inside
            if path.parts[0] != "_mycelial" and path.as_posix() not in named
        }

    def _entries(self) -> Iterator[dict[str, Any]]:
        journal = self.root / "_mycelial" / "journal.jsonl"
        if not journal.exists():
            return
        for line in journal.read_bytes().split(b"\n")[:-1]:
            yield json.loads(line)


LOCAL = {"sqlite": ToSqlite, "parquet": ToParquet}
"""The destinations that need nothing but a folder."""


def _parquet_rows(path: Path) -> list[Row]:
    from arro3.io import read_parquet

    rows: list[Row] = []
    for batch in read_parquet(path):
        rows += zip(*(batch.column(name).to_pylist() for name in COLUMNS), strict=True)
    return rows


def compare(found: Snapshot, shop: Shop, *, complete: bool, when: str) -> None:
    """Raise Difference unless the rows are those of the source up to the checkpoint (I2)."""
    expected = shop.expected(None if complete else found.position)
    if found.rows == expected and found.counted == found.rows.total():
        return
    missing, extra = expected - found.rows, found.rows - expected
    raise Difference(
        f"{when}: {expected.total()} rows expected, {found.rows.total()} found, the checkpoint "
        f"counts {found.counted} at {found.raw_position or 'no position'} (unit {found.seq}); "
        f"{missing.total()} missing, first {sorted(missing)[:3]}; "
        f"{extra.total()} too many, first {sorted(extra)[:3]}"
    )
