"""Guess column types from sample rows, conservatively. Pure.

A guess is made only when every sample fits and nothing would be lost: leading zeros, plus signs
and 20-digit numbers stay text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_SHAPES = (
    ("int64", re.compile(r"0|-?[1-9][0-9]{0,17}")),
    ("float64", re.compile(r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,15})?(?:[eE][-+]?[0-9]{1,2})?")),
    ("bool", re.compile(r"true|false|True|False|TRUE|FALSE")),
    ("date32", re.compile(r"[0-9]{4}-[01][0-9]-[0-3][0-9]")),
    (
        "timestamp[us]",
        re.compile(
            r"[0-9]{4}-[01][0-9]-[0-3][0-9][T ][0-2][0-9]:[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
        ),
    ),
    (
        "timestamp[us, tz=UTC]",
        re.compile(
            r"[0-9]{4}-[01][0-9]-[0-3][0-9][T ][0-2][0-9]:[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
            r"(Z|[-+][0-9]{2}:[0-9]{2})"
        ),
    ),
)


def infer_types(rows: Sequence[Sequence[str]], width: int, *, null: str) -> list[str]:
    """Return Arrow type names for `width` columns."""
    return [
        _infer([row[index] for row in rows if index < len(row)], null) for index in range(width)
    ]


def _infer(values: list[str], null: str) -> str:
    present = [value for value in values if value not in ("", null)]
    if present:
        for name, shape in _SHAPES:
            if all(shape.fullmatch(value) for value in present):
                return name
    return "utf8"
