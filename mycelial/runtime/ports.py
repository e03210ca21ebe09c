"""What daemon and CLI say to a worker, and what they hear. Stdlib dataclasses, codec JSON.

One JSON object per line: first line to the worker is a WorkerRequest; later lines are Controls.
Each line from the worker is a WorkerMessage. End of file on the worker's input means that its
host is gone: the worker aborts its open unit and exits (I6).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mycelial.kernel.errors import Problem
from mycelial.schemas.desired import PipelineSpec
from mycelial.schemas.wire import Counters, Fence, LivePlan, PipelineState


@dataclass(frozen=True, slots=True)
class WorkerPolicy:
    """The daemon's local policy as far as plugins can touch it (I12). None means no limit.

    Paths are absolute directories or files; relative manifest paths resolve against `base_dir`.
    """

    base_dir: str = ""
    read_paths: tuple[str, ...] | None = None
    write_paths: tuple[str, ...] | None = None
    hosts: tuple[str, ...] | None = None
    connectors: tuple[str, ...] | None = None
    memory_max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class WorkerRequest:
    """One job. `secrets` holds resolved values and crosses only the private pipe (I11).

    `order` tells one `once` run from the next: a worker that restarts with the order of a run
    that is complete reads nothing again. `patient`: wait for what does not exist yet (NotYet); a
    foreground run fails instead.

    run: move rows by the spec's schedule. probe: answer with a plan and end. state-set: store
    `position` for `part` in the destination and end. lifecycle: call the source's lifecycle with
    `event` and end.
    """

    job: Literal["run", "probe", "state-set", "lifecycle"]
    spec: PipelineSpec
    fence: Fence
    state_dir: str
    log_path: str = ""
    secrets: Mapping[str, str] = field(default_factory=dict)
    policy: WorkerPolicy = field(default_factory=WorkerPolicy)
    generation: int = 1
    part: str = ""
    position: str = ""
    event: str = ""
    order: str = ""
    patient: bool = True


@dataclass(frozen=True, slots=True)
class Control:
    """drain: commit what is in flight, then end, within `deadline_seconds`. stop: end now.
    retry: leave a backoff or a failure at once. swap: go on with `spec` without a restart."""

    type: Literal["drain", "stop", "retry", "swap"]
    deadline_seconds: float = 0.0
    spec: PipelineSpec | None = None


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """The worker's own view; sent on every transition and at most twice a second otherwise."""

    state: PipelineState
    counters: Counters = field(default_factory=Counters)
    positions: Mapping[str, str] = field(default_factory=dict)
    rows_per_second: float = 0.0
    lag_seconds: float | None = None
    retry_at: float | None = None
    next_run_at: float | None = None
    error: Problem | None = None
    is_stalled: bool = False  # the manifest's patience with a transient failure is used up


@dataclass(frozen=True, slots=True)
class WorkerMessage:
    """`plan` comes once before the first row; `status` as it changes; `event` is history for
    people (`value`: reason, message, severity); `result` ends a job that is not `run`; `exit` is
    the last line of an orderly end (`value`: code)."""

    type: Literal["plan", "status", "event", "result", "exit"]
    status: WorkerStatus | None = None
    plan: LivePlan | None = None
    problem: Problem | None = None
    value: Mapping[str, Any] = field(default_factory=dict)


class WorkerExit(enum.IntEnum):
    """How a worker process ends. Anything else is a crash, and the worker is started again."""

    DONE = 0  # finished, drained or stopped
    FENCED = 10  # a successor holds the destination: never start this one again
    OVER_MEMORY = 11  # failed until somebody says retry
    HOST_GONE = 12  # the control pipe was closed
    BUG = 70
