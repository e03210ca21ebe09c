"""Verbs for authors, all offline: init, validate, schema, explain, render."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from mycelial.cli import render as out
from mycelial.cli.session import cache_home
from mycelial.kernel.clock import SystemClock
from mycelial.kernel.entropy import new_uuid7
from mycelial.kernel.errors import (
    ExitCode,
    InvalidManifest,
    OperationFailed,
    Problem,
    Severity,
    UsageError,
)
from mycelial.schemas.codec import encode

MODELINE = "# yaml-language-server: $schema={schema}\n"
PROJECT = """\
# The root of the project: its uid is part of every object's identity.
apiVersion: mycelial/v1
kind: Project
metadata: {{ name: {name} }}
spec:
  uid: {uid}
"""
HELLO = """\
# Try it right here, without any server:  mycelial run workflows/hello.yaml
apiVersion: mycelial/v1
kind: Workflow
metadata: { name: hello }
spec:
  daemon: my-machine
  schedule: once
  source:
    generate: { rows: 5 }
  transforms:
    - filter: id <> 3
    - tag: { from: "${daemon.name}" }
  destination:
    inspect: {}
"""


@click.command()
@click.argument("directory", default=".", type=click.Path(file_okay=False, path_type=Path))
def init(directory: Path) -> None:
    """Start a project in a folder: a root, a workflow to try, and the schema for editors."""
    from mycelial.cli.wire_up import installed_catalog
    from mycelial.schemas.export import json_schema

    root = directory.resolve()
    if (root / "mycelial.yaml").exists():
        raise UsageError(
            "MYC-CLI-033",
            f"{directory / 'mycelial.yaml'} exists already",
            fix="choose another folder; nothing was changed",
        )
    name = "".join(c if c.isalnum() else "-" for c in root.name.lower()).strip("-") or "project"
    uid = new_uuid7(SystemClock().now())
    schema = json.dumps(json_schema(installed_catalog()), indent=2) + "\n"
    files = {
        "mycelial.yaml": MODELINE.format(schema="./.mycelial/schema.json")
        + PROJECT.format(name=name, uid=uid),
        "workflows/hello.yaml": MODELINE.format(schema="../.mycelial/schema.json") + HELLO,
        ".mycelial/schema.json": schema,
        ".gitignore": ".mycelial/\n",
    }
    for path, text in files.items():
        target = root / path
        if target.exists():
            click.echo(f"kept    {directory / path}", err=True)
            continue
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OperationFailed(
                "MYC-CLI-034", f"cannot write {target}: {error.strerror}"
            ) from error
        click.echo(f"created {directory / path}", err=True)
    click.echo(f"next: cd {directory}; mycelial run workflows/hello.yaml", err=True)


@click.command()
@click.argument("paths", nargs=-1)
@click.option("-f", "--file", "files", multiple=True, metavar="PATH")
@click.option("--strict", is_flag=True, help="What cannot be checked here is an error.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json", "github"]),
    default=None,
    help="Default: text, or github inside GitHub Actions.",
)
def validate(
    paths: tuple[str, ...], files: tuple[str, ...], strict: bool, output: str | None
) -> int:
    """Check manifests, offline. Exits with 1 when they are invalid, 64 when there are none."""
    from mycelial.cli.checking import validate_found
    from mycelial.cli.files import find_manifests, read_manifests
    from mycelial.cli.wire_up import installed_catalog
    from mycelial.schemas.validate import validate as validate_texts

    clock = SystemClock()
    begun = clock.monotonic()
    asked = (*paths, *files) or (".",)
    catalog = installed_catalog()
    if "-" in asked:
        found = validate_texts(read_manifests(asked), catalog, strict=strict)
    else:
        found = validate_found(
            find_manifests(asked),
            catalog,
            strict=strict,
            cache=cache_home() / "checked.db",
            clock=clock,
        )
    objects = sum(len(file.objects) for file in found.checked)
    seconds = clock.monotonic() - begun
    style = output or ("github" if os.environ.get("GITHUB_ACTIONS") == "true" else "text")
    if style == "json":
        out.show_json(
            {
                "problems": [p.to_json() for p in found.problems],
                "valid": found.ok,
                "files": len(found.checked),
                "objects": objects,
            }
        )
    elif style == "github":
        _annotate(found.problems)
    else:
        out.show_problems(found.problems, err=False)
    click.echo(
        out.count_line(found.problems, files=len(found.checked), objects=objects, seconds=seconds),
        err=style != "text",
    )
    return ExitCode.DONE if found.ok else ExitCode.SAYS_NO


def _annotate(problems: Sequence[Problem]) -> None:
    """Print workflow commands, errors first: the service shows ten of each kind a step."""
    ordered = sorted(problems, key=lambda p: p.severity is not Severity.ERROR)
    for problem in ordered:
        text = f"{problem.code} {problem.what}" + (f"\n{problem.fix}" if problem.fix else "")
        text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
        where = problem.where
        place = f" file={where.file},line={where.line},col={where.column}" if where else ""
        click.echo(f"::{problem.severity}{place}::{text}")


@click.command()
def schema() -> None:
    """Print one JSON Schema for all kinds and the installed connectors."""
    from mycelial.cli.wire_up import installed_catalog
    from mycelial.schemas.export import json_schema

    click.echo(json.dumps(json_schema(installed_catalog()), indent=2))


@click.command()
@click.argument("path", default="")
def explain(path: str) -> None:
    """Say what a field, kind or connector means: workflow.spec.schedule, connector/sqlite."""
    from mycelial.cli.wire_up import installed_catalog
    from mycelial.schemas.export import explain as explain_text

    click.echo(explain_text(path, installed_catalog()).rstrip())


@click.command()
@click.argument("workflow")
@click.argument("paths", nargs=-1)
@click.option("-d", "--daemon", required=True, help="The daemon whose view to show.")
@click.option(
    "-l",
    "--label",
    "labels",
    multiple=True,
    metavar="KEY=VALUE",
    help="A label of the daemon, where no Daemon object says so.",
)
@out.output_option("yaml", "json")
def render(
    workflow: str, paths: tuple[str, ...], daemon: str, labels: tuple[str, ...], output: str
) -> None:
    """Show a workflow as one daemon would run it: defaults and `${...}` filled in. Offline."""
    from mycelial.cli.files import read_manifests
    from mycelial.cli.fleet import parse_labels
    from mycelial.cli.wire_up import installed_catalog
    from mycelial.schemas.resolve import resolve
    from mycelial.schemas.validate import validate as validate_texts

    found = validate_texts(read_manifests(paths or (".",)), installed_catalog())
    wanted = found.desired.workflows.get(workflow)
    if wanted is None:
        errors = [p for p in found.problems if p.severity is Severity.ERROR]
        if errors:
            raise InvalidManifest(errors)
        known = ", ".join(sorted(found.desired.workflows)) or "none"
        raise UsageError(
            "MYC-CLI-035", f"there is no workflow {workflow!r}", fix=f"known workflows: {known}"
        )
    described = found.desired.daemons.get(daemon)
    merged = {**(described.labels if described else {}), **parse_labels(labels)}
    spec = resolve(wanted, daemon, daemon, merged, found.desired.project.variables)
    show = out.show_json if output == "json" else out.show_yaml
    show(encode(spec))
    sys.stdout.flush()
