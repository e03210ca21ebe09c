"""What can go wrong while rows move: each failure is explained, then mended, and nothing is lost.

A row of the table breaks one thing in a working pipeline, runs it, mends the cause, runs it again
and compares source and destination as multisets.
"""

from __future__ import annotations

import csv
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import postgres_server
from terminal import CANARY, Terminal, end_group, expect, multiset, until

pytestmark = pytest.mark.e2e

HEAD = "apiVersion: mycelial/v1\nkind: Workflow\nmetadata: { name: orders }\nspec:\n"
Rows = Counter[tuple[str, ...]]
Step = Callable[[Path], None]


def flow(source: str, destination: str, more: str = "") -> str:
    return (
        f"{HEAD}  daemon: here\n  schedule: once\n"
        f"  source: {source}\n  destination: {destination}\n{more}"
    )


TABLE = "{ sqlite: { path: shop.db, table: orders } }"
FILE = "{ csv: { path: in.csv, columns: { id: int64, cents: int64 } } }"
OUT = "{ sqlite: { path: out.db, table: orders } }"
COPY = flow(TABLE, OUT)
LOAD = flow(FILE, OUT)
CSV = "id,item,cents\n" + "".join(f"{i},i{i},{i * 10}\n" for i in range(100))


def shop(folder: Path, rows: int = 100, name: str = "shop.db") -> None:
    with database(folder / name) as db:
        db.execute("create table orders(id integer primary key, item text, cents integer)")
        db.executemany(
            "insert into orders values(?, ?, ?)", [(i, f"i{i}", i * 10) for i in range(rows)]
        )


@contextmanager
def database(path: Path) -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(path, timeout=10)
    try:
        yield db
        db.commit()
    finally:
        db.close()


def table_rows(path: Path) -> Rows:
    if not path.exists():
        return Counter()
    with database(path) as db:
        try:
            return multiset(db.execute("select id, item, cents from orders").fetchall())
        except sqlite3.OperationalError:
            return Counter()


def csv_rows(path: Path) -> Rows:
    with path.open(newline="") as file:
        return multiset(list(csv.reader(file))[1:])


def nothing(_: Path) -> None: ...


def rewrite(old: str, new: str, name: str = "flow.yaml") -> Step:
    def step(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return step


def sql(statement: str, name: str = "shop.db") -> Step:
    def step(folder: Path) -> None:
        with database(folder / name) as db:
            db.execute(statement)

    return step


def put(name: str, text: str) -> Step:
    return lambda folder: Terminal(folder).write({name: text})


def in_turn(*steps: Step) -> Step:
    def all_of_them(folder: Path) -> None:
        for step in steps:
            step(folder)

    return all_of_them


def unlink(name: str) -> Step:
    return lambda folder: (folder / name).unlink()


@dataclass(frozen=True)
class Broken:
    """A working pipeline with one thing broken, and how to mend it."""

    text: str
    breaks: Step
    has: tuple[str, ...]
    mends: Step
    code: int = 3
    args: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    out: str = "out.db"


TABLES = {
    "missing table": Broken(
        COPY, sql("alter table orders rename to ordres"),
        (r"flow\.yaml:7:3: MYC-SQLITE-024 there is no table orders in shop\.db",
         'fix: did you mean "ordres"\\? Tables there: ordres'),
        sql("alter table ordres rename to orders")),
    "missing database": Broken(
        flow(TABLE.replace("shop", "shopp"), OUT), nothing,
        (r"flow\.yaml:7:3: MYC-SQLITE-020 there is no file .*shopp\.db", "check `path`"),
        rewrite("shopp.db", "shop.db")),
    "unknown column in a filter": Broken(
        COPY + "  transforms:\n    - filter: cent >= 0\n", nothing,
        (r"flow\.yaml:10:7: MYC-XFORM-001 there is no column \"cent\"", 'did you mean "cents"'),
        rewrite("cent >=", "cents >=")),
    "unknown column in SQL": Broken(
        COPY + "  transforms:\n    - sql: select id, itm, cents from input\n", nothing,
        (r"flow\.yaml:10:7: MYC-XFORM-001 there is no column \"itm\"", 'did you mean "item"'),
        rewrite("itm", "item")),
    "SQL that is none": Broken(
        COPY + "  transforms:\n    - sql: selec * from input\n", nothing,
        (r"flow\.yaml:10:7: MYC-XFORM-002 .*syntax error at or near \"selec\"",
         "correct the SQL; its input has: id"),
        rewrite("selec ", "select ")),
    "a row with too few fields": Broken(
        LOAD, rewrite("50,i50,500\n", "50,i50\n", "in.csv"),
        (r"flow\.yaml:7:3: MYC-CSV-004 .*in\.csv:52: 2 fields where the header has 3",
         "correct that line"),
        rewrite("50,i50\n", "50,i50,500\n", "in.csv")),
    "a value that does not cast": Broken(
        LOAD, rewrite("50,i50,500\n", "50,i50,5oo\n", "in.csv"),
        (r"flow\.yaml:7:3: MYC-CSV-\d+ .*in\.csv:52", "cents", "fix: "),
        rewrite("5oo", "500", "in.csv")),
    "upsert without a key": Broken(
        LOAD.replace("table: orders", "table: orders, mode: upsert"), nothing,
        (r"flow\.yaml:8:3: MYC-TYPE-031 mode upsert needs a key", r"add `key: \[column"),
        rewrite("mode: upsert", "mode: upsert, key: [id]")),
    "exactly-once of a destination that cannot": Broken(
        flow(TABLE, "{ inspect: {} }", "  delivery: { guarantee: exactly-once }\n"), nothing,
        (r"flow\.yaml:9:15: MYC-RUN-010 delivery\.guarantee is exactly-once, but",
         "guarantee: auto"),
        rewrite("{ inspect: {} }", OUT)),
    "a destination that is no database": Broken(
        COPY, put("out.db", "no database at all " * 300),
        (r"flow\.yaml:8:3: MYC-SQLITE-023 .*not a database", "out.db", "check `path`"),
        unlink("out.db")),
    "destination under a file": Broken(
        flow(FILE, "{ csv: { path: dir/out.csv } }"),
        put("dir", ""),
        (r"flow\.yaml:8:3: MYC-RUN-092 .*dir", "check the path"),
        unlink("dir"), out="dir/out.csv"),
    "sqlite destination in no folder": Broken(
        flow(TABLE, "{ sqlite: { path: dir/out.db, table: orders } }"),
        put("dir", ""),
        (r"flow\.yaml:8:3: MYC-SQLITE-020 there is no folder .*dir", "create it"),
        in_turn(unlink("dir"), lambda folder: (folder / "dir").mkdir()),
        out="dir/out.db"),
    "state directory under a file": Broken(
        COPY, put("state", ""),
        ("Invalid value for '--state'", "is a file"), unlink("state"), code=64),
    "source outside the allowed paths": Broken(
        LOAD,
        in_turn(unlink("in.csv"), lambda folder: (folder / "in.csv").symlink_to("/etc/passwd")),
        (r"flow\.yaml:7:3: MYC-RUN-041 local policy does not allow to read /etc/passwd",
         "read_paths"),
        in_turn(unlink("in.csv"), put("in.csv", CSV)),
        code=4, args=("--config", "config.toml"),
        files={"config.toml": '[policy]\nread_paths = ["."]\nwrite_paths = ["."]\n'}),
}  # fmt: skip


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    shop(tmp_path)
    (tmp_path / "in.csv").write_text(CSV)
    return Terminal(tmp_path)


@pytest.mark.parametrize("broken", TABLES.values(), ids=TABLES)
def test_failure_is_explained_and_loses_nothing(broken: Broken, terminal: Terminal) -> None:
    folder = terminal.folder
    terminal.write({"flow.yaml": broken.text, **broken.files})
    broken.breaks(folder)
    command = ("run", "flow.yaml", "--state", "state", *broken.args)
    expect(terminal.run(*command, **broken.environment), broken.code, *broken.has)
    broken.mends(folder)
    expect(terminal.run(*command, **broken.environment), 0, "100 rows")
    out = folder / broken.out
    assert (csv_rows(out) if out.suffix == ".csv" else table_rows(out)) == csv_rows(
        folder / "in.csv"
    )


# -- a full disk -----------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[], None]]:
    """Mount a disk that is soon full; the callable makes it large."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "mycelial-test", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a real full disk needs root on Linux")
    made = subprocess.run(mount, capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {made.stderr.strip()}")
    grow = ["mount", "-o", "remount,size=64m", str(folder)]
    try:
        yield lambda: subprocess.run(grow, check=True) and None
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize(
    "destination", ["{ sqlite: { path: disk/out.db, table: orders } }", "{ csv: disk/out.csv }"],
    ids=["sqlite", "csv"],
)  # fmt: skip
def test_full_disk_is_explained_and_loses_nothing(destination: str, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    shop(tmp_path, 20_000)
    more = "  delivery: { unit: { rows: 1000 } }\n"
    source = TABLE.replace("table: orders", "table: orders, cursor: id")
    terminal.write({"flow.yaml": flow(source, destination, more)})
    out = tmp_path / "disk" / ("out.db" if "sqlite" in destination else "out.csv")
    with small_disk(tmp_path / "disk") as grow:
        done = terminal.run("run", "flow.yaml", "--state", "state")
        expect(done, 3, r"flow\.yaml:8:3: MYC-\w+-\d+ .*(full|No space)", "fix: free space")
        grow()
        expect(terminal.run("run", "flow.yaml", "--state", "state"), 0)
        found = csv_rows(out) if out.suffix == ".csv" else table_rows(out)
        assert found == table_rows(tmp_path / "shop.db")


def test_file_size_limit_is_explained_and_loses_nothing(terminal: Terminal) -> None:
    """A quota by another name, which needs no root."""
    terminal.write({"flow.yaml": flow(TABLE, "{ csv: out.csv }", "  rate: { rows: 100000 }\n")})
    (terminal.folder / "shop.db").unlink()
    shop(terminal.folder, 60_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, before[1]))
    try:
        done = terminal.run("run", "flow.yaml", "--state", "state")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    expect(done, 3, r"flow\.yaml:8:3: MYC-RUN-091 .*File too large", "free space")
    expect(terminal.run("run", "flow.yaml", "--state", "state"), 0)
    assert csv_rows(terminal.folder / "out.csv") == table_rows(terminal.folder / "shop.db")


# -- interruptions ---------------------------------------------------------------------------------

LARGE = 6_000
SLOW = flow(
    TABLE.replace("table: orders", "table: orders, cursor: id"), OUT,
    "  delivery: { unit: { rows: 250 } }\n  rate: { rows: 4000 }\n",
)  # fmt: skip


def half_way(folder: Path) -> bool:
    return len(table_rows(folder / "out.db")) > 0


@pytest.mark.parametrize("how", ["Ctrl-C", "kill -9"])
def test_interrupted_run_goes_on_exactly(how: str, tmp_path: Path) -> None:
    shop(tmp_path, LARGE)
    terminal = Terminal(tmp_path)
    terminal.write({"flow.yaml": SLOW})
    process = terminal.start("run", "flow.yaml", "--state", "state")
    until("rows arrive", lambda: half_way(tmp_path))
    process.send_signal(signal.SIGINT if how == "Ctrl-C" else signal.SIGKILL)
    _, err = process.communicate(timeout=20)
    if how == "Ctrl-C":
        assert process.returncode == 130, err
        assert "draining" in err
        assert "stopped" in err
    kept = table_rows(tmp_path / "out.db")
    assert 0 < sum(kept.values()) < LARGE
    assert not kept - table_rows(tmp_path / "shop.db")
    terminal.write({"flow.yaml": SLOW.replace("4000", "1000000")})
    expect(terminal.run("run", "flow.yaml", "--state", "state"), 0)
    assert table_rows(tmp_path / "out.db") == table_rows(tmp_path / "shop.db")


def test_lost_state_directory_loses_and_doubles_nothing(terminal: Terminal) -> None:
    terminal.write(
        {"flow.yaml": flow(TABLE.replace("table: orders", "table: orders, cursor: id"), OUT)}
    )
    expect(terminal.run("run", "flow.yaml", "--state", "one"), 0, "100 rows")
    sql("insert into orders values(1000, 'late', 1)")(terminal.folder)
    expect(terminal.run("run", "flow.yaml", "--state", "two"), 0, "1 row ")
    assert table_rows(terminal.folder / "out.db") == table_rows(terminal.folder / "shop.db")


def test_table_dropped_while_running_is_explained(tmp_path: Path) -> None:
    shop(tmp_path, LARGE)
    terminal = Terminal(tmp_path)
    terminal.write({"flow.yaml": SLOW})
    process = terminal.start("run", "flow.yaml", "--state", "state")
    try:
        until("rows arrive", lambda: half_way(tmp_path))
        sql("drop table orders", "out.db")(tmp_path)
        _, err = process.communicate(timeout=20)
    finally:
        if process.poll() is None:
            end_group(process)
    assert process.returncode == 3, err
    assert "no such table" in err or "there is no table" in err or "dropped" in err, err
    assert "flow.yaml:8:3: MYC-" in err
    assert "fix: " in err
    assert "Traceback" not in err


# -- PostgreSQL ------------------------------------------------------------------------------------


def warehouse(pg: postgres_server.Database, *, port: int | None = None, more: str = "") -> str:
    parts = urlsplit(pg.url)
    return (
        f"{{ postgres: {{ host: 127.0.0.1, port: {port or parts.port}, database: {pg.name}, "
        f"user: mycelial, password: {{ secret: pw }}, sslmode: disable, connect_timeout: 1, "
        f"table: orders{more} }} }}"
    ).replace("connect_timeout", "connectTimeout")


IMPATIENT = "  onError: { retry: { upTo: 1s } }\n"


@pytest.mark.postgres
@pytest.mark.parametrize("peer", ["closed port", "black hole"])
def test_unreachable_database_is_explained_in_bounded_time(
    peer: str, terminal: Terminal, pg: postgres_server.Database
) -> None:
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        if peer == "black hole":
            hole.listen(8)
        port = hole.getsockname()[1]
        terminal.write({"flow.yaml": flow(TABLE, warehouse(pg, port=port), IMPATIENT)})
        done = terminal.run("run", "flow.yaml", "--state", "state", MYCELIAL_SECRET_PW=CANARY)
    expect(done, 3, rf"flow\.yaml:8:3: MYC-PG-\d+ .*127\.0\.0\.1:{port}", "will try again", "fix: ")
    assert done.seconds < 15
    terminal.write({"flow.yaml": flow(TABLE, warehouse(pg), IMPATIENT)})
    expect(
        terminal.run("run", "flow.yaml", "--state", "state", MYCELIAL_SECRET_PW=CANARY),
        0,
        "100 rows",
    )
    assert _arrived(pg) == table_rows(terminal.folder / "shop.db")


@pytest.mark.postgres
def test_type_the_destination_cannot_hold_is_refused_before_a_row_moves(
    terminal: Terminal, pg: postgres_server.Database
) -> None:
    pg.execute("create table orders(id bigint, item integer, cents bigint)")
    terminal.write({"flow.yaml": flow(TABLE, warehouse(pg, more=", mode: append"), IMPATIENT)})
    command = ("run", "flow.yaml", "--state", "state")
    done = terminal.run(*command, MYCELIAL_SECRET_PW=CANARY)
    expect(done, 3, r"flow\.yaml:8:3: MYC-\w+-\d+ .*item", "integer|int32", "fix: ")
    assert pg.query("select count(*) from orders") == [(0,)]
    pg.execute("alter table orders alter item type text")
    expect(terminal.run(*command, MYCELIAL_SECRET_PW=CANARY), 0, "100 rows")
    assert _arrived(pg) == table_rows(terminal.folder / "shop.db")


def _arrived(pg: postgres_server.Database) -> Rows:
    return multiset(pg.query("select id, item, cents from orders"))
