"""What a revision asks for, compiled: values that the reconciler can compare. Stdlib only.

A `DesiredWorkflow` is placed on zero or more daemons; resolved for one of them it becomes a
`PipelineSpec`, which is all that a worker needs to run.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mycelial.kernel.errors import Location, Problem

WorkflowName = str
DaemonName = str
Uid = str
Revision = str  # "main@<40 hex digits>"


class PlacementMode(enum.StrEnum):
    """Which of the matching daemons run the workflow."""

    NAMED = "named"
    EVERY = "every"
    ONE = "one"


class DeletionPolicy(enum.StrEnum):
    """What a daemon does with the pipeline of a deleted workflow (R8)."""

    DRAIN = "drain"
    STOP = "stop"
    ORPHAN = "orphan"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a workflow runs. `daemon` is set for NAMED, `selector` (source text) otherwise."""

    mode: PlacementMode
    daemon: DaemonName = ""
    selector: str = ""


@dataclass(frozen=True, slots=True)
class Override:
    """A connector's configuration on the daemons whose labels match `selector`."""

    selector: str
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PluginUse:
    """One configured plugin.

    `config` is normalised JSON: snake_case keys, defaults filled in, durations in seconds, sizes
    in bytes, secrets as `{"secret": "<name>"}`. In a template its strings may hold `${...}`.
    `endpoint` names a source or destination declared in the daemon's own config.toml, whose
    settings the daemon lays under `config`.
    """

    plugin: str
    config: Mapping[str, Any]
    name: str = ""
    endpoint: str = ""
    overrides: tuple[Override, ...] = ()


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a pipeline reads. `every_seconds` with kind every; `cron`, `timezone` with kind cron.

    once: one run, then Finished. continuous: polls or follows for ever. onChange: a run when the
    files under the source's path change, and one at start.
    """

    kind: Literal["once", "continuous", "every", "cron", "onChange"] = "once"
    every_seconds: float | None = None
    cron: str | None = None
    timezone: str = "UTC"
    poll_seconds: float = 1.0  # continuous: how long to wait after having caught up


@dataclass(frozen=True, slots=True)
class Delivery:
    """The promise and the bounds. A unit closes at whichever bound comes first.

    guarantee `auto` takes the best that the pair can give; `exactly-once` refuses to run on less.
    A bound of None is chosen by the destination. `allow_lossy` names the columns whose values may
    be changed by the types of the destination.
    """

    guarantee: Literal["auto", "exactly-once", "at-least-once"] = "auto"
    unit_rows: int | None = None
    unit_bytes: int | None = None
    unit_seconds: float | None = None
    queue_bytes: int = 8 * 1024 * 1024
    allow_lossy: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Retry:
    """How long transient failures are retried before the pipeline is Stalled and keeps trying
    at the longest delay."""

    up_to_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class PipelineSpec:
    """Everything one worker needs, for one daemon; JSON-able by `schemas.codec`.

    `scope` is the checkpoint scope: digest of the workflow's uid, of what both ends name (see
    `schemas.identity`), and of the daemon's uid for `every`.
    """

    workflow: WorkflowName
    uid: Uid
    scope: str
    source: PluginUse
    destination: PluginUse
    transforms: tuple[PluginUse, ...] = ()
    schedule: Schedule = field(default_factory=Schedule)
    delivery: Delivery = field(default_factory=Delivery)
    retry: Retry = field(default_factory=Retry)
    rate_rows_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class DesiredWorkflow:
    """A compiled Workflow. `digest` covers the unsubstituted spec and all it references (R7).

    `template` has an empty scope and unsubstituted strings. `requires` lists capabilities such
    as `connector/postgres` and `transform/sql` that a daemon must report. `moved_from` lists the
    former names, newest first; the uid already follows the oldest of them.
    """

    name: WorkflowName
    uid: Uid
    digest: str
    placement: Placement
    template: PipelineSpec
    location: Location
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    moved_from: tuple[WorkflowName, ...] = ()
    on_delete: DeletionPolicy = DeletionPolicy.DRAIN
    drain_deadline_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class DesiredDaemon:
    """A Daemon object: what git says about a joined machine. Labels here win over proposed ones."""

    name: DaemonName
    labels: Mapping[str, str]
    location: Location
    memory_max_bytes: int | None = None
    pipelines_max: int | None = None


@dataclass(frozen=True, slots=True)
class DeleteGuard:
    """Holds a deletion that would remove more than this at once (DESIGN section 4)."""

    objects_max: int = 10
    fraction_max: float = 0.2
    fraction_floor: int = 2


@dataclass(frozen=True, slots=True)
class ProjectSettings:
    """The root object, or the defaults where there is none."""

    name: str = "default"
    uid: str = ""
    guard: DeleteGuard = field(default_factory=DeleteGuard)
    variables: Mapping[str, str] = field(default_factory=dict)
    incarnations: Mapping[str, int] = field(default_factory=dict)  # "Workflow/orders" -> n


@dataclass(frozen=True, slots=True)
class DesiredState:
    """All that one revision asks for.

    `complete` is true only when every file of the revision was read and parsed without error;
    nothing may be deleted otherwise (R2, I8). `blocked` names objects ("Workflow/orders") that
    the revision mentions but whose document is invalid: their last good version stays.
    """

    revision: Revision
    complete: bool
    workflows: Mapping[WorkflowName, DesiredWorkflow] = field(default_factory=dict)
    daemons: Mapping[DaemonName, DesiredDaemon] = field(default_factory=dict)
    project: ProjectSettings = field(default_factory=ProjectSettings)
    blocked: frozenset[str] = frozenset()
    problems: tuple[Problem, ...] = ()
