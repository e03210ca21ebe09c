"""`demo`: a control plane, two daemons and a live shop on this machine, verified row for row.

Everything is real: the processes are the ones users run, joined with tokens over TLS, and the
manifests are the ones of the `manifests/` folder, changed by a commit while rows are moving.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mycelial.cli.change import show_plan
from mycelial.cli.look import short_revision
from mycelial.kernel.clock import Clock, SystemClock
from mycelial.kernel.entropy import Rng, seeded_rng
from mycelial.kernel.errors import CheckSaysNo, OperationFailed
from mycelial.kernel.secret import Secret
from mycelial.schemas.views import ApplyRequest, PlanRequest

if TYPE_CHECKING:
    from mycelial.client.api import Client

DAEMONS: dict[str, dict[str, list[str]]] = {
    "shop-01": {"read": ["shop"], "write": ["warehouse"]},
    "office-01": {"read": ["warehouse"], "write": ["archive"]},
}
STARTING_ORDERS = 5_000
_TAG = 'tag: { site: "${daemon.labels.site}" }'
_TAG_WITH_CHANNEL = 'tag: { site: "${daemon.labels.site}", channel: till }'


@click.command()
@click.option("--keep", is_flag=True, help="Leave the files behind when it ends.")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Where to work; a temporary folder otherwise.",
)
@click.option("--seconds", default=6.0, show_default=True, help="How long the shop stays open.")
def demo(keep: bool, directory: Path | None, seconds: float) -> None:
    """See it all work on this machine: no server to install, nothing left behind."""
    work = directory or Path(tempfile.mkdtemp(prefix="mycelial-demo-"))
    work.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Demo(work.resolve(), SystemClock()) as running:
            running.play(seconds)
            if sys.stdout.isatty():
                # Ctrl-C is how this is meant to end, so it is no interruption.
                with contextlib.suppress(KeyboardInterrupt):
                    running.stay(is_kept=keep or directory is not None)
    finally:
        if not keep and directory is None:
            shutil.rmtree(work, ignore_errors=True)
        else:
            click.echo(f"kept {work}")


def manifests_folder() -> Path:
    """Return the demo's repository: packaged with the wheel, or the checkout's own folder."""
    here = Path(__file__).resolve()
    packaged = here.parent / "demo_manifests"
    return packaged if packaged.is_dir() else here.parents[2] / "manifests"


@dataclass
class Shop:
    """The live source: a SQLite shop that keeps selling while everything else happens."""

    path: Path
    clock: Clock
    rng: Rng = field(default_factory=lambda: seeded_rng(7))
    _closing: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def open(self) -> None:
        """Create the tables, sell some, and go on selling in a thread."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._connect() as shop:
            shop.execute("pragma journal_mode=wal")
            shop.executescript(
                "create table customers (id integer primary key, name text not null, city text);"
                "create table orders (id integer primary key, customer integer not null, "
                "status text not null, cents integer not null, at text not null);"
            )
            cities = ("Lyon", "Köln", "Porto", None)
            shop.executemany(
                "insert into customers values (?,?,?)",
                [(i, f"customer {i}", cities[i % 4]) for i in range(1, 201)],
            )
            self._sell(shop, STARTING_ORDERS)
        self.keep_selling()

    def keep_selling(self) -> None:
        """Sell in a thread until `close`."""
        self._closing.clear()
        self._thread = threading.Thread(target=self._go_on, name="shop", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop selling."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        return read_rows(self.path, query)

    @contextlib.contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.path, timeout=10)
        try:
            with connection:
                yield connection
        finally:
            connection.close()

    def _go_on(self) -> None:
        while not self._closing.wait(0.05):
            with self._connect() as shop:
                self._sell(shop, 1 + int(self.rng.uniform(0, 20)))
                shop.execute(
                    "update customers set city = ? where id = ?",
                    (f"city {int(self.rng.uniform(0, 99))}", 1 + int(self.rng.uniform(0, 199))),
                )

    def _sell(self, shop: sqlite3.Connection, count: int) -> None:
        now = self.clock.now()
        shop.executemany(
            "insert into orders (customer, status, cents, at) "
            "values (?,?,?,datetime(?,'unixepoch'))",
            [
                (
                    1 + int(self.rng.uniform(0, 199)),
                    "test" if self.rng.uniform(0, 1) < 0.02 else "paid",
                    int(self.rng.uniform(100, 20_000)),
                    now,
                )
                for _ in range(count)
            ],
        )


def read_rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query on a SQLite file, read-only; none while it does not exist."""
    if not path.exists():
        return []
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
    try:
        return connection.execute(query).fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return []
        raise
    finally:
        connection.close()


class Demo:
    """The processes of the demo, and the story they play."""

    def __init__(self, work: Path, clock: Clock) -> None:
        self._work = work
        self._clock = clock
        self._children: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._shop = Shop(work / "shop" / "shop.db", clock)
        self._warehouse = work / "warehouse" / "warehouse.db"
        self._url = f"http://127.0.0.1:{_free_port()}"
        self._daemon_url = f"https://127.0.0.1:{_free_port()}"
        self._started_at = clock.monotonic()

    def __enter__(self) -> Demo:
        return self

    def __exit__(self, *_: object) -> None:
        self._shop.close()
        for _name, child in reversed(self._children):
            child.terminate()
        for name, child in self._children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                click.echo(f"{name} did not end in 10 s; killed", err=True)
                child.kill()
                child.wait()

    def play(self, seconds: float) -> None:
        """Run the story. Raises: CheckSaysNo when source and destination differ."""
        click.echo(f"Mycelial demo in {self._work}\n")
        self._shop.open()
        self._started_at = self._clock.monotonic()
        self._start_control_plane()
        self._start_daemons()
        self._first_commit()
        self._first_row()
        self._sell_for(seconds / 2)
        self._change_by_commit()
        self._sell_for(seconds / 2)
        self._shop.close()
        self._verify()
        self._say_where_to_look()

    def stay(self, *, is_kept: bool) -> None:
        """Keep selling until Ctrl-C."""
        click.echo(
            "\nThe shop is open again. Ctrl-C ends everything"
            + (f"; the files stay in {self._work}." if is_kept else " and removes it.")
        )
        self._shop.keep_selling()
        while True:
            self._check_children()
            self._clock.sleep(1.0)

    # -- the acts ------------------------------------------------------------------------------

    def _start_control_plane(self) -> None:
        self._spawn(
            "server",
            "server",
            "--data",
            str(self._work / "server"),
            "--listen",
            self._url.removeprefix("http://"),
            "--daemon-listen",
            self._daemon_url.removeprefix("https://"),
        )
        token = self._work / "server" / "admin.token"
        self._until("the control plane answers", lambda: token.exists() and self._answers())
        self._say("control plane", f"{self._url}  token in {token}")

    def _start_daemons(self) -> None:
        joining = {name: self._begin_join(name, access) for name, access in DAEMONS.items()}
        for name, child in joining.items():
            _, said = child.communicate()
            if child.returncode != 0:
                click.echo(said, err=True)
                raise OperationFailed("MYC-DEMO-001", f"{name} could not join")
            config, state = self._work / f"{name}.toml", self._work / name
            self._spawn(name, "daemon", "run", "--config", str(config), "--state", str(state))
        self._until(
            "both daemons are online",
            lambda: all(daemon.liveness == "Online" for daemon in self._client.daemons()),
        )
        self._say("daemons", f"{' and '.join(DAEMONS)} joined over TLS and are online")

    def _begin_join(self, name: str, access: dict[str, list[str]]) -> subprocess.Popen[str]:
        """Start `daemon join` for a machine; they join side by side."""
        for folder in (*access["read"], *access["write"]):
            (self._work / folder).mkdir(exist_ok=True)
        config = self._work / f"{name}.toml"
        config.write_text(_daemon_config(name, access), encoding="utf-8")
        token = self._client.create_token(name=name, labels={}, ttl_seconds=3600).token
        options = {"--server": self._daemon_url, "--name": name, "--state": str(self._work / name)}
        arguments = [word for option in options.items() for word in option]
        return subprocess.Popen(
            [*_MYCELIAL, "daemon", "join", *arguments],
            env={**os.environ, "MYCELIAL_JOIN_TOKEN": token},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _first_commit(self) -> None:
        folder = manifests_folder()
        files = {
            str(path.relative_to(folder)).replace("\\", "/"): path.read_text(encoding="utf-8")
            for path in sorted(folder.rglob("*.yaml"))
        }
        revision = self._commit(files, "Move the shop's data")
        self._say("commit", f"{revision}: {len(files)} manifests")

    def _first_row(self) -> None:
        count = "select count(*) from orders"
        self._until(
            "the first row arrives",
            lambda: any(n for (n,) in read_rows(self._warehouse, count)),
            seconds=30,
        )
        took = self._clock.monotonic() - self._started_at
        self._say("first row", f"{took:.1f} s after the first process started")

    def _change_by_commit(self) -> None:
        text = self._client.object("Workflow", "orders").manifest
        if _TAG not in text:
            raise OperationFailed("MYC-DEMO-002", "the demo's manifest is not as expected")
        changed = text.replace(_TAG, _TAG_WITH_CHANNEL)
        request = PlanRequest(files={"workflows/orders.yaml": changed})
        click.echo("\n     the plan of a change (a constant column more), before it is committed:")
        show_plan(self._client.plan(request).plan)
        before = self._clock.monotonic()
        revision = self._commit(dict(request.files), "Say where the orders came from")
        tagged = "select count(*) from orders where channel = 'till'"
        self._until(
            "the change takes effect",
            lambda: (
                self._has_column("channel")
                and any(n for (n,) in read_rows(self._warehouse, tagged))
            ),
        )
        took = self._clock.monotonic() - before
        self._say("change", f"{revision} in effect {took:.1f} s after the commit")

    def _has_column(self, name: str) -> bool:
        columns = read_rows(self._warehouse, "select name from pragma_table_info('orders')")
        return (name,) in columns

    def _verify(self) -> None:
        """Compare as multisets, once everything that was sold has arrived."""
        site = "'lyon'"
        sold = self._shop.rows(
            f"select id, customer, status, cents, at, {site} from orders "  # noqa: S608
            "where status <> 'test'"
        )
        arrived = "select id, customer, status, amount_cents, at, site from orders"
        customers = "select id, name, city from customers"
        self._same("orders", "SQLite to SQLite", sold, lambda: read_rows(self._warehouse, arrived))
        self._same(
            "customers",
            "replaced whole",
            self._shop.rows(customers),
            lambda: read_rows(self._warehouse, customers),
        )
        archived = [(row[0], row[2], row[3]) for row in sold]
        self._same("orders-archive", "SQLite to Parquet", archived, self._archived)

    def _archived(self) -> list[tuple[Any, ...]]:
        from arro3.io import read_parquet

        rows: list[tuple[Any, ...]] = []
        for path in sorted((self._work / "archive" / "orders").rglob("*.parquet")):
            for batch in read_parquet(path):
                columns = [batch.column(name) for name in ("id", "status", "amount_cents")]
                rows += zip(*(column.to_pylist() for column in columns), strict=True)
        return rows

    def _same(
        self, workflow: str, how: str, expected: list[Any], read: Callable[[], list[Any]]
    ) -> None:
        wanted = sorted(expected, key=repr)
        found: list[Any] = []

        def equal() -> bool:
            found[:] = sorted(read(), key=repr)
            return found == wanted

        try:
            self._until(f"{workflow} is complete", equal, seconds=20)
        except OperationFailed:
            raise CheckSaysNo(
                "MYC-DEMO-003",
                f"{workflow}: {len(wanted):,} rows at the source, {len(found):,} arrived and "
                "they differ",
                fix=f"look into {self._work} (run again with --keep)",
            ) from None
        self._say("verified", f"{workflow}: {len(wanted):,} rows, equal row for row ({how})")

    def _say_where_to_look(self) -> None:
        server = self._work / "server"
        click.echo(
            f"\nLook around:\n"
            f"  export MYCELIAL_URL={self._url} MYCELIAL_TOKEN_FILE={server / 'admin.token'}\n"
            f"  mycelial get wf; mycelial describe wf/orders; mycelial events; mycelial history\n"
            f"  git clone {server / 'repo.git'} shop && cd shop    # edit, commit, push"
        )

    # -- the stage -----------------------------------------------------------------------------

    @property
    def _client(self) -> Client:
        from mycelial.client.api import Client

        token = (self._work / "server" / "admin.token").read_text(encoding="utf-8").strip()
        return Client(self._url, Secret(token))

    def _commit(self, files: dict[str, str], message: str) -> str:
        request = PlanRequest(files=files)
        plan_hash = self._client.plan(request).plan_hash
        reply = self._client.apply(
            ApplyRequest(request=request, message=message, plan_hash=plan_hash)
        )
        return short_revision(reply.revision)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            host, port = self._url.removeprefix("http://").split(":")
            socket.create_connection((host, int(port)), 1).close()
            return True
        return False

    def _spawn(self, name: str, *arguments: str) -> None:
        log = (self._work / f"{name}.log").open("wb")
        with log:
            child = subprocess.Popen(
                [*_MYCELIAL, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._work,
                start_new_session=True,
            )
        self._children.append((name, child))

    def _check_children(self) -> None:
        for name, child in self._children:
            if child.poll() is not None:
                tail = (self._work / f"{name}.log").read_text(errors="replace")[-1500:]
                click.echo(tail, err=True)
                raise OperationFailed("MYC-DEMO-004", f"{name} ended with {child.returncode}")

    def _until(self, what: str, done: Callable[[], bool], *, seconds: float = 30.0) -> None:
        deadline = self._clock.monotonic() + seconds
        while not done():
            self._check_children()
            if self._clock.monotonic() > deadline:
                raise OperationFailed(
                    "MYC-DEMO-005",
                    f"after {seconds:.0f} s still waiting until {what}",
                    fix=f"look into the logs in {self._work} (run with --keep)",
                )
            self._clock.sleep(0.05)

    def _sell_for(self, seconds: float) -> None:
        self._clock.sleep(seconds)
        self._check_children()

    def _say(self, what: str, text: str) -> None:
        click.echo(f" ok  {what:<14} {text}")


_MYCELIAL = (sys.executable, "-m", "mycelial")


def _daemon_config(name: str, access: dict[str, list[str]]) -> str:
    """Return a config.toml that allows just what the daemon's workflows need."""
    reads = ", ".join(f'"{path}"' for path in (*access["read"], *access["write"]))
    writes = ", ".join(f'"{path}"' for path in access["write"])
    return (
        f'[node]\nname = "{name}"\n\n'
        f"# What only this machine's owner decides, whatever git says.\n"
        f"[policy]\nread_paths = [{reads}]\nwrite_paths = [{writes}]\n"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
