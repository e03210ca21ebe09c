"""Drives table sources and destinations the way the engine does, for the connectors' tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import unquote, urlsplit

from mycelial.kernel.clock import SystemClock
from mycelial.kernel.ports import NullLog, NullMeter
from mycelial.kernel.secret import Secret
from mycelial.sdk.envelope import (
    BarrierKind,
    Checkpoint,
    Envelope,
    FenceToken,
    Part,
    Position,
    StreamSchema,
)
from mycelial.sdk.plugin import Limits, PluginSpec
from mycelial.sdk.settings import Settings

PART = Part("0")
FIRST = FenceToken(1, 1)


@dataclass
class FakeContext:
    """Everything allowed, beneath a directory."""

    state_dir: Path
    limits: Limits = field(default_factory=Limits)
    secrets: dict[str, str] = field(default_factory=dict)
    log: NullLog = field(default_factory=NullLog)
    meter: NullMeter = field(default_factory=NullMeter)
    clock: SystemClock = field(default_factory=SystemClock)

    def secret(self, ref: Mapping[str, str]) -> Secret:
        return Secret(self.secrets[ref["secret"]])

    def path(self, text: str, *, write: bool) -> Path:
        return self.state_dir / text

    def open_path(self, text: str, mode: Literal["rb", "wb", "ab"]) -> IO[bytes]:
        return (self.state_dir / text).open(mode)

    def check_host(self, host: str, port: int) -> None: ...

    def progress(self) -> None: ...


def pg_config(url: str) -> dict[str, Any]:
    """The connection fields of a postgresql:// URL."""
    parts = urlsplit(url)
    return {
        "host": parts.hostname,
        "port": parts.port,
        "database": parts.path.removeprefix("/"),
        "user": unquote(parts.username or ""),
        "sslmode": "disable",
    }


def build(
    plugin: PluginSpec, role: Literal["source", "destination"], config: dict[str, Any]
) -> Any:
    """Validate a manifest's configuration and build the object from its dump, as a worker does."""
    loader = plugin.loader(role)
    assert loader is not None
    model = loader.config().model_validate(config)
    return loader.build(Settings(model.model_dump(mode="json")))


@dataclass
class Moved:
    """What a run of `move` did."""

    envelopes: int = 0
    units: int = 0
    rows: int = 0
    position: Position | None = None


class Engine:
    """A minimal engine: units of `unit_rows`, one part, no journal; stops after `max_units`."""

    def __init__(
        self,
        ctx: FakeContext,
        source: Any,
        destination: Any,
        *,
        scope: str = "w/0",
        fence: FenceToken = FIRST,
        unit_rows: int = 65_536,
        transform: Callable[[tuple[StreamSchema, ...]], tuple[StreamSchema, ...]] | None = None,
    ) -> None:
        self.ctx, self.source, self.destination = ctx, source, destination
        self.scope, self.fence, self.unit_rows = scope, fence, unit_rows
        self.streams = source.plan(ctx).streams
        if transform is not None:
            self.streams = transform(self.streams)

    def move(self, *, max_units: int | None = None) -> Moved:
        moved = Moved()
        self.destination.plan(self.ctx, self.streams)
        stored = self.destination.open(self.ctx, self.scope, self.fence).get(PART)
        self.destination.migrate(self.streams)
        self.source.open(self.ctx)
        try:
            seq = stored.seq if stored else 0
            moved.position = stored.position if stored else None
            for unit in units(self.source.read(PART, moved.position), self.unit_rows):
                seq += 1
                for envelope in unit:
                    assert self.destination.write(envelope) == ()
                    moved.envelopes += 1
                self.destination.commit(checkpoint(self.scope, self.fence, seq, unit))
                moved.position = unit[-1].end
                moved.rows += sum(e.rows for e in unit)
                moved.units += 1
                if moved.units == max_units:
                    break
        finally:
            self.source.close()
            self.destination.close()
        return moved


def units(envelopes: Iterator[Envelope], rows: int) -> Iterator[list[Envelope]]:
    """Cut a stream into units: by rows, at a run's end, at a flush."""
    unit: list[Envelope] = []
    for envelope in envelopes:
        unit.append(envelope)
        full = sum(e.rows for e in unit) >= rows
        if full or envelope.barrier in (BarrierKind.RUN_END, BarrierKind.FLUSH):
            yield unit
            unit = []
    if unit:
        yield unit


def checkpoint(scope: str, fence: FenceToken, seq: int, unit: list[Envelope]) -> Checkpoint:
    last = unit[-1]
    return Checkpoint(
        scope,
        PART,
        fence,
        seq,
        last.end,
        sum(e.rows for e in unit),
        ends_run=last.barrier is BarrierKind.RUN_END,
    )
