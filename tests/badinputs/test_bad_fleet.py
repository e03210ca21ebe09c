"""What can go wrong between people, the control plane and daemons: real processes and sockets."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fleet_processes import free_ports
from terminal import CANARY, Case, Done, Terminal, end_group, expect, until

pytestmark = pytest.mark.e2e

HEAD = "apiVersion: mycelial/v1\nkind: Workflow\nmetadata: { name: orders }\nspec:\n"
ENDS = "  source: { generate: { rows: 5 } }\n  destination: { inspect: {} }\n"
ANY = ("--listen", "127.0.0.1:0", "--daemon-listen", "127.0.0.1:0")


@dataclass
class Plane:
    """A running control plane, and the terminal of the person before it."""

    terminal: Terminal
    people: str
    machines: str

    @property
    def environment(self) -> dict[str, str]:
        token = self.terminal.folder / "server" / "admin.token"
        return {"MYCELIAL_URL": self.people, "MYCELIAL_TOKEN_FILE": str(token)}

    def ask(self, *args: str) -> Done:
        return self.terminal.run(*args, **self.environment)

    def token(self, name: str, *more: str) -> str:
        done = self.ask("daemon", "token", "--name", name, "-o", "json", *more)
        expect_done(done)
        return str(json.loads(done.out)["token"])

    def join(self, token: str, name: str, state: str, *, server: str = "") -> Done:
        return self.terminal.run(
            "daemon", "join", "--server", server or self.machines, "--token", token,
            "--name", name, "--state", state,
        )  # fmt: skip


def expect_done(done: Done) -> None:
    assert done.code == 0, done.text


def started(terminal: Terminal, words: str, *args: str) -> subprocess.Popen[str]:
    """Start a process of the product and wait until its log says so."""
    process = terminal.start(*args)
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return process
    raise AssertionError(f"{args} ended with {process.wait()} before it said {words!r}")


def stop(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    try:
        process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        end_group(process)
        raise
    return process.returncode


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    terminal = Terminal(tmp_path_factory.mktemp("plane"))
    people, machines = free_ports(2)
    process = started(
        terminal, '"serving"', "server", "--data", "server",
        "--listen", f"127.0.0.1:{people}", "--daemon-listen", f"127.0.0.1:{machines}",
    )  # fmt: skip
    try:
        yield Plane(terminal, f"http://127.0.0.1:{people}", f"https://127.0.0.1:{machines}")
    finally:
        assert stop(process) == 0


ASKED = {
    "wrong token": Case(
        ("get", "wf"), 4, ("MYC-API-401 .*token", "admin.token"),
        environment={"MYCELIAL_TOKEN": CANARY}),
    "unreadable token file": Case(
        ("get", "wf"), 4, ("MYC-CLI-004 cannot read the token file .*nope", "MYCELIAL_TOKEN_FILE"),
        environment={"MYCELIAL_TOKEN_FILE": "nope"}),
    "no such workflow": Case(
        ("get", "wf", "order"), 1, ("MYC-API-020 there is no Workflow 'order'", "mycelial get")),
    "invalid manifest": Case(
        ("apply", "-f", "flow.yaml"), 65,
        (r"flow\.yaml:5:3: MYC-SCHEMA-010 unknown field \"daemonn\"", 'did you mean "daemon"'),
        {"flow.yaml": HEAD + "  daemonn: x\n" + ENDS}),
    "literal secret": Case(
        ("apply", "-f", "flow.yaml"), 65, (r"flow\.yaml:6:\d+: MYC-SCHEMA-014",),
        {"flow.yaml": HEAD + "  daemon: x\n  source: { postgres: { host: h, database: d, user: u, "
         f"table: t, password: {CANARY} }} }}\n  destination: {{ inspect: {{}} }}\n"}),
    "selector that matches nothing": Case(
        ("plan", "-f", "flow.yaml"), 0,
        ("on no daemon", "HELD: no joined daemon matches 'role=tilll'"),
        {"flow.yaml": HEAD + "  selector: role=tilll\n" + ENDS}),
    "nothing to apply": Case(("apply", "-f", "nope.yaml"), 64, ("MYC-CLI-031 cannot read nope",)),
    "bad duration": Case(
        ("daemon", "token", "--name", "x", "--ttl", "soon"), 64, ("'soon' is not a duration",)),
}  # fmt: skip


@pytest.mark.parametrize("case", ASKED.values(), ids=ASKED)
def test_refusal_is_explained_and_commits_nothing(case: Case, plane: Plane) -> None:
    before = plane.ask("history").out
    environment = {**plane.environment, **case.environment}
    plane.terminal.check(Case(case.args, case.code, case.has, case.files, environment))
    assert plane.ask("history").out == before


@dataclass
class Silence:
    """A command before a peer that takes the connection and never says a word."""

    url: str
    process: subprocess.Popen[str]
    since: float


@pytest.fixture(scope="module", autouse=True)
def silence(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Silence]:
    """Begun with the module, so that the other tests run while it waits."""
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen(4)
        url = f"http://127.0.0.1:{hole.getsockname()[1]}"
        terminal = Terminal(tmp_path_factory.mktemp("silence"))
        process = terminal.start("--url", url, "get", "wf", MYCELIAL_TOKEN=CANARY)
        yield Silence(url, process, time.monotonic())
        if process.poll() is None:
            end_group(process)
        process.communicate()


def test_silent_control_plane_is_given_up_on(silence: Silence) -> None:
    limit = 30.0 - (time.monotonic() - silence.since)
    out, err = silence.process.communicate(timeout=max(limit, 0.1))
    done = Done(silence.process.returncode, out, err, 0.0)
    answer = f"MYC-API-010 the control plane at {silence.url} does not answer: timed out"
    expect(done, 5, answer, "fix: ")


def test_join_tokens_are_refused_for_what_they_are(plane: Plane) -> None:
    terminal, token = plane.terminal, plane.token("shop-01")
    head, secret, pin = token.split(".")
    other = f"{head}.{secret}.{'0' * len(pin)}"
    forged = f"{head}.{'A' * len(secret)}.{pin}"
    refused = {
        "another authority": (plane.join(other, "shop-01", "a"), 4, "MYC-\\w+-\\d+ .*(pin|auth)"),
        "cut short": (plane.join(token[:-9], "shop-01", "a"), 4, "MYC-SEC-010 .*malformed"),
        "wrong": (plane.join(forged, "shop-01", "a"), 4, "MYC-API-407"),
        "for another name": (plane.join(token, "shop-02", "a"), 4, "MYC-API-407"),
        "nothing there": (
            plane.join(token, "shop-01", "a", server="https://127.0.0.1:9"), 5, "MYC-LINK-001"),
    }  # fmt: skip
    for name, (done, code, pattern) in refused.items():
        expect(done, code, pattern, "fix: ")
        assert secret not in done.text, name
        assert not (terminal.folder / "a" / "identity.json").exists(), name
    made = plane.ask("daemon", "token", "--name", "shop-09", "--ttl", "1s", "-o", "json")
    short = json.loads(made.out)
    until("it expires", lambda: time.time() > short["expires_at"])
    expect(plane.join(short["token"], "shop-09", "x"), 4, "MYC-API-407", "make another")
    # None of the refusals used the token up; its second use by another key is one.
    expect_done(plane.join(token, "shop-01", "a"))
    expect_done(plane.join(token, "shop-01", "a"))
    again = plane.join(token, "shop-01", "b")
    expect(
        again, 4, "MYC-CP-031 a daemon named 'shop-01' has already joined", "mycelial daemon revoke"
    )


def test_daemon_state_that_is_taken_or_corrupt(plane: Plane) -> None:
    terminal = plane.terminal
    state = terminal.folder / "till"
    expect_done(plane.join(plane.token("till-01"), "till-01", "till"))
    command = ("daemon", "run", "--state", "till")
    running = started(terminal, "session up", *command)
    try:
        expect(terminal.run(*command), 3, "MYC-DAEMON-020 .*till is in use by another daemon",
               "fix: ")  # fmt: skip
    finally:
        assert stop(running) == 0
    for name in ("identity.json", "cert.pem"):
        good = (state / name).read_bytes()
        (state / name).write_bytes(b"\x00garbage")
        done = terminal.run(*command)
        expect(done, 3, f"till/{re.escape(name)}: MYC-DAEMON-011 .*{re.escape(name)} is damaged",
               f"restore {re.escape(name)} from a backup")  # fmt: skip
        assert [*state.glob(f"{name}.corrupt-*")], "what was there is kept for inspection"
        (state / name).write_bytes(good)
    # The key and the rest were left alone: restored, it is the same daemon as before.
    assert stop(started(terminal, "session up", *command)) == 0


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path)


def test_control_plane_on_a_port_in_use(terminal: Terminal) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        done = terminal.run("server", "--data", "s", "--listen", f"127.0.0.1:{port}", *ANY[2:])
    expect(done, 3, f"MYC-CP-041 cannot listen on 127.0.0.1:{port} for people", "choose another")


def test_control_plane_in_the_open_without_tls(terminal: Terminal) -> None:
    done = terminal.run("server", "--data", "s", "--listen", "0.0.0.0:0", *ANY[2:])
    expect(done, 4, r"MYC-CP-040 .*plain HTTP on 0\.0\.0\.0", "certificate and key|127.0.0.1")


def test_second_control_plane_on_the_same_data(plane: Plane) -> None:
    done = plane.terminal.run("server", "--data", "server", *ANY)
    expect(done, 3, "MYC-CP-002 another server is using .*server", "another --data")


def _damage(path: Path) -> None:
    path.write_bytes(b"\x00garbage" * 600)


CORRUPT: dict[str, tuple[str, str, Callable[[Path], None]]] = {
    "store": ("store.db", r"s/store\.db: MYC-STORE-001 .*cannot be trusted", _damage),
    "authority": ("ca/ca.key", r"MYC-SEC-002 .*ca/ca\.key cannot be used", _damage),
    "signing key": ("keys/assignments.pem", r"MYC-SEC-002 .*assignments\.pem holds no", _damage),
    "admin token": ("admin.token", r"MYC-CP-003 .*admin\.token", _damage),
}


def test_corrupt_control_plane_state_is_left_as_it_is(terminal: Terminal) -> None:
    data = terminal.folder / "s"
    command = ("server", "--data", "s", *ANY)
    assert stop(started(terminal, '"serving"', *command)) == 0
    backup = terminal.folder / "backup"
    shutil.copytree(data, backup)
    for name, pattern, damage in CORRUPT.values():
        damage(data / name)
        damaged = (data / name).read_bytes()
        expect(terminal.run(*command), 3, pattern, "fix: ")
        assert (data / name).read_bytes() == damaged, "nothing may be overwritten"
        shutil.copyfile(backup / name, data / name)
    assert stop(started(terminal, '"serving"', *command)) == 0
