"""How a machine becomes a daemon, stays one, and ceases to be one."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import shlex
from collections.abc import Callable, Mapping

from mycelial.controlplane.auth import Principal, Right
from mycelial.controlplane.chronicle import Chronicle
from mycelial.controlplane.fleet import Roster
from mycelial.controlplane.http import NotAuthenticated, Throttled
from mycelial.controlplane.looking import not_found
from mycelial.controlplane.threads import Lanes
from mycelial.controlplane.watch import WatchHub
from mycelial.kernel.clock import Clock
from mycelial.kernel.entropy import new_uuid7
from mycelial.kernel.errors import Conflict, NotAllowed, UsageError
from mycelial.kernel.secret import Secret
from mycelial.schemas.views import TokenReply, TokenRequest
from mycelial.schemas.wire import EnrollReply, EnrollRequest
from mycelial.security.ca import CertificateAuthority, key_hash
from mycelial.security.signing import Signer
from mycelial.security.tokens import hash_token, is_expired, make_join_token
from mycelial.storage.base import DaemonRecord, JoinToken, Store

ENROLL_PER_SECOND = 20.0
TTL_SECONDS_MAX = 30 * 86400.0
LABELS_MAX = 64
LABEL_CHARACTERS_MAX = 253
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?")


class RateLimiter:
    """A token bucket over all callers: nothing an attacker sends can push others out of it."""

    def __init__(self, per_second: float, *, clock: Clock) -> None:
        self._per_second = per_second
        self._clock = clock
        self._level = per_second
        self._filled_at = clock.monotonic()

    def take(self) -> bool:
        """Use one; false when there is none left."""
        now = self._clock.monotonic()
        gained = (now - self._filled_at) * self._per_second
        self._level = min(self._per_second, self._level + gained)
        self._filled_at = now
        if self._level < 1:
            return False
        self._level -= 1
        return True


class Joining:
    """Tokens, certificates, revocation.

    Args: endpoints: addresses at which daemons reach us, most preferred first.
    """

    def __init__(
        self,
        *,
        authority: CertificateAuthority,
        signer: Signer,
        roster: Roster,
        hub: WatchHub,
        store: Store,
        lanes: Lanes,
        clock: Clock,
        chronicle: Chronicle,
        poke: Callable[[], None],
        endpoints: tuple[str, ...],
    ) -> None:
        self._authority = authority
        self._signer = signer
        self._roster = roster
        self._hub = hub
        self._store = store
        self._lanes = lanes
        self._clock = clock
        self._chronicle = chronicle
        self._poke = poke
        self.endpoints = endpoints
        self._limiter = RateLimiter(ENROLL_PER_SECOND, clock=clock)
        self._one_at_a_time = asyncio.Lock()

    def ca_bundle(self) -> str:
        """Return the authority's certificate, public by nature."""
        return self._authority.ca_pem

    def throttle(self) -> None:
        """Raises: Throttled MYC-API-429 beyond ENROLL_PER_SECOND."""
        if not self._limiter.take():
            raise Throttled("MYC-API-429", "too many enrolments at once", fix="try again shortly")

    async def create_token(self, who: Principal, request: TokenRequest) -> TokenReply:
        """Make a single-use token bound to a name and labels; only its hash is kept."""
        who.require(Right.JOIN)
        if request.name:
            _check_name(request.name)
        _check_labels(request.labels)
        if not 0 < request.ttl_seconds <= TTL_SECONDS_MAX:
            raise UsageError(
                "MYC-API-030",
                f"a token cannot live {request.ttl_seconds:g} s",
                fix="choose more than 0 s and at most 30 days",
            )
        now = self._clock.now()
        token = make_join_token(self._authority.pin())
        stored = JoinToken(
            token_hash=token.hash(),
            created_at=now,
            expires_at=now + request.ttl_seconds,
            name=request.name,
            labels=dict(request.labels),
        )
        await self._lanes.store.run(self._store.add_token, stored)
        self._chronicle.record("TokenCreated", f"Daemon/{request.name or '*'}", f"by {who.name}")
        text = token.text().reveal()
        server = self.endpoints[0] if self.endpoints else "https://HOST:7443"
        name = shlex.quote(request.name) if request.name else "NAME"
        return TokenReply(
            token=text,
            expires_at=stored.expires_at,
            command=f"mycelial daemon join --server {server} --token {text} --name {name}",
        )

    async def enroll(self, request: EnrollRequest) -> EnrollReply:
        """Exchange a token and a key for an identity; again with the same key gives the same.

        Raises: NotAuthenticated MYC-API-407, in one same form whatever is wrong with the token;
        NotAllowed MYC-SEC-003 for a bad key; Conflict MYC-CP-031 for a name that is taken.
        """
        async with self._one_at_a_time:
            token = await self._valid_token(request)
            key = key_hash(request.csr)
            member = self._roster.by_key(key)
            if member is not None and member.record.revoked_at is not None:
                raise self._refused(request, "its key was revoked")
            if member is not None and member.record.name != request.name:
                raise self._refused(request, "its key belongs to another name")
            self._check_free(request.name, key)
            used = await self._lanes.store.run(
                self._store.use_token, token.token_hash, key_hash=key, now=self._clock.now()
            )
            if used is None:
                raise self._refused(request, "the token was used by another machine")
            if member is not None:
                return self._reply(member.record, request.csr)
            return await self._add(request, token, key)

    async def renew(self, daemon_id: str, csr: str) -> EnrollReply:
        """Return a daemon's next certificate, for the key it has."""
        member = self._roster.get(daemon_id)
        if member is None or key_hash(csr) != member.record.key_hash:
            raise NotAllowed(
                "MYC-API-408",
                "a certificate is renewed for the daemon's own key only",
                fix="join again with a new token to change the key",
            )
        reply = self._reply(member.record, csr)
        record = dataclasses.replace(member.record, serial=_serial(reply.certificate))
        await self._lanes.store.run(self._store.update_daemon, record)
        self._roster.put(record)
        return reply

    async def revoke(self, who: Principal, name: str) -> None:
        """Refuse a daemon from now on and cut its stream."""
        who.require(Right.JOIN)
        member = self._roster.named(name)
        if member is None or member.record.revoked_at is not None:
            raise not_found("Daemon", name, (m.record.name for m in self._roster.members()))
        record = dataclasses.replace(member.record, revoked_at=self._clock.now())
        await self._lanes.store.run(self._store.update_daemon, record)
        self._roster.put(record)
        self._hub.cut(record.id)
        self._chronicle.record(
            "DaemonRevoked", f"Daemon/{name}", f"by {who.name}", severity="warning", daemon=name
        )
        self._poke()

    async def _valid_token(self, request: EnrollRequest) -> JoinToken:
        """Return the token without using it up, so that a refusal leaves it good."""
        wanted = hash_token(Secret(request.token))
        tokens = await self._lanes.store.run(self._store.tokens)
        found = next((t for t in tokens if t.token_hash == wanted), None)
        if found is None:
            raise self._refused(request, "the token is unknown")
        if found.name and found.name != request.name:
            raise self._refused(request, "the token is for another name")
        expired = is_expired(expires_at=found.expires_at, now=self._clock.now())
        if expired and not found.used_by_key:
            raise self._refused(request, "the token has expired")
        _check_name(request.name)
        _check_labels(request.labels)
        return found

    def _refused(self, request: EnrollRequest, why: str) -> NotAuthenticated:
        """Tell the fleet's people why, and the stranger only that."""
        name = request.name if _NAME.fullmatch(request.name) else "*"  # a stranger wrote it
        self._chronicle.record("EnrollmentRefused", f"Daemon/{name}", why, severity="warning")
        return NotAuthenticated(
            "MYC-API-407",
            "the join token is not accepted",
            fix="make a new one: mycelial daemon token",
        )

    def _check_free(self, name: str, key: str) -> None:
        holder = self._roster.named(name)
        taken = holder is not None and holder.record.revoked_at is None
        if taken and holder is not None and holder.record.key_hash != key:
            raise Conflict(
                "MYC-CP-031",
                f"a daemon named {name!r} has already joined",
                fix="choose another name, or revoke the old one first: "
                f"mycelial daemon revoke {name}",
            )

    async def _add(self, request: EnrollRequest, token: JoinToken, key: str) -> EnrollReply:
        now = self._clock.now()
        record = DaemonRecord(
            id=new_uuid7(now),
            name=request.name,
            key_hash=key,
            serial="",
            joined_at=now,
            proposed_labels={**request.labels, **token.labels},
        )
        reply = self._reply(record, request.csr)
        record = dataclasses.replace(record, serial=_serial(reply.certificate))
        await self._lanes.store.run(self._store.add_daemon, record)
        self._roster.put(record)
        self._chronicle.record(
            "DaemonJoined", f"Daemon/{record.name}", f"as {record.id}", daemon=record.name
        )
        self._poke()
        return reply

    def _reply(self, record: DaemonRecord, csr: str) -> EnrollReply:
        return EnrollReply(
            daemon_id=record.id,
            name=record.name,
            certificate=self._authority.sign_daemon(csr, daemon_id=record.id, name=record.name),
            ca_bundle=self._authority.ca_pem,
            signing_keys={self._signer.key_id: self._signer.public_key},
            endpoints=self.endpoints,
        )


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(
            "MYC-API-031",
            f"{name[:63]!r} cannot name a daemon",
            fix="use up to 63 lower-case letters, digits, dots and dashes",
        )


def _check_labels(labels: Mapping[str, str]) -> None:
    fits = all(
        0 < len(key) <= LABEL_CHARACTERS_MAX
        and len(value) <= LABEL_CHARACTERS_MAX
        and (key + value).isprintable()
        for key, value in labels.items()
    )
    if not fits or len(labels) > LABELS_MAX:
        raise UsageError(
            "MYC-API-031",
            "these cannot label a daemon",
            fix=f"use at most {LABELS_MAX} labels of printable characters, names and values up "
            f"to {LABEL_CHARACTERS_MAX}",
        )


def _serial(certificate_pem: str) -> str:
    from cryptography import x509

    return f"{x509.load_pem_x509_certificate(certificate_pem.encode()).serial_number:x}"
