"""The one table of types: Arrow <-> PostgreSQL, Arrow <-> SQLite, and where values may be lost.

Pure: types are names (`arrowtypes` makes real types of them). `wire` is the Arrow type whose bytes
the database's bulk path stores exactly as `declared`; a batch is cast to it first. The drivers
themselves are trusted with nothing else: they store int64 sent to a float8 column as its bits,
read what they do not know as raw bytes and cut digits without a word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mycelial.sdk.envelope import Column, LossyEdge

_DECIMAL = re.compile(r"decimal(?:128|256)\((\d+), (-?\d+)\)")
_PG_NUMERIC = re.compile(r"numeric\((\d+),(-?\d+)\)")
_SIZED = re.compile(r"(.*?)\s*\(([^)]*)\)\s*")

UTC_MICROS = "timestamp[us, tz=UTC]"


@dataclass(frozen=True, slots=True)
class Stored:
    """How a column is stored: the database's type, the Arrow type sent, and what may be lost."""

    declared: str
    wire: str
    loses: str = ""


_INTEGERS = {
    "int8": "smallint",
    "uint8": "smallint",
    "int16": "smallint",
    "uint16": "integer",
    "int32": "integer",
    "uint32": "bigint",
    "int64": "bigint",
}
_WIRE_OF_INTEGER = {"smallint": "int16", "integer": "int32", "bigint": "int64"}
_TEXTS = {"utf8", "large_utf8", "string_view", "null"}
_BINARIES = {"binary", "large_binary", "binary_view"}
_NANOS = "nanoseconds are cut to microseconds"
_MILLIS = "a time of day is cut off"


def decimal_of(arrow: str) -> tuple[int, int] | None:
    """Return (precision, scale) of a decimal type's name, or None."""
    found = _DECIMAL.fullmatch(arrow)
    return (int(found[1]), int(found[2])) if found else None


def _temporal(arrow: str) -> tuple[str, str, str] | None:
    """Return (family, wire, loses) of a date, time or timestamp."""
    if arrow == "date32":
        return "date", "date32", ""
    if arrow == "date64":
        return "date", "date32", _MILLIS
    if arrow.startswith(("time32[", "time64[")):
        return "time", "time64[us]", _NANOS if arrow == "time64[ns]" else ""
    if arrow.startswith("timestamp["):
        loses = _NANOS if arrow.startswith("timestamp[ns") else ""
        zoned = "tz=" in arrow
        return (
            ("timestamptz" if zoned else "timestamp"),
            (UTC_MICROS if zoned else "timestamp[us]"),
            loses,
        )
    return None


def postgres_type(column: Column) -> Stored | None:
    """Return how PostgreSQL stores a column exactly, or None when it has no type for it."""
    arrow = column.type
    if column.native.startswith("postgres:") and arrow in _TEXTS:
        return Stored(column.native.removeprefix("postgres:"), "utf8")
    if arrow in _INTEGERS:
        declared = _INTEGERS[arrow]
        return Stored(declared, _WIRE_OF_INTEGER[declared])
    if arrow == "uint64":
        return Stored("numeric(20,0)", "decimal128(20, 0)")
    if decimal := decimal_of(arrow):
        precision, scale = decimal
        return Stored(f"numeric({precision},{scale})", arrow)
    if temporal := _temporal(arrow):
        family, wire, loses = temporal
        native = column.native.removeprefix("postgres:")
        return Stored(native if native.startswith(f"{family}(") else family, wire, loses)
    if arrow in _TEXTS:
        return Stored("text", "utf8")
    if arrow in _BINARIES or arrow.startswith("fixed_size_binary"):
        return Stored("bytea", "binary")
    simple = {
        "bool": Stored("boolean", "bool"),
        "float16": Stored("real", "float32"),
        "float32": Stored("real", "float32"),
        "float64": Stored("double precision", "float64"),
    }
    return simple.get(arrow)


_PG_ARROW = {
    "boolean": "bool",
    "smallint": "int16",
    "integer": "int32",
    "bigint": "int64",
    "real": "float32",
    "double precision": "float64",
    "text": "utf8",
    "bytea": "binary",
    "date": "date32",
    "time without time zone": "time64[us]",
    "timestamp without time zone": "timestamp[us]",
    "timestamp with time zone": UTC_MICROS,
}
_PG_SHORT = {
    "time without time zone": "time",
    "timestamp without time zone": "timestamp",
    "timestamp with time zone": "timestamptz",
    "character varying": "varchar",
    "character": "char",
}


def short_postgres_type(formatted: str) -> str:
    """Return `format_type`'s text with the usual short names: varchar(3), timestamptz."""
    if found := _SIZED.fullmatch(formatted):
        base, size = found.groups()
        return f"{_PG_SHORT.get(base, base)}({size})"
    if found := re.fullmatch(r"(time|timestamp)\((\d)\) (with|without) time zone", formatted):
        return f"{found[1]}{'tz' if found[3] == 'with' else ''}({found[2]})"
    return _PG_SHORT.get(formatted, formatted)


def from_postgres(formatted: str) -> tuple[str, str]:
    """Return (Arrow type, native name) of a column by `format_type`'s text.

    The native name is empty where Arrow's type says everything. Whatever Arrow cannot say is read
    as the server's own text.
    """
    if formatted in _PG_ARROW:
        return _PG_ARROW[formatted], ""
    if found := re.fullmatch(r"(timestamp|time)\(\d\) without time zone", formatted):
        arrow = "timestamp[us]" if found[1] == "timestamp" else "time64[us]"
        return arrow, f"postgres:{short_postgres_type(formatted)}"
    if re.fullmatch(r"timestamp\(\d\) with time zone", formatted):
        return UTC_MICROS, f"postgres:{short_postgres_type(formatted)}"
    if found := _PG_NUMERIC.fullmatch(formatted):
        precision, scale = int(found[1]), int(found[2])
        # A numeric(p,s) column may hold NaN, which no decimal can: such a value is refused.
        if precision <= 38 and 0 <= scale <= precision:
            return f"decimal128({precision}, {scale})", ""
    return "utf8", f"postgres:{short_postgres_type(formatted)}"


def sqlite_type(column: Column) -> Stored | None:
    """Return how SQLite stores a column; names with TEXT in them have text affinity, which keeps
    every digit."""
    arrow = column.type
    if arrow in _INTEGERS:
        return Stored("INTEGER", "int64")
    if arrow == "uint64":
        return Stored("DECIMAL_TEXT(20,0)", "utf8")
    if decimal := decimal_of(arrow):
        return Stored(f"DECIMAL_TEXT({decimal[0]},{decimal[1]})", "utf8")
    if temporal := _temporal(arrow):
        family, wire, loses = temporal
        # The driver writes dates and timestamps as ISO text itself, times it does not know.
        return Stored(family.upper(), "utf8" if family == "time" else wire, loses)
    if arrow in _TEXTS:
        return Stored("TEXT", "utf8")
    if arrow in _BINARIES or arrow.startswith("fixed_size_binary"):
        return Stored("BLOB", "binary")
    simple = {
        "bool": Stored("BOOLEAN", "bool"),
        "float16": Stored("REAL", "float64"),
        "float32": Stored("REAL", "float64"),
        "float64": Stored("REAL", "float64"),
    }
    return simple.get(arrow)


def sqlite_affinity(declared: str) -> str:
    """Return the affinity of a declared type, by SQLite's own rules (datatype3.html, 3.1)."""
    name = declared.upper()
    if "INT" in name:
        return "INTEGER"
    if any(part in name for part in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if "BLOB" in name or not name:
        return "BLOB"
    if any(part in name for part in ("REAL", "FLOA", "DOUB")):
        return "REAL"
    return "NUMERIC"


def from_sqlite(declared: str) -> str | None:
    """Return the Arrow type that a declared type promises, or None when it promises nothing."""
    name = declared.upper().strip()
    base, size = (found[1], found[2]) if (found := _SIZED.fullmatch(name)) else (name, "")
    if base in ("BOOL", "BOOLEAN"):
        return "bool"
    if base == "DATE":
        return "date32"
    if base == "TIME":
        return "time64[us]"
    if base in ("DATETIME", "TIMESTAMP", "TIMESTAMP WITHOUT TIME ZONE"):
        return "timestamp[us]"
    if base in ("TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE"):
        return UTC_MICROS
    if base in ("DECIMAL", "NUMERIC", "DECIMAL_TEXT") and (
        digits := re.fullmatch(r"\s*(\d+)\s*(?:,\s*(\d+)\s*)?", size)
    ):
        precision, scale = int(digits[1]), int(digits[2] or 0)
        if scale <= precision <= 38:
            return f"decimal128({precision}, {scale})"
        return "utf8" if base == "DECIMAL_TEXT" else None
    by_affinity = {"INTEGER": "int64", "TEXT": "utf8", "REAL": "float64"}
    if base == "BLOB":
        return "binary"
    return by_affinity.get(sqlite_affinity(name))


# What a column may become in a table that exists, by the database's own assignment: such a cast
# either keeps the value or fails with an error, so it loses nothing.
_PG_WIDENS = {
    "smallint": ("integer", "bigint", "numeric", "real", "double precision"),
    "integer": ("smallint", "bigint", "numeric", "double precision"),
    "bigint": ("smallint", "integer", "numeric"),
    "boolean": (),
    "real": ("double precision",),
    "double precision": (),
    "date": ("timestamp",),
    "bytea": (),
    "time": (),
    "timestamp": (),
    "timestamptz": (),
}
_PG_LOSES = {
    ("bigint", "double precision"): "integers above 2^53 are rounded",
    ("integer", "real"): "integers above 2^24 are rounded",
    ("double precision", "real"): "digits are rounded",
    ("double precision", "numeric"): "binary fractions are rounded to 15 digits",
    ("real", "numeric"): "binary fractions are rounded to 6 digits",
    ("numeric", "double precision"): "decimals are rounded",
    ("numeric", "real"): "decimals are rounded",
    ("timestamp", "timestamptz"): "a zone is made up: UTC",
    ("timestamptz", "timestamp"): "the zone is dropped: UTC",
    ("timestamp", "date"): "the time of day is cut off",
    ("timestamptz", "date"): "the time of day is cut off",
}
_PG_NOT_FROM_TEXT = {
    "boolean", "smallint", "integer", "bigint", "real", "double precision", "bytea", "date",
    "time", "timestamp", "timestamptz",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fit:
    """How a planned column fits one that exists. `cast`: through staging, by assignment."""

    possible: bool
    direct: bool = False
    loses: str = ""


def fit_postgres(column: Column, existing: str) -> Fit:
    """Compare a planned column with an existing one's type (short name)."""
    stored = postgres_type(column)
    if stored is None:
        return Fit(possible=False)
    ours, theirs = stored.declared, existing
    ours_base, theirs_base = ours.partition("(")[0], theirs.partition("(")[0]
    if ours == theirs and column.type not in _TEXTS:
        return Fit(possible=True, direct=True, loses=stored.loses)
    if theirs_base in ("timestamp", "timestamptz", "time") and theirs != theirs_base:
        loses = f"fractions of a second are rounded to {theirs}"
        return Fit(possible=ours_base == theirs_base, direct=True, loses=loses)
    if column.type in _TEXTS:
        textual = theirs_base in ("text", "varchar", "char", "bpchar", "json", "name", "citext")
        if theirs_base in ("numeric", "bit", "varbit") and theirs not in ("numeric", ours):
            return Fit(possible=False)
        return Fit(possible=theirs_base not in _PG_NOT_FROM_TEXT, direct=textual)
    if ours_base == "numeric" and theirs_base == "numeric":
        return _fit_numeric(ours, theirs)
    if theirs_base == "numeric" and "numeric" in _PG_WIDENS.get(ours_base, ()):
        return Fit(possible=theirs == "numeric" or theirs.endswith(",0)"))
    if theirs in _PG_WIDENS.get(ours_base, ()):
        return Fit(possible=True, loses=stored.loses)
    loses = _PG_LOSES.get((ours_base, theirs_base), "")
    return Fit(possible=bool(loses), loses=loses)


def _fit_numeric(ours: str, theirs: str) -> Fit:
    if theirs == "numeric":
        return Fit(possible=True, direct=True)
    (p1, s1), (p2, s2) = (
        (int(found[1]), int(found[2])) if (found := _PG_NUMERIC.fullmatch(text)) else (1000, 1000)
        for text in (ours, theirs)
    )
    loses = f"digits beyond {s2} decimals are rounded" if s1 > s2 else ""
    return Fit(possible=True, direct=p2 - s2 >= p1 - s1 and not loses, loses=loses)


def fit_sqlite(column: Column, declared: str) -> Fit:
    """Compare a planned column with an existing one's declared type."""
    stored = sqlite_type(column)
    if stored is None:
        return Fit(possible=False)
    affinity = sqlite_affinity(declared)
    direct = Fit(possible=True, direct=True, loses=stored.loses)
    if declared.upper() in (stored.declared, "ANY"):
        return direct
    match stored.wire:
        case "int64" | "bool":
            if affinity in ("INTEGER", "NUMERIC", "BLOB"):
                return direct
            if affinity == "REAL":
                return Fit(possible=True, direct=True, loses="integers above 2^53 are rounded")
        case "float64":
            if affinity in ("REAL", "BLOB", "NUMERIC"):
                return direct
        case "binary":
            return direct if affinity == "BLOB" else Fit(possible=False)
        case "utf8" if stored.declared.startswith("DECIMAL"):
            if affinity in ("TEXT", "BLOB"):
                return direct
            precision, _ = decimal_of(column.type) or (20, 0)
            loses = "" if precision <= 15 else "SQLite keeps 15 digits in such a column"
            return Fit(possible=True, direct=True, loses=loses)
        case "utf8":
            return Fit(possible=affinity in ("TEXT", "BLOB"), direct=True)
        case _:
            return Fit(possible=affinity in ("TEXT", "BLOB", "NUMERIC"), direct=True)
    return Fit(possible=False)


def lossy_edge(column: Column, stored: str, reason: str) -> LossyEdge:
    """Return the edge for the plan."""
    return LossyEdge(column.name, column.native or column.type, stored, reason)
