"""The manifests' JSON Schema, and the same knowledge as text for people (`explain`).

Descriptions come from docstrings, so the schema, the docs, the forms and `explain` cannot differ.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mycelial.kernel.errors import UsageError
from mycelial.schemas.catalog import Catalog, CatalogEntry, Role, parts_of
from mycelial.schemas.check import KINDS
from mycelial.schemas.near import nearest

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PLAIN = re.compile(r"[A-Za-z][\w./-]*", re.ASCII)
_NO_TEXT = frozenset({"null", "true", "false"})  # words that YAML does not read as text
_ROLES: tuple[Role, ...] = ("source", "destination", "transform")


def json_schema(catalog: Catalog) -> dict[str, Any]:
    """Return one JSON Schema (2020-12) for a document of any kind, with the catalog's plugins."""
    definitions: dict[str, Any] = {}
    for kind, model in KINDS.items():
        schema = model.model_json_schema(by_alias=True, ref_template=f"#/$defs/{kind}.{{model}}")
        for name, inner in schema.pop("$defs", {}).items():
            definitions[f"{kind}.{name}"] = inner
        definitions[kind] = schema
    for entry in catalog:
        definitions[_key(entry)] = _definition(entry, definitions)
    _join_plugins(definitions, catalog)
    for schema in definitions.values():
        _allow_extensions(schema)
    return {
        "$schema": _DIALECT,
        "title": "Mycelial manifest, mycelial/v1",
        "type": "object",
        "required": ["apiVersion", "kind"],
        "properties": {"apiVersion": {"const": "mycelial/v1"}, "kind": {"enum": sorted(KINDS)}},
        "allOf": [
            {
                "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
                "then": {"$ref": f"#/$defs/{kind}"},
            }
            for kind in sorted(KINDS)
        ],
        "$defs": dict(sorted(definitions.items())),
    }


def explain(path: str, catalog: Catalog) -> str:
    """Describe `workflow.spec.schedule`, `connector/sqlite` or `transform/filter`.

    Raises: UsageError (MYC-SCHEMA-020) for a path that leads nowhere, with what there is.
    """
    if "/" in path:
        return _explain_plugin(path, catalog)
    schema = json_schema(catalog)
    first, *rest = path.split(".")
    kind = next((k for k in KINDS if k.lower() == first.lower()), None)
    if kind is None:
        raise _nowhere(path, first, [k.lower() for k in KINDS])
    part: Mapping[str, Any] = schema["$defs"][kind]
    required = True
    for name in rest:
        known = _properties(part, schema)
        if name not in known:
            raise _nowhere(path, name, known)
        required = any(name in p.get("required", ()) for p in parts_of(part, schema))
        part = known[name]
    lines = [f"{'.'.join([kind.lower(), *rest])}  {_type(part, schema)}"]
    if rest:
        lines[0] += ", required" if required else ""
    lines += ["", *_wrap(_description(part, schema), "")]
    return "\n".join([*lines, *_fields(part, schema), *_examples(part, schema)]).rstrip() + "\n"


def _explain_plugin(path: str, catalog: Catalog) -> str:
    group, _, name = path.partition("/")
    roles: tuple[Role, ...] = ("transform",) if group == "transform" else ("source", "destination")
    known = [f"{g}/{n}" for g, r in (("connector", _ROLES[:2]), ("transform", _ROLES[2:]))
             for n in catalog.names(*r)]  # fmt: skip
    entries = [e for role in roles if (e := catalog.get(name, role)) is not None]
    if group not in ("connector", "transform") or not entries:
        raise _nowhere(path, path, known)
    blocks = [f"{group}/{name}  {' and '.join(e.role for e in entries)}"]
    if entries[0].summary:
        blocks += ["", *_wrap(entries[0].summary, "")]
    same = len({json.dumps(e.schema, sort_keys=True) for e in entries}) == 1
    for entry in entries[:1] if same else entries:
        title = "" if same else f"As a {entry.role}:"
        text = entry.schema.get("description", "")
        blocks += [
            "",
            *([title] if title else []),
            *_wrap(text, ""),
            *_fields(entry.schema, entry.schema),
        ]
        blocks += ["", "Example:", *_plugin_example(entry)]
    return "\n".join(blocks).rstrip() + "\n"


def _plugin_example(entry: CatalogEntry) -> Iterator[str]:
    required = [n for n in entry.properties if n in entry.schema.get("required", ())]
    sampled = {name: _sample(entry.properties[name], entry.schema) for name in required}
    fields = next(iter(entry.schema.get("examples", ())), sampled)
    if not fields and entry.shorthand is not None and not entry.schema.get("examples"):
        fields = {entry.shorthand: _sample(entry.properties[entry.shorthand], entry.schema)}
    if entry.shorthand is not None and set(fields) == {entry.shorthand}:
        shown = _flow(fields[entry.shorthand])
    else:
        shown = _flow(fields)
    if entry.role == "transform":
        yield "  transforms:"
        yield f"    - {entry.plugin}: {shown}"
    else:
        yield f"  {entry.role}: {{ {entry.plugin}: {shown} }}"


def _sample(part: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    for option in parts_of(part, root):
        if option.get("examples"):
            return option["examples"][0]
        if option.get("x-secret"):
            return {"secret": "name"}
        for keyword in ("const", "default"):
            if option.get(keyword) is not None:
                return option[keyword]
        if option.get("enum"):
            return option["enum"][0]
        match option.get("type"):
            case "string":
                return "text"
            case "integer" | "number":
                return 1
            case "boolean":
                return True
            case "array":
                return [_sample(option.get("items", {}), root)]
            case "object":
                return {"name": "text"}
    return "..."


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return (
            "{}"
            if not value
            else "{ " + ", ".join(f"{k}: {_flow(v)}" for k, v in value.items()) + " }"
        )
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _NO_TEXT:
        return value
    return json.dumps(value)


# ---- schema ----


def _key(entry: CatalogEntry) -> str:
    return f"plugin.{entry.role}.{entry.plugin}"


def _definition(entry: CatalogEntry, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the entry's schema with what manifests may say beside it, references made global."""
    schema: dict[str, Any] = json.loads(json.dumps(entry.schema))
    prefix = _key(entry)
    for name, inner in schema.pop("$defs", {}).items():
        definitions[f"{prefix}.{name}"] = _global(inner, prefix)
    schema = dict(_global(schema, prefix))
    if entry.role == "transform":
        if entry.shorthand is None:
            return schema
        return {
            "description": schema.get("description", ""),
            "anyOf": [schema, schema["properties"][entry.shorthand]],
        }
    shared = {
        "connection": {
            "type": "string",
            "description": "Name of a Connection that holds the rest.",
        },
        "endpoint": {
            "type": "string",
            "pattern": "^[^/]+/[^/]+$",
            "description": "`<daemon>/<name>` of an endpoint in that daemon's own config.",
        },
    }
    schema["properties"] = {**shared, **schema.get("properties", {})}
    if required := schema.pop("required", None):
        refers = [{"required": [key]} for key in shared]
        schema["anyOf"] = [*refers, {"required": required}]
    return schema


def _global(value: Any, prefix: str) -> Any:
    if isinstance(value, dict):
        return {
            key: f"#/$defs/{prefix}.{item.removeprefix('#/$defs/')}"
            if key == "$ref" and isinstance(item, str) and item.startswith("#/$defs/")
            else _global(item, prefix)
            for key, item in value.items()
        }
    return [_global(item, prefix) for item in value] if isinstance(value, list) else value


def _join_plugins(definitions: dict[str, Any], catalog: Catalog) -> None:
    spec = definitions["Workflow.WorkflowSpec"]["properties"]
    for role in ("source", "destination"):
        spec[role] = _one_of(spec[role], catalog, role)
    steps = spec["transforms"]
    steps["items"] = _one_of({}, catalog, "transform")
    steps["items"]["properties"]["name"] = {"type": "string", "description": "A name for the step."}
    steps["items"]["maxProperties"] = 2
    connection = definitions["Connection.ConnectionSpec"]
    override = {
        "type": "object",
        "required": ["selector"],
        "additionalProperties": False,
        "properties": {"selector": {"type": "string", "description": "Which daemons, by label."}},
    }
    for name in catalog.names("source", "destination"):
        shared = _shared(catalog.of_plugin(name))
        connection["properties"][name] = shared
        override["properties"][name] = shared  # type: ignore[index]
    connection["properties"]["overrides"]["items"] = override


def _one_of(described: Mapping[str, Any], catalog: Catalog, role: Role) -> dict[str, Any]:
    """One-key objects as a property set with at most one: editors list the plugins."""
    return {
        "type": "object",
        "description": described.get("description", "One transform and its configuration."),
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
        "properties": {
            name: {"$ref": f"#/$defs/plugin.{role}.{name}"} for name in catalog.names(role)
        },
    }


def _shared(entries: Iterable[CatalogEntry]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for entry in entries:
        for name, inner in entry.properties.items():
            if name in entry.connection_fields:
                properties[name] = _global(json.loads(json.dumps(inner)), _key(entry))
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _allow_extensions(value: Any) -> None:
    """`x-` keys are free wherever fields are closed."""
    if isinstance(value, dict):
        if value.get("additionalProperties") is False:
            value["patternProperties"] = {"^x-": {}}
        for item in value.values():
            _allow_extensions(item)
    elif isinstance(value, list):
        for item in value:
            _allow_extensions(item)


# ---- text ----


def _properties(part: Mapping[str, Any], root: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for p in parts_of(part, root) for k, v in p.get("properties", {}).items()}


def _description(part: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    texts = [p["description"] for p in parts_of(part, root) if p.get("description")]
    return texts[0] if texts else ""


def _type(part: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    if any(p.get("x-secret") for p in parts_of(part, root)):
        return "<secret reference>"
    if options := [o for p in parts_of(part, root) for o in p.get("enum", ())]:
        return "<" + " | ".join(str(o) for o in options) + ">"
    kinds = dict.fromkeys(
        str(p.get("format") or p["type"]) for p in parts_of(part, root) if "type" in p
    )
    return "<" + " | ".join(k for k in kinds if k != "null") + ">"


def _fields(part: Mapping[str, Any], root: Mapping[str, Any]) -> Iterator[str]:
    known = _properties(part, root)
    if not known:
        return
    # Of alternatives, none is required.
    options = [p for p in parts_of(part, root) if "properties" in p]
    required = set(options[0].get("required", ())) if len(options) == 1 else set()
    yield ""
    yield "Fields:"
    for name, inner in known.items():
        default = inner.get("default")
        note = ", required" if name in required else ""
        if default not in (None, [], {}, ""):
            note = f", default {_flow(default)}"
        yield f"  {name}  {_type(inner, root)}{note}"
        yield from _wrap(_description(inner, root), "      ")


def _examples(part: Mapping[str, Any], root: Mapping[str, Any]) -> Iterator[str]:
    found = [e for p in parts_of(part, root) for e in p.get("examples", ())]
    if found:
        yield ""
        yield "Examples: " + ", ".join(str(e) for e in found)


def _wrap(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()), 88, initial_indent=indent, subsequent_indent=indent
    )


def _nowhere(path: str, name: str, known: Iterable[str]) -> UsageError:
    names = sorted(known)
    return UsageError(
        "MYC-SCHEMA-020",
        f'there is nothing to explain at "{path}"',
        fix=f"{nearest(name, names)}Known here: {', '.join(names) or 'no fields'}",
    )
