"""Open watch streams: the newest set of each daemon, its commands, and when to say bye.

An outbox holds the latest message of each kind, never a growing queue: a set replaces its
predecessor, and commands are bounded and expire. Everything here runs on the loop's thread.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from mycelial.kernel.clock import Clock
from mycelial.kernel.entropy import Rng
from mycelial.kernel.errors import OperationFailed
from mycelial.schemas.codec import decode
from mycelial.schemas.wire import AssignmentSet, Command, CommandResult, SignedSet, WatchEvent

COMMANDS_MAX = 64


@dataclass(frozen=True, slots=True)
class WatchTiming:
    """Seconds. A stream ends at a random age, which rebalances replicas and rechecks the
    certificate; `bye_seconds` is the wait it then advises."""

    ping_seconds: float = 20.0
    age_min_seconds: float = 45 * 60.0
    age_max_seconds: float = 75 * 60.0
    bye_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class HeldSet:
    """The set a daemon should have."""

    signed: SignedSet
    rev: int
    bundle_hash: str

    @classmethod
    def of(cls, signed: SignedSet) -> HeldSet:
        """Read revision and hash out of a signed payload of our own."""
        content = decode(AssignmentSet, json.loads(signed.payload))
        return cls(signed, content.rev, content.bundle_hash())


@dataclass(slots=True, eq=False)
class _Stream:
    """One open connection. `told_rev` is the newest set it was sent."""

    told_rev: int
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    told_commands: set[str] = field(default_factory=set)
    is_closing: bool = False
    bye_seconds: float = 0.0

    def close(self, bye_seconds: float) -> None:
        self.is_closing = True
        self.bye_seconds = bye_seconds
        self.wake.set()


@dataclass(slots=True)
class _Pending:
    command: Command
    answer: asyncio.Future[CommandResult]


class WatchHub:
    """All streams of this process, at most one per daemon: a newer connection ends the older."""

    def __init__(
        self, *, store_id: str, clock: Clock, rng: Rng, timing: WatchTiming | None = None
    ) -> None:
        self._store_id = store_id
        self._clock = clock
        self._rng = rng
        self._timing = timing or WatchTiming()
        self._sets: dict[str, HeldSet] = {}
        self._streams: dict[str, _Stream] = {}
        self._commands: dict[str, dict[str, _Pending]] = {}
        self._is_closed = False

    def hold(self, sets: Mapping[str, HeldSet]) -> None:
        """Take over new sets and wake their daemons' streams."""
        for daemon_id, held in sets.items():
            self._sets[daemon_id] = held
            stream = self._streams.get(daemon_id)
            if stream is not None:
                stream.wake.set()

    def desired_hash(self, daemon_id: str) -> str:
        """Return the hash of the set the daemon should have; empty before its first set."""
        held = self._sets.get(daemon_id)
        return held.bundle_hash if held else ""

    def hashes(self) -> dict[str, str]:
        """Return the hash of every daemon's set, by daemon id."""
        return {daemon_id: held.bundle_hash for daemon_id, held in self._sets.items()}

    def is_connected(self, daemon_id: str) -> bool:
        """Tell whether a watch is open, so that a command would be heard at once."""
        return daemon_id in self._streams

    def connected(self) -> int:
        """Return the number of open watches."""
        return len(self._streams)

    def send(self, daemon_id: str, command: Command) -> asyncio.Future[CommandResult]:
        """Queue a command; the future resolves with its answer, or is cancelled by `forget`.

        Raises: OperationFailed MYC-CP-020 when too many commands already wait for this daemon.
        """
        pending = self._commands.setdefault(daemon_id, {})
        self._drop_expired(pending)
        if len(pending) >= COMMANDS_MAX:
            raise OperationFailed(
                "MYC-CP-020",
                f"{len(pending)} commands already wait for this daemon",
                fix="wait until it has answered, or look at its log",
            )
        answer: asyncio.Future[CommandResult] = asyncio.get_running_loop().create_future()
        pending[command.id] = _Pending(command, answer)
        stream = self._streams.get(daemon_id)
        if stream is not None:
            stream.wake.set()
        return answer

    def forget(self, daemon_id: str, command_id: str) -> None:
        """Give up on a command that nobody waits for any more."""
        found = self._commands.get(daemon_id, {}).pop(command_id, None)
        if found is not None:
            found.answer.cancel()

    def answer(self, daemon_id: str, result: CommandResult) -> bool:
        """Hand in a daemon's answer; false when that command is unknown, expired or answered."""
        found = self._commands.get(daemon_id, {}).pop(result.id, None)
        if found is None or found.answer.done():
            return False
        found.answer.set_result(result)
        return True

    def cut(self, daemon_id: str) -> None:
        """End a daemon's stream now and drop its commands: its certificate was revoked."""
        stream = self._streams.get(daemon_id)
        if stream is not None:
            stream.close(3600.0)
        for item in self._commands.pop(daemon_id, {}).values():
            item.answer.cancel()

    def close(self) -> None:
        """Say bye on every stream; later connections are told the same."""
        self._is_closed = True
        for stream in self._streams.values():
            stream.close(self._timing.bye_seconds)

    async def stream(
        self, daemon_id: str, *, token: str, held_hash: str, wait_seconds: float | None = None
    ) -> AsyncGenerator[WatchEvent]:
        """Yield what the daemon has to hear, beginning with hello.

        Args: token: `<store id>:<rev>` of the daemon's set; an unknown one, or a hash that
        differs, gets a snapshot on this same stream (R3). wait_seconds: long poll, for proxies
        that buffer: end after the first news or that many seconds.
        """
        held = self._sets.get(daemon_id)
        stream = _Stream(told_rev=held.rev if held and self._has(held, token, held_hash) else -1)
        previous = self._streams.get(daemon_id)
        if previous is not None:
            previous.close(self._timing.bye_seconds)
        self._streams[daemon_id] = stream
        try:
            yield WatchEvent(
                type="hello",
                store_id=self._store_id,
                rev=held.rev if held else 0,
                bundle_hash=held.bundle_hash if held else "",
            )
            async with aclosing(self._events(daemon_id, stream, wait_seconds)) as events:
                async for event in events:
                    yield event
        finally:
            if self._streams.get(daemon_id) is stream:
                del self._streams[daemon_id]

    async def _events(
        self, daemon_id: str, stream: _Stream, wait_seconds: float | None
    ) -> AsyncGenerator[WatchEvent]:
        timing = self._timing
        age = self._rng.uniform(timing.age_min_seconds, timing.age_max_seconds)
        ends_at = self._clock.monotonic() + (age if wait_seconds is None else wait_seconds)
        while not (stream.is_closing or self._is_closed):
            stream.wake.clear()
            news = self._news(daemon_id, stream)
            for event in news:
                yield event
            left = ends_at - self._clock.monotonic()
            if (news and wait_seconds is not None) or left <= 0:
                break
            if not await _woken(stream.wake, min(left, timing.ping_seconds)):
                yield WatchEvent(type="ping")
        if wait_seconds is None or stream.is_closing or self._is_closed:
            yield WatchEvent(
                type="bye", retry_after_seconds=stream.bye_seconds or timing.bye_seconds
            )

    def _news(self, daemon_id: str, stream: _Stream) -> list[WatchEvent]:
        events = []
        held = self._sets.get(daemon_id)
        if held is not None and held.rev != stream.told_rev:
            stream.told_rev = held.rev
            events.append(
                WatchEvent(
                    type="snapshot",
                    store_id=self._store_id,
                    rev=held.rev,
                    bundle_hash=held.bundle_hash,
                    signed=held.signed,
                )
            )
        pending = self._commands.get(daemon_id, {})
        self._drop_expired(pending)
        for command_id, item in pending.items():
            if command_id not in stream.told_commands:
                stream.told_commands.add(command_id)
                events.append(WatchEvent(type="command", command=item.command))
        return events

    def _has(self, held: HeldSet, token: str, held_hash: str) -> bool:
        return token == f"{self._store_id}:{held.rev}" and held_hash == held.bundle_hash

    def _drop_expired(self, pending: dict[str, _Pending]) -> None:
        now = self._clock.now()
        for command_id in [key for key, item in pending.items() if item.command.expires_at <= now]:
            pending.pop(command_id).answer.cancel()


async def _woken(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
