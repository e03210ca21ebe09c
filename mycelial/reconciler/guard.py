"""Hold a deletion back until it is certain that somebody wants it (I8, DESIGN section 4).

Pure. In: what the ledger knows and what a revision asks for. Out: which workflows may go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mycelial.reconciler.observed import KnownWorkflow, Ledger
from mycelial.schemas.desired import DesiredState, Uid

_WAYS_OUT = "confirm with `mycelial delete --held`, or undo the commit"


@dataclass(frozen=True, slots=True)
class Deletions:
    """`allowed` may be carried out; `held` maps a uid to the reason why it may not (yet)."""

    allowed: tuple[KnownWorkflow, ...] = ()
    held: Mapping[Uid, str] = field(default_factory=dict)


def judge_deletions(desired: DesiredState, ledger: Ledger) -> Deletions:
    """Decide about every known workflow that the revision does not mention.

    A blocked object is mentioned: its last good version stays and it is not in the result.
    """
    present = {workflow.uid for workflow in desired.workflows.values()}
    living = [known for known in ledger.known.values() if not known.deleted]
    missing = sorted(
        (k for k in living if k.uid not in present and object_id(k) not in desired.blocked),
        key=lambda known: (known.name, known.uid),
    )
    if not desired.complete:
        reason = "not every file of the revision could be read, so nothing is deleted"
        return Deletions(held={known.uid: reason for known in missing})
    # Counted with what is new, so that carrying out the additions does not change the verdict.
    everything = present | {known.uid for known in living}
    return _guard(desired, ledger, missing, living=len(everything))


def object_id(known: KnownWorkflow) -> str:
    """Return the name that confirmations and blocked sets use."""
    return f"Workflow/{known.name}"


def _guard(
    desired: DesiredState, ledger: Ledger, missing: Sequence[KnownWorkflow], *, living: int
) -> Deletions:
    unconfirmed = [k for k in missing if object_id(k) not in ledger.confirmed_deletions]
    limits, count = desired.project.guard, len(unconfirmed)
    if count and len(missing) == living:
        reason = f"it would remove every Workflow ({living})"
    elif count > limits.objects_max:
        reason = f"it would remove {count} objects, more than {limits.objects_max} at once"
    elif count > limits.fraction_floor and count > limits.fraction_max * living:
        reason = f"it would remove {count} of {living}, more than {limits.fraction_max:.0%} at once"
    else:
        return Deletions(allowed=tuple(missing))
    held = {known.uid: f"{reason}; {_WAYS_OUT}" for known in unconfirmed}
    return Deletions(tuple(known for known in missing if known.uid not in held), held)
