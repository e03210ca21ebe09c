"""Where CSV records begin and end. Pure: bytes in, cuts and findings out.

Records are found by quote parity, which is right for well-formed text only; so `check_quotes`
proves each piece well-formed before anything is parsed. Together they never split or join fields
silently, at the speed of `bytes.count` and `bytes.split`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dialect:
    """Delimiter and quote, one byte each."""

    delimiter: bytes = b","
    quote: bytes = b'"'


class BadQuote(Exception):
    """A quote is never closed, or stands where none may. `line` counts from 0 in the piece."""

    def __init__(self, line: int) -> None:
        self.line = line
        super().__init__(f"bad quote at line {line}")


class BadReturn(Exception):
    """A carriage return stands outside of quotes without a line feed. `line` as above."""

    def __init__(self, line: int) -> None:
        self.line = line
        super().__init__(f"bare carriage return at line {line}")


_BARE_RETURN = re.compile(rb"\r(?!\n)")


def cut(data: bytes, dialect: Dialect) -> int:
    """Return the length of the whole records at the start of `data`, 0 if there is none.
    `data` begins at the start of a record."""
    end = data.rfind(b"\n")
    if dialect.quote not in data:
        return end + 1
    odd = data.count(dialect.quote, 0, max(end, 0)) % 2
    while odd and end >= 0:
        before = data.rfind(b"\n", 0, end)
        odd = (odd + data.count(dialect.quote, max(before, 0), end)) % 2
        end = before
    return end + 1


def check_quotes(data: bytes, dialect: Dialect) -> tuple[int, ...]:
    """Prove that every quote of these whole records opens or closes a field or is doubled inside
    one, and that no bare carriage return stands outside of quotes.

    Returns: the indexes, in `data.split(quote)`, of the fields that are `""`.
    Raises: BadQuote, BadReturn.
    """
    pieces = data.split(dialect.quote)
    opens = frozenset({dialect.delimiter, b"\n", b""})
    closes = frozenset({dialect.delimiter, b"\n", b"\r", b""})
    edges = {(piece[:1], piece[-1:]) for piece in pieces[2:-1:2]}
    well = (
        len(pieces) % 2 == 1
        and all(first in closes and last in opens for first, last in edges)
        and (len(pieces) == 1 or (pieces[0][-1:] in opens and pieces[-1][:1] in closes))
    )
    if not well:
        raise BadQuote(_line_of_first(pieces, opens, closes))
    if b"\r" in data:
        _check_returns(pieces)
    return tuple(
        index
        for index in range(1, len(pieces), 2)
        if not pieces[index]
        and (pieces[index - 1] or index == 1)
        and (pieces[index + 1] or index + 2 == len(pieces))
    )


def _line_of_first(pieces: list[bytes], opens: frozenset[bytes], closes: frozenset[bytes]) -> int:
    """Return the line of the first quote that stands wrong; of the last one if none does (then it
    is never closed)."""
    last = len(pieces) - 1
    for index in range(0, len(pieces), 2):
        if index > 0 and pieces[index][:1] not in closes:
            return _lines(pieces[:index])
        if index < last and pieces[index][-1:] not in opens:
            return _lines(pieces[: index + 1])
    return _lines(pieces[:-1])


def _check_returns(pieces: list[bytes]) -> None:
    for index in range(0, len(pieces), 2):
        found = _BARE_RETURN.search(pieces[index])
        if found is not None:
            raise BadReturn(_lines(pieces[:index]) + pieces[index].count(b"\n", 0, found.start()))


def _lines(pieces: list[bytes]) -> int:
    return sum(piece.count(b"\n") for piece in pieces)
