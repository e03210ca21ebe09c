"""A runner in this process: real plugins on files, a manual clock, and a host made of a script.

The runner asks its host to wait; each wait is answered by the next action of the script, after the
clock has moved by what the runner asked for. When the script is over the host says stop.
"""

from __future__ import annotations

import threading
from collections import deque

from runtime_fakes import registry_of

from mycelial.kernel.clock import ManualClock
from mycelial.kernel.entropy import seeded_rng
from mycelial.kernel.ports import NullLog
from mycelial.runtime.context import SecretBox, WorkerContext
from mycelial.runtime.engine import Ports
from mycelial.runtime.faults import NoFaults
from mycelial.runtime.journal import Journal
from mycelial.runtime.plan import build_parts
from mycelial.runtime.ports import WorkerPolicy
from mycelial.runtime.reporter import Reporter
from mycelial.runtime.runner import Run, Runner
from mycelial.sdk.envelope import FenceToken
from mycelial.sdk.plugin import Limits


class Host:
    """Implements `inbox.Orders`. An action is a callable; None only lets the time pass."""

    def __init__(self, clock, actions=()):
        self.clock, self.actions = clock, deque(actions)
        self.halt, self.is_draining, self.swap = None, False, None
        self.retry = self.change = False
        self.commit_lock = threading.Lock()
        self.waits = []

    @property
    def wants_pause(self):
        return self.is_draining or self.swap is not None

    def take_swap(self):
        spec, self.swap = self.swap, None
        return spec

    def take_retry(self):
        said, self.retry = self.retry, False
        return said

    def take_change(self):
        seen, self.change = self.change, False
        return seen

    def wait(self, seconds):
        self.waits.append(seconds)
        if not self.actions:
            self.halt = "stop"
            return
        action = self.actions.popleft()
        if seconds is not None:
            self.clock.advance(seconds)
        if action is not None:
            action()

    def subscribe(self, listener):
        pass

    def say_retry(self):
        self.retry = True

    def say_drain(self):
        self.is_draining = True

    def say_change(self):
        self.change = True


class Voice:
    """What the worker said."""

    def __init__(self):
        self.said = []

    def send(self, message):
        self.said.append(message)

    def touch(self, status):
        pass

    @property
    def statuses(self):
        return [message.status for message in self.said if message.status]

    @property
    def states(self):
        return [str(status.state) for status in self.statuses]

    @property
    def events(self):
        return [m.value["reason"] for m in self.said if m.type == "event"]


class Rig:
    """One runner on a World; `run` returns its exit code."""

    def __init__(self, world, spec, *, actions=(), build=None, faults=None, **run):
        self.clock = ManualClock()
        self.host, self.voice = Host(self.clock, actions), Voice()
        self.journal = Journal(world.state / "journal")
        self.faults = faults or NoFaults()
        ctx = WorkerContext(
            policy=WorkerPolicy(),
            secrets=SecretBox({}),
            log=NullLog(),
            clock=self.clock,
            state_dir=world.state,
            limits=Limits(),
        )
        ports = Ports(
            ctx=ctx,
            fence=FenceToken(1, run.pop("attempt", 1)),
            journal=self.journal,
            orders=self.host,
            reporter=Reporter(self.voice, self.clock, NullLog()),
            clock=self.clock,
            faults=self.faults,
            log=NullLog(),
        )
        given = Run(
            build=build or (lambda spec: build_parts(registry_of(()), spec)),
            policy=WorkerPolicy(),
            rng=seeded_rng(1),
            next_fire=run.pop("next_fire", None),
            post_change=self.host.say_change,
            state_dir=world.state,
            **run,
        )
        self.runner = Runner(spec, ports, given)

    def run(self):
        try:
            return self.runner.run()
        finally:
            self.journal.close()
