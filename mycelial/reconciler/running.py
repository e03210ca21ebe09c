"""What runs on one machine, as converge sees it, and the operations that converge asks for."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from mycelial.schemas.desired import PipelineSpec, Uid
from mycelial.schemas.wire import PipelineState


@dataclass(frozen=True, slots=True)
class RunningPipeline:
    """A pipeline the daemon has a process or a memory for. `spec_hash` is what it was started
    with."""

    uid: Uid
    name: str
    generation: int
    epoch: int
    spec_hash: str
    state: PipelineState
    has_process: bool = True


class OperationKind(enum.StrEnum):
    """What the daemon does to one pipeline."""

    START = "start"
    RESTART = "restart"  # drain (or stop when it cannot), then start from the checkpoint
    ADOPT = "adopt"  # same spec, newer generation or epoch label: note it, touch nothing
    DRAIN = "drain"
    STOP = "stop"
    FORGET = "forget"  # remove local state of an ended pipeline


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of converge. `spec` is set for START and RESTART."""

    kind: OperationKind
    uid: Uid
    name: str
    generation: int
    epoch: int
    spec_hash: str = ""
    spec: PipelineSpec | None = None
    deadline_seconds: float = 60.0
    reason: str = ""
