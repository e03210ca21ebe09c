"""Join tokens and admin tokens. Only their hashes are stored; single use is the store's duty."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from pathlib import Path

from mycelial.kernel.entropy import new_token
from mycelial.kernel.errors import NotAllowed
from mycelial.kernel.files import write_durable
from mycelial.kernel.secret import Secret

_JOIN = re.compile(r"myc1\.([A-Za-z0-9_-]{32,64})\.([0-9a-f]{64})")
_ADMIN = re.compile(r"myca_[A-Za-z0-9_-]{40,64}")
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What a new daemon is given: a secret, and the CA it must find at the other end."""

    secret: Secret
    ca_pin: str

    def text(self) -> Secret:
        """Return the whole token, to be shown once."""
        return Secret(f"myc1.{self.secret.reveal()}.{self.ca_pin}")

    def hash(self) -> str:
        """Return what is stored and looked up."""
        return hash_token(self.text())


def make_join_token(ca_pin: str) -> JoinToken:
    """Return a new token for the CA with this pin."""
    return parse_join_token(f"myc1.{new_token(_SECRET_BYTES)}.{ca_pin}")


def parse_join_token(text: str) -> JoinToken:
    """Return the parts. Raises: NotAllowed (MYC-SEC-010); the message never holds the token."""
    found = _JOIN.fullmatch(text)
    if found is None:
        raise NotAllowed(
            "MYC-SEC-010",
            "the join token is malformed" + (": it was cut or has spaces" if "." in text else ""),
            fix="copy the whole token from `mycelial daemon token`: myc1.SECRET.PIN",
        )
    return JoinToken(Secret(found[1]), found[2])


def make_admin_token() -> Secret:
    """Return a new token for people and scripts."""
    return Secret("myca_" + new_token(_SECRET_BYTES))


def parse_admin_token(text: str) -> Secret:
    """Return the token if it has the right form. Raises: NotAllowed (MYC-SEC-011)."""
    if _ADMIN.fullmatch(text) is None:
        raise NotAllowed(
            "MYC-SEC-011", "the token is malformed", fix="log in again, or make a new token"
        )
    return Secret(text)


def hash_token(token: Secret) -> str:
    """Return the hex SHA-256. The token has 256 random bits, so no salt or stretching is due."""
    return hashlib.sha256(token.reveal().encode()).hexdigest()


def matches_hash(token: Secret, stored_hash: str) -> bool:
    """Compare a presented token with a stored hash, in constant time."""
    return hmac.compare_digest(hash_token(token).encode(), stored_hash.encode())


def is_expired(*, expires_at: float, now: float) -> bool:
    """Tell whether a token's time is over; at the very instant it is."""
    return now >= expires_at


def check_not_expired(*, expires_at: float, now: float) -> None:
    """Raise NotAllowed (MYC-SEC-012) when the token's time is over."""
    if is_expired(expires_at=expires_at, now=now):
        raise NotAllowed(
            "MYC-SEC-012", "the token has expired", fix="make a new one: `mycelial daemon token`"
        )


def check_pin(token: JoinToken, ca_pin: str) -> None:
    """Refuse a server whose CA is not the one the token names. Raises: NotAllowed (MYC-SEC-013)."""
    if not hmac.compare_digest(token.ca_pin.encode(), ca_pin.encode()):
        raise NotAllowed(
            "MYC-SEC-013",
            "the server's certificate authority is not the one this token was made for",
            fix="check the address; if it is right, somebody stands between, or the token is of "
            "another control plane",
        )


def save_token(path: Path, token: Secret) -> None:
    """Write a token to a file that only its owner can read."""
    write_durable(path, token.reveal().encode() + b"\n", mode=0o600)
