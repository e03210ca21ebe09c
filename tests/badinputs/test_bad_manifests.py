"""Everything that can be wrong with a manifest or a command line, as a user meets it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from terminal import CANARY, Case, Terminal, expect, multiset

pytestmark = pytest.mark.e2e

HEAD = "apiVersion: mycelial/v1\nkind: Workflow\nmetadata: { name: orders }\nspec:\n"
PLACE = "  daemon: here\n  schedule: once\n"
SOURCE = "  source: { sqlite: { path: shop.db, table: orders, cursor: id } }\n"
TARGET = "  destination: { sqlite: { path: out.db, table: orders } }\n"
GOOD = HEAD + PLACE + SOURCE + TARGET
POSTGRES = "  destination: {{ postgres: {{ {}, table: t }} }}\n"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)
)


def _good(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def _check(text: str | bytes, *has: str, code: int = 1) -> Case:
    return Case(("validate", "flow.yaml"), code, has, {"flow.yaml": text})


def _moved(name: str, old: str) -> str:
    return GOOD.replace("{ name: orders }", f"{{ name: {name}, moved: {{ from: {old} }} }}")


MANIFESTS = {
    "unknown field": _check(
        GOOD + "  shedule: once\n",
        r"flow\.yaml:9:3: MYC-SCHEMA-010", 'unknown field "shedule"', 'did you mean "schedule"'),
    "wrong type": _check(
        _good("path: shop.db", "path: 5"),
        r"flow\.yaml:7:29: MYC-SCHEMA-012", '"path" must be text', "fix: put the value in quotes"),
    "duplicate name across files": Case(
        ("validate", "."), 1,
        (r"a\.yaml:3:13: MYC-REF-003 .*b\.yaml:3:13", r"b\.yaml:3:13: MYC-REF-003 .*a\.yaml:3:13",
         "rename or remove"),
        {"a.yaml": GOOD, "b.yaml": GOOD}),
    "duplicate key": _check(
        GOOD + "  daemon: x\n",
        r"flow\.yaml:9:3: MYC-YAML-004 duplicate key \"daemon\", first given in line 5",
        "keep one"),
    "missing connection": _check(
        GOOD.replace(TARGET, POSTGRES.format("connection: hub")),
        r"flow\.yaml:8:30: MYC-REF-004 there is no Connection \"hub\"",
        'add a Connection named "hub"'),
    "missing connection, a near name": Case(
        ("validate", "."), 1,
        (r"flow\.yaml:8:30: MYC-REF-004", 'did you mean "hub-1"'),
        {"flow.yaml": GOOD.replace(TARGET, POSTGRES.format("connection: hub1")),
         "hub.yaml": "apiVersion: mycelial/v1\nkind: Connection\nmetadata: { name: hub-1 }\n"
         "spec:\n  postgres: { host: h, database: d, user: u }\n"}),
    "selector that matches nothing": Case(
        ("validate", "."), 0,
        (r"flow\.yaml:5:3: MYC-REF-009 warning: no Daemon in these files matches",
         'did you mean "role=till"'),
        {"flow.yaml": _good("daemon: here", "selector: role=tilll"),
         "d.yaml": "apiVersion: mycelial/v1\nkind: Daemon\nmetadata: { name: shop-01, "
         "labels: { role: till } }\n"}),
    "cycle": Case(
        ("validate", "."), 1,
        (r"[ab]\.yaml:3:\d+: MYC-REF-01\d", "fix: "),
        {"a.yaml": _moved("left", "right"), "b.yaml": _moved("right", "left")}),
    "cycle with itself": _check(
        _moved("orders", "orders"), r"flow\.yaml:3:27: MYC-REF-013", "list each former name once"),
    "literal secret": _check(
        GOOD.replace(TARGET, POSTGRES.format(f"host: h, database: d, user: u, password: {CANARY}")),
        r"flow\.yaml:8:\d+: MYC-SCHEMA-014", "by name, never its value",
        r"write \{secret: <name>\}",
        "change the secret if this file was ever committed"),
    "YAML syntax": _check(
        _good("{ name: orders }", "{ name: orders"),
        r"flow\.yaml:4:5: MYC-YAML-001", "brackets on this line and the one above"),
    "tab indentation": _check(
        _good("  daemon", "\tdaemon"),
        r"flow\.yaml:5:1: MYC-YAML-001 a tab", "replace the tabs"),
    "not UTF-8": _check(
        GOOD.encode().replace(b"orders", b"ord\xff", 1),
        r"flow\.yaml:3:22: MYC-YAML-002 the file is not UTF-8", "save the file as UTF-8"),
    "UTF-16": _check(GOOD.encode("utf-16"), "MYC-YAML-002 .*it is UTF-16", "save the file"),
    "huge file": _check(
        GOOD + "#" + "x" * 2_000_000, r"flow\.yaml: MYC-YAML-\d+ .* bytes, more than 1048576",
        "split it"),
    "deep nesting": _check(
        GOOD + "  x-a: " + "[" * 3000 + "]" * 3000 + "\n",
        r"flow\.yaml:9:\d+: MYC-YAML-007 nested deeper than 64", "flatten"),
    "alias bomb": _check(BOMB, r"flow\.yaml:\d+:\d+: MYC-YAML-006", "aliases"),
    "unknown kind": _check(
        _good("Workflow", "Workflw"), r"flow\.yaml:2:7: MYC-SCHEMA-003", 'did you mean "Workflow"'),
    "wrong apiVersion": _check(
        _good("mycelial/v1", "mycelial/v9"), r"flow\.yaml:1:13: MYC-SCHEMA-002",
        "write apiVersion: mycelial/v1"),
    "unknown connector": _check(
        _good("sqlite", "sqllite"), r"flow\.yaml:7:13: MYC-REF-001 warning:",
        'did you mean "sqlite"', code=0),
    "unknown connector, strict": Case(
        ("validate", "--strict", "flow.yaml"), 1, ("MYC-REF-001", 'did you mean "sqlite"'),
        {"flow.yaml": _good("sqlite", "sqllite")}),
    "unknown connector, asked to run": Case(
        ("run", "flow.yaml"), 65, (r"flow\.yaml:7:13: MYC-REF-001", 'did you mean "sqlite"'),
        {"flow.yaml": _good("sqlite", "sqllite")}),
    "unknown transform": Case(
        ("run", "flow.yaml"), 65, (r"flow\.yaml:10:7: MYC-REF-001", 'did you mean "filter"'),
        {"flow.yaml": GOOD + "  transforms:\n    - fliter: id > 3\n"}),
    "bad duration": _check(
        GOOD + "  deletion: { deadline: 5 minutes }\n",
        r"flow\.yaml:9:25: MYC-SCHEMA-013 .*is not a duration", "write it like 500ms"),
    "bad size": _check(
        GOOD + "  delivery: { queue: 16 megs }\n",
        r"flow\.yaml:9:22: MYC-SCHEMA-013 .*is not a size", "write it like 512KiB"),
    "bad cron": _check(
        _good("schedule: once", "schedule: { cron: '61 * * * *' }"),
        r"flow\.yaml:6:13: MYC-SCHEMA-013 .*'61' is not in 0-59, the minute", "fix: "),
    "bad time zone": _check(
        _good("schedule: once", "schedule: { cron: '1 * * * *', timezone: Europe/Lisbonn }"),
        r"flow\.yaml:6:13: MYC-SCHEMA-013 .*not a known time zone", "such as Europe/Lisbon"),
}  # fmt: skip

COMMANDS = {
    "no file matched": Case(("validate", "."), 64, ("MYC-CLI-030 no manifest", "fix: name a file")),
    "no such file": Case(("run", "nope.yaml"), 64, ("MYC-CLI-031 cannot read nope.yaml",)),
    "unknown verb": Case(("aply",), 64, ('Did you mean "apply"',)),
    "unknown option": Case(("run", "--sate", "x", "f.yaml"), 64, ("No such option", "--state")),
    "unknown workflow": Case(
        ("run", "-w", "order", "flow.yaml"), 64,
        ("MYC-CLI-036 no workflow 'order'", "in these files: orders"), {"flow.yaml": GOOD}),
    "not a kind": Case(("get", "wrkflw"), 64, ("MYC-CLI-010", "use workflow")),
    "not a label": Case(("run", "-l", "x", "f.yaml"), 64, ("MYC-CLI-051", "KEY=VALUE")),
    "not an address": Case(("server", "--listen", "7777"), 64, ("MYC-CLI-050", "HOST:PORT")),
    "no token": Case(("get", "wf"), 4, ("MYC-CLI-001 no token", "MYCELIAL_TOKEN_FILE")),
    "nothing listens": Case(
        ("--url", "http://127.0.0.1:9", "get", "wf"), 5,
        ("MYC-API-010 .*127.0.0.1:9 does not answer", "mycelial server`"),
        environment={"MYCELIAL_TOKEN": CANARY}),
    "an address without a scheme": Case(
        ("--url", "127.0.0.1:9", "get", "wf"), 64, ("MYC-API-012", "http://127.0.0.1:7777"),
        environment={"MYCELIAL_TOKEN": CANARY}),
    "no config file": Case(
        ("run", "--config", "nope.toml", "flow.yaml"), 64, ("nope.toml", "does not exist"),
        {"flow.yaml": GOOD}),
    "unknown option in config.toml": Case(
        ("daemon", "run", "--config", "config.toml"), 65,
        (r"config\.toml:1:1: MYC-DAEMON-003 unknown option \"nodes\"", 'did you mean "node"'),
        {"config.toml": "[nodes]\nname = 'x'\n"}),
    "config.toml is no TOML": Case(
        ("daemon", "run", "--config", "config.toml"), 65, (r"config\.toml:1:8: MYC-DAEMON-002",),
        {"config.toml": "[policy\n"}),
    "daemon that never joined": Case(
        ("daemon", "run", "--state", "d"), 3, ("MYC-DAEMON-021", "mycelial daemon join --server")),
    "state directory under a file": Case(
        ("daemon", "run", "--state", "file/d"), 3,
        ("MYC-DAEMON-022 the state directory .*file/d cannot be used: Not a directory", "--state"),
        {"file": ""}),
    "secret nobody gave": Case(
        ("run", "flow.yaml"), 3,
        ("MYC-SEC-030 secret 'warehouse-pw' was not found", "MYCELIAL_SECRET_WAREHOUSE_PW"),
        {"flow.yaml": GOOD.replace(TARGET, POSTGRES.format(
            "host: h, database: d, user: u, password: { secret: warehouse-pw }"))}),
}  # fmt: skip


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path)


@pytest.mark.parametrize("case", MANIFESTS.values(), ids=MANIFESTS)
def test_bad_manifest_is_explained(case: Case, terminal: Terminal) -> None:
    terminal.check(case)


@pytest.mark.parametrize("case", COMMANDS.values(), ids=COMMANDS)
def test_bad_command_is_explained(case: Case, terminal: Terminal) -> None:
    terminal.check(case)


def test_a_run_refuses_every_invalid_manifest_and_loses_nothing(terminal: Terminal) -> None:
    """A pipeline that has moved half; then each bad manifest in its place; then the good one."""
    _shop(terminal.folder, 0, 50)
    good = {"flow.yaml": GOOD}
    expect(terminal.check(Case(("run", "flow.yaml"), 0, (), good)), 0)
    before = (terminal.folder / "out.db").read_bytes()
    _shop(terminal.folder, 50, 100)
    refused = ("unknown field", "wrong type", "duplicate key", "missing connection",
               "cycle with itself",
               "literal secret", "YAML syntax")  # fmt: skip
    for name in refused:
        done = terminal.check(Case(("run", "flow.yaml"), 65, (), MANIFESTS[name].files))
        assert re.search(r"flow\.yaml:\d+:\d+: MYC-", done.err), done.err
        assert (terminal.folder / "out.db").read_bytes() == before
    terminal.check(Case(("run", "flow.yaml"), 0, ("50 rows",), good))
    assert multiset(_rows(terminal.folder / "out.db")) == multiset(
        _rows(terminal.folder / "shop.db")
    )


def test_ten_answers_as_a_terminal_shows_them(
    tmp_path: Path, golden: Callable[[str, str], None]
) -> None:
    shown = {**MANIFESTS, **COMMANDS}
    names = ("unknown field", "duplicate name across files", "missing connection, a near name",
             "selector that matches nothing", "literal secret", "tab indentation", "bad duration",
             "unknown verb", "nothing listens", "unknown option in config.toml")  # fmt: skip

    def show(name: str) -> str:
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        case = shown[name]
        done = Terminal(folder).check(case)
        text = re.sub(r"\(\d+\.\d+s\)", "(0.1s)", done.text.replace(str(folder), "."))
        return f"# {name}\n$ mycelial {' '.join(case.args)}\n{text}exit {done.code}\n"

    with ThreadPoolExecutor(2) as pool:
        golden("badinputs.txt", "\n".join(pool.map(show, names)))


def _shop(folder: Path, start: int, end: int) -> None:
    db = sqlite3.connect(folder / "shop.db")
    db.execute(
        "create table if not exists orders(id integer primary key, item text, cents integer)"
    )
    db.executemany(
        "insert into orders values(?, ?, ?)", [(i, f"i{i}", i) for i in range(start, end)]
    )
    db.commit()
    db.close()


def _rows(path: Path) -> list[tuple[object, ...]]:
    db = sqlite3.connect(path)
    try:
        return db.execute("select id, item, cents from orders").fetchall()
    finally:
        db.close()
