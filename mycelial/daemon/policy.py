"""What this machine's owner allows, against what git asks for. Pure; the owner wins (I12).

Connectors and the number of pipelines are decided here, before a worker starts. Paths and hosts
are enforced inside the worker, where the plugin reaches for them: see `worker_policy`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mycelial.daemon.config import DaemonConfig, EndpointConfig
from mycelial.kernel.canonical import digest
from mycelial.kernel.errors import Problem
from mycelial.runtime.ports import WorkerPolicy
from mycelial.schemas.codec import encode
from mycelial.schemas.desired import PipelineSpec, PluginUse, Uid
from mycelial.schemas.wire import Assignment, Endpoint, spec_hash_of

Role = Literal["source", "destination"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """An assignment that does not run here, and why."""

    assignment: Assignment
    problem: Problem


@dataclass(frozen=True, slots=True)
class LocalDuty:
    """An assignment with this machine's endpoints laid in.

    `assignment.spec_hash` covers the laid-in settings, so a changed endpoint restarts its
    pipeline; `given_hash` is what the control plane calls the same duty.
    """

    assignment: Assignment
    given_hash: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What of a set runs here."""

    duties: tuple[LocalDuty, ...]
    refused: tuple[Refusal, ...]


def decide(
    assignments: Iterable[Assignment], config: DaemonConfig, *, running: frozenset[Uid]
) -> Verdict:
    """Split a set into what runs and what local policy refuses.

    Where `pipelines_max` is short, those that already run keep their place, then the order is by
    name, so that the same set always gives the same answer.
    """
    duties: list[LocalDuty] = []
    refused: list[Refusal] = []
    ordered = sorted(assignments, key=lambda a: (a.uid not in running, a.name, a.uid))
    for assignment in ordered:
        problem = refuse_spec(assignment.spec, config)
        if problem is None and _is_full(len(duties), config):
            problem = _problem(
                assignment.spec,
                "MYC-DAEMON-041",
                f"this daemon runs at most {config.policy.pipelines_max} pipelines",
                "raise pipelines_max in its config.toml, or place the workflow elsewhere",
            )
        if problem is not None:
            refused.append(Refusal(assignment, problem))
            continue
        spec = localise(assignment.spec, config)
        hashed = spec_hash_of(spec) if spec is not assignment.spec else assignment.spec_hash
        duties.append(
            LocalDuty(replace(assignment, spec=spec, spec_hash=hashed), assignment.spec_hash)
        )
    return Verdict(tuple(duties), tuple(refused))


def refuse_spec(spec: PipelineSpec, config: DaemonConfig) -> Problem | None:
    """Return why local policy refuses a spec, or None. Also asked before a probe."""
    allowed = config.policy.connectors
    uses: tuple[tuple[Role, PluginUse], ...] = (
        ("source", spec.source),
        ("destination", spec.destination),
    )
    for role, use in uses:
        if allowed is not None and use.plugin not in allowed:
            return _problem(
                spec,
                "MYC-DAEMON-040",
                f'connector "{use.plugin}" is not allowed on this daemon',
                f"allowed here: {', '.join(sorted(allowed)) or 'none'}; only the machine's owner "
                "can change [policy] connectors in config.toml",
            )
        if use.endpoint:
            found = _endpoint(use, role, config)
            if isinstance(found, str):
                return _problem(
                    spec,
                    "MYC-DAEMON-042",
                    found,
                    f"declare it as [[{role}s]] in the daemon's config.toml, or name another",
                )
    return None


def localise(spec: PipelineSpec, config: DaemonConfig) -> PipelineSpec:
    """Lay the settings of named endpoints under the manifest's; the same object if none is used.

    Call it only for specs that `refuse_spec` let through.
    """
    source = _merge(spec.source, "source", config)
    destination = _merge(spec.destination, "destination", config)
    if source is spec.source and destination is spec.destination:
        return spec
    return replace(spec, source=source, destination=destination)


def worker_policy(config: DaemonConfig, *, memory_max_bytes: int | None = None) -> WorkerPolicy:
    """Return what a worker has to enforce. The lower of both memory caps holds."""
    policy, base = config.policy, config.base_dir
    caps = [cap for cap in (policy.memory_max_bytes, memory_max_bytes) if cap is not None]
    return WorkerPolicy(
        base_dir=base,
        read_paths=_absolute(policy.read_paths, base),
        write_paths=_absolute(policy.write_paths, base),
        hosts=policy.hosts,
        connectors=policy.connectors,
        memory_max_bytes=min(caps) if caps else None,
    )


def policy_digest(config: DaemonConfig) -> str:
    """Return the digest by which the control plane notices a changed policy."""
    return digest(encode(config.policy))


def declared_endpoints(config: DaemonConfig) -> tuple[Endpoint, ...]:
    """Return the named sources and destinations, without their settings."""
    sources = tuple(Endpoint(item.name, "source", item.connector) for item in config.sources)
    return sources + tuple(
        Endpoint(item.name, "destination", item.connector) for item in config.destinations
    )


def secret_names(spec: PipelineSpec) -> frozenset[str]:
    """Return the names of the secrets that a spec refers to: `{"secret": name}` in its configs."""
    uses = (spec.source, *spec.transforms, spec.destination)
    return frozenset(name for use in uses for name in _references(use.config))


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        name = value.get("secret")
        if len(value) == 1 and isinstance(name, str):
            yield name
            return
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _references(item)


def _is_full(count: int, config: DaemonConfig) -> bool:
    limit = config.policy.pipelines_max
    return limit is not None and count >= limit


def _merge(use: PluginUse, role: Role, config: DaemonConfig) -> PluginUse:
    if not use.endpoint:
        return use
    found = _endpoint(use, role, config)
    assert isinstance(found, EndpointConfig), "refuse_spec lets no unknown endpoint through"
    return replace(use, config=_laid_under(found.settings, use.config))


def _laid_under(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` overlaid by `top`; tables are merged, except references to secrets."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping) and "secret" not in value:
            merged[key] = _laid_under(below, value)
        else:
            merged[key] = value
    return merged


def _endpoint(use: PluginUse, role: Role, config: DaemonConfig) -> EndpointConfig | str:
    """Return the endpoint that a use names, or a sentence saying why there is none."""
    daemon, slash, name = use.endpoint.rpartition("/")
    if slash and daemon != config.node.name:
        return f'endpoint "{use.endpoint}" belongs to daemon "{daemon}", not to this one'
    items = config.sources if role == "source" else config.destinations
    found = next((item for item in items if item.name == name), None)
    if found is None:
        return f'this daemon declares no {role} called "{name}"'
    if found.connector != use.plugin:
        return f'{role} "{name}" of this daemon is {found.connector}, not {use.plugin}'
    return found


def _absolute(paths: tuple[str, ...] | None, base: str) -> tuple[str, ...] | None:
    return None if paths is None else tuple(str(Path(base) / path) for path in paths)


def _problem(spec: PipelineSpec, code: str, what: str, fix: str) -> Problem:
    return Problem(code, what, fix=fix, subject=f"Workflow/{spec.workflow}")
