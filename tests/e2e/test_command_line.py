"""Every verb that talks to a control plane, as people type it: what it prints, and how it ends.

One fleet serves all tests; a workflow is committed, changed and deleted in `test_the_life_...`,
and the others look at one that stays.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fleet_processes import MYCELIAL, Fleet
from live_table import LiveTable
from mycelial.kernel.errors import ExitCode

pytestmark = pytest.mark.e2e
ROWS = 100


@dataclass(frozen=True)
class Answer:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        assert found["formatVersion"] == 1
        return found


class Shell:
    """Runs commands in a folder, with the address and the token in the environment."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.folder = fleet, fleet.folder
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MYCELIAL")}
        self.anonymous = {**kept, "MYCELIAL_URL": fleet.url, "XDG_CONFIG_HOME": str(self.folder)}
        self.environment = {
            **self.anonymous,
            "MYCELIAL_TOKEN_FILE": str(self.folder / "server" / "admin.token"),
        }

    def __call__(self, *words: str, **environment: str) -> Answer:
        return self.run(words, {**self.environment, **environment})

    def run(self, words: tuple[str, ...], environment: dict[str, str]) -> Answer:
        done = subprocess.run(
            [*MYCELIAL, *words], cwd=self.folder, env=environment, capture_output=True, text=True,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        return Answer(done.returncode, done.stdout, done.stderr)

    def ok(self, *words: str) -> Answer:
        answer = self(*words)
        assert answer.code == ExitCode.DONE, answer
        return answer

    def write(self, name: str, *, tag: str = "a", table: str = "") -> str:
        """Write a manifest and return its path."""
        (self.folder / f"{name}.yaml").write_text(
            f"""\
apiVersion: mycelial/v1
kind: Workflow
metadata: {{ name: {name}, labels: {{ team: sales }} }}
spec:
  daemon: box
  schedule: {{ continuous: {{ poll: 100ms }} }}
  source: {{ sqlite: {{ path: in/shop.db, table: {table or name}, cursor: id }} }}
  transforms:
    - tag: {{ version: {tag} }}
  destination: {{ sqlite: {{ path: out/{name}.db, table: {name} }} }}
""",
            "utf-8",
        )
        return f"{name}.yaml"


@pytest.fixture(scope="module")
def mycelial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with Fleet(tmp_path_factory.mktemp("command-line")) as fleet:
        fleet.start_server()
        fleet.add_daemon("box", reads=["in"], writes=["out"], labels={"site": "lyon"})
        fleet.until_online()
        for name in ("orders", "items"):
            LiveTable(fleet.folder / "in" / "shop.db", name, ROWS)
        shell = Shell(fleet)
        shell.ok("apply", "-f", shell.write("orders"), "-m", "Move orders", "--wait")
        fleet.until("all rows are there", lambda: has_all_rows(fleet))
        yield shell
        fleet.stop()


def has_all_rows(fleet: Fleet) -> bool:
    fleet.client.sync()  # counters alone are reported at leisure
    return fleet.client.workflow("orders").rows_committed == ROWS


def lines(text: str) -> list[str]:
    """Return lines with runs of spaces as one, and what differs from run to run as `*`."""
    masked = re.sub(r"\b[0-9a-f]{32}\b|\b[0-9a-f]{8}-[0-9a-f-]{27}\b|@[0-9a-f]{7}\b", "*", text)
    masked = re.sub(r"\d{4}-\d\d-\d\dT[\d:]{8}(\.\d+Z)?", "*", masked)
    masked = re.sub(r"\b\d+[smh]( ago)?\b", "*", masked)
    spaced = [" ".join(line.split()) for line in masked.splitlines()]
    return [re.sub(r"(?<=1/1 1/1 )\S+|\S+(?=/s\))", "*", line) for line in spaced]


LOOKS = [
    pytest.param(
        ("get", "wf"),
        ["NAME APPLIED HEALTHY ROWS/S LAG REVISION AGE REASON", "orders 1/1 1/1 * - main* *"],
        id="get",
    ),
    pytest.param(("get", "wf", "-o", "name"), ["workflow/orders"], id="get-name"),
    pytest.param(
        ("get", "daemons"),
        ["NAME STATE LAST REPORT APPLIED LABELS", "box Online * 1/1 site=lyon"],
        id="get-daemons",
    ),
    pytest.param(
        ("describe", "wf/orders"),
        [
            "Workflow orders (generation 1, uid *)",
            "Manifest workflows/orders.yaml:1 (main*)",
            "Flow sqlite -> sqlite, continuous",
            "Applied 1/1 Healthy 1/1 Rows 100 */s)",
            "",
            "on box (Online) running Flowing",
            "generation 1 of 1, fence 1.1, exactly-once",
            "rows read 100, committed 100 in 1 unit, restarts 0",
            'position of part 0: {"c":100,"k":[]}',
        ],
        id="describe",
    ),
    pytest.param(
        ("state", "get", "orders"),
        ["DAEMON PART POSITION", 'box 0 {"c":100,"k":[]}'],
        id="state-get",
    ),
    pytest.param(
        ("history", "wf/orders"),
        ["REVISION AT OUTCOME AUTHOR MESSAGE", "main* * current admin Move orders"],
        id="history",
    ),
    pytest.param(("logs", "orders"), ["* box info worker starts attempt=1 epoch=1"], id="logs"),
    pytest.param(
        ("events", "wf/orders"), ["* WorkflowCreated Workflow/orders on box"], id="events"
    ),
    pytest.param(
        ("status",),
        [
            "Source embedded",
            "Revision main*",
            "Workflows 1: 1 applied, 1 healthy",
            "Daemons 1 Online",
        ],
        id="status",
    ),
]


@pytest.fixture(scope="module")
def seen(mycelial: Shell) -> dict[tuple[str, ...], Answer]:
    """What every look says while just the one workflow runs; taken before anything changes."""
    return {look.values[0]: mycelial.ok(*look.values[0]) for look in LOOKS}


@pytest.mark.parametrize(("words", "expected"), LOOKS)
def test_a_look_says(
    seen: dict[tuple[str, ...], Answer], words: tuple[str, ...], expected: list[str]
) -> None:
    assert lines(seen[words].out) == expected
    assert seen[words].err == ""


@pytest.mark.parametrize(
    "words",
    [
        ("get", "wf"), ("get", "daemons"), ("describe", "wf/orders"), ("status",), ("history",),
        ("state", "get", "orders"), ("plan", "orders.yaml"),
    ],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.usefixtures("seen")
def test_json_carries_its_format_version(mycelial: Shell, words: tuple[str, ...]) -> None:
    answer = mycelial.ok(*words, "-o", "json")
    assert len(answer.json()) > 1
    assert answer.err == ""


@pytest.mark.usefixtures("seen")
def test_a_stream_of_events_is_a_json_object_a_line(mycelial: Shell) -> None:
    events = [json.loads(line) for line in mycelial.ok("events", "-o", "json").out.splitlines()]
    assert {"DaemonJoined", "RevisionApplied"} <= {event["reason"] for event in events}


@pytest.mark.usefixtures("seen")
def test_the_life_of_a_workflow(mycelial: Shell) -> None:
    path = mycelial.write("items")
    planned = mycelial("plan", path, "--detailed-exitcode")
    assert planned.code == ExitCode.CHANGES
    assert lines(planned.out) == [
        "+ Workflow/items create on box workflows/items.yaml:1:1",
        "Plan: 1 to create, 0 to change, 0 to delete, 1 unchanged",
    ]
    differs = mycelial("diff", path)
    assert (differs.code, "+++ b/workflows/items.yaml" in differs.out) == (ExitCode.SAYS_NO, True)

    applied = mycelial.ok("apply", "-f", path, "--wait")
    assert lines(applied.out) == ["Workflow/items create"]
    assert lines(applied.err) == ["committed main*", "workflow/items Healthy"]
    assert mycelial.ok("plan", path, "--detailed-exitcode").out == (
        "Plan: 0 to create, 0 to change, 0 to delete, 2 unchanged\n"
    )
    assert mycelial.ok("diff", path).out == ""
    assert "nothing to commit" in mycelial.ok("apply", "-f", path).err

    mycelial.write("items", tag="b")
    planned = mycelial("plan", path, "--detailed-exitcode", "--live")
    assert planned.code == ExitCode.CHANGES
    assert '      transforms[0].config.columns.version: "a" -> "b"' in planned.out.splitlines()
    assert "restart from checkpoint" in planned.out
    assert "items@box: append into items, exactly-once" in planned.out
    mycelial.ok("apply", "-f", path, "-m", "Tag b", "--wait")
    mycelial.ok("rollback", "wf/items")
    mycelial.ok("wait", "wf/items")
    outcomes = [line.split()[2:] for line in mycelial.ok("history").out.splitlines()]
    assert outcomes[1] == ["current", "admin", "Revert", '"Tag', 'b"']
    assert outcomes[2] == ["quarantined", "admin", "Tag", "b"]

    position = '{"c":90,"k":[]}'
    mycelial.ok("state", "set", "items", position, "-d", "box")
    mycelial.ok("wait", "wf/items")
    mycelial.fleet.until("rows are read again", lambda: reread(mycelial) == ROWS + 10)

    mycelial.ok("delete", "wf/items", "-m", "No more items")
    mycelial.ok("wait", "wf/items", "--for", "Deleted")
    assert mycelial("describe", "wf/items").code == ExitCode.SAYS_NO


def reread(mycelial: Shell) -> int:
    table = LiveTable.__new__(LiveTable)
    table.database, table.name = mycelial.folder / "out" / "items.db", "items"
    return table.count()


@pytest.mark.usefixtures("seen")
def test_an_invalid_manifest_is_located_and_ends_with_65(mycelial: Shell) -> None:
    path = Path(mycelial.folder, mycelial.write("odd"))
    path.write_text(path.read_text("utf-8").replace("cursor:", "cursur:"), "utf-8")
    for verb in (("plan", path.name), ("apply", "-f", path.name), ("diff", path.name)):
        answer = mycelial(*verb)
        assert (answer.code, answer.out) == (ExitCode.INVALID, ""), verb
        assert re.match(r"odd\.yaml:7:\d+: MYC-SCHEMA-010 unknown field", answer.err), answer.err
        assert 'did you mean "cursor"?' in answer.err
    assert mycelial("validate", path.name).code == ExitCode.SAYS_NO


@pytest.mark.usefixtures("seen")
def test_a_failing_workflow_is_named_with_its_reason_and_what_to_do(mycelial: Shell) -> None:
    mycelial.ok("apply", "-f", mycelial.write("lost", table="nowhere"))
    waited = mycelial("wait", "wf/lost", "--timeout", "1s")
    assert waited.code == ExitCode.FAILED
    assert "there is no table nowhere in in/shop.db" in waited.err
    status = mycelial("status")
    assert status.code == ExitCode.SAYS_NO
    assert "  wf/lost  Retrying: there is no table nowhere in in/shop.db" in status.out
    described = mycelial.ok("describe", "wf/lost").out
    assert "MYC-SQLITE-024" in described
    assert "next: mycelial logs lost -d box" in described
    mycelial.ok("delete", "wf/lost")
    mycelial.ok("wait", "wf/lost", "--for", "Deleted")


REFUSALS = [
    pytest.param(("--url", "http://127.0.0.1:1", "get", "wf"), 5, "MYC-API-010", id="unreachable"),
    pytest.param(("describe", "wf/nosuch"), 1, "MYC-API-020", id="unknown-name"),
    pytest.param(("get", "things"), 64, "MYC-CLI-010", id="unknown-kind"),
    pytest.param(("plan", "nosuch.yaml"), 64, "MYC-CLI-031", id="no-file"),
    pytest.param(("gte", "wf"), 64, 'Did you mean "get"?', id="unknown-verb"),
    pytest.param(("state", "set", "orders", "x", "-d", "box"), 64, "MYC-CLI-040", id="no-position"),
    pytest.param(("logs", "orders", "-d", "nobox"), 1, "MYC-API-060", id="not-placed-there"),
    pytest.param(("get", "wf", "-l", "team=x"), 0, "no Workflow matches", id="selects-nothing"),
]


@pytest.mark.parametrize(("words", "code", "said"), REFUSALS)
def test_a_refusal_says_what_and_ends_with_its_code(
    mycelial: Shell, words: tuple[str, ...], code: int, said: str
) -> None:
    answer = mycelial(*words)
    assert (answer.code, answer.out) == (code, "")
    assert said in answer.err


def test_without_a_token_and_with_a_wrong_one_it_ends_with_4(mycelial: Shell) -> None:
    for environment, said in (
        (mycelial.anonymous, "MYC-CLI-001"),
        ({**mycelial.anonymous, "MYCELIAL_TOKEN": "wrong"}, "MYC-API-401"),
    ):
        answer = mycelial.run(("get", "wf"), environment)
        assert answer.code == ExitCode.NOT_ALLOWED
        assert said in answer.err
        assert "MYCELIAL_TOKEN_FILE" in answer.err
