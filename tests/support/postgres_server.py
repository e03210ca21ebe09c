"""A private PostgreSQL for tests, examples and benchmarks; nothing has to be prepared.

Uses the server programs found on the machine, on a free port of the loopback, as an unprivileged
user when started by root. `python postgres_server.py ensure` installs Debian's package where
that is possible (root, apt-get); `... run DIR` keeps a server up until Ctrl-C.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

if sys.platform != "win32":
    import pwd


class Unavailable(Exception):
    """No PostgreSQL can be started here; the message says why."""


def find_programs() -> Path | None:
    """Return the directory that holds initdb and postgres."""
    candidates = [os.environ.get("MYCELIAL_PG_BIN", "")]
    found = shutil.which("initdb")
    if found:
        candidates.append(str(Path(found).resolve().parent))
    versions = Path("/usr/lib/postgresql")
    if versions.is_dir():
        newest_first = sorted(versions.iterdir(), key=lambda p: float(p.name), reverse=True)
        candidates += [str(path / "bin") for path in newest_first]
    for candidate in filter(None, candidates):
        if (Path(candidate) / "initdb").exists() and (Path(candidate) / "postgres").exists():
            return Path(candidate)
    return None


def ensure() -> Path:
    """Return the programs' directory, installing the distribution's package if we may."""
    found = find_programs()
    if found is not None:
        return found
    if not (hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get")):
        raise Unavailable("initdb and postgres were not found; install PostgreSQL")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "postgresql"],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise Unavailable(f"{' '.join(command)} failed: {done.stderr.strip()[-400:]}")
    found = find_programs()
    if found is None:
        raise Unavailable("the installed package brought no initdb")
    return found


def _unprivileged() -> dict[str, int]:
    """Return Popen arguments that drop root, which PostgreSQL refuses to run as."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid}
    raise Unavailable("root has no unprivileged user to run PostgreSQL as")


def free_port() -> int:
    """Return a port of the loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def execute(url: str, *statements: str) -> None:
    """Run statements, each on its own, outside a transaction."""
    import adbc_driver_postgresql.dbapi as driver

    with driver.connect(url, autocommit=True) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def query(url: str, statement: str) -> list[tuple[object, ...]]:
    """Return all rows of a statement."""
    import adbc_driver_postgresql.dbapi as driver
    from arro3.core import RecordBatchReader

    with driver.connect(url, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        rows: list[tuple[object, ...]] = []
        for batch in RecordBatchReader.from_arrow(cursor.fetch_arrow()):
            rows.extend(zip(*(column.to_pylist() for column in batch.columns), strict=True))
        return rows


@dataclass(frozen=True)
class Database:
    """One database of the private server."""

    url: str
    name: str
    server: Server

    def execute(self, *statements: str) -> None:
        """Run statements, each on its own."""
        execute(self.url, *statements)

    def query(self, statement: str) -> list[tuple[object, ...]]:
        """Return all rows of a statement."""
        return query(self.url, statement)

    def drop(self) -> None:
        """Remove the database, ending whatever is still connected."""
        execute(self.server.url, f'drop database if exists "{self.name}" with (force)')


@dataclass
class Server:
    """A running private server. `url` is its maintenance database."""

    directory: Path
    programs: Path
    port: int
    process: subprocess.Popen[bytes]
    settings: dict[str, str] = field(default_factory=dict)
    _names: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def url(self) -> str:
        """Return the URL of the maintenance database."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """Return the URL of a database."""
        return f"postgresql://mycelial@127.0.0.1:{self.port}/{database}"

    def create_database(self) -> Database:
        """Make an empty database with a name of its own."""
        name = f"test_{os.getpid()}_{next(self._names)}"
        execute(self.url, f'create database "{name}"')
        return Database(self.url_of(name), name, self)

    def stop(self) -> None:
        """End the server and remove its files."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        shutil.rmtree(self.directory, ignore_errors=True)


def start(settings: dict[str, str] | None = None) -> Server:
    """Start a server in a directory of its own. Raises: Unavailable."""
    programs, drop = ensure(), _unprivileged()
    # Not below a private temporary directory: the unprivileged user has to reach it.
    directory = Path(tempfile.mkdtemp(prefix="mycelial-pg-", dir="/tmp" if drop else None))
    directory.chmod(0o755)
    data = directory / "data"
    data.mkdir(mode=0o700)
    if drop:
        os.chown(directory, drop["user"], drop["group"])
        os.chown(data, drop["user"], drop["group"])
    made = subprocess.run(
        [
            programs / "initdb",
            "-D",
            data,
            "-U",
            "mycelial",
            "--auth=trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ],
        capture_output=True,
        text=True,
        cwd=directory,
        **drop,
    )
    if made.returncode != 0:
        raise Unavailable(f"initdb failed: {made.stderr.strip()[-400:]}")
    port = free_port()
    options = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "wal_level": "logical",
        "max_connections": "60",
        "shared_buffers": "128MB",
        **(settings or {}),
    }
    arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [programs / "postgres", "-D", data, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=directory,
            start_new_session=True,
            **drop,
        )
    server = Server(directory, programs, port, process, options)
    _wait_until_ready(server)
    return server


def _wait_until_ready(server: Server) -> None:
    ready = [
        server.programs / "pg_isready",
        "-q",
        "-h",
        "127.0.0.1",
        "-p",
        str(server.port),
        "-t",
        "1",
    ]
    for _ in range(300):
        if server.process.poll() is not None:
            raise Unavailable((server.directory / "log").read_text(errors="replace")[-600:])
        if subprocess.run(ready).returncode == 0:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(0.1)
    server.stop()
    raise Unavailable("PostgreSQL did not answer within 30 s")


def main(arguments: list[str]) -> int:
    """Ensure the programs, or run a server in the foreground."""
    try:
        if arguments == ["ensure"]:
            print(f"PostgreSQL: {ensure()}")
            return 0
        server = start()
    except Unavailable as error:
        print(f"PostgreSQL: not available: {error}", file=sys.stderr)
        return 1
    print(server.url, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.process.wait()
    server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
