"""Signatures over assignment sets: Ed25519 over canonical JSON.

A daemon believes a set because of this, not because of who handed it over. Older sets carry valid
signatures too: generation and epoch are compared where a set is accepted.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mycelial.kernel.canonical import canonical_json
from mycelial.kernel.errors import NotAllowed, StateCorrupt
from mycelial.kernel.files import write_durable
from mycelial.schemas.codec import DecodeError, decode, encode
from mycelial.schemas.wire import AssignmentSet, SignedSet
from mycelial.security.keyfiles import check_private

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PAYLOAD_BYTES_MAX = 20 * 1024 * 1024
# A signature is good for this purpose only: the same key over other bytes proves nothing here.
_CONTEXT = b"mycelial assignment set v1\n"


class Signer:
    """Holds the reconciler's private key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        public = key.public_key().public_bytes_raw()
        self.public_key = base64.b64encode(public).decode("ascii")
        self.key_id = key_id_of(public)

    @classmethod
    def create_or_load(cls, path: Path) -> Signer:
        """Open a key file (0600), making it on first use.

        Raises: StateCorrupt (MYC-SEC-002) when it holds no key; OperationFailed (-004) when others
        can read it.
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        if not path.exists():
            write_durable(path, base64.b64encode(Ed25519PrivateKey.generate().private_bytes_raw()))
        check_private(path)
        try:
            raw = base64.b64decode(path.read_bytes(), validate=True)
            return cls(Ed25519PrivateKey.from_private_bytes(raw))
        except (ValueError, binascii.Error) as error:
            raise StateCorrupt(
                "MYC-SEC-002",
                f"{path} holds no signing key",
                fix="restore it from a backup; with a new key every daemon has to join again",
            ) from error

    def sign(self, assignments: AssignmentSet) -> SignedSet:
        """Return the set as signed text."""
        payload = canonical_json(encode(assignments))
        signature = base64.b64encode(self._key.sign(_CONTEXT + payload)).decode("ascii")
        return SignedSet(payload.decode(), signature, self.key_id)


def verify(signed: SignedSet, keys: Mapping[str, str]) -> AssignmentSet:
    """Return the set if one of `keys` (key id -> base64 public key) signed these very bytes.

    Nothing of the payload is parsed before its signature is checked.
    Raises: NotAllowed: MYC-SEC-020 unknown key, -021 bad signature, -022 malformed payload.
    """
    public = keys.get(signed.key_id)
    if public is None:
        raise NotAllowed(
            "MYC-SEC-020",
            f"the assignments are signed with key {signed.key_id[:32]!r}, unknown here",
            fix="join again if the control plane's key was replaced",
        )
    if len(signed.payload) > PAYLOAD_BYTES_MAX:
        raise _malformed(f"it is larger than {PAYLOAD_BYTES_MAX} bytes")
    payload = signed.payload.encode("utf-8", "surrogatepass")
    if not _is_signed(payload, signed.signature, public):
        raise NotAllowed(
            "MYC-SEC-021",
            "the signature of the assignments does not fit",
            fix="the last good assignments stay in force; check who answers at this address",
        )
    return _decode(payload)


def _is_signed(payload: bytes, signature: str, public: str) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public, validate=True))
        key.verify(base64.b64decode(signature, validate=True), _CONTEXT + payload)
    except (InvalidSignature, ValueError):  # ValueError: no base64, or of the wrong length
        return False
    return True


def _decode(payload: bytes) -> AssignmentSet:
    try:
        return decode(AssignmentSet, json.loads(payload))
    except (DecodeError, ValueError, RecursionError) as error:
        raise _malformed(type(error).__name__) from error


def _malformed(why: str) -> NotAllowed:
    return NotAllowed(
        "MYC-SEC-022",
        f"the signed assignments are malformed: {why}",
        fix="check that control plane and daemon are at most one version apart",
    )


def key_id_of(public: bytes) -> str:
    """Return the name of a raw public key."""
    return hashlib.sha256(public).hexdigest()[:16]
