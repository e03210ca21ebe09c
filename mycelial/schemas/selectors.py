"""Label selectors: `site, role=till, env!=dev, region in (eu, us)`. All terms must hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

_KEY = r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?"
_VALUE = r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"
_TERM = re.compile(
    rf"\s*(?:(?P<absent>!)?\s*(?P<exists>{_KEY})"
    rf"|(?P<key>{_KEY})\s*(?P<op>==|!=|=)\s*(?P<value>{_VALUE})"
    rf"|(?P<inkey>{_KEY})\s+(?P<inop>in|notin)\s*\((?P<values>[^()]*)\))\s*$"
)


class SelectorError(ValueError):
    """The text is not a selector; the message names the term."""


@dataclass(frozen=True, slots=True)
class Term:
    """One requirement on one label."""

    key: str
    op: Literal["exists", "absent", "in", "notin"]
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether `labels` satisfy the term."""
        match self.op:
            case "exists":
                return self.key in labels
            case "absent":
                return self.key not in labels
            case "in":
                return labels.get(self.key) in self.values
            case "notin":
                return labels.get(self.key) not in self.values


@lru_cache(maxsize=4096)
def parse_selector(text: str) -> tuple[Term, ...]:
    """Parse a selector. Raises: SelectorError, also for an empty text."""
    parts = re.split(r",(?![^(]*\))", text)
    return tuple(_parse_term(part) for part in parts)


def _parse_term(part: str) -> Term:
    found = _TERM.match(part)
    if found is None:
        raise SelectorError(
            f"{part.strip()!r} is not a selector term; write `key`, `!key`, `key=value`, "
            "`key!=value`, `key in (a, b)` or `key notin (a, b)`"
        )
    if found["exists"]:
        return Term(found["exists"], "absent" if found["absent"] else "exists")
    if found["key"]:
        op: Literal["in", "notin"] = "notin" if found["op"] == "!=" else "in"
        return Term(found["key"], op, frozenset({found["value"]}))
    values = frozenset(value.strip() for value in found["values"].split(",") if value.strip())
    if not values:
        raise SelectorError(f"{part.strip()!r} lists no values")
    return Term(found["inkey"], "in" if found["inop"] == "in" else "notin", values)


def selects(text: str, labels: Mapping[str, str]) -> bool:
    """Tell whether `labels` satisfy every term of the selector `text`."""
    return all(term.matches(labels) for term in parse_selector(text))
