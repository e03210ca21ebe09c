"""`state get` and `state set`: the positions of a workflow, for people."""

from __future__ import annotations

import json
import sys

import click

from mycelial.cli import render
from mycelial.cli.session import Session
from mycelial.kernel.errors import UsageError


@click.group()
def state() -> None:
    """Read or set the positions of a workflow."""


@state.command("get")
@click.argument("workflow")
@render.output_option("table", "json", "yaml")
@click.pass_obj
def state_get(session: Session, workflow: str, output: str) -> None:
    """Show where each pipeline of a workflow stands, as last reported."""
    positions = session.client.state_get(workflow)
    if output == "json":
        render.show_json(positions)
    elif output == "yaml":
        render.show_yaml(positions)
    else:
        rows = [
            (daemon, part, position)
            for daemon, parts in sorted(positions.items())
            for part, position in sorted(parts.items())
        ]
        render.show_table(
            ["DAEMON", "PART", "POSITION"], rows, empty=f"{workflow} has committed nothing yet"
        )


@state.command("set")
@click.argument("workflow")
@click.argument("position")
@click.option("-d", "--daemon", required=True, help="The daemon whose pipeline is meant.")
@click.option("--part", default="0", show_default=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def state_set(
    session: Session, workflow: str, position: str, daemon: str, part: str, yes: bool
) -> None:
    """Make a pipeline go on from POSITION: rows after it are read, also for a second time."""
    try:
        json.loads(position)
    except ValueError as error:
        raise UsageError(
            "MYC-CLI-040", f"a position is JSON, as `mycelial state get {workflow}` shows it"
        ) from error
    if not yes and sys.stdin.isatty():
        click.confirm(
            f"{workflow} on {daemon} will go on from {position}; rows may be read again or "
            "skipped. Go on?",
            abort=True,
            err=True,
        )
    session.client.state_set(workflow, daemon=daemon, part=part, position=position)
    click.echo(f"{workflow} on {daemon} goes on from {position}", err=True)
