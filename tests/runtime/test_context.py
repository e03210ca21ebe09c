"""Local policy at the plugin's only door (I12), and secrets that stay inside (I11)."""

from __future__ import annotations

import json
import os

import pytest

from mycelial.kernel.clock import ManualClock
from mycelial.kernel.ports import NullLog
from mycelial.runtime.context import SecretBox, WorkerContext
from mycelial.runtime.pipelog import PipeLog, tail
from mycelial.runtime.ports import WorkerPolicy
from mycelial.sdk.errors import Permanent, PolicyDenied
from mycelial.sdk.plugin import Limits


def context(tmp_path, **policy):
    return WorkerContext(
        policy=WorkerPolicy(base_dir=str(tmp_path), **policy),
        secrets=SecretBox({"pw": 'a"b'}),
        log=NullLog(),
        clock=ManualClock(),
        state_dir=tmp_path,
        limits=Limits(),
    )


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "a.csv").write_text("a")
    (tmp_path / "secret").write_text("s")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "in" / "inner").symlink_to(tmp_path / "in" / "a.csv")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "write", "allowed"),
    [
        pytest.param("in/a.csv", False, True, id="inside"),
        pytest.param("in/inner", False, True, id="link that stays inside"),
        pytest.param("in/new/x", False, True, id="not there yet"),
        pytest.param("in/link", False, False, id="link out"),
        pytest.param("in/../secret", False, False, id="dots"),
        pytest.param("/etc/passwd", False, False, id="absolute"),
        pytest.param("in-other", False, False, id="same prefix"),
        pytest.param("in/a.csv", True, False, id="writing where one may read"),
        pytest.param("out/x", True, True, id="writing"),
    ],
)
def test_paths(tree, text, write, allowed):
    ctx = context(tree, read_paths=(str(tree / "in"),), write_paths=(str(tree / "out"),))
    if allowed:
        assert ctx.path(text, write=write).is_absolute()
    else:
        with pytest.raises(PolicyDenied, match="MYC-RUN-041"):
            ctx.path(text, write=write)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_put_in_place_after_the_check_leads_nowhere(tree, monkeypatch):
    ctx = context(tree, read_paths=(str(tree / "in"),))
    canonical = tree / "in" / "a.csv"
    with ctx.open_path("in/a.csv", "rb") as file:
        assert file.read() == b"a"
    monkeypatch.setattr(WorkerContext, "path", lambda *_, **__: canonical)
    canonical.unlink()
    canonical.symlink_to(tree / "secret")
    with pytest.raises(OSError, match="symbolic link"):
        ctx.open_path("in/a.csv", "rb")


def test_no_policy_is_no_limit(tree):
    assert context(tree).path("/etc/passwd", write=True).as_posix() == "/etc/passwd"


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        ("db.example.com", True),
        ("*.example.com", True),
        ("DB.example.com:5432", True),
        ("db.example.com:5433", False),
        ("example.com", False),
    ],
)
def test_hosts(tree, rule, allowed):
    ctx = context(tree, hosts=(rule,))
    if allowed:
        ctx.check_host("db.example.com", 5432)
    else:
        with pytest.raises(PolicyDenied, match="MYC-RUN-042"):
            ctx.check_host("db.example.com", 5432)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        pytest.param("a.example.com,b.example.com", True, id="several"),
        pytest.param("evil.test,a.example.com", False, id="one of several is not"),
        pytest.param("a.example.com,", False, id="an empty one is the local socket"),
        pytest.param("/run/postgresql", True, id="socket that a rule names"),
        pytest.param("/run/other", False, id="socket"),
        pytest.param("/run/x.example.com", False, id="socket that looks like a host"),
        pytest.param("@x.example.com", False, id="abstract socket"),
        pytest.param("/run/other,a.example.com", False, id="socket before a host"),
    ],
)
def test_a_driver_cannot_be_led_past_the_hosts_allowed(tree, host, allowed):
    ctx = context(tree, hosts=("*.example.com", "/run/postgresql"))
    if allowed:
        ctx.check_host(host, 5432)
    else:
        with pytest.raises(PolicyDenied, match="MYC-RUN-042"):
            ctx.check_host(host, 5432)


def test_networks(tree):
    ctx = context(tree, hosts=("10.0.0.0/8", "::1"))
    ctx.check_host("10.1.2.3", 1)
    ctx.check_host("::1", 1)
    with pytest.raises(PolicyDenied):
        ctx.check_host("11.1.2.3", 1)


def test_secrets_resolve_and_are_masked_everywhere(tree):
    ctx, box = context(tree), SecretBox({"pw": 'a"b'})
    assert ctx.secret({"secret": "pw"}).reveal() == 'a"b'
    with pytest.raises(Permanent, match="MYC-RUN-040"):
        ctx.secret({"secret": "other"})
    assert box.scrub('x a"b y') == "x (secret) y"
    assert box.scrub(json.dumps({"x": 'a"b'})) == '{"x": "(secret)"}'


def test_the_log_is_bounded_and_can_be_followed(tmp_path):
    path = tmp_path / "log"
    log = PipeLog(path, ManualClock(), max_bytes=2000)
    log.info("one")
    _, cursor = tail(path, 10)
    for number in range(100):
        log.bind(part="0").info("line", number=number)
    total = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert total <= 2 * 2200
    lines, cursor = tail(path, 5)
    assert [line["number"] for line in lines] == [95, 96, 97, 98, 99]
    log.info("after")
    assert [line["event"] for line in tail(path, 10, cursor)[0]] == ["after"]


def test_lines_that_could_not_be_written_are_counted_not_raised(tmp_path):
    blocker = tmp_path / "dir"
    blocker.write_text("a file where the folder should be")
    log = PipeLog(blocker / "log", ManualClock())
    log.info("lost")
    log.bind(part="0").info("lost too")
    blocker.unlink()
    blocker.mkdir()
    log.info("kept")
    lines, _ = tail(blocker / "log", 10)
    assert [(line["event"], line.get("count")) for line in lines] == [
        ("lines lost", 2),
        ("kept", None),
    ]


def test_a_log_goes_on_in_the_file_of_its_predecessor(tmp_path):
    for word in ("one", "two"):
        PipeLog(tmp_path / "log", ManualClock()).info(word)
    assert [line["event"] for line in tail(tmp_path / "log", 10)[0]] == ["one", "two"]


def test_a_line_too_long_to_keep_says_so(tmp_path):
    PipeLog(tmp_path / "log", ManualClock()).info("x", text="y" * 100_000)
    (line,), _ = tail(tmp_path / "log", 10)
    assert (line["event"], line["truncated"]) == ("x", True)
