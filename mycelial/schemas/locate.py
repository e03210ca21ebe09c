"""From a field path to a place in a file, and the lines around it. Pure text.

Paths come from pydantic and jsonschema; elements that are not in the document (tags of unions,
fields that a shorthand filled) are skipped on the way down.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

from mycelial.kernel.errors import Location, Problem
from mycelial.schemas.yaml import Node, split_lines

Path = tuple[str | int, ...]
Mask = tuple[int, int, int, int]  # first line, column, last line, column; from 1, end exclusive
MASKED = "(secret)"

_SENSITIVE = (
    r"[\w.-]*(?:pass?(?:wo?r?d|phrase)|pwd|secret|token|credential|api.?key|private.?key)[\w-]*"
)
_SENSITIVE_WORD = re.compile(_SENSITIVE, re.IGNORECASE)
# `secret: <name>` is a reference, which is shown; anything else that is called like a secret is
# masked in frames, because the finding may be that it should have been a reference.
_SENSITIVE_TEXT = re.compile(
    rf"""(?P<key>["']?(?!secret["']?\s*:){_SENSITIVE}["']?\s*:\s+)(?!\{{\s*["']?secret["']?\s*:)"""
    r"""(?P<value>"(?:[^"\\]|\\.)*"|'[^']*'|[^\s#,}\]][^#,}\]]*)""",
    re.IGNORECASE,
)
_USER_INFO = re.compile(r"(?<=://)([^/\s:@]*):([^@\s/]+)@")


def place(
    file: str, node: Node, path: Iterable[str | int], *, at: Literal["key", "value"] = "key"
) -> Location:
    """Return where the deepest element of `path` that exists stands: its key or its value."""
    mark = node.start
    for element in path:
        children = node.children
        if isinstance(children, dict) and element in children:
            mark, node = children[str(element)]
            if at == "value":
                mark = node.start
        elif isinstance(children, list) and isinstance(element, int) and element < len(children):
            node = children[element]
            mark = node.start
    return Location(file, mark.line + 1, mark.column + 1)


def node_at(node: Node, path: Iterable[str | int]) -> Node:
    """Return the node of the deepest element of `path` that exists."""
    for element in path:
        children = node.children
        if isinstance(children, dict) and element in children:
            node = children[str(element)][1]
        elif isinstance(children, list) and isinstance(element, int) and element < len(children):
            node = children[element]
    return node


def dotted(path: Iterable[str | int]) -> str:
    """Return `spec.transforms[0].filter` for a path."""
    text = ""
    for element in path:
        text += f"[{element}]" if isinstance(element, int) else f".{element}"
    return text.removeprefix(".")


def secret_masks(value: Any, node: Node) -> Iterator[Mask]:
    """Yield the spans of values under keys that are called like secrets and are no references."""
    if isinstance(value, dict) and isinstance(node.children, dict):
        for key, item in value.items():
            child = node.children[key][1]
            looks_secret = key != "secret" and _SENSITIVE_WORD.fullmatch(key)
            if looks_secret and not is_reference(item):
                yield mask_of(child)
            else:
                yield from secret_masks(item, child)
    elif isinstance(value, list) and isinstance(node.children, list):
        for item, child in zip(value, node.children, strict=True):
            yield from secret_masks(item, child)


def is_reference(value: Any) -> bool:
    """Tell whether a value has the shape of a secret reference and nothing but a name in it."""
    return (
        isinstance(value, dict)
        and set(value) == {"secret"}
        and isinstance(value["secret"], str)
        and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,252}", value["secret"]) is not None
    )


def mask_of(node: Node) -> Mask:
    """Return the span of a node."""
    start, end = node.start, node.end
    return start.line + 1, start.column + 1, end.line + 1, end.column + 1


def with_frames(
    problems: Sequence[Problem], text: str, masks: Iterable[Mask] = ()
) -> tuple[Problem, ...]:
    """Give every located problem up to three lines around it, secrets masked (I11)."""
    if not any(p.where and p.where.line and not p.frame for p in problems):
        return tuple(problems)
    lines = _masked(split_lines(text), masks)
    return tuple(
        replace(p, frame=_frame(lines, p.where.line)) if p.where and p.where.line else p
        for p in problems
    )


def _frame(lines: Sequence[str], line: int) -> tuple[tuple[int, str], ...]:
    first, last = max(1, line - 1), min(len(lines), line + 1)
    around = [(number, lines[number - 1]) for number in range(first, last + 1)]
    if around and around[-1][0] > line and not around[-1][1].strip():
        around.pop()
    return tuple(around)


def _masked(lines: list[str], masks: Iterable[Mask]) -> list[str]:
    shown = list(lines)
    # From the end to the front, so that columns further left stay true.
    for first, column, last, end in sorted(masks, reverse=True):
        if not 1 <= first <= len(shown):
            continue
        head = shown[first - 1][: column - 1]
        if first == last:
            shown[first - 1] = head + MASKED + shown[first - 1][end - 1 :]
            continue
        shown[first - 1] = head + MASKED
        for number in range(first + 1, min(last, len(shown) + 1)):
            shown[number - 1] = MASKED
        if last <= len(shown):
            shown[last - 1] = shown[last - 1][end - 1 :]
    return [_mask_text(line) for line in shown]


def _mask_text(line: str) -> str:
    line = _USER_INFO.sub(rf"\1:{MASKED}@", line)
    return _SENSITIVE_TEXT.sub(lambda found: found["key"] + MASKED, line)
