"""How long to wait before trying again. Pure: randomness is passed in."""

from __future__ import annotations

from dataclasses import dataclass

from mycelial.kernel.entropy import Rng

FIRST_SECONDS = 0.2
LONGEST_SECONDS = 30.0


def full_jitter(
    failures: int, rng: Rng, *, first: float = FIRST_SECONDS, longest: float = LONGEST_SECONDS
) -> float:
    """Return seconds to wait after the n-th failure in a row (from 1).

    Source: "Exponential Backoff And Jitter", full jitter. Never below a tenth of the ceiling, so
    that a run of lucky draws is no busy loop.
    """
    ceiling = min(longest, first * 2.0 ** min(failures - 1, 32))
    return rng.uniform(ceiling / 10, ceiling)


@dataclass(frozen=True, slots=True)
class Trouble:
    """A run of failures without a commit between them."""

    failures: int
    since: float

    def is_stalled(self, now: float, up_to_seconds: float) -> bool:
        """True once the manifest's patience is used up; trying goes on at the longest delay."""
        return now - self.since >= up_to_seconds


def next_delay(
    trouble: Trouble, rng: Rng, *, now: float, up_to_seconds: float, told: float | None = None
) -> float:
    """Return seconds until the next try: as told by a throttling peer, else backoff."""
    if told is not None:
        return told
    if trouble.is_stalled(now, up_to_seconds):
        return LONGEST_SECONDS
    return full_jitter(trouble.failures, rng)
