"""What every store decides alike. Pure, so that implementations differ only in where rows lie."""

from __future__ import annotations

from dataclasses import replace

from mycelial.reconciler.observed import LedgerDelta
from mycelial.storage.base import Event, FleetWrite, JoinToken, StoredReport

EVENTS_MAX = 50_000
COLLAPSE_WITHIN_SECONDS = 3600.0  # repeats further apart are news again


def delta_of(write: FleetWrite) -> LedgerDelta:
    """Return the part of a write that is about the ledger."""
    return LedgerDelta(
        known=write.known,
        duties=write.duties,
        ended=write.ended,
        revs=write.revs,
        confirmed_deletions=write.confirmed_deletions,
    )


def used_token(token: JoinToken, *, key_hash: str, now: float) -> JoinToken | None:
    """Return the token as consumed by the key, or None when it may not be.

    A token is used once; the same key may come again, since its first answer may have been lost.
    """
    if token.used_by_key:
        return token if token.used_by_key == key_hash else None
    if now >= token.expires_at:
        return None
    return replace(token, used_by_key=key_hash, used_at=now)


def replaces(new: StoredReport, old: StoredReport | None) -> bool:
    """Tell whether a report is newer: within one boot the sequence decides, else arrival."""
    return old is None or new.boot_id != old.boot_id or new.seq >= old.seq


def collapses(new: Event, old: Event) -> bool:
    """Tell whether an event repeats one. Daemons are kept apart: each is a finding of its own."""
    same = (new.subject, new.reason, new.message, new.daemon) == (
        old.subject,
        old.reason,
        old.message,
        old.daemon,
    )
    return same and new.at - old.at <= COLLAPSE_WITHIN_SECONDS


def collapsed(new: Event, old: Event) -> Event:
    """Return the repeat, counted. It gets a new id, so that whoever follows by id sees it."""
    return replace(new, count=old.count + new.count)
