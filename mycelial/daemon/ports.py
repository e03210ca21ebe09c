"""What the daemon is given: the supervisor of its workers, and the line to its control plane.

The real ones are runtime's Supervisor and client's Link; tests and simulation hand in others.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Protocol

from mycelial.client.link import Held
from mycelial.reconciler.running import RunningPipeline
from mycelial.runtime.ports import WorkerMessage, WorkerPolicy, WorkerRequest
from mycelial.schemas.desired import PipelineSpec, Uid
from mycelial.schemas.wire import (
    CommandResult,
    EnrollReply,
    PipelineStatus,
    Report,
    ReportReply,
    WatchEvent,
)

SecretsOf = Callable[[PipelineSpec], Mapping[str, str]]
"""Resolve the secrets that a spec refers to, and only those. Raises: MycelialError by name."""


class Supervisor(Protocol):
    """Owner of the worker processes. Lives in the daemon's loop."""

    async def run(self) -> None: ...  # noqa: D102
    async def start(
        self,
        *,
        spec: PipelineSpec,
        name: str,
        generation: int,
        epoch: int,
        secrets: SecretsOf,
        policy: WorkerPolicy,
    ) -> None:
        """Start a pipeline; crashed workers are started again by the supervisor itself."""

    async def drain(self, uid: Uid, deadline_seconds: float) -> None: ...  # noqa: D102
    async def stop(self, uid: Uid) -> None: ...  # noqa: D102
    async def adopt(self, uid: Uid, generation: int, epoch: int, name: str) -> None: ...  # noqa: D102
    async def forget(self, uid: Uid) -> None: ...  # noqa: D102
    async def job(self, request: WorkerRequest, timeout_seconds: float) -> WorkerMessage: ...  # noqa: D102
    async def retry(self, uid: Uid) -> None: ...  # noqa: D102
    def running(self) -> Mapping[Uid, RunningPipeline]: ...  # noqa: D102
    def statuses(self) -> tuple[PipelineStatus, ...]: ...  # noqa: D102
    def log_tail(self, uid: Uid, lines: int, cursor: str) -> tuple[tuple[dict[str, Any], ...], str]:
        """Return log lines after `cursor`, and the cursor to go on from."""


class ControlLink(Protocol):
    """The calls of one joined daemon; failures are `client.link` errors."""

    async def report(self, report: Report) -> ReportReply: ...  # noqa: D102
    async def results(self, result: CommandResult) -> None: ...  # noqa: D102
    async def renew(self, csr: str) -> EnrollReply: ...  # noqa: D102
    def watch(self, held: Held) -> AsyncGenerator[WatchEvent, None]: ...  # noqa: D102
    async def close(self) -> None: ...  # noqa: D102
