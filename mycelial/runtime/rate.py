"""A limit of rows per second. Pure: time is passed in."""

from __future__ import annotations


class RowRate:
    """A token bucket that may go into debt by one batch, so any batch size keeps the rate.

    Over any stretch of time `t`, at most `rate * t` rows plus one batch pass.
    """

    def __init__(self, rows_per_second: float) -> None:
        self._rate = rows_per_second
        self._free_at: float | None = None

    def take(self, rows: int, now: float) -> float:
        """Account for `rows` and return how many seconds to wait before passing them on."""
        free_at = now if self._free_at is None else max(now, self._free_at)
        self._free_at = free_at + rows / self._rate
        return free_at - now
