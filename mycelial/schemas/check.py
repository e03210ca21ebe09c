"""One file by itself: documents to checked objects and located problems.

The heart of the one validator: everything that can be said without other files is said here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from mycelial.kernel.canonical import digest
from mycelial.kernel.errors import Location, Problem, Severity
from mycelial.schemas.catalog import Catalog, CatalogEntry, Role
from mycelial.schemas.checked import PROJECT_FILE, CheckedFile, CheckedObject, Mark
from mycelial.schemas.connection import Connection
from mycelial.schemas.daemon import Daemon
from mycelial.schemas.fields import (
    FieldError,
    to_problem,
    type_name,
    validate_model,
)
from mycelial.schemas.locate import (
    Mask,
    Path,
    dotted,
    mask_of,
    node_at,
    place,
    secret_masks,
    with_frames,
)
from mycelial.schemas.metadata import API_VERSION, Manifest
from mycelial.schemas.near import nearest
from mycelial.schemas.parse import ParsedFile, guess_object
from mycelial.schemas.project import Project
from mycelial.schemas.schedule import parse_schedule
from mycelial.schemas.selectors import SelectorError, parse_selector
from mycelial.schemas.templates import (
    SQL_TEXTS,
    TemplateError,
    names_in,
    quoted_in_sql,
    strings_in,
)
from mycelial.schemas.workflow import CronSchedule, Workflow, WorkflowSpec
from mycelial.schemas.yaml import Document, Node

KINDS: Mapping[str, type[Manifest]] = {
    "Workflow": Workflow,
    "Connection": Connection,
    "Daemon": Daemon,
    "Project": Project,
}
_NOT_YET = ("Transform", "Plugin", "Policy")
_KNOWN_NAMES = "daemon.name, daemon.labels.<label>, var.<name>"


def check_file(parsed: ParsedFile, catalog: Catalog) -> CheckedFile:
    """Check every document of a file. Never raises for what a file holds."""
    objects: list[CheckedObject] = []
    found: list[Problem] = []
    masks: list[Mask] = []
    complete = not any(p.severity is Severity.ERROR for p in parsed.problems)
    for index, document in enumerate(parsed.documents):
        if document.broken or document.node is None:
            if (guess := guess_object(document.text)) is not None and guess[0] in KINDS:
                objects.append(CheckedObject(*guess, line=document.line, column=1))
            continue
        check = _ObjectCheck(parsed.path, document, document.node, catalog)
        made = check.run()
        found.extend(check.problems)
        has_errors = any(p.severity is Severity.ERROR for p in check.problems)
        if _is_damaged(parsed, index) and made is not None:
            made = replace(made, spec=None)
        complete = complete and not has_errors and made is not None
        if made is not None:
            objects.append(made)
        if found or parsed.problems:
            masks.extend(check.masks)
            masks.extend(secret_masks(document.value, document.node))
    ordered = sorted((*_bare(parsed.problems), *found), key=_order)
    problems = with_frames(ordered, parsed.text, masks)
    return CheckedFile(parsed.path, tuple(objects), problems, complete, tuple(sorted(set(masks))))


def _bare(problems: Iterable[Problem]) -> Iterator[Problem]:
    """Drop frames made before it was known what to mask."""
    return (replace(problem, frame=()) for problem in problems)


def _order(problem: Problem) -> tuple[int, int]:
    return (problem.where.line, problem.where.column) if problem.where else (0, 0)


def _is_damaged(parsed: ParsedFile, index: int) -> bool:
    """Tell whether YAML had an error inside this document, such as a duplicate key."""
    if not parsed.problems:
        return False
    first = parsed.documents[index].line
    rest = parsed.documents[index + 1 :]
    last = rest[0].line if rest else float("inf")
    return any(p.where is not None and first <= p.where.line < last for p in parsed.problems)


class _ObjectCheck:
    """The check of one document; collects everything wrong with it."""

    def __init__(self, file: str, document: Document, node: Node, catalog: Catalog) -> None:
        self.file = file
        self.value = document.value
        self.node = node
        self.catalog = catalog
        self.problems: list[Problem] = []
        self.masks: list[Mask] = []
        self.marks: dict[str, Mark] = {}
        self.uses: list[tuple[str, str]] = []
        self.subject = ""

    def run(self) -> CheckedObject | None:
        """Return the object, without spec when it has errors; None when it has no identity."""
        value = self.value
        if not isinstance(value, dict):
            what = f"a document must be a mapping (apiVersion, kind, ...), not {type_name(value)}"
            self._error("MYC-SCHEMA-001", what, "see `mycelial explain workflow`", ())
            return None
        kind, name = str(value.get("kind")), _name_of(value)
        if name and kind in KINDS:
            self.subject = f"{kind}/{name}"
        if not self._check_envelope(value):
            return self._object(kind, name) if name and kind in KINDS else None
        model, errors = validate_model(KINDS[kind], self._without_connector(kind, value))
        self._add(errors, ())
        spec = self._check_kind(kind, value, model)
        if not name:
            return None
        made = self._object(kind, name)
        if model is None or spec is None or self._has_errors():
            return replace(made, moved_from=_moved_from(model))
        meta = model.metadata
        return replace(
            made,
            spec=spec,
            digest=digest(spec),
            labels=meta.labels,
            annotations=meta.annotations,
            moved_from=_moved_from(model),
        )

    def _object(self, kind: str, name: str) -> CheckedObject:
        self._mark(("metadata", "name"))
        mark = self.node.start
        return CheckedObject(
            kind,
            name,
            mark.line + 1,
            mark.column + 1,
            marks=self.marks,
            uses=tuple(dict.fromkeys(self.uses)),
        )

    def _check_envelope(self, value: Mapping[str, Any]) -> bool:
        """Check apiVersion and kind: with either wrong, no schema applies to the rest."""
        version, kind = value.get("apiVersion"), value.get("kind")
        fix = f"write apiVersion: {API_VERSION}"
        if version is None:
            self._error("MYC-SCHEMA-002", "apiVersion is missing", fix, ())
        elif version != API_VERSION:
            what = f'apiVersion "{version}" is not one of ours'
            if not str(version).startswith("mycelial/"):
                fix += ", or keep files of other systems out of this tree"
            self._error("MYC-SCHEMA-002", what, fix, ("apiVersion",), value=True)
        if isinstance(kind, str) and kind in KINDS:
            return version == API_VERSION
        kinds = f"Known kinds: {', '.join(sorted(KINDS))}"
        if kind is None:
            self._error("MYC-SCHEMA-003", "kind is missing", kinds, ())
        elif kind in _NOT_YET:
            what = f"kind {kind} is not available in this version"
            self._error("MYC-SCHEMA-017", what, kinds, ("kind",), value=True)
        else:
            what = f'unknown kind "{kind}"' if isinstance(kind, str) else "kind must be text"
            self._error(
                "MYC-SCHEMA-003", what, nearest(str(kind), KINDS) + kinds, ("kind",), value=True
            )
        return False

    def _without_connector(self, kind: str, value: Mapping[str, Any]) -> Mapping[str, Any]:
        """Take the connector's key out of a Connection's spec: its schema is the catalog's."""
        spec = value.get("spec")
        if kind != "Connection" or not isinstance(spec, dict):
            return value
        return {**value, "spec": {k: v for k, v in spec.items() if k == "overrides"}}

    def _check_kind(self, kind: str, value: Any, model: Any) -> dict[str, Any] | None:
        spec = value.get("spec")
        if kind == "Workflow":
            return self._workflow(spec, model) if isinstance(spec, dict) else None
        if kind == "Connection":
            return self._connection(spec) if isinstance(spec, dict) else None
        if kind == "Project":
            return self._project(model)
        return {"limits": model.spec.limits.model_dump()} if model is not None else None

    def _project(self, model: Any) -> dict[str, Any] | None:
        # Whether the file lies at the root, compiling sees: here there is only this one file.
        if self.file.rpartition("/")[2] not in (PROJECT_FILE, "<stdin>"):
            what = f"the Project object belongs into {PROJECT_FILE} at the root"
            self._error("MYC-REF-014", what, f"move it to {PROJECT_FILE}", ())
        if model is None:
            return None
        spec = model.spec
        for name, text in spec.variables.items():
            self._templates(text, ("spec", "variables", name), names=("var.",))
        return {
            "uid": spec.uid,
            "guard": {
                "objects_max": spec.delete_guard.objects,
                "fraction_max": spec.delete_guard.fraction,
            },
            "variables": dict(spec.variables),
            "incarnations": dict(spec.incarnations),
        }

    # ---- Connection ----

    def _connection(self, spec: Mapping[str, Any]) -> dict[str, Any] | None:
        given = {k: v for k, v in spec.items() if k != "overrides" and not k.startswith("x-")}
        one = self._one_key(given, ("spec",), "connector", ("source", "destination"))
        if one is None:
            return None
        plugin, config = one
        base: Path = ("spec", plugin)
        checked = self._shared(plugin, config, base)
        overrides = []
        for index, item in enumerate(spec.get("overrides") or ()):
            path: Path = ("spec", "overrides", index)
            if not isinstance(item, dict):
                continue  # the model has said so
            override = self._override(plugin, item, path)
            if override is not None:
                overrides.append(override)
        if checked is None:
            return None
        self._mark(base)
        return {"plugin": plugin, "config": checked, "overrides": overrides}

    def _override(self, plugin: str, item: Mapping[str, Any], path: Path) -> dict[str, Any] | None:
        selector = item.get("selector")
        if not isinstance(selector, str):
            what = (
                'required field "selector" is missing'
                if selector is None
                else '"selector" must be text'
            )
            self._add([FieldError(("selector",), "missing", what, 'add "selector"')], path)
        else:
            self._selector(selector, (*path, "selector"))
        for key in item:
            if key not in ("selector", plugin) and not key.startswith("x-"):
                what = (
                    f'an override of this Connection holds "selector" and "{plugin}", not "{key}"'
                )
                self._error(
                    "MYC-SCHEMA-015", what, f'write the settings under "{plugin}"', (*path, key)
                )
        checked = self._shared(plugin, item.get(plugin, {}), (*path, plugin))
        return None if checked is None else {"selector": selector, "config": checked}

    def _shared(self, plugin: str, config: Any, path: Path) -> dict[str, Any] | None:
        """Check the part of a configuration that a Connection may hold; keep it as written."""
        if not isinstance(config, dict):
            what = f'"{plugin}" must be a mapping, not {type_name(config)}'
            self._error("MYC-SCHEMA-012", what, "write the shared settings as a mapping", path)
            return None
        entries = self.catalog.of_plugin(plugin)
        allowed = frozenset().union(*(e.connection_fields for e in entries))
        given = {k: v for k, v in config.items() if not k.startswith("x-")}
        for entry in entries[:1]:
            for key in given:
                if key not in allowed:
                    fix = (
                        nearest(key, allowed)
                        + f"Allowed: {', '.join(sorted(allowed)) or 'nothing'}"
                    )
                    what = f'"{key}" is not a field that a Connection of {plugin} may hold'
                    self._error("MYC-SCHEMA-010", what, fix, (*path, key))
            self._mask(entry, config, path)
            known = {k: v for k, v in given.items() if k in allowed}
            usable = next((e for e in entries if set(known) <= set(e.properties)), entry)
            self._add(usable.check(known, partial=True).errors, path)
        self._templates(given, path)
        for key in given:
            self._mark((*path, key))
        return given

    # ---- Workflow ----

    def _workflow(self, spec: Mapping[str, Any], model: Any) -> dict[str, Any] | None:
        source = self._use(spec.get("source"), ("spec", "source"), "source")
        steps = self._transforms(spec.get("transforms"))
        destination = self._use(spec.get("destination"), ("spec", "destination"), "destination")
        typed: WorkflowSpec | None = model.spec if model is not None else None
        placement = self._placement(typed, source, destination) if typed is not None else None
        self._marks_of_workflow(spec)
        if typed is None or source is None or destination is None or placement is None:
            return None
        for use in (source, destination):
            use.pop("daemon", None)
        delivery = typed.delivery
        return {
            "placement": placement,
            "source": source,
            "transforms": steps,
            "destination": destination,
            "schedule": self._schedule(typed, source),
            "delivery": {
                "guarantee": delivery.guarantee,
                "unit_rows": delivery.unit.rows,
                "unit_bytes": delivery.unit.bytes,
                "unit_seconds": delivery.unit.period,
                "queue_bytes": delivery.queue,
                "allow_lossy": tuple(delivery.allow_lossy),
            },
            "retry_seconds": typed.on_error.retry.up_to,
            "rate": typed.rate.rows if typed.rate else None,
            "deletion": {"policy": typed.deletion.policy, "deadline": typed.deletion.deadline},
        }

    def _marks_of_workflow(self, spec: Mapping[str, Any]) -> None:
        for key in ("daemon", "selector", "source", "destination"):
            if key in spec:
                self._mark(("spec", key))
        if isinstance(self.value.get("metadata"), dict) and "moved" in self.value["metadata"]:
            self._mark(("metadata", "moved"))

    def _schedule(self, spec: WorkflowSpec, source: Mapping[str, Any]) -> dict[str, Any]:
        given = spec.schedule
        if given is None:
            entry = self.catalog.get(source["plugin"], "source")
            follows = bool(source["config"].get("cursor"))  # connectors default it to ""
            follows = follows or (entry is not None and entry.default_continuous)
            return {"kind": "continuous" if follows else "once"}
        if isinstance(given, str):
            parsed = parse_schedule(given)
            return {"kind": parsed.kind, "every_seconds": parsed.every_seconds}
        if isinstance(given, CronSchedule):
            return {"kind": "cron", "cron": given.cron, "timezone": given.timezone}
        return {"kind": "continuous", "poll_seconds": given.continuous.poll}

    def _placement(
        self, spec: WorkflowSpec, source: Any, destination: Any
    ) -> dict[str, str] | None:
        here = ("spec",)
        if spec.daemon and spec.selector:
            what = "both daemon and selector are given"
            self._error("MYC-REF-007", what, "keep the one that is meant", (*here, "selector"))
            return None
        if spec.placement and not spec.selector:
            what = "placement goes with a selector"
            self._error(
                "MYC-REF-007", what, "add a selector, or drop placement", (*here, "placement")
            )
            return None
        if spec.selector is not None and not self._selector(spec.selector, (*here, "selector")):
            return None
        daemon = spec.daemon or ""
        for use, name in ((source, "source"), (destination, "destination")):
            at = (use or {}).get("daemon", "")
            if not at:
                continue
            path: Path = (*here, name, use["plugin"], "endpoint")
            if spec.selector or (daemon and daemon != at):
                other = f'the selector "{spec.selector}"' if spec.selector else f'daemon "{daemon}"'
                what = f'the endpoint is on daemon "{at}", but the workflow runs on {other}'
                fix = "moving data between daemons is not available in this version: use one daemon"
                self._error("MYC-REF-007", what, fix, path)
                return None
            daemon = at
        if spec.selector:
            return {"mode": spec.placement or "every", "daemon": "", "selector": spec.selector}
        if daemon:
            return {"mode": "named", "daemon": daemon, "selector": ""}
        if source is not None and destination is not None:
            what = "the workflow does not say where it runs"
            fix = "add `daemon: <name>` or `selector: <labels>` to spec"
            self._error("MYC-REF-006", what, fix, here)
        return None

    def _selector(self, text: str, path: Path) -> bool:
        try:
            parse_selector(text)
        except SelectorError as error:
            fix = "terms are joined by commas, such as `site, role=till`"
            self._error("MYC-REF-008", str(error), fix, path, value=True)
            return False
        return True

    def _transforms(self, steps: Any) -> list[dict[str, Any]]:
        made = []
        for index, step in enumerate(steps if isinstance(steps, list) else ()):
            if not isinstance(step, dict):
                continue  # the model has said so
            path: Path = ("spec", "transforms", index)
            name = step.get("name", "")
            if not isinstance(name, str):
                self._add([FieldError(("name",), "type", '"name" must be text', "quote it")], path)
                name = ""
            use = self._use({k: v for k, v in step.items() if k != "name"}, path, "transform")
            if use is not None:
                made.append({**use, "name": name})
        return made

    def _use(self, given: Any, path: Path, role: Role) -> dict[str, Any] | None:
        """Check one connector or transform where it is used."""
        if not isinstance(given, dict):
            return None  # the model has said so
        keys = {k: v for k, v in given.items() if not k.startswith("x-")}
        for place_key in ("daemon", "selector"):
            if role != "transform" and place_key in keys:
                what = f"a {role} on another daemon is not available in this version"
                fix = f"remove {role}.{place_key}: both ends run on the workflow's daemon"
                self._error("MYC-SCHEMA-017", what, fix, (*path, place_key))
                keys.pop(place_key)
        noun = "transform" if role == "transform" else "connector"
        one = self._one_key(keys, path, noun, (role,))
        if one is None:
            return None
        plugin, value = one
        here = (*path, plugin)
        entry = self.catalog.get(plugin, role)
        if entry is None:
            return self._unchecked(plugin, role, value, here)
        config = entry.expand(value)
        if isinstance(config, FieldError):
            self._add([config], here)
            return None
        return self._configured(entry, config, here)

    def _unchecked(self, plugin: str, role: Role, value: Any, path: Path) -> dict[str, Any] | None:
        others = self.catalog.of_plugin(plugin)
        if others:
            can = " or ".join(sorted({e.role for e in others}))
            what = f'"{plugin}" cannot be a {role}; it is a {can}'
            self._error("MYC-REF-002", what, self.catalog.hint(plugin, role), path)
            return None
        what = f'{role} plugin "{plugin}" is not known here: its configuration was not checked'
        self._problem("MYC-REF-001", what, self.catalog.hint(plugin, role), path, Severity.WARNING)
        config = dict(value) if isinstance(value, dict) else {"value": value}
        self._templates(config, path)
        return {"plugin": plugin, "config": config}

    def _configured(
        self, entry: CatalogEntry, config: Mapping[str, Any], path: Path
    ) -> dict[str, Any] | None:
        own = dict(config)
        refers = {}
        for key in ("connection", "endpoint"):
            if entry.role != "transform" and key in own and key not in entry.properties:
                refers[key] = own.pop(key)
                self._mark((*path, key))
        self._mask(entry, own, path)
        self._templates(own, path, entry)
        if not refers:
            checked = entry.check(own)
            self._add(checked.errors, path)
            return (
                None
                if checked.config is None
                else {"plugin": entry.plugin, "config": checked.config}
            )
        checked = entry.check(own, partial=True)
        self._add(checked.errors, path)
        for key in own:
            self._mark((*path, key))
        if len(refers) > 1:
            what = "both connection and endpoint are given"
            self._error("MYC-REF-007", what, "keep the one that is meant", (*path, "endpoint"))
            return None
        ((key, target),) = refers.items()
        if not isinstance(target, str) or not target:
            self._add([FieldError((key,), "type", f'"{key}" must be a name', "write a name")], path)
            return None
        if key == "connection":
            free = {k: v for k, v in own.items() if not k.startswith("x-")}
            return {"plugin": entry.plugin, "config": free, "connection": target}
        daemon, slash, name = target.partition("/")
        if not (daemon and slash and name) or "/" in name:
            what = '"endpoint" must have the form <daemon>/<name>'
            self._add([FieldError((key,), "value", what, "write it like shop-01/orders-db")], path)
            return None
        return {
            "plugin": entry.plugin,
            "config": checked.config or {},
            "endpoint": name,
            "daemon": daemon,
        }

    def _one_key(
        self, given: Mapping[str, Any], path: Path, noun: str, roles: tuple[Role, ...]
    ) -> tuple[str, Any] | None:
        if len(given) == 1:
            return next(iter(given.items()))
        example = next(iter(given), "") or next(iter(self.catalog.names(*roles)), "name")
        fix = f"write exactly one, such as {{{example}: ...}}"
        beside = "name" if noun == "transform" else "overrides" if len(path) == 1 else ""
        if not given:
            self._error("MYC-SCHEMA-015", f"no {noun} is named", fix, path)
            return None
        known = [key for key in given if self.catalog.of_plugin(key)]
        extra = next((key for key in given if key not in known[:1]), next(iter(given)))
        if len(known) == 1:
            what = f'unknown field "{extra}" beside {noun} "{known[0]}"'
            entry = self.catalog.of_plugin(known[0])[0]
            if extra in entry.properties:
                fix = f'indent "{extra}" under "{known[0]}"'
            elif beside:
                near = nearest(extra, [beside])
                fix = f'{near}Beside "{known[0]}" only "{beside}" may stand'
            self._error("MYC-SCHEMA-015", what, fix, (*path, extra))
        else:
            listed = ", ".join(f'"{key}"' for key in given)
            self._error(
                "MYC-SCHEMA-015",
                f"{len(given)} keys where one {noun} belongs: {listed}",
                fix,
                (*path, extra),
            )
        return None

    def _templates(
        self, value: Any, path: Path, entry: CatalogEntry | None = None, names: tuple[str, ...] = ()
    ) -> None:
        """Check every `${...}` under a path and note the names used."""
        for inner, text in strings_in(value):
            where = (*path, *inner)
            fix = f"known names: {_KNOWN_NAMES}; write $${{ for a literal ${{"
            try:
                used = tuple(names_in(text))
            except TemplateError as error:
                code = "MYC-REF-011" if "unknown name" in str(error) else "MYC-REF-010"
                self._error(code, str(error), fix, where, value=True)
                continue
            if names and (other := next((u for u in used if not u.startswith(names)), None)):
                what = f"${{{other}}} cannot be used in a variable"
                self._error(
                    "MYC-REF-011", what, "variables may use other variables only", where, value=True
                )
                continue
            is_sql = entry is not None and inner == (SQL_TEXTS.get(entry.plugin),)
            if is_sql and (quoted := quoted_in_sql(text)) is not None:
                fix = "write it without quotes: it becomes a bound value of type text"
                self._error("MYC-REF-016", f"{quoted} stands inside quotes", fix, where, value=True)
            at = dotted(where)
            self.uses.extend((name, at) for name in used)
            self._mark(where, value=True)

    # ---- places and problems ----

    def _mask(self, entry: CatalogEntry, config: Mapping[str, Any], path: Path) -> None:
        for literal in entry.secret_literals(config):
            self.masks.append(mask_of(node_at(self.node, (*path, *literal))))
        names = {secret[0] for secret in entry.secret_paths if secret}
        for key in config:
            # A misspelt secret field is reported as unknown; its value is a secret all the same.
            if key not in entry.properties and nearest(key, names):
                self.masks.append(mask_of(node_at(self.node, (*path, key))))

    def _mark(self, path: Path, *, value: bool = False) -> None:
        where = self._place(path, value=value)
        self.marks[dotted(path)] = (where.line, where.column)

    def _place(self, path: Path, *, value: bool = False) -> Location:
        return place(self.file, self.node, path, at="value" if value else "key")

    def _add(self, errors: Iterable[FieldError], base: Path) -> None:
        for error in errors:
            problem = to_problem(
                error, file=self.file, node=self.node, base=base, subject=self.subject
            )
            if problem not in self.problems:
                self.problems.append(problem)

    def _error(self, code: str, what: str, fix: str, path: Path, *, value: bool = False) -> None:
        self._problem(code, what, fix, path, Severity.ERROR, value=value)

    def _problem(
        self, code: str, what: str, fix: str, path: Path, severity: Severity, *, value: bool = False
    ) -> None:
        self.problems.append(
            Problem(
                code,
                what,
                fix=fix,
                where=self._place(path, value=value),
                severity=severity,
                path=dotted(path),
                subject=self.subject,
            )
        )

    def _has_errors(self) -> bool:
        return any(p.severity is Severity.ERROR for p in self.problems)


def _name_of(value: Mapping[str, Any]) -> str:
    metadata = value.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else ""


def _moved_from(model: Any) -> tuple[str, ...]:
    moved = model.metadata.moved if model is not None else None
    if moved is None:
        return ()
    return (moved.from_,) if isinstance(moved.from_, str) else tuple(moved.from_)
