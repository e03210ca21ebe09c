"""One byte string per value: canonical JSON and the digests taken over it.

Follows RFC 8785 for the values we use: sorted keys, no spaces, UTF-8, shortest numbers.
NaN and infinities are refused, since no two parsers agree about them.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

JsonValue = Any


def canonical_json(value: JsonValue) -> bytes:
    """Return the canonical bytes of a JSON value; equal values give equal bytes.

    Raises: ValueError for NaN or infinity, TypeError for what JSON cannot hold.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest(value: JsonValue) -> str:
    """Return `sha256:<hex>` of the canonical bytes of `value`."""
    return digest_bytes(canonical_json(value))


def digest_bytes(data: bytes) -> str:
    """Return `sha256:<hex>` of raw bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def short(value: str) -> str:
    """Return the first 12 hex digits of a digest, for people."""
    return value.removeprefix("sha256:")[:12]
