"""Where a key of a TOML text stands. `tomllib` gives values without positions.

The scanner trusts that the text has been parsed: it only has to find headers and keys, stepping
over strings, comments and open brackets. Keys inside an inline table take the line of their parent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

Path = tuple[str | int, ...]
Position = tuple[int, int]

_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_DOTTED = rf"{_PART}(?:\s*\.\s*{_PART})*"
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_DOTTED})\s*\]")
_KEY = re.compile(rf"\s*({_DOTTED})\s*=")
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'|#.*$')
_TRIPLE = re.compile(r'"""|\'\'\'')


def positions(text: str) -> Mapping[Path, Position]:
    """Return line and column, from 1, of every table and key, by path: `("sources", 0, "name")`."""
    found: dict[Path, Position] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    depth, quote = 0, ""
    for number, line in enumerate(text.splitlines(), start=1):
        value = line
        if depth == 0 and not quote:
            if header := _HEADER.match(line):
                table = _resolve(_parts(header[2]), counts, is_array=header[1] == "[[")
                found.setdefault(table, (number, header.start(1) + 1))
                continue
            if key := _KEY.match(line):
                path = table
                for part in _parts(key[1]):
                    path = (*path, part)
                    found.setdefault(path, (number, key.start(1) + 1))
                value = line[key.end() :]
        depth, quote = _step(value, depth, quote)
    return found


def locate(found: Mapping[Path, Position], path: Path) -> Position:
    """Return the position of `path`, or of the nearest table around it; (1, 1) for the file."""
    while path and path not in found:
        path = path[:-1]
    return found.get(path, (1, 1))


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_PART, dotted))


def _resolve(parts: tuple[str, ...], counts: dict[Path, int], *, is_array: bool) -> Path:
    """Turn a header into a path; a part that names an array means its last element."""
    path: Path = ()
    for index, part in enumerate(parts):
        path = (*path, part)
        if is_array and index == len(parts) - 1:
            counts[path] = counts.get(path, 0) + 1
        if path in counts:
            path = (*path, counts[path] - 1)
    return path


def _step(line: str, depth: int, quote: str) -> tuple[int, str]:
    """Return bracket depth and the open triple quote, if any, after `line`."""
    while True:
        if quote:
            end = line.find(quote)
            if end < 0:
                return depth, quote
            line, quote = line[end + 3 :], ""
        triple = _TRIPLE.search(line)
        plain = _STRINGS.search(line)
        # At the same place a triple quote also looks like an empty string: the triple one wins.
        if triple and (plain is None or triple.start() <= plain.start()):
            depth += _brackets(line[: triple.start()])
            quote, line = triple[0], line[triple.end() :]
        elif plain:
            depth += _brackets(line[: plain.start()])
            line = line[plain.end() :]
        else:
            return depth + _brackets(line), ""


def _brackets(text: str) -> int:
    return sum(text.count(char) for char in "[{") - sum(text.count(char) for char in "]}")
