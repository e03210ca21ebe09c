"""The other end of `MYCELIAL_FAULTS`: sees every named step of every worker, and holds one.

```python
with FaultSocket() as faults, Fleet(path) as fleet:
    fleet.add_daemon("shop-01", environment=faults.environment)      # zygote and workers inherit
    held = faults.catch("before_commit", skip=3)                     # the fourth from now
    os.kill(held.pid, signal.SIGKILL)
    held.release()
```

A worker stands still from the moment it is caught until `release`; all others go on.
"""

from __future__ import annotations

import contextlib
import queue
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

ABANDONED_SECONDS = 180.0


@dataclass(frozen=True)
class Held:
    """A worker's thread that stands at a step."""

    step: str
    number: int
    pid: int
    _go: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        """Let it go on; harmless when it is dead."""
        self._go.set()

    def wait(self) -> None:
        """Stand still; for the socket's own threads."""
        self._go.wait(ABANDONED_SECONDS)


@dataclass
class _Trap:
    step: str
    skip: int
    among: Callable[[int], bool]
    found: queue.Queue[Held] = field(default_factory=queue.Queue)


class NotCaught(AssertionError):
    """No worker came to the step in time."""


class FaultSocket:
    """Listens on a socket in a folder of its own: such paths may not be long."""

    def __init__(self, on_step: Callable[[str], None] | None = None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="myc-"))
        self._path = self._folder / "faults"
        self._on_step = on_step or (lambda _step: None)
        self._lock = threading.Lock()
        self._trap: _Trap | None = None
        self._held: list[Held] = []
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(self._path))
        self._server.listen(64)
        threading.Thread(target=self._accept, name="faults", daemon=True).start()

    def __enter__(self) -> FaultSocket:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        with self._lock:
            for held in self._held:
                held.release()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def environment(self) -> dict[str, str]:
        """What the daemon is started with."""
        return {"MYCELIAL_FAULTS": f"unix:{self._path}"}

    def catch(
        self,
        step: str,
        *,
        skip: int = 0,
        pid: int | None = None,
        other_than: Collection[int] = (),
        seconds: float = 60.0,
        check: Callable[[], None] = lambda: None,
    ) -> Held:
        """Hold the worker that comes to `step` after `skip` others have.

        Args: pid: only this one; other_than: none of these. `check` is called now and then.
        Raises: NotCaught.
        """

        def among(number: int) -> bool:
            return number not in other_than and pid in (None, number)

        trap = _Trap(step, skip, among)
        with self._lock:
            self._trap = trap
        deadline = time.monotonic() + seconds
        try:
            while True:
                with contextlib.suppress(queue.Empty):
                    return trap.found.get(timeout=0.25)
                check()
                if time.monotonic() > deadline:
                    raise NotCaught(f"no worker came to {step!r} in {seconds:g} s")
        finally:
            with self._lock:
                if self._trap is trap:
                    self._trap = None

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        with link, contextlib.suppress(OSError), link.makefile("rb") as lines:
            for line in lines:
                step, number, pid = line.decode().split()
                self._on_step(step)
                held = self._caught(step, int(number), int(pid))
                if held is not None:
                    held.wait()
                link.sendall(b"go\n")

    def _caught(self, step: str, number: int, pid: int) -> Held | None:
        with self._lock:
            trap = self._trap
            if trap is None or trap.step != step or not trap.among(pid):
                return None
            if trap.skip > 0:
                trap.skip -= 1
                return None
            self._trap = None
            held = Held(step, number, pid)
            self._held.append(held)
            trap.found.put(held)
            return held
