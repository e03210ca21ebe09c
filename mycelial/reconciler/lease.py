"""How often daemons report, and what their silence means. Pure arithmetic, seconds throughout.

The server dictates the numbers and they grow with the fleet (Nomad's rule), so that ten thousand
daemons cost no more reports per second than five thousand.
"""

from __future__ import annotations

from dataclasses import dataclass

from mycelial.reconciler.observed import Liveness

INTERVAL_MIN = 15.0
REPORTS_PER_SECOND = 300.0
LEASE_MIN = 60.0
LEASE_SLACK = 10.0
RECONNECTS_PER_SECOND = 200.0
WINDOW_MIN = 2.0
WINDOW_MAX = 300.0
BOOT_GRACE = 300.0  # after a start of the control plane no lease expires


@dataclass(frozen=True, slots=True)
class Timing:
    """What a report's reply tells the daemon."""

    interval_seconds: float
    lease_seconds: float
    reconnect_window_seconds: float

    @classmethod
    def for_fleet(cls, daemons: int) -> Timing:
        """Return the timing for a fleet of so many daemons."""
        interval = report_interval(daemons)
        return cls(interval, lease_of(interval), reconnect_window(daemons))


def report_interval(daemons: int) -> float:
    """Return how often each of so many daemons reports."""
    return max(INTERVAL_MIN, daemons / REPORTS_PER_SECOND)


def lease_of(interval: float) -> float:
    """Return how long a report keeps its daemon from being Offline."""
    return max(LEASE_MIN, 3 * interval + LEASE_SLACK)


def reconnect_window(daemons: int) -> float:
    """Return over how long daemons spread their return after the control plane was away."""
    return min(WINDOW_MAX, max(WINDOW_MIN, daemons / RECONNECTS_PER_SECOND))


def liveness(
    last_report: float | None,
    now: float,
    *,
    timing: Timing,
    started: float,
    is_revoked: bool = False,
) -> Liveness:
    """Judge a joined daemon's silence. All instants are of one monotonic clock.

    `last_report` is None when nothing was heard since `started`, the control plane's own start.
    In the grace period after it nobody is Offline, since it was us who did not listen.
    """
    if is_revoked:
        return Liveness.REVOKED
    heard = started if last_report is None else last_report
    silence = now - heard
    if last_report is not None and silence <= 2 * timing.interval_seconds:
        return Liveness.ONLINE
    if silence <= timing.lease_seconds or now - started <= BOOT_GRACE:
        return Liveness.LATE
    return Liveness.OFFLINE
