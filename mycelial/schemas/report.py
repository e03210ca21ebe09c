"""A problem as text for people. Pure; shared by the command line and the server's answers."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mycelial.kernel.errors import Problem, Severity

_TOKEN = re.compile(r"[\w$.-]+|\"[^\"]*\"|'[^']*'")
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]"
)
_SHOWN, _CUT = 120, "..."
_RED, _YELLOW, _BOLD, _DIM, _CYAN, _RESET = "31;1", "33;1", "1", "2", "36", "0"


def render_problem(problem: Problem, color: bool = False) -> str:
    """Return `file:line:col: CODE message`, the frame with a caret, and the fix.

    Control and direction characters from manifests are escaped, so that a file cannot steer a
    terminal.
    """
    paint = _Paint(color)
    severity = problem.severity is Severity.WARNING
    code = paint(problem.code, _YELLOW if severity else _RED)
    where = f"{paint(_safe(str(problem.where)), _BOLD)}: " if problem.where else ""
    subject = f"{problem.subject}: " if problem.subject and not problem.where else ""
    head = f"{where}{code} {'warning: ' if severity else ''}{_safe(subject + problem.what)}"
    parts = [head, *_frame_lines(problem, paint)]
    if problem.fix:
        parts.append(f"  {paint('fix:', _CYAN)} {_safe(problem.fix)}")
    return "\n".join(parts)


def render_problems(problems: Iterable[Problem], color: bool = False) -> str:
    """Return all problems, one block each, and end with a line break; empty for none."""
    return "".join(render_problem(problem, color) + "\n" for problem in problems)


def _frame_lines(problem: Problem, paint: _Paint) -> Iterable[str]:
    if not problem.frame or problem.where is None:
        return
    width = max(len(str(number)) for number, _ in problem.frame) + 2
    column = max(problem.where.column, 1)
    # All lines are cut alike, so that what stands below each other still does.
    start = max(0, column - _SHOWN // 2) if column > _SHOWN - 20 else 0
    for number, text in problem.frame:
        shown = _window(text, start)
        yield f"{paint(f'{number:>{width}} |', _DIM)} {shown}".rstrip()
        if number == problem.where.line:
            found = _TOKEN.match(text, column - 1)
            length = max(1, len(found[0]) if found else 1)
            length = min(length, max(1, start + _SHOWN - column + 1))
            # Tabs are kept so that the caret stands under its token.
            lead = re.sub(r"[^\t]", " ", _safe(text[start : column - 1]))
            lead = " " * (len(_CUT) if start else 0) + lead
            yield f"{paint(' ' * width + ' |', _DIM)} {lead}{paint('^' * length, _RED)}"


def _window(text: str, start: int) -> str:
    """Return the part of a line that a terminal shows whole; minified files have one long line."""
    end = start + _SHOWN
    lead = _CUT if start and text[:start].strip() else " " * (len(_CUT) if start else 0)
    return lead + _safe(text[start:end]) + (_CUT if len(text) > end else "")


class _Paint:
    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled

    def __call__(self, text: str, style: str) -> str:
        return f"\x1b[{style}m{text}\x1b[{_RESET}m" if self.enabled else text


def _safe(text: str) -> str:
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
