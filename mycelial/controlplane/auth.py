"""Who is asking, and whether they may. Deny by default."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import lru_cache

from mycelial.controlplane.http import NotAuthenticated
from mycelial.kernel.errors import NotAllowed
from mycelial.kernel.secret import Secret


class Right(enum.StrEnum):
    """What a use case demands."""

    LOOK = "look"
    OPERATE = "operate"  # retry, sync, state, logs
    CHANGE = "change"  # apply, delete, rollback
    JOIN = "join"  # tokens, revocation


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who was recognised."""

    name: str
    rights: frozenset[Right] = frozenset()

    def require(self, right: Right) -> None:
        """Raises: NotAllowed MYC-API-403 when this principal lacks the right."""
        if right not in self.rights:
            raise NotAllowed(
                "MYC-API-403",
                f"{self.name} may not {right.value}",
                fix="ask an administrator, or use a token with that right",
            )


ADMIN = Principal("admin", frozenset(Right))


class Gate:
    """Recognises people by bearer token, in constant time."""

    def __init__(self, admin_token: Secret) -> None:
        self._admin_token = admin_token

    def identify(self, authorization: str) -> Principal:
        """Return the principal of an Authorization header.

        Raises: NotAuthenticated MYC-API-401, with one same reply for absent and wrong tokens.
        """
        scheme, _, token = authorization.partition(" ")
        # Compared also when the scheme is wrong, so that timing tells nothing.
        matches = self._admin_token.matches(token.strip())
        if scheme.lower() == "bearer" and matches:
            return ADMIN
        raise NotAuthenticated(
            "MYC-API-401",
            "this needs a valid token",
            fix="point MYCELIAL_TOKEN_FILE at the server's admin.token file "
            "(in HTTP: `Authorization: Bearer ...`)",
        )


@lru_cache(maxsize=16_384)
def daemon_of(certificate: bytes | None) -> str:
    """Return the daemon id in a peer certificate (DER), empty when there is none.

    The chain was verified against our own authority before the request was read.
    """
    from mycelial.security.ca import daemon_id_of_certificate

    return (daemon_id_of_certificate(certificate) or "") if certificate else ""
