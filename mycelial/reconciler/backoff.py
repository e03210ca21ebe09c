"""How long to wait before trying again. Pure: chance comes in as an argument.

Full jitter (Brooker, "Exponential Backoff and Jitter"): the delay is drawn from the whole range
*after* capping it, so that a long outage does not end in a herd.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

BASE_SECONDS = 0.75
CAP_SECONDS = 900.0

K = TypeVar("K", bound=Hashable)


class Rng(Protocol):
    """Where jitter comes from."""

    def uniform(self, low: float, high: float) -> float:
        """Return a float in [low, high]."""


def ceiling(failures: int, *, base: float = BASE_SECONDS, cap: float = CAP_SECONDS) -> float:
    """Return the longest delay after so many failures in a row, counting from 1."""
    if failures < 1:
        return 0.0
    return min(cap, base * 2.0 ** min(failures - 1, 60))


def delay(
    failures: int, rng: Rng, *, base: float = BASE_SECONDS, cap: float = CAP_SECONDS
) -> float:
    """Draw the delay after so many failures in a row."""
    return rng.uniform(0.0, ceiling(failures, base=base, cap=cap))


@dataclass(frozen=True, slots=True)
class _Streak:
    failures: int
    generation: int


class Backoff(Generic[K]):
    """Failures in a row per key. A new generation of the key starts over: it may be the cure."""

    def __init__(self, *, base: float = BASE_SECONDS, cap: float = CAP_SECONDS) -> None:
        self._base = base
        self._cap = cap
        self._streaks: dict[K, _Streak] = {}

    def next_delay(self, key: K, rng: Rng, *, generation: int = 0) -> float:
        """Count one more failure of the key and draw its delay."""
        last = self._streaks.get(key)
        failures = last.failures + 1 if last and last.generation == generation else 1
        self._streaks[key] = _Streak(failures, generation)
        return delay(failures, rng, base=self._base, cap=self._cap)

    def failures(self, key: K) -> int:
        """Return the failures in a row, 0 for a key that is well."""
        streak = self._streaks.get(key)
        return streak.failures if streak else 0

    def forget(self, key: K) -> None:
        """The key succeeded, or is gone."""
        self._streaks.pop(key, None)
