"""Joining a fleet: a token and a fresh key become an identity.

Runs in the short-lived process of `daemon join`, since making a request loads X.509. The key and
its request are on disk before they are sent, so a repetition after a lost reply sends the same
key, for which the control plane gives the same identity again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mycelial.client import link
from mycelial.daemon.local import Identity, LocalState
from mycelial.daemon.lock import exclusive
from mycelial.daemon.ports import ControlLink
from mycelial.kernel.clock import Clock
from mycelial.kernel.errors import NotAllowed, OperationFailed
from mycelial.kernel.ports import EventSink
from mycelial.schemas.wire import EnrollReply, EnrollRequest
from mycelial.security import tls, tokens

CSR_FILE = "csr.pem"
_CANDIDATE = "candidate.pem"
_JOIN_FIX = "tokens are for one machine and expire; make another: mycelial daemon token"


async def join(
    *,
    server_url: str,
    token: str,
    name: str,
    labels: Mapping[str, str],
    state_dir: Path,
    clock: Clock,
    events: EventSink,
) -> Identity:
    """Make this machine a daemon of the control plane at `server_url`; safe to repeat.

    Raises: NotAllowed for a malformed token (MYC-SEC-010), a foreign CA (MYC-SEC-013), a wrong,
    expired or used token (MYC-DAEMON-060); OperationFailed MYC-DAEMON-061 when joined elsewhere,
    MYC-DAEMON-020 while a daemon runs; Unreachable MYC-LINK-001.
    """
    parsed = tokens.parse_join_token(token.strip())
    server_url = server_url.rstrip("/")
    with exclusive(state_dir):
        local = LocalState(state_dir, clock=clock, events=events)
        known = local.identity()
        if known is not None:
            return _same(known, name=name, ca_pin=parsed.ca_pin)
        ca_bundle = await link.fetch_ca(server_url)
        tokens.check_pin(parsed, tls.ca_pin(ca_bundle))
        # From here on only the holder of that CA's key is listened to.
        request = EnrollRequest(parsed.text().reveal(), name, _request(local, name), labels)
        trusted = tls.client_context(cert=None, key=None, ca=ca_bundle)
        try:
            reply = await link.enroll(server_url, request, tls=trusted)
        except link.LinkRefused as error:
            raise NotAllowed(
                "MYC-DAEMON-060",
                f"the control plane refuses the join: {error.detail or 'the token is not valid'}",
                fix=_JOIN_FIX if error.status in (401, 403) else error.problem.fix,
            ) from error
        identity = Identity(
            daemon_id=reply.daemon_id,
            name=reply.name,
            urls=reply.endpoints or (server_url,),
            ca_pin=f"sha256:{parsed.ca_pin}",
            signing_keys=dict(reply.signing_keys),
            labels=dict(labels),
            joined_at=clock.now(),
        )
        _keep(local, identity, reply)
        return identity


async def renew(local: LocalState, identity: Identity, control: ControlLink) -> Identity:
    """Replace the certificate by the next one for the same key. The old one stays until the new
    one has been found good. Raises: a LinkError, OperationFailed."""
    csr = local.load(CSR_FILE)
    if csr is None:
        raise OperationFailed(
            "MYC-DAEMON-062",
            "the certificate request of this daemon is gone; its certificate cannot be renewed",
            fix="join again with a new token before the certificate expires",
        )
    reply = await control.renew(csr.decode())
    if reply.daemon_id != identity.daemon_id:
        raise OperationFailed(
            "MYC-DAEMON-063",
            "the renewed certificate names another daemon; the old one stays in use",
            fix="this is a fault of the control plane: report it with the code",
        )
    renewed = Identity(
        daemon_id=identity.daemon_id,
        name=reply.name,
        urls=reply.endpoints or identity.urls,
        ca_pin=identity.ca_pin,
        signing_keys=dict(reply.signing_keys) or identity.signing_keys,
        labels=identity.labels,
        joined_at=identity.joined_at,
    )
    _keep(local, renewed, reply)
    return renewed


def _same(known: Identity, *, name: str, ca_pin: str) -> Identity:
    """Return the identity when a join is repeated; refuse to replace another one."""
    if known.name == name and known.ca_pin == f"sha256:{ca_pin}":
        return known
    raise OperationFailed(
        "MYC-DAEMON-061",
        f'this machine has already joined as "{known.name}" ({known.urls[0]})',
        fix="use another state_dir, or stop the daemon and remove this one to start over; its "
        "pipelines keep their place only if their checkpoints are in the destinations",
    )


def _request(local: LocalState, name: str) -> str:
    """Return the CSR, making key and request on the first try only. The key never leaves."""
    key, csr = local.load(local.key_file.name), local.load(CSR_FILE)
    if key is None or csr is None:
        from mycelial.security.ca import make_csr

        key, text = make_csr(name)
        local.save(local.key_file.name, key)
        csr = text.encode()
        local.save(CSR_FILE, csr)
    return csr.decode()


def _keep(local: LocalState, identity: Identity, reply: EnrollReply) -> None:
    """Store a reply after trying it: a certificate for another key would lock us out."""
    local.save(_CANDIDATE, reply.certificate.encode())
    candidate = local.state_dir / _CANDIDATE
    try:
        tls.client_context(cert=candidate, key=local.key_file, ca=reply.ca_bundle)
        if identity.ca_pin != f"sha256:{tls.ca_pin(reply.ca_bundle)}":
            raise NotAllowed(
                "MYC-DAEMON-064",
                "the reply brings another CA than the one this daemon was told to trust",
                fix="after a change of the CA join again with a new token",
            )
    finally:
        candidate.unlink(missing_ok=True)
    local.save_identity(identity, certificate=reply.certificate, ca_bundle=reply.ca_bundle)
