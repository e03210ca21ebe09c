"""A value that must not be seen (I11)."""

from __future__ import annotations

import hmac
from typing import Final


class Secret:
    """Holds text and never shows it: not in repr, str, format, JSON, logs or comparisons by ==."""

    __slots__ = ("_value",)
    MASK: Final = "(secret)"

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value. Call it where the driver needs it and keep it in no attribute."""
        return self._value

    def matches(self, other: str) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(self._value.encode(), other.encode())

    def scrub(self, text: str) -> str:
        """Return `text` with every occurrence of the value masked, for driver messages."""
        return text.replace(self._value, self.MASK) if self._value else text

    def __repr__(self) -> str:
        return self.MASK

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(self.MASK, spec)

    def __reduce__(self) -> str:
        raise TypeError("a Secret does not leave its process")
