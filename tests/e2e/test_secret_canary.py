"""A secret's value is in nothing that the product writes, prints, sends or leaves behind (I11)."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

from fleet_processes import MYCELIAL, Fleet
from postgres_server import Server, execute

CANARY = 'canary/"päss\\word&7'
SHAPES = [
    CANARY.encode(),
    quote(CANARY, safe="").encode(),
    quote(CANARY).encode(),
    base64.b64encode(CANARY.encode()),
    CANARY.encode("unicode_escape"),
    b"word&7",
    b"word%267",
]

pytestmark = [pytest.mark.e2e, pytest.mark.postgres]


def manifest(port: int) -> str:
    return f"""\
apiVersion: mycelial/v1
kind: Connection
metadata: {{name: warehouse}}
spec:
  postgres:
    host: 127.0.0.1
    port: {port}
    database: postgres
    user: locked_out
    password: {{secret: warehouse-pw}}
---
apiVersion: mycelial/v1
kind: Workflow
metadata: {{name: leaky}}
spec:
  daemon: shop-01
  schedule: continuous
  source: {{postgres: {{connection: warehouse, table: orders}}}}
  destination: {{csv: {{path: out/orders.csv}}}}
---
apiVersion: mycelial/v1
kind: Workflow
metadata: {{name: innocent}}
spec:
  daemon: shop-01
  schedule: continuous
  source: {{generate: {{rate: 5}}}}
  destination: {{csv: {{path: out/rows.csv}}}}
"""


def ask_for_passwords(postgres: Server) -> None:
    """Make the private server, which trusts everybody, ask one role for a password."""
    rules = postgres.directory / "data" / "pg_hba.conf"
    asked = "host all locked_out 127.0.0.1/32 scram-sha-256\n"
    if asked not in rules.read_text("utf-8"):
        rules.write_text(asked + rules.read_text("utf-8"), "utf-8")
        execute(postgres.url, "create role locked_out login password 'another'")
    execute(postgres.url, "select pg_reload_conf()")


def files_below(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes()


def processes_of(fleet: Fleet) -> Iterator[tuple[str, bytes]]:
    """What workers and their like were started with; the daemon itself was given the secret."""
    for process in psutil.Process(fleet.daemons["shop-01"].pid).children(recursive=True):
        inherited = [*process.cmdline(), *process.environ().values()]
        yield f"process {process.pid}", "\n".join(inherited).encode()


def printed(fleet: Fleet, *words: str) -> tuple[str, bytes]:
    environment = {
        **os.environ,
        "MYCELIAL_URL": fleet.url,
        "MYCELIAL_TOKEN_FILE": str(fleet.folder / "server" / "admin.token"),
    }
    done = subprocess.run([*MYCELIAL, *words], env=environment, capture_output=True, timeout=60)
    assert done.returncode in (0, 1, 2), done.stderr.decode()
    assert done.stdout + done.stderr
    return " ".join(words), done.stdout + done.stderr


def test_a_wrong_password_is_nowhere_to_be_found(tmp_path: Path, postgres) -> None:
    ask_for_passwords(postgres)
    text = manifest(postgres.port)
    with Fleet(tmp_path) as fleet:
        fleet.start_server()
        fleet.add_daemon(
            "shop-01",
            writes=["out"],
            environment={"MYCELIAL_SECRET_WAREHOUSE_PW": CANARY},
        )
        fleet.until_online()
        fleet.apply({"workflows/leaky.yaml": text})

        def failed() -> bool:
            (place,) = fleet.client.workflow("leaky").placements
            return bool(place.status and place.status.error) and fleet.worker_pids("shop-01") != []

        fleet.until("the connection was refused", failed)
        given = psutil.Process(fleet.daemons["shop-01"].pid).environ()
        assert CANARY in given.values()  # what is looked for is there to be found
        error = fleet.client.workflow("leaky").placements[0].status.error
        changed = tmp_path / "changed.yaml"
        changed.write_text(text.replace("table: orders", "table: customers"), "utf-8")
        found = [
            *processes_of(fleet),
            printed(fleet, "status"),
            printed(fleet, "status", "-o", "json"),
            printed(fleet, "describe", "wf/leaky"),
            printed(fleet, "get", "wf", "-o", "json"),
            printed(fleet, "describe", "wf/leaky", "-o", "yaml"),
            printed(fleet, "describe", "conn/warehouse"),
            printed(fleet, "describe", "d/shop-01", "-o", "json"),
            printed(fleet, "events"),
            printed(fleet, "events", "-o", "json"),
            printed(fleet, "logs", "leaky", "-o", "json"),
            printed(fleet, "plan", "-f", str(changed), "-o", "json"),
            printed(fleet, "plan", "-f", str(changed)),
        ]
    found += files_below(tmp_path)
    assert error is not None
    assert error.code == "MYC-PG-020"
    assert len(found) > 30
    leaks = [where for where, data in found for shape in SHAPES if shape in data]
    assert leaks == []
