"""Text that daemons, manifests and strangers wrote drives no terminal and forges no line."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

import pytest
from click.testing import CliRunner

from mycelial.cli import look
from mycelial.cli.session import Session
from mycelial.kernel.errors import Problem
from mycelial.schemas.views import (
    DaemonView,
    EventView,
    LogsReply,
    RevisionView,
    StatusView,
    WorkflowView,
)

HOSTILE = "x\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\r\x00\nforged"
HARMLESS = {"\n", " "}


def hostile(kind: Any) -> Any:
    """Return a value of a type whose every text is hostile."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return hostile(next(a for a in arguments if a is not type(None)))
    if origin is tuple:
        return (hostile(arguments[0]),)
    if origin is not None and len(arguments) == 2:  # a mapping
        return {HOSTILE: hostile(arguments[1])}
    if kind is Problem:
        return Problem("MYC-TEST-001", HOSTILE, fix=HOSTILE, subject=HOSTILE)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{f.name: hostile(hints[f.name]) for f in dataclasses.fields(kind)})
    if kind in (int, float, bool):
        return kind(1)
    if isinstance(kind, type) and issubclass(kind, str) and kind is not str:  # an enumeration
        return next(iter(kind))
    return HOSTILE


class Answers:
    """A control plane that means harm."""

    def __getattr__(self, name: str) -> Any:
        found = {
            "workflow": WorkflowView,
            "workflows": tuple[WorkflowView, ...],
            "daemon": DaemonView,
            "daemons": tuple[DaemonView, ...],
            "status": StatusView,
            "events": tuple[EventView, ...],
            "logs": tuple[LogsReply, ...],
            "history": tuple[RevisionView, ...],
        }[name]
        return lambda *_, **__: hostile(found)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words.split(), id=words)
        for words in (
            "get wf", "get wf -o wide", "get wf -o json", "get wf -o yaml", "get wf -o name",
            "get daemons", "get daemons -o wide", "describe wf/a", "describe wf/a -o yaml",
            "describe d/a", "status", "status -o yaml", "events", "events -o json",
            "logs a", "logs a -o json", "history", "history -o yaml",
        )
    ],
)  # fmt: skip
def test_a_look_shows_control_characters_as_text(words: list[str]) -> None:
    session = Session()
    session.__dict__["client"] = Answers()
    done = CliRunner().invoke(getattr(look, words[0]), words[1:], obj=session)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert "owned" in done.output
    unfit = {c for c in done.output if not c.isprintable()} - HARMLESS
    assert unfit == set()
    assert not any(line.lstrip().startswith("forged") for line in done.output.splitlines())
