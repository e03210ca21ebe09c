"""How each type is selected from SQLite, and which stored values do not fit it. Pure.

A SQLite column may hold any value whatever it was declared, and the driver is lenient: it reads
integers as text, blobs as text, text as blobs and large integers as rounded doubles. So every
column has a condition under which a value is `bad`, which plans look for and which locates a
value that a read refused. Where nothing after SQLite would notice, the select itself turns a bad
value into one that cannot pass: of another class than the column's, or text that no cast accepts.
"""

from __future__ import annotations

from dataclasses import dataclass

from mycelial.sdk.kit.sql import quote_name
from mycelial.sdk.kit.types import UTC_MICROS, decimal_of, sqlite_affinity

_NOT_A_VALUE = "'!'"


@dataclass(frozen=True, slots=True)
class Selection:
    """`raw` is the Arrow type as selected, `bad` the SQL condition of a value that does not fit
    the type."""

    raw: str
    expression: str
    bad: str


def select_as(name: str, declared: str, arrow: str) -> Selection | None:
    """Return how to select a column as an Arrow type, or None when SQLite cannot give it."""
    column, affinity = quote_name(name), sqlite_affinity(declared)
    kind = f"typeof({column})"
    if arrow in ("int64", "bool"):
        bad = f"{kind} NOT IN ('integer', 'null')"
        if arrow == "int64":
            return Selection("int64", column, bad)  # the driver refuses every other class
        bad = f"({bad} OR {column} NOT IN (0, 1))"
        return Selection("int64", column, bad)  # the reader looks at the range of the batch
    if arrow == "float64":
        bad = (
            f"({kind} NOT IN ('real', 'integer', 'null') OR ({kind} = 'integer' AND {column} "
            "NOT BETWEEN -9007199254740992 AND 9007199254740992))"
        )
        plain = affinity == "REAL"  # integers there are stored as reals already
        return Selection("float64", column if plain else f"iif({bad}, 'x', {column})", bad)
    if arrow == "utf8":
        bad = f"{kind} = 'blob'"
        if affinity == "TEXT":
            # Integers cannot be there; bytes that are no text fail the check for UTF-8.
            return Selection("utf8", column, bad)
        return Selection("utf8", f"iif({bad}, x'ff', CAST({column} AS TEXT))", bad)
    if arrow == "binary":
        bad = f"{kind} NOT IN ('blob', 'null')"
        return Selection("binary", f"iif({bad}, 0, {column})", bad)
    if decimal := decimal_of(arrow):
        return _decimal(column, *decimal)
    fits = _TEMPORAL.get(arrow)
    if fits is None:
        return None
    bad = f"({column} IS NOT NULL AND NOT ({kind} = 'text' AND {fits.format(c=column)}))"
    # Numbers come as their digits, which are no date: the cast refuses them.
    return Selection("utf8", column, bad)


# More digits than microseconds and zones where none is wanted would be dropped without a word.
_TEMPORAL = {
    "date32": "octet_length({c}) = 10",
    "time64[us]": "octet_length({c}) <= 15",
    "timestamp[us]": (
        "(octet_length({c}) IN (10, 16, 19) OR (octet_length({c}) BETWEEN 21 AND 26 "
        "AND substr({c}, 20) NOT GLOB '*[^.0-9]*'))"
    ),
    UTC_MICROS: "{c} NOT GLOB '*.[0-9][0-9][0-9][0-9][0-9][0-9][0-9]*'",
}


def _decimal(column: str, precision: int, scale: int) -> Selection | None:
    if precision > 38:
        return None
    text = f"CAST({column} AS TEXT)"
    fraction = f"length(rtrim({text}, '0')) - instr({text}, '.') > {scale}"
    real = f" OR typeof({column}) = 'real'" if precision > 15 else ""
    bad = (
        f"(typeof({column}) = 'blob'{real} OR (instr({text}, '.') > 0 AND {fraction}) "
        f"OR (typeof({column}) <> 'null' AND {text} GLOB '*[^-.0-9]*'))"
    )
    return Selection("utf8", f"iif({bad}, {_NOT_A_VALUE}, {text})", bad)


SAMPLES = {
    "int64": "0",
    "float64": "0.0",
    "utf8": "''",
    "binary": "x''",
}
"""One value of each raw type, to set the type of a column whose first rows are all NULL."""


def type_from_classes(classes: set[str]) -> str | None:
    """Return the Arrow type of an undeclared column by the storage classes it holds."""
    classes = classes - {"null"}
    if not classes or classes == {"text"}:
        return "utf8"
    if classes == {"integer"}:
        return "int64"
    if classes <= {"integer", "real"}:
        return "float64"
    return "binary" if classes == {"blob"} else None
