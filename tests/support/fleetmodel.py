"""Small worlds for the reconciler's tests: workflows, daemons, and a daemon that obeys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from mycelial.kernel.canonical import digest
from mycelial.kernel.errors import Location, OperationFailed
from mycelial.reconciler.converge import Accepted, accept, converge, tombstones_done
from mycelial.reconciler.observed import DaemonState, Fleet, Ledger, Liveness
from mycelial.reconciler.plan import FleetOutcome, assignment_sets, plan_fleet
from mycelial.reconciler.running import Operation, OperationKind, RunningPipeline
from mycelial.schemas.codec import encode
from mycelial.schemas.desired import (
    DeletionPolicy,
    DesiredState,
    DesiredWorkflow,
    PipelineSpec,
    Placement,
    PlacementMode,
    PluginUse,
    ProjectSettings,
)
from mycelial.schemas.wire import AssignmentSet, Inventory, PipelineState, PipelineStatus

CAPABILITIES = ("connector/postgres", "connector/sqlite", "transform/sql")
SECOND = 1.0


def resolve(
    workflow: DesiredWorkflow,
    *,
    daemon_name: str,
    daemon_uid: str,
    labels: Mapping[str, str],
    variables: Mapping[str, str],
) -> PipelineSpec:
    """Stand in for schemas.resolve: `${site}` in the source's table becomes the label."""
    config = dict(workflow.template.source.config)
    if "${site}" in config.get("table", ""):
        if "site" not in labels:
            raise OperationFailed("MYC-RESOLVE-001", f"{daemon_name} has no label site")
        config["table"] = config["table"].replace("${site}", labels["site"])
    every = workflow.placement.mode is PlacementMode.EVERY
    scope = digest([workflow.uid, daemon_uid if every else ""])
    source = replace(workflow.template.source, config=config)
    return replace(workflow.template, scope=scope, source=source)


def workflow(
    name: str,
    *,
    uid: str = "",
    daemon: str = "",
    every: str = "",
    one: str = "",
    table: str = "orders",
    sql: str = "",
    requires: tuple[str, ...] = (),
    moved_from: tuple[str, ...] = (),
    on_delete: DeletionPolicy = DeletionPolicy.DRAIN,
    labels: Mapping[str, str] | None = None,
) -> DesiredWorkflow:
    uid = uid or f"uid-{name}"
    if every:
        placement = Placement(PlacementMode.EVERY, selector=every)
    elif one:
        placement = Placement(PlacementMode.ONE, selector=one)
    else:
        placement = Placement(PlacementMode.NAMED, daemon=daemon or "shop-01")
    template = PipelineSpec(
        workflow=name,
        uid=uid,
        scope="",
        source=PluginUse("sqlite", {"path": "shop.db", "table": table}),
        destination=PluginUse("postgres", {"table": "orders", "password": {"secret": "pw"}}),
        transforms=(PluginUse("sql", {"sql": sql}),) if sql else (),
    )
    spec = encode(replace(template, workflow=""))
    return DesiredWorkflow(
        name=name,
        uid=uid,
        digest=digest([spec, encode(placement), dict(labels or {})]),
        placement=placement,
        template=template,
        location=Location(f"workflows/{name}.yaml", 1),
        labels=labels or {},
        requires=requires,
        moved_from=moved_from,
        on_delete=on_delete,
    )


def desired(*workflows: DesiredWorkflow, complete: bool = True, **more: object) -> DesiredState:
    project = more.pop("project", ProjectSettings())
    return DesiredState(
        revision="main@" + digest([w.digest for w in workflows])[7:47],
        complete=complete,
        workflows={w.name: w for w in workflows},
        project=project,  # type: ignore[arg-type]
        **more,  # type: ignore[arg-type]
    )


def daemon(
    name: str,
    *,
    liveness: Liveness = Liveness.ONLINE,
    labels: Mapping[str, str] | None = None,
    capabilities: Iterable[str] = CAPABILITIES,
) -> DaemonState:
    inventory = Inventory("1", "linux", tuple(sorted(capabilities)))
    return DaemonState(f"id-{name}", name, liveness, dict(labels or {}), inventory)


class Machine:
    """A daemon that takes sets and carries every operation out at once."""

    def __init__(self, daemon_id: str) -> None:
        self.id = daemon_id
        self.set: AssignmentSet | None = None
        self.running: dict[str, RunningPipeline] = {}
        self.last_seen: dict[str, tuple[int, int]] = {}
        self.history: list[Operation] = []
        self.refused: list[str] = []

    def receive(self, new: AssignmentSet) -> None:
        verdict = accept(new, self.set, daemon_id=self.id, last_seen=self.last_seen)
        if isinstance(verdict, Accepted):
            self.set, self.last_seen = new, dict(verdict.last_seen)
        else:
            self.refused.append(verdict.code)

    def operations(self) -> tuple[Operation, ...]:
        if self.set is None:
            return ()
        return converge(self.set, self.running, last_seen=self.last_seen)

    def obey(self) -> None:
        for operation in self.operations():
            self.history.append(operation)
            self.carry_out(operation)

    def carry_out(self, operation: Operation) -> None:
        old = self.running.get(operation.uid)
        if operation.kind is OperationKind.FORGET:
            del self.running[operation.uid]
            return
        if operation.kind in (OperationKind.DRAIN, OperationKind.STOP):
            assert old is not None
            self.running[operation.uid] = replace(
                old, state=PipelineState.STOPPED, has_process=False
            )
            return
        pair = {"generation": operation.generation, "epoch": operation.epoch}
        if operation.kind is OperationKind.ADOPT:
            assert old is not None
            self.running[operation.uid] = replace(old, **pair)
            return
        self.running[operation.uid] = RunningPipeline(
            uid=operation.uid,
            name=operation.name,
            spec_hash=operation.spec_hash,
            state=PipelineState.RUNNING,
            **pair,
        )

    def report(self, state: DaemonState) -> DaemonState:
        statuses = {
            p.uid: PipelineStatus(
                uid=p.uid,
                name=p.name,
                generation=p.generation,
                observed_generation=p.generation,
                epoch=p.epoch,
                attempt=1,
                spec_hash=p.spec_hash,
                state=p.state,
            )
            for p in self.running.values()
        }
        done = tombstones_done(self.set, self.running) if self.set else ()
        received = self.set.bundle_hash() if self.set else ""
        return replace(
            state,
            pipelines=statuses,
            tombstones_done=frozenset(done),
            received_hash=received,
            applied_hash=received,
        )


class World:
    """A control plane and its machines, without a network."""

    def __init__(self, *daemons: DaemonState) -> None:
        self.daemons = {d.id: d for d in daemons}
        self.ledger = Ledger()
        self.machines = {d.id: Machine(d.id) for d in daemons}
        self.now = 0.0

    def fleet(self) -> Fleet:
        return Fleet(self.ledger, self.daemons, store_id="store-1")

    def plan(self, state: DesiredState) -> FleetOutcome:
        return plan_fleet(state, self.fleet(), self.now, resolve)

    def apply(self, state: DesiredState) -> FleetOutcome:
        """Plan and persist; nothing reaches a daemon yet."""
        self.now += SECOND
        outcome = self.plan(state)
        if not outcome.write.is_empty:
            self.ledger = self.ledger.after(outcome.write)
        return outcome

    def deliver(self) -> None:
        """Bring every daemon that is online its set, let it obey and report."""
        sets = assignment_sets(self.ledger, self.daemons, self.fleet())
        for daemon_id, state in self.daemons.items():
            if state.liveness is Liveness.ONLINE:
                machine = self.machines.setdefault(daemon_id, Machine(daemon_id))
                machine.receive(sets[daemon_id])
                machine.obey()
                self.daemons[daemon_id] = machine.report(state)

    def settle(self, state: DesiredState, rounds: int = 6) -> FleetOutcome:
        """Go on until nothing changes; the last outcome."""
        for _ in range(rounds):
            outcome = self.apply(state)
            before = dict(self.daemons)
            self.deliver()
            if outcome.write.is_empty and self.daemons == before:
                return outcome
        raise AssertionError("the fleet does not settle")

    def set_daemon(self, name: str, **changes: object) -> None:
        state = self.daemons[f"id-{name}"]
        self.daemons[state.id] = replace(state, **changes)  # type: ignore[arg-type]

    def running_on(self, name: str) -> set[str]:
        pipelines = self.machines[f"id-{name}"].running.values()
        return {p.uid for p in pipelines if p.has_process}
