"""Chance and ids, as something that is handed in. The only importer of `random` and `secrets`."""

from __future__ import annotations

import random
import secrets
from typing import Protocol


class Rng(Protocol):
    """Where jitter comes from; seeded in tests."""

    def uniform(self, low: float, high: float) -> float:
        """Return a float in [low, high]."""


def system_rng() -> Rng:
    """Return an unseeded generator for jitter. Not for secrets."""
    return random.Random()


def seeded_rng(seed: int) -> Rng:
    """Return a reproducible generator."""
    return random.Random(seed)


def new_token(nbytes: int = 24) -> str:
    """Return an unguessable URL-safe token."""
    return secrets.token_urlsafe(nbytes)


def new_hex(nbytes: int = 8) -> str:
    """Return an unguessable hex string, for boot ids and temporary names."""
    return secrets.token_hex(nbytes)


def new_uuid7(now: float) -> str:
    """Return a UUIDv7 (RFC 9562) for the wall time `now` in Unix seconds."""
    millis = int(now * 1000) & (1 << 48) - 1
    value = millis << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62
    value |= secrets.randbits(62)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
