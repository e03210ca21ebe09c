"""A workflow for one daemon: overrides picked, `${...}` filled in. Stdlib only; pure.

Imported by the reconciler and by the daemon: both must come to the same spec hash.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mycelial.kernel.canonical import digest
from mycelial.kernel.errors import ExitCode, MycelialError, Problem
from mycelial.schemas.desired import (
    DaemonName,
    DesiredWorkflow,
    PipelineSpec,
    PlacementMode,
    PluginUse,
    Uid,
)
from mycelial.schemas.identity import identity_of
from mycelial.schemas.near import nearest
from mycelial.schemas.selectors import selects
from mycelial.schemas.templates import SQL_TEXTS, TemplateError, bind, fill_all


class ResolveError(MycelialError):
    """The workflow cannot be made ready for this daemon; it blocks this placement alone."""

    exit_code = ExitCode.INVALID

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.code, problem.what, fix=problem.fix, where=problem.where)
        self.problem = problem


def resolve(
    workflow: DesiredWorkflow,
    daemon_name: DaemonName,
    daemon_uid: Uid,
    labels: Mapping[str, str],
    variables: Mapping[str, str],
) -> PipelineSpec:
    """Return what the daemon runs. The same arguments always give the same spec.

    Raises: ResolveError when a name in `${...}` has no value on this daemon.
    """
    lookup = _lookup(workflow, daemon_name, labels, variables)
    template = workflow.template
    try:
        source = _fill_use(template.source, labels, lookup)
        destination = _fill_use(template.destination, labels, lookup)
        identity = identity_of(source, destination)
        return replace(
            template,
            scope=scope_of(workflow.uid, daemon_uid, workflow.placement.mode, identity),
            source=source,
            destination=destination,
            transforms=tuple(_fill_transform(use, lookup) for use in template.transforms),
        )
    except TemplateError as error:
        raise ResolveError(_problem(workflow, daemon_name, str(error), "")) from error


def scope_of(workflow_uid: Uid, daemon_uid: Uid, mode: PlacementMode, identity: str) -> str:
    """Return the checkpoint scope: per daemon for EVERY, else it follows the workflow around.

    `identity` is that of both ends: a position in one table means nothing in another.
    """
    parts = [workflow_uid, daemon_uid if mode is PlacementMode.EVERY else "", identity]
    return digest(parts).removeprefix("sha256:")[:32]


def _lookup(
    workflow: DesiredWorkflow,
    daemon_name: DaemonName,
    labels: Mapping[str, str],
    variables: Mapping[str, str],
) -> Callable[[str], str]:
    def lookup(name: str) -> str:
        if name == "daemon.name":
            return daemon_name
        key = name.removeprefix("daemon.labels.")
        if key != name:
            if key in labels:
                return labels[key]
            what = f'daemon "{daemon_name}" has no label "{key}", which ${{{name}}} needs'
            fix = f"{nearest(key, labels)}Its labels: {', '.join(sorted(labels)) or 'none'}"
        else:
            key = name.removeprefix("var.")
            if name != key and key in variables:
                return variables[key]
            what = f"unknown variable ${{{name}}}"
            fix = f"{nearest(key, variables)}add it to spec.variables of the Project"
        raise ResolveError(_problem(workflow, daemon_name, what, fix))

    return lookup


def _problem(workflow: DesiredWorkflow, daemon: DaemonName, what: str, fix: str) -> Problem:
    return Problem(
        "MYC-REF-015",
        what,
        fix=fix or f'correct the manifest; this was found for daemon "{daemon}"',
        where=workflow.location,
        subject=f"Workflow/{workflow.name}",
    )


def _fill_use(use: PluginUse, labels: Mapping[str, str], lookup: Callable[[str], str]) -> PluginUse:
    config = next((o.config for o in use.overrides if selects(o.selector, labels)), use.config)
    return replace(use, config=fill_all(config, lookup), overrides=())


def _fill_transform(use: PluginUse, lookup: Callable[[str], str]) -> PluginUse:
    field = SQL_TEXTS.get(use.plugin)
    text = use.config.get(field) if field else None
    if field is None or not isinstance(text, str):
        return replace(use, config=fill_all(use.config, lookup))
    rest = {key: value for key, value in use.config.items() if key != field}
    filled: dict[str, Any] = fill_all(rest, lookup)
    given: Mapping[str, Any] = filled.get("params") or {}
    statement, bound = bind(text, lookup, frozenset(given))
    if bound:
        filled["params"] = {**given, **bound}
    return replace(use, config={**filled, field: statement})
