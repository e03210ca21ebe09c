"""Where a read of a table stands, and what comes after. Pure but for `last_value`.

Two kinds of position, canonical JSON both:
`{"c": value, "k": [key...]}` of a read by cursor, `{"run": n, "k": [key...]}` inside snapshot run
`n`, `{"end": true, "run": n}` after it. Values are integers or exact text, never floats, so a
position comes back as it went in: no digit of a second, no integer above 2^53 is lost.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mycelial.kernel.canonical import canonical_json
from mycelial.sdk.envelope import Position
from mycelial.sdk.errors import Permanent

if TYPE_CHECKING:
    from arro3.core import Array

Value = int | str
CURSOR_TYPES = ("int", "uint", "utf8", "timestamp", "date32", "time64", "decimal")
"""How the names of types begin whose values order a read and fit a position."""


@dataclass(frozen=True, slots=True)
class Place:
    """A decoded position. `values` are those of the ordering columns, empty at the start.

    `ties` counts the rows already delivered that share the last cursor value; kept only where
    nothing breaks ties.
    """

    values: tuple[Value, ...] = ()
    run: int = 0
    ended: bool = False
    ties: int = 0


def encode_cursor(values: Sequence[Value], ties: int = 0) -> Position:
    """Return the position after a row, by cursor first, then the key."""
    body: dict[str, Any] = {"c": values[0] if values else None, "k": list(values[1:])}
    if ties:
        body["n"] = ties
    return Position(canonical_json(body).decode())


def encode_run(run: int, values: Sequence[Value] | None, *, ended: bool = False) -> Position:
    """Return the position inside a snapshot run, or at its end."""
    body: dict[str, Any] = {"run": run}
    if ended:
        body["end"] = True
    else:
        body["k"] = list(values) if values else None
    return Position(canonical_json(body).decode())


def decode(position: Position | None) -> Place:
    """Read a position. Raises: Permanent if it is none of ours."""
    if position is None:
        return Place()
    try:
        body = json.loads(position)
        if "run" in body:
            values = tuple(body.get("k") or ())
            place = Place(values, run=int(body["run"]), ended=bool(body.get("end")))
        else:
            head = () if body["c"] is None else (body["c"],)
            place = Place((*head, *body["k"]), ties=int(body.get("n", 0)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(position) from error
    if not all(type(value) in (int, str) for value in place.values):
        raise _unreadable(position)
    return place


def _unreadable(position: Position) -> Permanent:
    return Permanent(
        "MYC-TYPE-020",
        f"the position {position} is not one of a table read",
        fix="set a position with `mycelial state set`, or reset the pipeline to read anew",
    )


def can_order(arrow: str) -> bool:
    """Tell whether a column of this type can order a read."""
    return arrow.startswith(CURSOR_TYPES)


def comparison(columns: Sequence[str], literals: Sequence[str], operator: str) -> str:
    """Return a row-value comparison of quoted columns with literals."""
    if len(columns) == 1:
        return f"{columns[0]} {operator} {literals[0]}"
    return f"({', '.join(columns)}) {operator} ({', '.join(literals)})"


def last_value(column: str, array: Array) -> Value:
    """Return an array's last value as a position keeps it. Raises: Permanent on NULL."""
    from arro3.compute import cast
    from arro3.core import DataType

    last = array.slice(len(array) - 1, 1)
    if last.type not in (DataType.int64(), DataType.int32(), DataType.int16(), DataType.utf8()):
        last = cast(last, DataType.utf8())
    value = last.to_pylist()[0]
    if value is None:
        raise Permanent(
            "MYC-TYPE-021",
            f'column "{column}" orders the read, and holds a NULL or a value without a text form',
            fix=f'exclude such rows with `query`, or choose another cursor than "{column}"',
        )
    return value if type(value) is int else str(value)


def trailing_ties(array: Array) -> int:
    """Return how many values at an array's end equal its last one."""
    last = array.slice(len(array) - 1, 1).to_pylist()[0]
    count = 0
    for start in range(len(array), 0, -64):
        chunk = array.slice(max(0, start - 64), start - max(0, start - 64)).to_pylist()
        for value in reversed(chunk):
            if value != last:
                return count
            count += 1
    return count
