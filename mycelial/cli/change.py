"""Verbs that change desired state, always by a commit: plan, diff, apply, delete, rollback."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from pathlib import Path

import click

from mycelial.cli import render
from mycelial.cli.look import parse_reference, short_revision
from mycelial.cli.session import Session
from mycelial.kernel.errors import (
    CheckSaysNo,
    ExitCode,
    InvalidManifest,
    Problem,
    Severity,
    UsageError,
)
from mycelial.schemas.codec import decode, encode
from mycelial.schemas.plan import Change, Effect, Plan
from mycelial.schemas.views import ApplyReply, ApplyRequest, PlanReply, PlanRequest
from mycelial.schemas.wire import LivePlan

_MARKS = {
    Effect.CREATE: "+",
    Effect.DELETE: "-",
    Effect.RESNAPSHOT: "!",
    Effect.RESTART: "~",
    Effect.IN_PLACE: "~",
    Effect.UNCHANGED: "=",
}
_EFFECTS = {
    Effect.CREATE: "create",
    Effect.DELETE: "delete",
    Effect.RESNAPSHOT: "read everything again",
    Effect.RESTART: "restart from checkpoint",
    Effect.IN_PLACE: "in place",
    Effect.UNCHANGED: "unchanged",
}
paths_argument = click.argument("paths", nargs=-1)
file_option = click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    metavar="PATH",
    help="File, folder or - for stdin; may be repeated.",
)


def _request(paths: tuple[str, ...], *, prune: bool = False, live: bool = False) -> PlanRequest:
    from mycelial.cli.files import read_manifests

    found = read_manifests(paths) if paths else {}
    texts = {path: data.decode("utf-8", "surrogateescape") for path, data in found.items()}
    return PlanRequest(files=texts, prune=prune, live=live)


@click.command()
@paths_argument
@file_option
@click.option("--prune", is_flag=True, help="Delete objects that are gone from the named files.")
@click.option("--live", is_flag=True, help="Ask the daemons: tables, types, DDL, reachability.")
@click.option("--require-live", is_flag=True, help="Fail when a daemon cannot be asked.")
@click.option("--detailed-exitcode", is_flag=True, help="Exit with 2 when there are changes.")
@click.option("--out", type=click.Path(dir_okay=False), help="Save the plan for apply.")
@render.output_option("text", "json")
@click.pass_obj
def plan(
    session: Session,
    paths: tuple[str, ...],
    files: tuple[str, ...],
    prune: bool,
    live: bool,
    require_live: bool,
    detailed_exitcode: bool,
    out: str | None,
    output: str,
) -> int:
    """Show what a change would do, per object and per daemon. Without files: the head's plan."""
    request = _request((*paths, *files), prune=prune, live=live or require_live)
    reply = session.client.plan(request)
    _refuse_errors(reply.problems)
    if out:
        saved = {"request": encode(request), "planHash": reply.plan_hash}
        Path(out).write_text(json.dumps(saved), encoding="utf-8")
    if output == "json":
        render.show_json(reply)
    else:
        show_plan(reply.plan)
        _show_live(reply)
    if require_live and reply.live_unknown:
        raise CheckSaysNo(
            "MYC-CLI-020", "not every daemon could be asked: " + ", ".join(reply.live_unknown)
        )
    changed = detailed_exitcode and not reply.plan.is_empty
    return ExitCode.CHANGES if changed else ExitCode.DONE


def _refuse_errors(problems: tuple[Problem, ...]) -> None:
    warnings = [p for p in problems if p.severity is Severity.WARNING]
    if len(warnings) != len(problems):
        raise InvalidManifest(problems)
    render.show_problems(warnings)


def show_plan(plan: Plan) -> None:
    """Print a plan: one line an object, its fields below, counts at the end."""
    for change in plan.changes:
        _show_change(change)
    render.show_problems(plan.warnings)
    counts = {
        "create": sum(c.effect is Effect.CREATE for c in plan.changes),
        "change": sum(
            c.effect in (Effect.IN_PLACE, Effect.RESTART, Effect.RESNAPSHOT) for c in plan.changes
        ),
        "delete": sum(c.effect is Effect.DELETE for c in plan.changes),
    }
    text = ", ".join(f"{count} to {verb}" for verb, count in counts.items())
    render.say(f"Plan: {text}, {plan.unchanged} unchanged")


def _show_change(change: Change) -> None:
    where = f"on {', '.join(change.daemons)}" if change.daemons else "on no daemon"
    if len(change.daemons) > 5:
        where = f"on {len(change.daemons)} daemons"
    name = f"{change.kind}/{change.name}"
    moved = f" (was {change.moved_from})" if change.moved_from else ""
    place = f"  {change.location}" if change.location else ""
    render.say(
        f"  {_MARKS[change.effect]} {name}{moved}  {_EFFECTS[change.effect]}  {where}{place}"
    )
    if change.reason:
        render.say(f"      {change.reason}")
    for field in change.fields:
        path = re.sub(r"\[0*(\d+)\]", r"[\1]", field.path)  # padded for sorting
        render.say(f"      {path}: {_value(field.before)} -> {_value(field.after)}")
    for lacking in change.lacking:
        render.say(f"      cannot run on {lacking}")
    if change.held:
        render.say(f"      HELD: {change.held}")


def _value(value: object) -> str:
    if value is None:
        return "(absent)"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:97] + "..."


def _show_live(reply: PlanReply) -> None:
    for where, live in sorted(reply.live.items()):
        _show_live_plan(where, live)
    for unknown in reply.live_unknown:
        render.say(f"  ? {unknown}")


def _show_live_plan(where: str, live: LivePlan) -> None:
    if live.problem is not None:
        render.say(f"  ! {where}")
        render.show_problems((live.problem,), err=False)
        return
    rows = "" if live.rows_estimate is None else f", about {live.rows_estimate:,} rows"
    render.say(f"  {where}: {live.mode} into {live.target}, {live.guarantee}{rows}")
    if live.guarantee_reason:
        render.say(f"      {live.guarantee_reason}")
    for statement in live.ddl:
        render.say_lines(textwrap.indent(statement, " " * 6))
    for edge in live.lossy:
        render.say(f"      lossy: {edge}")
    for note in live.notes:
        render.say(f"      note: {note}")


@click.command()
@paths_argument
@file_option
@click.pass_obj
def diff(session: Session, paths: tuple[str, ...], files: tuple[str, ...]) -> int:
    """Show how files differ from the repository; exits with 1 when they do."""
    wanted = (*paths, *files)
    if not wanted:
        raise click.UsageError("name the files to compare: mycelial diff FILE...")
    reply = session.client.plan(_request(wanted))
    _refuse_errors(reply.problems)
    if sys.stdout.isatty():
        render.say_lines(reply.diff)
    else:  # a program may want to apply it
        click.echo(reply.diff, nl=False)
    return ExitCode.SAYS_NO if reply.diff else ExitCode.DONE


@click.command()
@paths_argument
@file_option
@click.option("-m", "--message", default="", help="Commit message.")
@click.option("--prune", is_flag=True, help="Delete objects that are gone from the named files.")
@click.option("--dry-run", is_flag=True, help="Show the plan and commit nothing.")
@click.option("--yes", is_flag=True, help="Agree to the deletions that the plan lists.")
@click.option("--branch", default="", help="Commit to this branch instead of the tracked one.")
@click.option("--wait", "wait_for", is_flag=True, help="Block until applied and healthy.")
@click.option("--timeout", default="60s", show_default=True)
@render.output_option("text", "json")
@click.pass_context
def apply(
    ctx: click.Context,
    paths: tuple[str, ...],
    files: tuple[str, ...],
    message: str,
    prune: bool,
    dry_run: bool,
    yes: bool,
    branch: str,
    wait_for: bool,
    timeout: str,
    output: str,
) -> None:
    """Commit manifests: validated and planned as one unit, all of it or nothing."""
    session: Session = ctx.obj
    request, plan_hash = _apply_input((*paths, *files), prune=prune)
    preview = session.client.plan(request)
    _refuse_errors(preview.problems)
    if dry_run:
        show_plan(preview.plan)
        return
    reply = session.client.apply(
        ApplyRequest(
            request=request,
            message=message,
            plan_hash=plan_hash or preview.plan_hash,
            confirmed=_confirm(preview.plan, yes=yes),
            branch=branch,
        )
    )
    _show_applied(reply, output)
    if wait_for:
        from mycelial.cli.look import wait

        for change in reply.plan.changes:
            if change.kind == "Workflow":
                condition = "Deleted" if change.effect is Effect.DELETE else "Healthy"
                ctx.invoke(wait, reference=change.name, condition=condition, timeout=timeout)


def _apply_input(paths: tuple[str, ...], *, prune: bool) -> tuple[PlanRequest, str]:
    if not paths:
        raise click.UsageError("name what to apply: mycelial apply -f FILE")
    if len(paths) == 1 and paths[0].endswith(".json"):
        try:
            saved = json.loads(Path(paths[0]).read_text(encoding="utf-8"))
            return decode(PlanRequest, saved["request"]), str(saved["planHash"])
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(
                "MYC-CLI-021",
                f"{paths[0]} is not a saved plan: {error}",
                fix="make one with: mycelial plan --out FILE.json",
            ) from error
    return _request(paths, prune=prune), ""


def _confirm(plan: Plan, *, yes: bool) -> tuple[str, ...]:
    """Return the deletions that the person agrees to; asks on a terminal."""
    gone = [f"{c.kind}/{c.name}" for c in plan.changes if c.effect is Effect.DELETE]
    if not gone:
        return ()
    click.echo(f"This deletes {', '.join(gone)}", err=True)
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(
                "MYC-CLI-022",
                f"this deletes {render.plural(len(gone), 'object')}: " + ", ".join(gone),
                fix="add --yes to agree",
            )
        click.confirm("Delete them?", abort=True, err=True)
    return tuple(gone)


def _show_applied(reply: ApplyReply, output: str) -> None:
    if output == "json":
        render.show_json(reply)
        return
    for change in reply.plan.changes:
        click.echo(f"{change.kind}/{change.name} {_EFFECTS[change.effect]}")
    if reply.committed:
        click.echo(f"committed {short_revision(reply.revision)}", err=True)
    elif any(change.held for change in reply.plan.changes):
        click.echo(f"confirmed; {short_revision(reply.revision)} is in force", err=True)
    else:
        click.echo(f"nothing to commit; {short_revision(reply.revision)} says the same", err=True)


@click.command()
@click.argument("references", nargs=-1)
@click.option("-m", "--message", default="", help="Commit message.")
@click.option("--held", is_flag=True, help="Confirm the deletions that are committed and held.")
@click.option("--forget", is_flag=True, help="Checkpoints too: the name begins anew if it returns.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@render.output_option("text", "json")
@click.pass_obj
def delete(
    session: Session,
    references: tuple[str, ...],
    message: str,
    held: bool,
    forget: bool,
    yes: bool,
    output: str,
) -> None:
    """Commit the removal of objects: `delete wf/orders`. Their data stays where it is."""
    names = tuple("/".join(parse_reference(reference)) for reference in references)
    if held:
        names = tuple(dict.fromkeys((*names, *_held(session))))
        if not yes and not sys.stdin.isatty():
            raise UsageError(
                "MYC-CLI-022",
                f"this deletes {render.plural(len(names), 'object')}: " + ", ".join(names),
                fix="add --yes to agree",
            )
    if not names:
        raise click.UsageError("name what to delete: mycelial delete wf/NAME, or --held")
    request = PlanRequest(delete=names, forget=forget)
    preview = session.client.plan(request)
    _refuse_errors(preview.problems)
    if not yes and sys.stdin.isatty():
        show_plan(preview.plan)
        click.confirm(f"Delete {', '.join(names)}?", abort=True, err=True)
    reply = session.client.apply(
        ApplyRequest(request=request, message=message, plan_hash=preview.plan_hash, confirmed=names)
    )
    _show_applied(reply, output)


def _held(session: Session) -> tuple[str, ...]:
    """Return the deletions that are committed and held. Raises: CheckSaysNo when there are none."""
    held = tuple(w.name for w in session.client.workflows() if w.reason == "DeletionHeld")
    if not held:
        raise CheckSaysNo("MYC-CLI-023", "no deletion is held", fix="look: mycelial status")
    return tuple(f"Workflow/{name}" for name in held)


@click.command()
@click.argument("target", default="")
@click.option("--to", "revision", default="", help="Undo everything after this revision.")
@click.option("-m", "--message", default="", help="Commit message.")
@render.output_option("text", "json")
@click.pass_obj
def rollback(session: Session, target: str, revision: str, message: str, output: str) -> None:
    """Commit the reversal of the last revision (of `wf/NAME`), and quarantine it."""
    subject = "/".join(parse_reference(target)) if target else ""
    reply = session.client.rollback(subject=subject, to=revision, message=message)
    _show_applied(reply, output)
