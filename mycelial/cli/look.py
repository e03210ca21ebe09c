"""Verbs that look: get, describe, status, events, logs, history, wait."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from mycelial.cli import render
from mycelial.cli.session import Session
from mycelial.kernel.clock import SystemClock, rfc3339
from mycelial.kernel.errors import CheckSaysNo, ExitCode, OperationFailed, UsageError
from mycelial.schemas.codec import encode
from mycelial.schemas.views import (
    DaemonView,
    EventView,
    PlacementView,
    RevisionView,
    StatusView,
    WorkflowView,
)

UNWELL_MAX = 10
_UNPLACED_NEXT = (
    "compare `spec.selector` with the labels in `mycelial get daemons`; "
    "a new machine joins by `mycelial daemon token --name NAME --label KEY=VALUE`"
)
_SHA = re.compile(r"@([0-9a-f]{7})[0-9a-f]{33}\b")

KINDS = {
    "workflow": "Workflow",
    "workflows": "Workflow",
    "wf": "Workflow",
    "daemon": "Daemon",
    "daemons": "Daemon",
    "d": "Daemon",
    "connection": "Connection",
    "connections": "Connection",
    "conn": "Connection",
    "project": "Project",
}


def parse_kind(text: str) -> str:
    """Return the kind that a word of the command line means. Raises: UsageError."""
    kind = KINDS.get(text.lower())
    if kind is None:
        raise UsageError(
            "MYC-CLI-010",
            f"{text!r} is not a kind of object",
            fix="use workflow (wf), daemon (d), connection (conn) or project",
        )
    return kind


def parse_reference(text: str) -> tuple[str, str]:
    """Split `wf/orders` into kind and name; a bare name is a workflow's."""
    kind, slash, name = text.partition("/")
    return (parse_kind(kind), name) if slash else ("Workflow", text)


@click.command()
@click.argument("kind")
@click.argument("name", required=False)
@click.option("-l", "--selector", default="", help="Only objects whose labels match.")
@render.output_option("table", "wide", "json", "yaml", "name")
@click.option("-w", "--watch", is_flag=True, help="Print again whenever something changes.")
@click.pass_obj
def get(
    session: Session, kind: str, name: str | None, selector: str, output: str, watch: bool
) -> None:
    """List objects and how they are: `get wf`, `get daemons`, `get conn/warehouse`."""
    if name is None and "/" in kind:
        kind, name = kind.split("/", 1)
    kind = parse_kind(kind)
    clock, last = SystemClock(), ""
    while True:
        items = _fetch(session, kind, name, selector)
        shown = json.dumps([encode(item) for item in items], sort_keys=True)
        if shown != last:
            _show(kind, items, output, clock.now(), is_filtered=bool(selector))
        last = shown
        if not watch:
            return
        sys.stdout.flush()
        clock.sleep(1.0)


def _fetch(session: Session, kind: str, name: str | None, selector: str) -> Sequence[Any]:
    client = session.client
    if kind == "Workflow":
        return (client.workflow(name),) if name else client.workflows(selector=selector)
    if kind == "Daemon":
        return (client.daemon(name),) if name else client.daemons(selector=selector)
    return (client.object(kind, name),) if name else client.objects(kind)


def _show(
    kind: str, items: Sequence[Any], output: str, now: float, *, is_filtered: bool = False
) -> None:
    if output == "json":
        render.show_json(items)
    elif output == "yaml":
        render.show_yaml(items)
    elif output == "name":
        render.show_names(kind, (item.name for item in items))
    elif not items and is_filtered:
        click.echo(f"no {kind} matches the selector", err=True)
    elif kind == "Workflow":
        _show_workflows(items, wide=output == "wide", now=now)
    elif kind == "Daemon":
        _show_daemons(items, wide=output == "wide", now=now)
    else:
        render.show_table(
            ["NAME", "FILE", "REVISION"],
            [(o.name, f"{o.file}:{o.line}", short_revision(o.revision)) for o in items],
            empty=f"no {kind} in the repository",
        )


def short_revision(revision: str) -> str:
    """Return `main@1a2b3c4` of a full revision."""
    branch, at, sha = revision.partition("@")
    return f"{branch}{at}{sha[:7]}"


def _show_workflows(items: Sequence[WorkflowView], *, wide: bool, now: float) -> None:
    headers = ["NAME", "APPLIED", "HEALTHY", "ROWS/S", "LAG", "REVISION", "AGE", "REASON"]
    if wide:
        headers[1:1] = ["SOURCE", "DESTINATION", "SCHEDULE"]
    rows = []
    for item in items:
        row = [
            item.name,
            f"{item.applied}/{item.placed}",
            f"{item.healthy}/{item.placed}",
            render.quantity(item.rows_per_second),
            "-" if item.lag_seconds is None else render.age(item.lag_seconds),
            short_revision(item.revision),
            render.age(now - item.since) if item.since else "-",
            item.reason,
        ]
        if wide:
            row[1:1] = [item.source, item.destination, item.schedule]
        rows.append(row)
    render.show_table(headers, rows, empty="no workflows; commit one, or try: mycelial init")


def _show_daemons(items: Sequence[DaemonView], *, wide: bool, now: float) -> None:
    headers = ["NAME", "STATE", "LAST REPORT", "APPLIED", "LABELS"]
    if wide:
        headers += ["VERSION", "CAPABILITIES"]
    rows = []
    for item in items:
        labels = ",".join(f"{k}={v}" for k, v in sorted(item.labels.items())) or "-"
        seen = render.age(now - item.last_report) if item.last_report else "never"
        row = [item.name, item.liveness, seen, f"{item.applied}/{item.assigned}", labels]
        if wide:
            inventory = item.inventory
            row += [inventory.version, ",".join(inventory.capabilities)] if inventory else ["-"] * 2
        rows.append(row)
    render.show_table(
        headers, rows, empty="no daemons; make a token: mycelial daemon token --name NAME"
    )


@click.command()
@click.argument("reference")
@render.output_option("text", "json", "yaml")
@click.pass_obj
def describe(session: Session, reference: str, output: str) -> None:
    """Everything about one object, and what to do next: `describe wf/orders`."""
    kind, name = parse_reference(reference)
    (item,) = _fetch(session, kind, name, "")
    if output != "text":
        _show(kind, (item,), output, 0.0)
    elif kind == "Workflow":
        _describe_workflow(item, SystemClock().now())
    elif kind == "Daemon":
        _describe_daemon(item, SystemClock().now())
    else:
        render.say(f"{kind}/{item.name}  {item.file}:{item.line} ({short_revision(item.revision)})")
        render.say_lines(item.manifest.rstrip())


def _describe_workflow(item: WorkflowView, now: float) -> None:
    render.say(f"Workflow  {item.name}  (generation {item.generation}, uid {item.uid})")
    render.say(f"Manifest  {item.file}:{item.line} ({short_revision(item.revision)})")
    render.say(f"Flow      {item.source} -> {item.destination}, {item.schedule}")
    render.say(
        f"Applied   {item.applied}/{item.placed}   Healthy {item.healthy}/{item.placed}   "
        f"Rows {item.rows_committed:,} ({render.quantity(item.rows_per_second)}/s)"
    )
    for place in item.placements:
        _describe_placement(item.name, place, now)
    if not item.placements:
        render.say(f"Not placed  {item.reason}: {item.message}")
        render.say(f"    next: {_UNPLACED_NEXT}")
    if item.problems:
        render.say("Problems")
        render.show_problems(item.problems, err=False)


def _describe_placement(workflow: str, place: PlacementView, now: float) -> None:
    status = place.status
    state = status.state if status else "unknown"
    click.echo()
    render.say(f"  on {place.daemon} ({place.liveness})  {state}  {place.reason}")
    if place.message:
        render.say(f"    {place.message}")
    if status is None:
        return
    counters = status.counters
    render.say(
        f"    generation {status.observed_generation} of {place.generation}, fence "
        f"{status.epoch}.{status.attempt}, {status.guarantee or 'guarantee not yet known'}"
    )
    render.say(
        f"    rows read {counters.rows_read:,}, committed {counters.rows_committed:,} in "
        f"{render.plural(counters.units_committed, 'unit')}, restarts {counters.restarts}"
    )
    for part, position in sorted(status.positions.items()):
        render.say(f"    position of part {part}: {position}")
    if status.retry_at:
        render.say(f"    tries again in {render.age(status.retry_at - now)}")
    if status.error is not None:
        render.show_problems((status.error,), err=False)
        render.say(f"    next: mycelial logs {workflow} -d {place.daemon}")


def _describe_daemon(item: DaemonView, now: float) -> None:
    seen = f"{render.age(now - item.last_report)} ago" if item.last_report else "never"
    render.say(f"Daemon    {item.name}  {item.liveness}, last report {seen}  (id {item.id or '-'})")
    labels = ", ".join(f"{k}={v}" for k, v in sorted(item.labels.items()))
    render.say(f"Labels    {labels or '-'}")
    render.say(f"Applied   {item.applied}/{item.assigned}")
    if item.inventory is not None:
        render.say(f"Version   {item.inventory.version} on {item.inventory.platform}")
        render.say(f"Can       {', '.join(item.inventory.capabilities) or '-'}")
        for endpoint in item.inventory.endpoints:
            render.say(f"Endpoint  {endpoint.name}: {endpoint.connector} {endpoint.role}")
    for status in item.pipelines:
        render.say(f"  {status.name}  {status.state}  {status.counters.rows_committed:,} rows")


@click.command()
@render.output_option("text", "json", "yaml")
@click.pass_obj
def status(session: Session, output: str) -> int:
    """The fleet on one screen. Exits with 1 when something is not applied, unhealthy or held."""
    view = session.client.status()
    well = view.applied == view.healthy == view.workflows and not (view.problems or view.held)
    if output == "json":
        render.show_json(view)
    elif output == "yaml":
        render.show_yaml(view)
    else:
        counts = ", ".join(f"{n} {state}" for state, n in sorted(view.daemons.items()) if n)
        render.say(f"Source     {view.source}")
        same = view.revision_seen == view.revision_applied
        render.say(
            f"Revision   {short_revision(view.revision_applied) or 'none yet'}"
            + ("" if same else f"  (head is {short_revision(view.revision_seen)})")
        )
        render.say(f"Workflows  {view.workflows}: {view.applied} applied, {view.healthy} healthy")
        render.say(
            f"Daemons    {counts or 'none; make a token: mycelial daemon token --name NAME'}"
        )
        _show_unwell(session, view)
        for held in view.held:
            render.say(f"Held       {held}")
        if view.source_error is not None:
            render.show_problems((view.source_error,), err=False)
        render.show_problems(view.problems, err=False)
    return ExitCode.DONE if well else ExitCode.SAYS_NO


def _show_unwell(session: Session, view: StatusView) -> None:
    """Name the workflows that are not as they should be, and why."""
    if view.applied == view.healthy == view.workflows:
        return
    unwell = [w for w in session.client.workflows() if not 0 < w.placed == w.applied == w.healthy]
    for workflow in unwell[:UNWELL_MAX]:
        why = ": ".join(text for text in (workflow.reason, workflow.message) if text)
        render.say(f"  wf/{workflow.name}  {why}")
    if len(unwell) > UNWELL_MAX:
        render.say(f"  and {len(unwell) - UNWELL_MAX} more: mycelial get wf")


@click.command()
@click.argument("subject", default="")
@click.option("-n", "--limit", default=50, show_default=True)
@click.option("-f", "--follow", is_flag=True, help="Go on printing as they come.")
@render.output_option("text", "json")
@click.pass_obj
def events(session: Session, subject: str, limit: int, follow: bool, output: str) -> None:
    """What happened, newest last: `events`, `events wf/orders`."""
    wanted = "/".join(parse_reference(subject)) if subject else ""
    show = _event_json if output == "json" else _event_text
    last = 0
    for event in session.client.events(limit=limit, subject=wanted):
        show(event)
        last = max(last, event.id)
    clock = SystemClock()
    while follow:
        sys.stdout.flush()
        clock.sleep(0.5)
        for event in session.client.events(after_id=last, limit=1000, subject=wanted):
            show(event)
            last = max(last, event.id)


def _event_json(event: EventView) -> None:
    click.echo(json.dumps(encode(event)))


def _event_text(event: EventView) -> None:
    times = f" (x{event.count})" if event.count > 1 else ""
    mark = {"error": "!", "warning": "~"}.get(event.severity, " ")
    message = _SHA.sub(r"@\1", event.message)
    render.say(f"{rfc3339(event.at)} {mark} {event.reason:<20} {event.subject}  {message}{times}")


@click.command()
@click.argument("workflow")
@click.option("-d", "--daemon", default="", help="Only the pipeline on this daemon.")
@click.option("-n", "--lines", default=100, show_default=True)
@click.option("-f", "--follow", is_flag=True, help="Go on printing as they come.")
@render.output_option("text", "json")
@click.pass_obj
def logs(
    session: Session, workflow: str, daemon: str, lines: int, follow: bool, output: str
) -> None:
    """The log of a workflow's pipelines, fetched from their daemons."""
    cursors: dict[str, str] = {}
    clock = SystemClock()
    while True:
        for reply in session.client.logs(workflow, daemon=daemon, lines=lines, cursors=cursors):
            cursors[reply.daemon] = reply.cursor
            for line in reply.lines:
                render.say(json.dumps(line) if output == "json" else _log_text(reply.daemon, line))
        if not follow:
            return
        sys.stdout.flush()
        clock.sleep(1.0)


def _log_text(daemon: str, line: Mapping[str, Any]) -> str:
    known = ("at", "level", "event")
    fields = " ".join(f"{key}={value}" for key, value in line.items() if key not in known)
    at = line.get("at", "")
    when = rfc3339(at) if isinstance(at, int | float) else at
    return f"{when} {daemon} {line.get('level', 'info'):<7} {line.get('event', '')} {fields}"


@click.command()
@click.argument("reference", default="")
@click.option("-n", "--limit", default=20, show_default=True)
@render.output_option("table", "json", "yaml")
@click.pass_obj
def history(session: Session, reference: str, limit: int, output: str) -> None:
    """Commits and what became of them: `history`, `history wf/orders`."""
    wanted = "/".join(parse_reference(reference)) if reference else ""
    found = session.client.history(limit=limit, subject=wanted)
    if output == "json":
        render.show_json(found)
    elif output == "yaml":
        render.show_yaml(found)
    else:
        rows = [
            (
                short_revision(r.revision),
                rfc3339(r.committed_at)[:19],
                r.outcome,
                r.author.split(" <")[0],
                r.message.split("\n")[0],
            )
            for r in found
        ]
        render.show_table(
            ["REVISION", "AT", "OUTCOME", "AUTHOR", "MESSAGE"],
            rows,
            empty="no commits yet; mycelial apply -f FILE makes the first",
        )
        _show_refused(session, found)


def _show_refused(session: Session, found: Sequence[RevisionView]) -> None:
    """Say below the commits why the newest is not in force, with file and line."""
    if found and found[0].outcome in ("invalid", "quarantined"):
        view = session.client.status()
        if view.revision_seen == found[0].revision:
            render.say(f"{short_revision(view.revision_seen)} is {found[0].outcome}:")
            render.show_problems(view.problems, err=False)


_CONDITIONS: dict[str, Callable[[WorkflowView], bool]] = {
    "Applied": lambda view: view.placed > 0 and view.applied == view.placed,
    "Healthy": lambda view: view.placed > 0 and view.healthy == view.placed,
    "Finished": lambda view: (
        bool(view.placements)
        and all(p.applied and p.status and p.status.state == "finished" for p in view.placements)
    ),
}


@click.command()
@click.argument("reference")
@click.option(
    "--for",
    "condition",
    type=click.Choice([*_CONDITIONS, "Online", "Deleted"]),
    default="Healthy",
    show_default=True,
)
@click.option("--timeout", default="60s", show_default=True, help="Such as 30s or 5m.")
@click.pass_obj
def wait(session: Session, reference: str, condition: str, timeout: str) -> None:
    """Block until an object is as asked; exits with 1 at once when it has failed for good."""
    from mycelial.schemas.base import parse_duration

    kind, name = parse_reference(reference)
    clock = SystemClock()
    try:
        deadline = clock.monotonic() + parse_duration(timeout)
    except ValueError as error:
        raise UsageError("MYC-CLI-011", str(error)) from error
    seen = "it was not found"
    while clock.monotonic() < deadline:
        done, seen = _is_as_asked(session, kind, name, condition)
        if done:
            click.echo(f"{kind.lower()}/{name} {condition}", err=True)
            return
        clock.sleep(0.1)
    raise OperationFailed(
        "MYC-CLI-012",
        f"{kind}/{name} is not {condition} after {timeout}: {seen}",
        fix=f"look closer: mycelial describe {kind.lower()}/{name}",
    )


def _is_as_asked(session: Session, kind: str, name: str, condition: str) -> tuple[bool, str]:
    if kind == "Daemon":
        daemons = {d.name: d for d in session.client.daemons()}
        found = daemons.get(name)
        return (found is not None and found.liveness == condition, found.liveness if found else "")
    workflows = {w.name: w for w in session.client.workflows()}
    view = workflows.get(name)
    if condition == "Deleted":
        return view is None, "it is still there"
    if view is None:
        return False, "it was not found"
    view = session.client.workflow(name)
    failed = [p for p in view.placements if p.status and p.status.state == "failed" and p.applied]
    if failed and failed[0].status and failed[0].status.error and condition != "Applied":
        error = failed[0].status.error
        raise CheckSaysNo(error.code, f"{name} on {failed[0].daemon}: {error.what}", fix=error.fix)
    return _CONDITIONS[condition](view), ": ".join(t for t in (view.reason, view.message) if t)
