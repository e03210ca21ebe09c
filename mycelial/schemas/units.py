"""Texts with a unit: `30s`, `2GiB`, `10%`. Pure; loads no pydantic, for processes without it."""

from __future__ import annotations

import re

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|[KMGT]i?B)")
_SIZE_UNITS = {"B": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("KMGT", start=1)
    for suffix, base in (("B", 1000), ("iB", 1024))
}


def parse_duration(text: str) -> float:
    """Return seconds of `90s`, `5m`, `1h30m`. Raises: ValueError."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration; write it like 500ms, 30s, 5m or 1h30m")
    return sum(float(number) * _DURATION_UNITS[unit] for number, unit in parts)


def parse_size(text: str) -> int:
    """Return bytes of `512KiB`, `64MB`. Raises: ValueError."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a size; write it like 512KiB, 64MiB or 2GB")
    return int(float(found[1]) * _SIZE_UNITS[found[2]])


def parse_percent(text: str) -> float:
    """Return the fraction of `10%`. Raises: ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)%", text)
    if found is None or float(found[1]) > 100:
        raise ValueError(f"{text!r} is not a percentage; write it like 10%")
    return float(found[1]) / 100
