"""Checked files to desired state: everything that needs more than one file. Stdlib only.

One broken object blocks itself and what uses it, never its siblings, and nothing is missing from
the result without standing in `blocked` (I8).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from mycelial.kernel.canonical import digest
from mycelial.kernel.errors import Location, Problem, Severity
from mycelial.schemas.checked import PROJECT_FILE, CheckedFile, CheckedObject
from mycelial.schemas.desired import (
    DeleteGuard,
    DeletionPolicy,
    Delivery,
    DesiredDaemon,
    DesiredState,
    DesiredWorkflow,
    Override,
    PipelineSpec,
    Placement,
    PlacementMode,
    PluginUse,
    ProjectSettings,
    Retry,
    Schedule,
    Uid,
)
from mycelial.schemas.near import nearest
from mycelial.schemas.selectors import selects
from mycelial.schemas.templates import TemplateError, fill

if TYPE_CHECKING:
    from mycelial.schemas.catalog import Catalog, Role

_UID_DIGITS = 32
T = TypeVar("T")


def compile_tree(
    files: Iterable[CheckedFile],
    *,
    revision: str,
    complete: bool,
    catalog: Catalog | None = None,
    daemons: Mapping[str, Mapping[str, str]] | None = None,
) -> DesiredState:
    """Compile one revision.

    Args:
        files: every manifest of the revision. One that could not be read is handed in as
            `CheckedFile(path, complete=False)`.
        complete: whether the tree was listed and read whole.
        catalog: checks what a workflow and its Connection say together; needed as soon as a
            workflow uses a Connection.
        daemons: name -> effective labels of the joined daemons, for warnings about placements
            that match none.
    """
    return _Compiler(sorted(files, key=lambda f: f.path), catalog, daemons).run(revision, complete)


def uid_of(project_uid: str, kind: str, name: str, incarnation: int = 0) -> Uid:
    """Return the identity of an object: stable over edits, renames and a rebuilt store (R9)."""
    return digest([project_uid, kind, name, incarnation]).removeprefix("sha256:")[:_UID_DIGITS]


class _Compiler:
    """One compilation. Files come sorted, so that the result depends on nothing else."""

    def __init__(
        self,
        files: list[CheckedFile],
        catalog: Catalog | None,
        daemons: Mapping[str, Mapping[str, str]] | None,
    ) -> None:
        self.files = files
        self.catalog = catalog
        self.daemons = daemons
        self.problems: list[Problem] = [p for file in files for p in file.problems]
        self.blocked: set[str] = set()
        self.objects: dict[str, tuple[str, CheckedObject]] = {}  # id -> (file, object)
        self.variables: dict[str, str] = {}
        self.bad_variables: set[str] = set()
        self.made: dict[tuple[Any, ...], Any] = {}

    def run(self, revision: str, complete: bool) -> DesiredState:
        self._collect()
        project = self._project()
        self._check_moves()
        workflows: dict[str, DesiredWorkflow] = {}
        desired_daemons: dict[str, DesiredDaemon] = {}
        for key, (file, found) in self.objects.items():
            if found.spec is None:
                self.blocked.add(key)
            elif key in self.blocked:
                continue
            elif found.kind == "Daemon":
                desired_daemons[found.name] = _daemon(file, found)
            elif found.kind == "Workflow":
                if project is None:  # its uid would be wrong, and all would be read again (R9)
                    self.blocked.add(key)
                elif (made := self._workflow(file, found, project)) is not None:
                    workflows[found.name] = made
                else:
                    self.blocked.add(key)
        self._warn_about_placements(workflows, desired_daemons)
        return DesiredState(
            revision=revision,
            complete=complete and all(file.complete for file in self.files),
            workflows=workflows,
            daemons=desired_daemons,
            project=project or ProjectSettings(),
            blocked=frozenset(self.blocked),
            problems=tuple(self.problems),
        )

    def _collect(self) -> None:
        for file in self.files:
            for found in file.objects:
                key = found.id
                if key not in self.objects:
                    self.objects[key] = (file.path, found)
                    continue
                first, second = self.objects[key], (file.path, found)
                if key not in self.blocked:
                    self._duplicate(first, other=second)
                self._duplicate(second, other=first)
                self.blocked.add(key)

    def _duplicate(
        self, owner: tuple[str, CheckedObject], *, other: tuple[str, CheckedObject]
    ) -> None:
        there = other[1].at(other[0], "metadata.name")
        what = f"{owner[1].id} is declared twice, also in {there}"
        self._error("MYC-REF-003", what, "rename or remove one of them", owner, "metadata.name")

    # ---- Project ----

    def _project(self) -> ProjectSettings | None:
        """Return the settings; None when there is a root object that cannot be read."""
        found = [(f, o) for f, o in self.objects.values() if o.kind == "Project"]
        for file, other in found[1:]:
            what = f"a second Project; the first is {found[0][1].at(found[0][0], 'metadata.name')}"
            fix = "a tree has one Project"
            self._error("MYC-REF-014", what, fix, (file, other), "metadata.name")
        if not found:
            unread = any(
                f.path.rpartition("/")[2] == PROJECT_FILE and not f.complete for f in self.files
            )
            return None if unread else ProjectSettings()
        file, project = found[0]
        if len(found) > 1 or project.spec is None or project.id in self.blocked:
            self.blocked.update(o.id for _, o in found)
            return None
        root = file.removesuffix(PROJECT_FILE)
        outside = next((f.path for f in self.files if not f.path.startswith(root)), None)
        if outside is not None and root != file:
            what = f"the Project object belongs above all manifests; {outside} is not below it"
            fix = f"move {PROJECT_FILE} to the root"
            self._error("MYC-REF-014", what, fix, (file, project), "metadata.name")
            self.blocked.add(project.id)
            return None
        spec = project.spec
        self._expand_variables(file, project, spec["variables"])
        return ProjectSettings(
            name=project.name,
            uid=spec["uid"],
            guard=DeleteGuard(**spec["guard"]),
            variables=dict(self.variables),
            incarnations=spec["incarnations"],
        )

    def _expand_variables(
        self, file: str, project: CheckedObject, given: Mapping[str, str]
    ) -> None:
        """Fill variables that use others; those in a cycle stay unusable."""

        def expand(name: str, above: tuple[str, ...]) -> str:
            if name in self.variables:
                return self.variables[name]
            if name in above:
                ring = " -> ".join((*above[above.index(name) :], name))
                raise TemplateError(f"variables use each other in a circle: {ring}")
            if name not in given:
                raise TemplateError(f"unknown variable {name}")
            text = fill(given[name], lambda used: expand(used.removeprefix("var."), (*above, name)))
            self.variables[name] = text
            return text

        for name in given:
            try:
                expand(name, ())
            except TemplateError as error:
                self.bad_variables.add(name)
                code = "MYC-REF-013" if "circle" in str(error) else "MYC-REF-011"
                fix = (
                    nearest(str(error).rpartition(" ")[2], set(given) - {name})
                    if code[-1] == "1"
                    else ""
                )
                fix = fix or "write the text out in one of them"
                self._error(code, str(error), fix, (file, project), f"spec.variables.{name}")

    # ---- identity ----

    def _check_moves(self) -> None:
        heirs: dict[str, list[str]] = {}
        for key, (_, found) in self.objects.items():
            for name in dict.fromkeys(found.moved_from):
                heirs.setdefault(f"{found.kind}/{name}", []).append(key)
        for key, (file, found) in self.objects.items():
            for name in found.moved_from:
                old = f"{found.kind}/{name}"
                if found.name == name or found.moved_from.count(name) > 1:
                    what, code = f"{key} was moved from itself: {name} occurs twice", "MYC-REF-013"
                    fix = "list each former name once, newest first"
                elif old in self.objects:
                    there = self.objects[old]
                    place = there[1].at(there[0], "metadata.name")
                    what, code = (
                        f"moved from {name}, but {old} still exists in {place}",
                        "MYC-REF-012",
                    )
                    fix = f"remove {old}, or drop metadata.moved to make a new object"
                elif len(heirs[old]) > 1:
                    others = ", ".join(other for other in heirs[old] if other != key)
                    what, code = f"moved from {name}, and so is {others}", "MYC-REF-012"
                    fix = "only one object can carry on the identity of another"
                else:
                    continue
                self.blocked.add(key)
                self._error(code, what, fix, (file, found), "metadata.moved")
                break

    # ---- Workflow ----

    def _workflow(
        self, file: str, found: CheckedObject, project: ProjectSettings
    ) -> DesiredWorkflow | None:
        spec = found.spec
        assert spec is not None
        uses = list(found.uses)
        parts: list[tuple[str, str]] = []
        ends: list[PluginUse] = []
        for role in ("source", "destination"):
            made = self._end(file, found, role, spec[role], uses)
            if made is None:
                return None
            end, connection = made
            ends.append(end)
            if connection:
                parts.append((role, connection))
        if not self._check_names(file, found, uses):
            return None
        steps = tuple(_plugin_use(step) for step in spec["transforms"])
        used = {n[4:]: self.variables[n[4:]] for n, _ in uses if n.startswith("var.")}
        origin = found.moved_from[-1] if found.moved_from else found.name
        incarnation = project.incarnations.get(f"{found.kind}/{origin}", 0)
        uid = uid_of(project.uid, found.kind, origin, incarnation)
        delivery, place, deletion = spec["delivery"], spec["placement"], spec["deletion"]
        return DesiredWorkflow(
            name=found.name,
            uid=uid,
            # R7: what it references is part of it; formatting, labels and place in git are not.
            digest=digest([found.digest, parts, used]) if parts or used else found.digest,
            placement=Placement(PlacementMode(place["mode"]), place["daemon"], place["selector"]),
            template=PipelineSpec(
                workflow=found.name,
                uid=uid,
                scope="",
                source=ends[0],
                destination=ends[1],
                transforms=steps,
                schedule=self._shared(Schedule, spec["schedule"]),
                delivery=self._shared(
                    Delivery, {**delivery, "allow_lossy": tuple(delivery.get("allow_lossy", ()))}
                ),
                retry=Retry(spec["retry_seconds"]),
                rate_rows_per_second=spec["rate"],
            ),
            location=Location(file, found.line, found.column),
            labels=found.labels,
            annotations=found.annotations,
            requires=_requires(ends, steps),
            moved_from=found.moved_from,
            on_delete=DeletionPolicy(deletion["policy"]),
            drain_deadline_seconds=deletion["deadline"],
        )

    def _shared(self, cls: type[T], fields: Mapping[str, Any]) -> T:
        """Build equal values once: ten thousand workflows have a handful of schedules."""
        key = (cls, *fields.items())
        if key not in self.made:
            self.made[key] = cls(**fields)
        found: T = self.made[key]
        return found

    def _end(
        self, file: str, found: CheckedObject, role: Role, use: Mapping[str, Any],
        uses: list[tuple[str, str]],
    ) -> tuple[PluginUse, str] | None:  # fmt: skip
        """Return one end of the workflow, and its Connection's digest or nothing."""
        target = use.get("connection")
        if target is None:
            return _plugin_use(use), ""
        path = f"spec.{role}.{use['plugin']}.connection"
        there = self.objects.get(f"Connection/{target}")
        if there is None:
            names = [o.name for _, o in self.objects.values() if o.kind == "Connection"]
            known = f"known connections: {', '.join(sorted(names)) or 'none'}"
            fix = nearest(target, names) or f'add a Connection named "{target}"; '
            fix += known[0].upper() + known[1:] if fix.endswith("? ") else known
            self._error(
                "MYC-REF-004", f'there is no Connection "{target}"', fix, (file, found), path
            )
            return None
        connection = there[1]
        if connection.spec is None or connection.id in self.blocked:
            what = f"Connection/{target} has errors"
            fix = f"see {connection.at(there[0], 'metadata.name')}"
            self._error("MYC-REF-004", what, fix, (file, found), path)
            return None
        if connection.spec["plugin"] != use["plugin"]:
            what = (
                f'Connection "{target}" is for {connection.spec["plugin"]}, not for {use["plugin"]}'
            )
            fix = f"use a Connection of {use['plugin']}"
            self._error("MYC-REF-005", what, fix, (file, found), path)
            return None
        uses.extend((name, path) for name, _ in connection.uses)
        return self._merge(file, found, role, use, there)

    def _merge(
        self, file: str, found: CheckedObject, role: Role, use: Mapping[str, Any],
        there: tuple[str, CheckedObject],
    ) -> tuple[PluginUse, str] | None:  # fmt: skip
        """Lay the workflow's fields over the Connection's, and over each override of it."""
        shared = there[1].spec
        assert shared is not None
        plugin, base = use["plugin"], f"spec.{role}.{use['plugin']}"
        entry = self.catalog.get(plugin, role) if self.catalog else None
        if entry is None:
            what = f'plugin "{plugin}" is not known here: it cannot be joined with a Connection'
            fix = "install the plugin, or write the fields into the workflow"
            self._error("MYC-REF-001", what, fix, (file, found), base)
            return None
        made: list[dict[str, Any]] = []
        layers = [({}, "spec")] + [
            (o["config"], f"spec.overrides[{i}]") for i, o in enumerate(shared["overrides"])
        ]
        for over, prefix in layers:
            below = {
                k: v
                for k, v in {**shared["config"], **over}.items()
                if k in entry.connection_fields
            }
            checked = entry.check({**below, **use["config"]})
            for error in checked.errors:
                name = str(error.path[0]) if error.path else ""
                owner, at = (file, found), f"{base}.{name}"
                if error.kind == "missing" or name not in {**below, **use["config"]}:
                    at = f"{base}.connection"
                elif name not in use["config"]:
                    owner, at = there, f"{prefix if name in over else 'spec'}.{plugin}.{name}"
                code = "MYC-SCHEMA-011" if error.kind == "missing" else "MYC-SCHEMA-013"
                self._error(
                    code, f"{error.what} (with Connection/{there[1].name})", error.fix, owner, at
                )
            if checked.config is None:
                return None
            made.append(checked.config)
        overrides = tuple(
            Override(o["selector"], config)
            for o, config in zip(shared["overrides"], made[1:], strict=True)
        )
        return PluginUse(plugin, made[0], overrides=overrides), there[1].digest

    def _check_names(self, file: str, found: CheckedObject, uses: list[tuple[str, str]]) -> bool:
        good = True
        for name, path in dict.fromkeys(uses):
            variable = name.removeprefix("var.")
            if variable == name or (
                variable in self.variables and variable not in self.bad_variables
            ):
                continue
            good = False
            what = f"unknown variable ${{{name}}}"
            fix = nearest(variable, self.variables) + f"add it to spec.variables in {PROJECT_FILE}"
            if variable in self.bad_variables:
                what, fix = f"the variable ${{{name}}} has errors", f"see {PROJECT_FILE}"
            self._error("MYC-REF-011", what, fix, (file, found), path)
        return good

    # ---- placement ----

    def _warn_about_placements(
        self, workflows: Mapping[str, DesiredWorkflow], declared: Mapping[str, DesiredDaemon]
    ) -> None:
        if self.daemons is None and not declared:
            return
        is_offline = self.daemons is None
        known = {name: dict(labels) for name, labels in (self.daemons or {}).items()}
        for name, daemon in declared.items():
            known.setdefault(name, {}).update(daemon.labels)
        memo: dict[str, bool] = {}
        for workflow in workflows.values():
            place = workflow.placement
            file, found = self.objects[f"Workflow/{workflow.name}"]
            if place.mode is PlacementMode.NAMED:
                if place.daemon not in known and not is_offline:
                    what = f'daemon "{place.daemon}" has not joined'
                    fix = nearest(place.daemon, known) + f"Known daemons: {_some(sorted(known))}"
                    self._warn("MYC-REF-017", what, fix, (file, found), "spec.daemon")
                continue
            if place.selector not in memo:
                memo[place.selector] = any(
                    selects(place.selector, labels) for labels in known.values()
                )
            if not memo[place.selector]:
                labels = sorted({f"{k}={v}" for each in known.values() for k, v in each.items()})
                whose = "Daemon in these files" if is_offline else "daemon"
                what = f'no {whose} matches the selector "{place.selector}"'
                fix = nearest(place.selector, labels) + f"Labels that exist: {_some(labels)}"
                self._warn("MYC-REF-009", what, fix, (file, found), "spec.selector")

    def _error(
        self, code: str, what: str, fix: str, owner: tuple[str, CheckedObject], path: str
    ) -> None:
        file, found = owner
        where = found.at(file, path)
        self.problems.append(Problem(code, what, fix, where, path=path, subject=found.id))

    def _warn(
        self, code: str, what: str, fix: str, owner: tuple[str, CheckedObject], path: str
    ) -> None:
        self._error(code, what, fix, owner, path)
        self.problems[-1] = replace(self.problems[-1], severity=Severity.WARNING)


def _plugin_use(use: Mapping[str, Any]) -> PluginUse:
    return PluginUse(use["plugin"], use["config"], use.get("name", ""), use.get("endpoint", ""))


def _daemon(file: str, found: CheckedObject) -> DesiredDaemon:
    limits = found.spec["limits"] if found.spec else {}
    return DesiredDaemon(
        name=found.name,
        labels=found.labels,
        location=Location(file, found.line, found.column),
        memory_max_bytes=limits.get("memory"),
        pipelines_max=limits.get("pipelines"),
    )


def _requires(ends: Iterable[PluginUse], steps: Iterable[PluginUse]) -> tuple[str, ...]:
    needed = {f"connector/{use.plugin}" for use in ends}
    needed.update(f"transform/{use.plugin}" for use in steps)
    return tuple(sorted(needed))


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:12]) or "none"
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown
