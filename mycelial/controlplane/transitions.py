"""What of a plan becomes history, and what is held back. Pure."""

from __future__ import annotations

from mycelial.reconciler.observed import Fleet
from mycelial.schemas.plan import Change, Effect, Plan
from mycelial.storage.base import Event

_NAMES_SHOWN = 5


def held_texts(plan: Plan) -> tuple[str, ...]:
    """Return what the plan would do and may not yet: "Workflow/x: why"."""
    return tuple(f"{c.kind}/{c.name}: {c.held}" for c in plan.changes if c.held)


def fleet_events(
    plan: Plan, fleet: Fleet, *, at: float, already_held: tuple[str, ...]
) -> tuple[Event, ...]:
    """Return one event per change that is made, and per change that was not held before."""
    new_holds = set(held_texts(plan)) - set(already_held)
    events = []
    for change in plan.changes:
        if change.held and f"{change.kind}/{change.name}: {change.held}" not in new_holds:
            continue
        reason, message = _told(change, fleet)
        events.append(
            Event(
                at=at,
                severity="warning" if change.held or change.effect is Effect.RESNAPSHOT else "info",
                reason=reason,
                subject=f"{change.kind}/{change.name}",
                message=message,
                revision=plan.revision,
            )
        )
    return tuple(events)


def _told(change: Change, fleet: Fleet) -> tuple[str, str]:
    where = _where(change, fleet)
    if change.held:
        is_deletion = change.effect is Effect.DELETE
        return "DeletionHeld" if is_deletion else "ChangeHeld", change.held
    if change.effect is Effect.DELETE:
        return f"{change.kind}Deleted", _joined(change.reason, where)
    if change.moved_from:
        return f"{change.kind}Renamed", f"from {change.moved_from}"
    known = fleet.ledger.known.get(change.uid)
    if known is None or known.deleted:
        return f"{change.kind}Created", where
    return f"{change.kind}Changed", _joined(change.effect.value, change.reason, where)


def _where(change: Change, fleet: Fleet) -> str:
    names = change.daemons
    shown = ", ".join(names[:_NAMES_SHOWN])
    more = len(names) - _NAMES_SHOWN
    return f"on {shown}" + (f" and {more} more" if more > 0 else "") if names else ""


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)
