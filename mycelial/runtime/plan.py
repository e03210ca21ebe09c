"""The live plan: what the source really has, what the destination will really do."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from mycelial.runtime.blame import blaming
from mycelial.runtime.guarantee import Guarantee, guarantee_of, require_wish
from mycelial.schemas.desired import PipelineSpec
from mycelial.schemas.wire import LivePlan, LivePlanColumn, spec_hash_of
from mycelial.sdk.envelope import DestinationPlan, LossyEdge, SourcePlan, StreamSchema
from mycelial.sdk.errors import LossyType
from mycelial.sdk.plugin import Context, Destination, Source, Transform
from mycelial.sdk.registry import Registry
from mycelial.sdk.settings import Settings


@dataclass(frozen=True, slots=True)
class Parts:
    """The built plugins of one pipeline; made anew for every session."""

    source: Source
    transforms: tuple[Transform, ...]
    destination: Destination

    @property
    def holds_back(self) -> bool:
        """True when a transform may keep rows until a barrier."""
        return any(transform.determinism == "stateful" for transform in self.transforms)


Build = Callable[[PipelineSpec], Parts]


@dataclass(frozen=True, slots=True)
class Planned:
    """What the engine needs of a plan, and what people see of it."""

    source: SourcePlan
    streams: tuple[StreamSchema, ...]
    destination: DestinationPlan
    guarantee: Guarantee
    live: LivePlan


def build_parts(registry: Registry, spec: PipelineSpec) -> Parts:
    """Build the plugins of a spec. Raises: Permanent when one is not installed."""
    source = registry.loader(spec.source.plugin, "source")
    destination = registry.loader(spec.destination.plugin, "destination")
    transforms = tuple(
        registry.loader(use.plugin, "transform").build(Settings(use.config))
        for use in spec.transforms
    )
    return Parts(
        source=source.build(Settings(spec.source.config)),
        transforms=transforms,
        destination=destination.build(Settings(spec.destination.config)),
    )


def plan_streams(
    transforms: tuple[Transform, ...], streams: tuple[StreamSchema, ...]
) -> tuple[StreamSchema, ...]:
    """Return the shapes after all transforms."""
    for index, transform in enumerate(transforms):
        with blaming(f"spec.transforms[{index}]"):
            streams = transform.plan(streams)
    return streams


def make_plan(ctx: Context, spec: PipelineSpec, parts: Parts, *, now: float) -> Planned:
    """Look at both ends. Changes nothing. Raises: what the plugins raise."""
    with blaming("spec.source"):
        source = parts.source.plan(ctx)
    streams = plan_streams(parts.transforms, source.streams)
    with blaming("spec.destination"):
        destination = parts.destination.plan(ctx, streams)
    determinism = tuple(transform.determinism for transform in parts.transforms)
    guarantee = guarantee_of(source, determinism, destination)
    live = LivePlan(
        uid=spec.uid,
        spec_hash=spec_hash_of(spec),
        guarantee=guarantee.level,
        guarantee_reason=guarantee.reason,
        mode=destination.mode,
        target=destination.target,
        columns=tuple(
            LivePlanColumn(column.name, column.type, column.nullable)
            for stream in streams
            for column in stream.columns
        ),
        ddl=destination.ddl,
        lossy=tuple(_describe(edge) for edge in destination.lossy),
        rows_estimate=source.rows_estimate,
        incremental=source.incremental,
        notes=source.notes + destination.notes,
        made_at=now,
    )
    return Planned(source, streams, destination, guarantee, live)


def require_runnable(spec: PipelineSpec, planned: Planned) -> None:
    """Refuse what the manifest does not allow, before the first commit.

    Raises: Permanent (guarantee), LossyType.
    """
    with blaming("spec.delivery.guarantee"):
        require_wish(planned.guarantee, spec.delivery.guarantee)
    with blaming("spec.destination"):
        require_lossless(spec, planned.destination)


def require_lossless(spec: PipelineSpec, plan: DestinationPlan) -> None:
    """Refuse lossy columns that `delivery.allowLossy` does not name. Raises: LossyType."""
    allowed = spec.delivery.allow_lossy
    refused = [edge for edge in plan.lossy if edge.column not in allowed]
    if refused:
        names = dict.fromkeys((*allowed, *(edge.column for edge in refused)))
        line = json.dumps(list(names), ensure_ascii=False)  # a JSON list is a YAML list
        raise LossyType(
            "MYC-RUN-012",
            "values would be lost: " + "; ".join(_describe(edge) for edge in refused),
            fix=f"cast in a transform, or accept it: `delivery: {{ allowLossy: {line} }}`",
        )


def _describe(edge: LossyEdge) -> str:
    return f"{edge.column}: {edge.source_type} to {edge.destination_type} ({edge.reason})"
