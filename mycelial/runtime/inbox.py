"""The worker's ear: reads its host's lines in a thread and turns them into flags to wait on."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from typing import Literal, Protocol

from mycelial.runtime.ports import Control
from mycelial.schemas.codec import DecodeError, decode
from mycelial.schemas.desired import PipelineSpec

LINE_BYTES_MAX = 16 * 1024 * 1024
Halt = Literal["stop", "host-gone", "deadline"]


class Halted(Exception):
    """The host wants an end now: nothing more is committed."""

    def __init__(self, why: Halt) -> None:
        self.why = why
        super().__init__(why)


class Orders(Protocol):
    """What the engine needs to know of its host's wishes."""

    @property
    def halt(self) -> Halt | None:
        """Set once: end now."""

    @property
    def wants_pause(self) -> bool:
        """True from a drain or swap on: commit what is in flight and leave the session."""

    @property
    def is_draining(self) -> bool:
        """True from a drain on."""

    def take_swap(self) -> PipelineSpec | None:
        """Return the spec to go on with, once."""

    def take_retry(self) -> bool:
        """Tell whether somebody said retry, once."""

    def take_change(self) -> bool:
        """Tell whether a watched file changed, once."""

    def wait(self, seconds: float | None) -> None:
        """Block until a flag is up or the time is over."""

    @property
    def commit_lock(self) -> threading.Lock:
        """Held during a destination's commit: nobody interrupts or ends the process then."""

    def subscribe(self, listener: Callable[[], None] | None) -> None:
        """Call `listener` from another thread whenever a halt, drain or swap arrives."""


class Inbox:
    """Implements `Orders` on a file descriptor. End of file means that the host is gone (I6)."""

    def __init__(self, fd: int, on_host_gone: Callable[[threading.Lock], None]) -> None:
        self._fd = fd
        self._on_host_gone = on_host_gone
        self._commit_lock = threading.Lock()
        self._rest = b""
        self._changed = threading.Condition()
        self._halt: Halt | None = None
        self._draining = False
        self._swap: PipelineSpec | None = None
        self._retry = False
        self._change = False
        self._listener: Callable[[], None] | None = None

    def read_line(self) -> bytes:
        """Block for one line; empty at end of file."""
        while b"\n" not in self._rest and len(self._rest) < LINE_BYTES_MAX:
            data = os.read(self._fd, 65536)
            if not data:
                return b""
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def listen(self) -> None:
        """Start hearing controls. The thread ends with the process."""
        threading.Thread(target=self._hear, name="control", daemon=True).start()

    @property
    def commit_lock(self) -> threading.Lock:
        """Held during a destination's commit."""
        return self._commit_lock

    @property
    def halt(self) -> Halt | None:
        """Set once: end now."""
        return self._halt

    @property
    def is_draining(self) -> bool:
        """True from a drain on."""
        return self._draining

    @property
    def wants_pause(self) -> bool:
        """True from a drain or swap on."""
        return self._draining or self._swap is not None

    def take_swap(self) -> PipelineSpec | None:
        """Return the spec to go on with, once."""
        with self._changed:
            spec, self._swap = self._swap, None
            return spec

    def take_retry(self) -> bool:
        """Tell whether somebody said retry, once."""
        with self._changed:
            said, self._retry = self._retry, False
            return said

    def take_change(self) -> bool:
        """Tell whether a watched file changed, once."""
        with self._changed:
            seen, self._change = self._change, False
            return seen

    def post_change(self) -> None:
        """Say that a watched file changed. From any thread."""
        with self._changed:
            self._change = True
            self._changed.notify_all()

    def wait(self, seconds: float | None) -> None:
        """Block until a flag is up or the time is over."""
        limit = None if seconds is None else min(seconds, threading.TIMEOUT_MAX)
        with self._changed:
            self._changed.wait_for(self._has_news, limit)

    def subscribe(self, listener: Callable[[], None] | None) -> None:
        """Call `listener` whenever a halt, drain or swap arrives, and now if one has."""
        with self._changed:
            self._listener = listener
        if listener is not None and (self._halt or self.wants_pause):
            listener()

    def _has_news(self) -> bool:
        return bool(self._halt or self.wants_pause or self._retry or self._change)

    def _hear(self) -> None:
        while line := self.read_line():
            try:
                control = decode(Control, json.loads(line))
            except (DecodeError, ValueError):
                continue  # from a newer host; what matters most, end of file, needs no parsing
            self._act(control)
        self._raise(halt="host-gone")
        self._on_host_gone(self._commit_lock)

    def _act(self, control: Control) -> None:
        match control.type:
            case "stop":
                self._raise(halt="stop")
            case "drain":
                timer = threading.Timer(control.deadline_seconds, self._raise, ("deadline",))
                timer.daemon = True
                timer.start()
                self._raise(draining=True)
            case "swap":
                self._raise(swap=control.spec)
            case "retry":
                with self._changed:
                    self._retry = True
                    self._changed.notify_all()

    def _raise(
        self,
        halt: Halt | None = None,
        draining: bool = False,
        swap: PipelineSpec | None = None,
    ) -> None:
        with self._changed:
            self._halt = halt if halt == "host-gone" else self._halt or halt
            self._draining = self._draining or draining
            self._swap = swap or self._swap
            self._changed.notify_all()
            listener = self._listener
        if listener is not None:
            listener()
