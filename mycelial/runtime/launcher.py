"""What starts workers: one protocol, two ways (spawn everywhere, zygote on Linux)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Protocol

from mycelial.kernel.errors import OperationFailed
from mycelial.runtime.ports import Control, WorkerRequest
from mycelial.schemas.codec import encode

HIDDEN_FROM_WORKERS = ("MYCELIAL_SECRET_", "MYCELIAL_JOIN_TOKEN", "MYCELIAL_TOKEN")
"""How the names of variables begin that workers never inherit."""

UNKNOWN_STATUS = -256
"""Exit status of a worker whose zygote died before it could be told."""


class WorkerHandle(Protocol):
    """One worker process. `send` and `wait` block; call them off the event loop."""

    @property
    def pid(self) -> int: ...  # noqa: D102
    @property
    def out_fd(self) -> int:
        """The host's end of the worker's output; end of file means that the worker is gone."""

    def send(self, line: bytes) -> None:
        """Write a line. Raises: OperationFailed when the worker is gone."""

    def wait(self, timeout_seconds: float) -> int | None:
        """Return the exit code, -signal when killed, UNKNOWN_STATUS; None after the timeout."""

    def kill(self) -> None:
        """End the process now; harmless when it has ended."""

    def close(self) -> None:
        """Close the host's ends: the worker takes that for its host's end."""


class Launcher(Protocol):
    """Starts workers; `start` blocks for a few milliseconds."""

    def start(self, request: WorkerRequest) -> WorkerHandle:
        """Start a worker on a request. Raises: OperationFailed."""

    def close(self) -> None:
        """Release what the launcher itself holds; workers live on until their pipes close."""


def environment_of_workers(
    environment: Mapping[str, str], changes: Mapping[str, str] | None, hidden: Sequence[str]
) -> dict[str, str]:
    """Return what workers inherit: nothing whose name begins with one of `hidden`.

    A worker is handed the secrets of its own pipeline; those of all others stay with the host
    (I11).
    """
    merged = {**environment, **(changes or {})}
    return {name: text for name, text in merged.items() if not name.startswith(tuple(hidden))}


def request_line(request: WorkerRequest) -> bytes:
    """Return the line that starts a job."""
    return json.dumps(encode(request)).encode() + b"\n"


def control_line(control: Control) -> bytes:
    """Return the line of a control."""
    return json.dumps(encode(control)).encode() + b"\n"


def write_line(fd: int, line: bytes) -> None:
    """Write all of `line`. Raises: OperationFailed when nobody reads."""
    view = memoryview(line)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError as error:
        raise OperationFailed(
            "MYC-RUN-060", "the worker has gone away", fix="it is started again by itself"
        ) from error
