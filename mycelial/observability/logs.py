"""Structured log lines: logfmt-like for people on a terminal, one JSON object per line otherwise.

Control characters are escaped in both, so that a logged value can neither forge a second line nor
speak to the terminal; a `Secret` shows as its mask (I11).
"""

from __future__ import annotations

import enum
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal, TextIO

from mycelial.kernel.clock import Clock, rfc3339
from mycelial.kernel.errors import MycelialError
from mycelial.kernel.ports import Log

Style = Literal["logfmt", "json"]
WriteLine = Callable[[str], None]

FIELD_CHARS_MAX = 16_384
# C0, DEL, C1, the Unicode line separators, the marks that reorder text on a
# screen, and lone surrogates, which no file takes.
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_PLAIN = re.compile(r"[^\s\"=]+")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


class Level(enum.IntEnum):
    """How loud a line is; a log drops what is below its own level."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40

    @classmethod
    def parse(cls, text: str) -> Level:
        """Return the level called `text`, in any case. Raises: ValueError naming the choices."""
        try:
            return cls[text.upper()]
        except KeyError:
            names = ", ".join(level.name.lower() for level in cls)
            raise ValueError(f"{text!r} is no log level; choose one of {names}") from None


class StructuredLog:
    """A kernel Log that renders a line and hands it, without its newline, to `write`.

    Safe from any thread if `write` is. `write` must not raise: a log never breaks its caller.
    """

    def __init__(
        self,
        write: WriteLine,
        clock: Clock,
        *,
        style: Style = "json",
        level: Level = Level.INFO,
        fields: Mapping[str, object] | None = None,
    ) -> None:
        self._write = write
        self._clock = clock
        self._render = render_json if style == "json" else render_logfmt
        self._style: Style = style
        self._level = level
        self._fields = dict(fields or {})

    def debug(self, event: str, **fields: object) -> None:
        """Say what only somebody who debugs wants to read."""
        self._line(Level.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Say what happened."""
        self._line(Level.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Say what will need somebody if it goes on."""
        self._line(Level.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Say what needs somebody."""
        self._line(Level.ERROR, event, fields)

    def bind(self, **fields: object) -> Log:
        """Return a log that adds `fields` to every line; this one stays as it is."""
        return StructuredLog(
            self._write,
            self._clock,
            style=self._style,
            level=self._level,
            fields=self._fields | fields,
        )

    def _line(self, level: Level, event: str, fields: Mapping[str, object]) -> None:
        if level >= self._level:
            self._write(self._render(self._clock.now(), level, event, {**self._fields, **fields}))


def render_json(now: float, level: Level, event: str, fields: Mapping[str, object]) -> str:
    """Return one JSON object; `at`, `level` and `event` come first and cannot be overwritten."""
    head = {"at": rfc3339(now), "level": level.name.lower(), "event": escape(event)}
    body = {_key(name, head): plain(value) for name, value in fields.items()}
    return json.dumps(head | body, ensure_ascii=False, separators=(",", ":"), default=str)


def render_logfmt(now: float, level: Level, event: str, fields: Mapping[str, object]) -> str:
    """Return `12:00:00.123 WARN event  key=value key="two words"`."""
    clock_time = rfc3339(now)[11:23]
    pairs = " ".join(f"{escape(name)}={_logfmt_value(value)}" for name, value in fields.items())
    line = f"{clock_time} {level.name[:5]:<5} {escape(event)}"
    return f"{line}  {pairs}" if pairs else line


def plain(value: object) -> Any:
    """Return `value` as bounded JSON values whose texts hold no control characters."""
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case Mapping():
            return {escape(str(key)): plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(item) for item in value]
        case MycelialError():
            return escape(str(value))
        case BaseException():
            return escape(f"{type(value).__name__}: {value}")
        case _:
            return escape(str(value))


def escape(text: str) -> str:
    """Return `text` with control characters written as `\\n` or `\\x1b`, cut to a bound."""
    if len(text) > FIELD_CHARS_MAX:
        text = f"{text[:FIELD_CHARS_MAX]}... ({len(text)} characters)"
    return _UNPRINTABLE.sub(lambda found: _escaped(found[0]), text)


def log_to(
    stream: TextIO, clock: Clock, *, level: Level = Level.INFO, style: Style | None = None
) -> StructuredLog:
    """Return a log on `stream`, in the style that its reader wants: people have terminals."""

    def write(line: str) -> None:
        try:
            stream.write(line + "\n")
            stream.flush()
        except (OSError, ValueError):
            # The reader is gone (closed pipe, closed terminal); there is nobody left to tell.
            pass

    return StructuredLog(
        write, clock, style=style or ("logfmt" if stream.isatty() else "json"), level=level
    )


def log_to_stderr(clock: Clock, *, level: Level = Level.INFO) -> StructuredLog:
    """Return the log of a process."""
    return log_to(sys.stderr, clock, level=level)


def _key(name: str, taken: Mapping[str, object]) -> str:
    return f"{name}_" if name in taken else escape(name)


def _logfmt_value(value: object) -> str:
    if value is None:
        return "-"
    shown = plain(value)
    text = shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _escaped(char: str) -> str:
    code = ord(char)
    return _SHORT.get(char) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
