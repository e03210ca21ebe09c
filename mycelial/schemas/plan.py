"""A plan as a value: what would change, per object and per daemon. Stdlib only.

Preview and apply use the same object; `hash` pins what it was made from, so a stale plan is
refused. It never holds a secret's value: secrets are references in every spec (I11).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from mycelial.kernel.canonical import digest
from mycelial.kernel.errors import Location, Problem
from mycelial.schemas.codec import encode


class Effect(enum.StrEnum):
    """What a change does to running pipelines, mildest first."""

    UNCHANGED = "unchanged"
    IN_PLACE = "in_place"
    CREATE = "create"
    RESTART = "restart"  # from its checkpoint
    RESNAPSHOT = "resnapshot"  # reads everything again; the reason says why
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One leaf that differs. None stands for absent. Paths look like `source.config.table`."""

    path: str
    before: Any = None
    after: Any = None


@dataclass(frozen=True, slots=True)
class Change:
    """One object's difference. `held` says why it will not be carried out yet, if so."""

    kind: str
    name: str
    uid: str
    effect: Effect
    reason: str = ""
    daemons: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()  # "till-07: transform/sql" - daemons that match and cannot
    fields: tuple[FieldChange, ...] = ()
    moved_from: str = ""
    held: str = ""
    location: Location | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Ordered changes from the state `base` (a digest of the ledger) to `revision`."""

    revision: str
    base: str
    changes: tuple[Change, ...] = ()
    unchanged: int = 0
    warnings: tuple[Problem, ...] = ()

    @property
    def is_empty(self) -> bool:
        """True when nothing would change."""
        return not self.changes

    def hash(self) -> str:
        """Return the digest that apply compares with a fresh plan's."""
        return digest(encode(self))
