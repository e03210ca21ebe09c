"""Choose the daemons that run a workflow, and say why the others do not.

Pure. In: a workflow, the daemons, who holds it now. Out: a PlacementResult.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, assert_never

from mycelial.kernel.canonical import digest
from mycelial.reconciler.observed import DaemonState, Liveness
from mycelial.schemas.desired import DesiredWorkflow, PipelineSpec, PlacementMode, Uid
from mycelial.schemas.selectors import SelectorError, parse_selector

NEVER_JOINED = "NeverJoined"
NO_MATCH = "NoDaemonMatches"
LACKS_CAPABILITY = "LacksCapability"
BAD_SELECTOR = "InvalidSelector"

_NOT_PLACEABLE = frozenset({Liveness.REVOKED, Liveness.NEVER_JOINED})


class Resolve(Protocol):
    """Substitutes a workflow's template for one daemon; `schemas.resolve.resolve` is the real one.

    Raises: ResolveError, with `.problem`, when a name is unknown on that daemon.
    """

    def __call__(
        self,
        workflow: DesiredWorkflow,
        *,
        daemon_name: str,
        daemon_uid: str,
        labels: Mapping[str, str],
        variables: Mapping[str, str],
    ) -> PipelineSpec:
        """Return the spec of the workflow on that daemon."""


@dataclass(frozen=True, slots=True)
class PlacementResult:
    """Where a workflow runs. All ids are daemon ids, sorted.

    `matching` are the daemons the manifest means, able or not; `chosen` is the part that shall run
    it. `lacking` maps a daemon to the capabilities it misses. `reason` and `message` explain an
    empty choice.
    """

    chosen: tuple[str, ...]
    matching: tuple[str, ...] = ()
    lacking: Mapping[str, tuple[str, ...]] | None = None
    reason: str = ""
    message: str = ""


class Roster:
    """The daemons, indexed for one round of placing; selectors are matched once per text."""

    def __init__(self, daemons: Iterable[DaemonState]) -> None:
        self.by_id = {daemon.id: daemon for daemon in daemons}
        placeable = [d for d in self.by_id.values() if d.liveness not in _NOT_PLACEABLE]
        self.placeable = {d.id: d for d in sorted(placeable, key=lambda d: (d.name, d.id))}
        self.by_name = {d.name: d for d in self.placeable.values()}
        self._selected: dict[str, tuple[str, ...]] = {}
        self._lacking: dict[tuple[tuple[str, ...], str], tuple[str, ...]] = {}
        self._context: dict[str, str] = {}

    def matching(self, selector: str) -> tuple[str, ...]:
        """Return the ids of placeable daemons whose labels match. Raises: SelectorError."""
        if selector not in self._selected:
            terms = parse_selector(selector)
            self._selected[selector] = tuple(
                daemon.id
                for daemon in self.placeable.values()
                if all(term.matches(daemon.labels) for term in terms)
            )
        return self._selected[selector]

    def lacking(self, requires: tuple[str, ...], daemon_id: str) -> tuple[str, ...]:
        """Return the required capabilities that the daemon did not report."""
        key = (requires, daemon_id)
        if key not in self._lacking:
            has = self.by_id[daemon_id].capabilities
            self._lacking[key] = tuple(sorted(set(requires) - has))
        return self._lacking[key]

    def context(self, daemon_id: str) -> str:
        """Return a digest of all that resolving a template takes from the daemon."""
        if daemon_id not in self._context:
            daemon = self.by_id[daemon_id]
            self._context[daemon_id] = digest([daemon.id, daemon.name, dict(daemon.labels)])
        return self._context[daemon_id]


def place(
    workflow: DesiredWorkflow, roster: Roster, *, holders: Collection[str] = ()
) -> PlacementResult:
    """Choose daemons. `holders` are the ids that hold the workflow's assignment now.

    A workflow for one daemon stays with its holder while that one is eligible, offline or not:
    there is no failover, and a better hash of a newcomer moves nothing. Revoked daemons and those
    that never joined are not eligible.
    """
    where = workflow.placement
    match where.mode:
        case PlacementMode.NAMED:
            daemon = roster.by_name.get(where.daemon)
            if daemon is None:
                message = f"no daemon named {where.daemon!r} has joined"
                return PlacementResult((), reason=NEVER_JOINED, message=message)
            matching: tuple[str, ...] = (daemon.id,)
        case PlacementMode.EVERY | PlacementMode.ONE:
            try:
                matching = roster.matching(where.selector)
            except SelectorError as error:
                return PlacementResult((), reason=BAD_SELECTOR, message=str(error))
        case _:
            assert_never(where.mode)
    return _among(workflow, roster, matching, holders)


def _among(
    workflow: DesiredWorkflow, roster: Roster, matching: tuple[str, ...], holders: Collection[str]
) -> PlacementResult:
    if not matching:
        message = f"no joined daemon matches {workflow.placement.selector!r}"
        return PlacementResult((), reason=NO_MATCH, message=message)
    missing = {found: roster.lacking(workflow.requires, found) for found in matching}
    lacking = {found: capabilities for found, capabilities in missing.items() if capabilities}
    able = tuple(found for found in matching if found not in lacking)
    if not able:
        names = ", ".join(f"{roster.by_id[i].name}: {' '.join(c)}" for i, c in lacking.items())
        message = f"no matching daemon has what the workflow requires ({names})"
        return PlacementResult((), matching, lacking, LACKS_CAPABILITY, message)
    if workflow.placement.mode is PlacementMode.ONE:
        able = (choose_one(workflow.uid, able, holders=holders),)
    return PlacementResult(able, matching, lacking or None)


def choose_one(
    uid: Uid,
    candidates: Collection[str],
    *,
    holders: Collection[str] = (),
    weights: Mapping[str, float] | None = None,
) -> str:
    """Return the present holder if it is a candidate, else the winner of the rendezvous hash.

    Weighted rendezvous hashing (Thaler and Ravishankar; Schindelhauer and Schomaker's logarithm):
    a daemon wins in proportion to its weight, and the loss of one moves only its own workflows.
    """
    staying = [candidate for candidate in candidates if candidate in holders]
    weights = weights or {}
    return max(staying or candidates, key=lambda i: (_score(uid, i, weights.get(i, 1.0)), i))


def _score(uid: Uid, daemon_id: str, weight: float) -> float:
    drawn = hashlib.sha256(f"{uid}\0{daemon_id}".encode()).digest()
    unit = (int.from_bytes(drawn[:8], "big") + 1) / (2**64 + 2)  # strictly between 0 and 1
    return -weight / math.log(unit)
