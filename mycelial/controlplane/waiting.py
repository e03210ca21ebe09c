"""Whether an object is as somebody waits for it to be. Pure."""

from __future__ import annotations

from collections.abc import Callable

from mycelial.controlplane.http import NotFound
from mycelial.controlplane.looking import Snapshot, daemon_views, workflow_view
from mycelial.kernel.errors import CheckSaysNo, UsageError
from mycelial.reconciler.observed import Liveness
from mycelial.schemas.views import WorkflowView
from mycelial.schemas.wire import PipelineState

_WORKFLOW: dict[str, Callable[[WorkflowView], bool]] = {
    "Applied": lambda view: 0 < view.placed == view.applied,
    "Healthy": lambda view: 0 < view.placed == view.healthy,
    "Finished": lambda view: (
        bool(view.placements)
        and all(
            p.applied and p.status is not None and p.status.state is PipelineState.FINISHED
            for p in view.placements
        )
    ),
}
_DAEMON = ("Online", "Offline", "Revoked")
DELETED = "Deleted"


def judge(snapshot: Snapshot, subject: str, condition: str) -> tuple[bool, str]:
    """Return whether `Kind/name` meets the condition, and otherwise what is missing.

    Raises: CheckSaysNo when a pipeline has failed for good; UsageError MYC-API-007 for a condition
    that its kind does not have.
    """
    kind, _, name = subject.partition("/")
    if kind == "Daemon" and condition in (*_DAEMON, DELETED):
        return _daemon(snapshot, name, condition)
    if kind == "Workflow" and condition in (*_WORKFLOW, DELETED):
        return _workflow(snapshot, name, condition)
    allowed = {"Daemon": _DAEMON, "Workflow": tuple(_WORKFLOW)}.get(kind)
    raise UsageError(
        "MYC-API-007",
        f"cannot wait for {subject!r} to be {condition!r}",
        fix=f"choose one of {', '.join((*allowed, DELETED))}"
        if allowed
        else "name a Workflow or a Daemon, as Kind/name",
    )


def _daemon(snapshot: Snapshot, name: str, condition: str) -> tuple[bool, str]:
    found = next((d for d in daemon_views(snapshot) if d.name == name), None)
    if condition == DELETED:
        gone = found is None or found.liveness == Liveness.REVOKED
        return gone, "" if gone else "it is still a member"
    if found is None:
        return False, "it has not joined"
    return found.liveness == condition, found.liveness


def _workflow(snapshot: Snapshot, name: str, condition: str) -> tuple[bool, str]:
    try:
        view = workflow_view(snapshot, name)
    except NotFound:
        return condition == DELETED, "it was not found"
    if condition == DELETED:
        return False, f"{view.reason} {view.message}".strip() or "it is still there"
    if condition != "Applied":
        _refuse_failed(view)
    met = _WORKFLOW[condition](view)
    return met, "" if met else f"{view.reason} {view.message}".strip()


def _refuse_failed(view: WorkflowView) -> None:
    for placement in view.placements:
        status = placement.status
        failed = status is not None and status.state is PipelineState.FAILED
        if placement.applied and failed and status is not None and status.error is not None:
            error = status.error
            raise CheckSaysNo(
                error.code, f"{view.name} on {placement.daemon}: {error.what}", fix=error.fix
            )
