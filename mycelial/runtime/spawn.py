"""Starts every worker as a fresh interpreter: portable, and slower than the zygote."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

from mycelial.kernel.errors import OperationFailed
from mycelial.runtime.launcher import (
    HIDDEN_FROM_WORKERS,
    WorkerHandle,
    environment_of_workers,
    request_line,
    write_line,
)
from mycelial.runtime.ports import WorkerRequest

WORKER_ARGV = (sys.executable, "-m", "mycelial.cli.worker")


class SpawnedWorker:
    """A worker that is this process's own child; talks over its stdin and stdout."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._in, self._out = process.stdin, process.stdout
        self._writing = threading.Lock()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def out_fd(self) -> int:
        """The host's end of the worker's output."""
        return self._out.fileno()

    def send(self, line: bytes) -> None:
        """Write a line. Raises: OperationFailed when the worker is gone."""
        with self._writing:
            if self._in.closed:
                raise OperationFailed("MYC-RUN-060", "the worker's pipe is closed")
            write_line(self._in.fileno(), line)

    def wait(self, timeout_seconds: float) -> int | None:
        """Return the exit code, or -signal; None after the timeout."""
        try:
            return self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """End the process now."""
        self._process.kill()

    def close(self) -> None:
        """Close the host's ends."""
        for end in (self._in, self._out):
            with contextlib.suppress(OSError):
                end.close()


class SpawnLauncher:
    """`python -m mycelial.cli.worker` for each. `stderr` goes where the host's goes."""

    def __init__(
        self,
        argv: Sequence[str] = WORKER_ARGV,
        *,
        environment: Mapping[str, str] | None = None,
        new_session: bool = True,
        hidden: Sequence[str] = HIDDEN_FROM_WORKERS,
    ) -> None:
        self._argv, self._environment = tuple(argv), environment
        self._new_session, self._hidden = new_session, hidden

    def start(self, request: WorkerRequest) -> WorkerHandle:
        """Start a worker on a request."""
        worker = self.prestart()
        try:
            worker.send(request_line(request))
        except OperationFailed:
            worker.kill()
            raise
        return worker

    def prestart(self, *arguments: str) -> SpawnedWorker:
        """Start a worker that gets its request later, while its host still prepares it."""
        try:
            process = subprocess.Popen(
                [*self._argv, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env=environment_of_workers(os.environ, self._environment, self._hidden),
                # A terminal's Ctrl-C is for the host, which then drains its workers.
                start_new_session=self._new_session,
            )
        except OSError as error:
            raise OperationFailed(
                "MYC-RUN-061",
                f"a worker cannot be started: {error.strerror}",
                fix="check the limits on processes and open files of the daemon",
            ) from error
        return SpawnedWorker(process)

    def close(self) -> None:
        """Nothing is held."""
