"""Which signed set this daemon believes.

A set is taken whole or not at all: signed by a key we were given at joining, complete in itself,
made for us, and nowhere lower than what was accepted before (`reconciler.converge.accept`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from mycelial.daemon.local import Accepted, Identity
from mycelial.kernel.canonical import digest
from mycelial.kernel.errors import NotAllowed
from mycelial.reconciler import converge
from mycelial.schemas.codec import decode
from mycelial.schemas.desired import Uid
from mycelial.schemas.wire import Assignment, AssignmentSet, SignedSet, Tombstone
from mycelial.security import signing


class RefusedSet(NotAllowed):
    """A set that this daemon does not run; the one before it goes on running."""

    def __init__(self, code: str, what: str, *, bundle_hash: str = "", fix: str = "") -> None:
        super().__init__(code, what, fix=fix)
        self.bundle_hash = bundle_hash


@dataclass(frozen=True, slots=True)
class Admitted:
    """A believed set, and what has to be on disk before anybody acts on it."""

    content: AssignmentSet
    record: Accepted


def admit(signed: SignedSet, *, identity: Identity, previous: Accepted | None) -> Admitted:
    """Return the set if this daemon believes it. Raises: RefusedSet, saying which rule it breaks.

    `previous.signed` was verified when it was accepted; only its contents are read.
    """
    content = _verified(signed, identity)
    _check_whole(signed, content)
    verdict = converge.accept(
        content,
        _content(previous.signed) if previous else None,
        daemon_id=identity.daemon_id,
        last_seen=previous.seen if previous else {},
    )
    if isinstance(verdict, converge.Refusal):
        raise RefusedSet(
            verdict.code,
            verdict.message,
            bundle_hash=content.bundle_hash(),
            fix="the set accepted before goes on running; if the control plane was restored from "
            "a backup, its next change brings a newer one",
        )
    return Admitted(content, Accepted(signed, verdict.last_seen))


def recall(record: Accepted, *, identity: Identity) -> AssignmentSet:
    """Return the set of a record from disk, believing it no more than one from the network.

    Raises: RefusedSet when somebody edited it, or it belongs to another identity.
    """
    return admit(record.signed, identity=identity, previous=record).content


def _verified(signed: SignedSet, identity: Identity) -> AssignmentSet:
    try:
        return signing.verify(signed, identity.signing_keys)
    except NotAllowed as error:
        raise RefusedSet(error.code, error.problem.what, fix=error.problem.fix) from error


def _content(signed: SignedSet) -> AssignmentSet:
    return decode(AssignmentSet, json.loads(signed.payload))


def _check_whole(signed: SignedSet, content: AssignmentSet) -> None:
    # Hashed as received: a newer control plane may send fields that this version leaves out.
    raw = json.loads(signed.payload)["assignments"] if content.assignments else ()
    uids: set[Uid] = set()
    items: tuple[Assignment | Tombstone, ...] = (*content.assignments, *content.tombstones)
    for item in items:
        if item.uid in uids:
            raise _incoherent(content, f"the set names {item.name} twice")
        uids.add(item.uid)
    for assignment, given in zip(content.assignments, raw, strict=True):
        if digest(given["spec"]) != assignment.spec_hash:
            raise _incoherent(content, f"the spec of {assignment.name} does not match its hash")
        if assignment.spec.uid != assignment.uid:
            raise _incoherent(content, f"the spec of {assignment.name} is of another workflow")


def _incoherent(content: AssignmentSet, what: str) -> RefusedSet:
    return RefusedSet(
        "MYC-DAEMON-033",
        what,
        bundle_hash=content.bundle_hash(),
        fix="this is a fault of the control plane: report it with the code",
    )
