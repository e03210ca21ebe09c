"""What stays in force when a revision is wrong somewhere. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mycelial.schemas.codec import DecodeError, decode, encode
from mycelial.schemas.desired import DesiredDaemon, DesiredState, DesiredWorkflow, ProjectSettings

FORMAT = 1


def keep_last_good(new: DesiredState, old: DesiredState | None) -> DesiredState:
    """Return `new` with the last good version of every object it blocks or could not read (I8).

    A revision whose project could not be read would give every object another identity: then
    nothing of it comes into force.
    """
    if old is None:
        return new
    if not new.complete and new.project.uid != old.project.uid:
        return dataclasses.replace(
            old, complete=False, blocked=new.blocked | old.blocked, problems=new.problems
        )
    is_lost = not new.complete and new.project == ProjectSettings()
    return dataclasses.replace(
        new,
        project=old.project if is_lost else new.project,
        workflows={**_kept_workflows(new, old), **new.workflows},
        daemons={**_kept_daemons(new, old), **new.daemons},
    )


def _kept_workflows(new: DesiredState, old: DesiredState) -> dict[str, DesiredWorkflow]:
    # By uid too: a renamed workflow is present under its new name.
    present = {workflow.uid for workflow in new.workflows.values()}
    return {
        name: workflow
        for name, workflow in old.workflows.items()
        if workflow.uid not in present and _stays(new, "Workflow", name)
    }


def _kept_daemons(new: DesiredState, old: DesiredState) -> dict[str, DesiredDaemon]:
    return {name: found for name, found in old.daemons.items() if _stays(new, "Daemon", name)}


def _stays(new: DesiredState, kind: str, name: str) -> bool:
    return not new.complete or f"{kind}/{name}" in new.blocked


def remembered(desired: DesiredState, fresh: DesiredState) -> dict[str, Any]:
    """Return, as JSON, what of `desired` is not in `fresh`: the versions that were kept.

    It is stored, so that a restart at a broken revision knows them too.
    """
    return {
        "format": FORMAT,
        "project": desired.project.uid,
        "workflows": {
            name: encode(workflow)
            for name, workflow in desired.workflows.items()
            if fresh.workflows.get(name) is not workflow
        },
        "daemons": {
            name: encode(found)
            for name, found in desired.daemons.items()
            if fresh.daemons.get(name) is not found
        },
    }


def recall(base: DesiredState | None, stored: Mapping[str, Any] | None) -> DesiredState | None:
    """Return `base` with the remembered versions laid over it; `base` when there are none."""
    if not stored or stored.get("format") != FORMAT:
        return base
    if base is not None and base.project.uid != stored.get("project"):
        return base
    if base is None:
        base = DesiredState(revision="", complete=False)
        base = dataclasses.replace(
            base, project=dataclasses.replace(base.project, uid=str(stored.get("project", "")))
        )
    try:
        workflows = {n: decode(DesiredWorkflow, d) for n, d in stored["workflows"].items()}
        daemons = {n: decode(DesiredDaemon, d) for n, d in stored["daemons"].items()}
    except (DecodeError, KeyError, AttributeError):
        return base  # written by another version: the ledger still keeps what daemons run
    return dataclasses.replace(
        base,
        workflows={**base.workflows, **workflows},
        daemons={**base.daemons, **daemons},
    )
