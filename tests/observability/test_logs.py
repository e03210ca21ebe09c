"""Log lines: one line each, no control characters, no secrets."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycelial.kernel.clock import ManualClock
from mycelial.kernel.errors import OperationFailed
from mycelial.kernel.secret import Secret
from mycelial.observability.logs import Level, StructuredLog, log_to


@pytest.fixture
def lines():
    return []


def make(lines, style="json", level=Level.INFO):
    return StructuredLog(lines.append, ManualClock(), style=style, level=level)


def test_json_lines_carry_time_level_event_and_fields(lines):
    make(lines).bind(workflow="orders").info("batch committed", rows=3)
    assert json.loads(lines[0]) == {
        "at": "2023-11-14T22:13:20.000Z",
        "level": "info",
        "event": "batch committed",
        "workflow": "orders",
        "rows": 3,
    }


def test_people_get_logfmt(lines):
    make(lines, "logfmt").warning("slow", seconds=1.5, path="a b", none=None, quote='"')
    assert lines == ['22:13:20.000 WARNI slow  seconds=1.5 path="a b" none=- quote="\\""']


def test_levels_below_are_dropped(lines):
    log = make(lines, level=Level.WARNING)
    log.debug("a")
    log.info("b")
    log.error("c")
    assert [json.loads(line)["event"] for line in lines] == ["c"]


@pytest.mark.parametrize("style", ["json", "logfmt"])
def test_a_secret_shows_its_mask(lines, style):
    make(lines, style).info("open", password=Secret("canary"), nested={"a": [Secret("canary")]})
    assert "canary" not in lines[0]
    assert "(secret)" in lines[0]


@pytest.mark.parametrize("style", ["json", "logfmt"])
def test_reserved_names_cannot_be_forged(lines, style):
    make(lines, style).info("x", level="error", at="never")
    assert lines[0].count("INFO") + lines[0].count('"level":"info"') == 1


@given(st.text(), st.text(), st.sampled_from(["json", "logfmt"]))
def test_no_text_forges_a_line_or_speaks_to_the_terminal(event, value, style):
    lines = []
    make(lines, style).info(event, **{"field": value, value: 1})
    assert len(lines[0].splitlines()) == 1
    assert not any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 for char in lines[0])
    if style == "json":
        json.loads(lines[0])


def test_odd_values_are_shown_not_raised(lines):
    error = OperationFailed("MYC-X-001", "it\nfailed")
    make(lines).info("x", error=error, nan=float("nan"), bytes=b"\x00", exc=ValueError("v"))
    shown = json.loads(lines[0])
    assert shown["error"] == "MYC-X-001 it\\nfailed"
    assert (shown["nan"], shown["exc"]) == ("nan", "ValueError: v")


def test_the_stream_decides_the_style_and_a_closed_one_is_no_error():
    stream = io.StringIO()
    log = log_to(stream, ManualClock())
    log.info("hello")
    assert json.loads(stream.getvalue())["event"] == "hello"
    stream.close()
    log.info("nobody listens")


def test_an_unknown_level_names_the_choices():
    with pytest.raises(ValueError, match="debug, info, warning, error"):
        Level.parse("loud")
