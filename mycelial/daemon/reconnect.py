"""When to try again after the control plane was lost. Pure; jitter comes from the given Rng.

Rules (and what they prevent): the first retry after an established session is spread over the
window the server dictated *before* the outage; then full jitter under a doubling cap, with the
jitter applied after the cap, so that a long outage does not end in a herd; the exponent is reset
only by a session that lasted; a refusal is tried slowly, since only a person can change it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mycelial.kernel.entropy import Rng

WINDOW_MIN_SECONDS = 2.0
WINDOW_MAX_SECONDS = 300.0
CAP_SECONDS = 300.0
LASTING_SECONDS = 60.0
REFUSALS_QUICK = 6
REFUSED_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Attempts:
    """What the next delay depends on. `window_seconds` is the last one the server dictated."""

    window_seconds: float = WINDOW_MIN_SECONDS
    failures: int = 0
    refusals: int = 0


@dataclass(frozen=True, slots=True)
class Ending:
    """How a session ended. `session_seconds` is None when it was never established."""

    session_seconds: float | None = None
    retry_after_seconds: float | None = None  # the server's own wish: a floor
    is_refused: bool = False
    is_bye: bool = False


def next_delay(attempts: Attempts, ending: Ending, rng: Rng) -> tuple[Attempts, float]:
    """Return the state after `ending` and the seconds to wait before the next attempt."""
    session = ending.session_seconds
    if session is not None and session >= LASTING_SECONDS:
        attempts = replace(attempts, failures=0, refusals=0)
    if ending.is_bye:
        floor = ending.retry_after_seconds or 0.0
        return attempts, floor + rng.uniform(0.0, max(floor, 1.0))
    if ending.is_refused:
        attempts = replace(attempts, refusals=attempts.refusals + 1, failures=attempts.failures + 1)
        if attempts.refusals >= REFUSALS_QUICK:
            return attempts, REFUSED_SECONDS + rng.uniform(0.0, REFUSED_SECONDS / 10)
        return attempts, _full_jitter(attempts.failures, rng)
    if session is not None and attempts.failures == 0:
        window = min(max(attempts.window_seconds, WINDOW_MIN_SECONDS), WINDOW_MAX_SECONDS)
        delay = rng.uniform(0.0, window)
        attempts = replace(attempts, failures=1)
    else:
        attempts = replace(attempts, failures=attempts.failures + 1)
        delay = _full_jitter(attempts.failures, rng)
    if ending.retry_after_seconds is not None:
        floor = ending.retry_after_seconds
        delay = max(delay, floor + rng.uniform(0.0, floor))
    return attempts, delay


def _full_jitter(failures: int, rng: Rng) -> float:
    return rng.uniform(0.0, min(CAP_SECONDS, 2.0 ** min(failures, 16)))
