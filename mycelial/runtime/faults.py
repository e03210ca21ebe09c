"""Named places where a test may stop or kill a process. In production every step is a no-op.

The steps, in the order a unit meets them: read, transform (reader thread); write, before_commit,
after_commit (durable at the destination, unknown to the journal), journal (in the journal, not
yet told to the source), durable (all done).
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping
from typing import Literal, Protocol

Step = Literal["read", "transform", "write", "before_commit", "after_commit", "journal", "durable"]
STEPS: tuple[Step, ...] = (
    "read",
    "transform",
    "write",
    "before_commit",
    "after_commit",
    "journal",
    "durable",
)
VARIABLE = "MYCELIAL_FAULTS"


class Faults(Protocol):
    """Called by the engine at each named step."""

    def step(self, name: Step) -> None:
        """Return to go on; may block, raise, or never return."""


class NoFaults:
    """Production."""

    def step(self, name: Step) -> None:
        """Do nothing."""


class SocketFaults:
    """Asks an outside harness at every step: sends `<step> <n> <pid>`, waits for one line.

    Each thread has its own connection, so a held reader does not hold the writer. `n` counts the
    calls of a step in this process, from 1.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._local = threading.local()
        self._counts = dict.fromkeys(STEPS, 0)

    def step(self, name: Step) -> None:
        """Report the step and wait until the harness answers or goes away."""
        self._counts[name] += 1
        link = getattr(self._local, "link", None)
        if link is None:
            link = self._local.link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            link.connect(self._path)
        link.sendall(f"{name} {self._counts[name]} {os.getpid()}\n".encode())
        reply = link.recv(256)
        while reply and not reply.endswith(b"\n"):
            reply = link.recv(256)


def faults_from(environment: Mapping[str, str]) -> Faults:
    """Return what the variable asks for: `unix:<path>`, or nothing. For composition roots."""
    value = environment.get(VARIABLE, "")
    kind, _, path = value.partition(":")
    return SocketFaults(path) if kind == "unix" and path else NoFaults()
