"""Plugins as data: what each may be told, and whether a configuration says it right.

An entry comes from a pydantic model (the installed registry) or from a JSON Schema (the daemons'
reports, a schema committed beside the manifests). Both answer `check` alike: the configuration
with snake_case keys, defaults filled in and units converted, or located findings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Literal

from pydantic import BaseModel, Field, create_model

from mycelial.kernel.canonical import digest
from mycelial.schemas.base import (
    PluginConfig,
    StrictModel,
    parse_duration,
    parse_percent,
    parse_size,
)
from mycelial.schemas.fields import FieldError, type_name, unknown_field, validate_model
from mycelial.schemas.locate import Path, is_reference
from mycelial.schemas.near import nearest

Role = Literal["source", "destination", "transform"]
SecretPath = tuple[str, ...]  # "*" stands for every key or item
_UNITS: dict[str, Callable[[str], float]] = {
    "duration": parse_duration,
    "size": parse_size,
    "percent": parse_percent,
}


@dataclass(frozen=True, slots=True)
class ConfigCheck:
    """`config` is None when there are errors."""

    config: dict[str, Any] | None
    errors: tuple[FieldError, ...] = ()


Checker = Callable[[Mapping[str, Any], bool], tuple[dict[str, Any] | None, list[FieldError]]]


@dataclass(frozen=True)
class CatalogEntry:
    """One role of one plugin.

    `secret_paths` lead to the fields that hold secret references. `capability` is what a daemon
    must report to run it. `checker` gets a configuration and whether it is partial, that is,
    completed elsewhere: then nothing is missing and no default is filled in.
    """

    plugin: str
    role: Role
    schema: Mapping[str, Any]
    secret_paths: tuple[SecretPath, ...]
    connection_fields: frozenset[str]
    capability: str
    checker: Checker = field(compare=False)
    shorthand: str | None = None
    default_continuous: bool = False
    summary: str = ""

    @cached_property
    def properties(self) -> Mapping[str, Any]:
        """The fields as manifests write them, with their JSON Schemas."""
        found: Mapping[str, Any] = self.schema.get("properties", {})
        return found

    def expand(self, value: Any) -> Mapping[str, Any] | FieldError:
        """Return the configuration that a manifest's value stands for, shorthand resolved."""
        if self.shorthand is None:
            if isinstance(value, Mapping):
                return value
            what = f'"{self.plugin}" takes a mapping, not {type_name(value)}'
            return FieldError((), "type", what, f"Allowed: {', '.join(sorted(self.properties))}")
        if not isinstance(value, Mapping):
            return {self.shorthand: value}
        if not self._shorthand_is_mapping:
            return value
        inner = value.get(self.shorthand)
        is_full = isinstance(inner, Mapping) and set(value) <= set(self.properties)
        return value if is_full or not value else {self.shorthand: value}

    @cached_property
    def _shorthand_is_mapping(self) -> bool:
        described = self.properties.get(self.shorthand or "", {})
        return any(part.get("type") == "object" for part in parts_of(described, self.schema))

    def check(self, config: Mapping[str, Any], *, partial: bool = False) -> ConfigCheck:
        """Normalise a configuration, or say what is wrong with it, by field.

        A literal where a secret reference belongs gives one error that does not repeat it, and
        hides every other finding about that value (I11).
        """
        literals = tuple(self.secret_literals(config))
        normalised, errors = self.checker(config, partial)
        kept = [e for e in errors if not any(e.path[: len(p)] == p for p in literals)]
        found = [_literal_secret(path) for path in literals] + kept
        return ConfigCheck(None if found else normalised, tuple(found))

    def secret_literals(self, config: Mapping[str, Any]) -> Iterator[Path]:
        """Yield the paths of values that should be secret references and are not."""
        for path in self.secret_paths:
            yield from _literals(config, path, ())


class Catalog:
    """All known plugins. Immutable; `digest` changes when any entry does."""

    def __init__(self, entries: Iterable[CatalogEntry]) -> None:
        self._made = {(entry.plugin, entry.role): entry for entry in entries}
        self._makers: Mapping[tuple[str, Role], Callable[[], CatalogEntry]] = {}

    @classmethod
    def deferred(cls, makers: Mapping[tuple[str, Role], Callable[[], CatalogEntry]]) -> Catalog:
        """Return a catalog that makes an entry when it is first asked for: one manifest needs
        two or three of them, and each costs a model."""
        catalog = cls(())
        catalog._makers = makers
        return catalog

    def __iter__(self) -> Iterator[CatalogEntry]:
        return (entry for key in self._keys if (entry := self.get(*key)) is not None)

    @property
    def _keys(self) -> tuple[tuple[str, Role], ...]:
        return tuple(dict.fromkeys((*self._made, *self._makers)))

    def get(self, plugin: str, role: Role) -> CatalogEntry | None:
        """Return the entry of a plugin's role."""
        key = (plugin, role)
        if key not in self._made and key in self._makers:
            self._made[key] = self._makers[key]()
        return self._made.get(key)

    def of_plugin(self, plugin: str) -> tuple[CatalogEntry, ...]:
        """Return all roles of a plugin."""
        wanted = (key for key in self._keys if key[0] == plugin)
        return tuple(entry for key in wanted if (entry := self.get(*key)) is not None)

    def names(self, *roles: Role) -> tuple[str, ...]:
        """Return the names of plugins that have one of `roles`, sorted."""
        return tuple(sorted({name for name, role in self._keys if role in roles}))

    def hint(self, name: str, *roles: Role) -> str:
        """Return near misses and the list of what there is."""
        names = self.names(*roles)
        return f"{nearest(name, names)}Known: {', '.join(names) or 'none'}"

    @cached_property
    def digest(self) -> str:
        """A digest over everything that changes what `check` answers."""
        return digest(
            sorted(
                [
                    e.plugin,
                    e.role,
                    digest(e.schema),
                    e.shorthand or "",
                    e.default_continuous,
                    sorted(e.connection_fields),
                    e.capability,
                ]
                for e in self
            )
        )


def entry_for(
    plugin_name: str,
    role: Role,
    model: type[BaseModel],
    *,
    summary: str = "",
    capability: str = "",
) -> CatalogEntry:
    """Build an entry from a plugin's model, a `PluginConfig`."""
    schema = model.model_json_schema(by_alias=True)
    declared = model if issubclass(model, PluginConfig) else PluginConfig
    aliases = {name: info.alias or name for name, info in model.model_fields.items()}
    shorthand = declared.shorthand
    return CatalogEntry(
        plugin=plugin_name,
        role=role,
        schema=schema,
        secret_paths=tuple(secret_paths(schema)),
        connection_fields=frozenset(aliases.get(f, f) for f in declared.connection_fields),
        capability=capability or capability_of(plugin_name, role),
        checker=lambda config, partial: _check_model(model, config, partial),
        shorthand=aliases.get(shorthand, shorthand) if shorthand else None,
        default_continuous=declared.continuous_by_default,
        summary=summary,
    )


def foreign_entry(
    plugin_name: str,
    role: Role,
    schema: Mapping[str, Any],
    *,
    connection_fields: Iterable[str] = (),
    shorthand: str | None = None,
    default_continuous: bool = False,
    summary: str = "",
) -> CatalogEntry:
    """Build an entry from a JSON Schema (2020-12) that no model of ours stands behind.

    `x-secret: true` marks a secret field; `format: duration | size | percent` marks units.
    References may only point inside the schema. Raises: ValueError when it is no JSON Schema.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from referencing import Registry

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ValueError(
            f"the schema of {plugin_name} is not a JSON Schema: {error.message}"
        ) from error
    # An empty registry fetches nothing: a schema must not make this process open connections.
    validator = Draft202012Validator(schema, registry=Registry())
    return CatalogEntry(
        plugin=plugin_name,
        role=role,
        schema=schema,
        secret_paths=tuple(secret_paths(schema)),
        connection_fields=frozenset(connection_fields),
        capability=capability_of(plugin_name, role),
        checker=lambda config, partial: _check_schema(validator, config, partial),
        shorthand=shorthand,
        default_continuous=default_continuous,
        summary=summary,
    )


def capability_of(plugin: str, role: Role) -> str:
    """Return what a daemon reports when it has the plugin."""
    return f"{'transform' if role == 'transform' else 'connector'}/{plugin}"


def secret_paths(schema: Mapping[str, Any]) -> Iterator[SecretPath]:
    """Yield the paths of all secret fields of a JSON Schema."""
    yield from _secret_paths(schema, schema, (), 0)


def _secret_paths(
    part: Mapping[str, Any], root: Mapping[str, Any], path: SecretPath, depth: int
) -> Iterator[SecretPath]:
    if depth > 8:  # a schema that refers to itself
        return
    for option in parts_of(part, root):
        if option.get("x-secret") is True:
            yield path
            continue
        for name, inner in option.get("properties", {}).items():
            yield from _secret_paths(inner, root, (*path, name), depth + 1)
        for keyword in ("items", "additionalProperties"):
            if isinstance(option.get(keyword), Mapping):
                yield from _secret_paths(option[keyword], root, (*path, "*"), depth + 1)


def parts_of(part: Mapping[str, Any], root: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a schema and its alternatives, local references resolved."""
    todo, seen = [part], 0
    while todo and seen < 100:
        seen += 1
        option = todo.pop()
        reference = option.get("$ref", "")
        if reference.startswith("#/"):
            target: Any = root
            for step in reference[2:].split("/"):
                target = target.get(step, {}) if isinstance(target, Mapping) else {}
            todo.append(target)
        for keyword in ("anyOf", "oneOf", "allOf"):
            todo.extend(o for o in option.get(keyword, ()) if isinstance(o, Mapping))
        yield option


def _literals(value: Any, path: SecretPath, done: Path) -> Iterator[Path]:
    if not path:
        if value is not None and not is_reference(value):
            yield done
        return
    head, rest = path[0], path[1:]
    if head == "*":
        items: Iterable[Any] = ()
        if isinstance(value, Mapping):
            items = value.items()
        elif isinstance(value, list):
            items = enumerate(value)
        for key, item in items:
            yield from _literals(item, rest, (*done, key))
    elif isinstance(value, Mapping) and head in value:
        yield from _literals(value[head], rest, (*done, head))


def _literal_secret(path: Path) -> FieldError:
    return FieldError(
        path,
        "secret",
        f'"{path[-1]}" takes a secret by name, never its value',
        "write {secret: <name>}, give the daemon the value under that name, and change the "
        "secret if this file was ever committed",
    )


def _check_model(
    model: type[BaseModel], config: Mapping[str, Any], partial: bool
) -> tuple[dict[str, Any] | None, list[FieldError]]:
    if not partial:
        checked, errors = validate_model(model, config)
        return (checked.model_dump(mode="json") if checked else None), errors
    given = frozenset(config)
    absent = frozenset(
        name for name, info in model.model_fields.items() if (info.alias or name) not in given
    )
    checked, errors = validate_model(_partial_model(model, absent, model), config)
    if errors and all(error.kind == "rule" for error in errors):
        # A rule across fields cannot be judged on a part; it is when the whole is put together.
        checked, errors = validate_model(_partial_model(model, absent, StrictModel), config)
    known = [e for e in errors if e.kind != "rule"]
    return (checked.model_dump(mode="json", exclude_unset=True) if checked else None), known


@lru_cache(maxsize=512)
def _partial_model(
    model: type[BaseModel], absent: frozenset[str], base: type[BaseModel]
) -> type[BaseModel]:
    fields: dict[str, Any] = {
        name: (Any, Field(default=None, alias=model.model_fields[name].alias)) for name in absent
    }
    if base is StrictModel:
        for name, info in model.model_fields.items():
            if name not in absent:
                fields[name] = (info.annotation, info)
    return create_model(model.__name__, __base__=base, **fields)


def _check_schema(
    validator: Any, config: Mapping[str, Any], partial: bool
) -> tuple[dict[str, Any] | None, list[FieldError]]:
    schema = validator.schema
    given = {key: value for key, value in config.items() if not str(key).startswith("x-")}
    errors: list[FieldError] = []
    for error in validator.iter_errors(given):
        errors.extend(_schema_errors(error, partial))
    if errors:
        return None, errors
    normalised = _normalise(given, schema, schema, (), errors, fill=not partial)
    return (None if errors else normalised), errors


def _schema_errors(error: Any, partial: bool) -> Iterator[FieldError]:
    path: Path = tuple(error.absolute_path)
    name = str(path[-1]) if path else "the value"
    if error.validator == "required":
        for missing in error.validator_value:
            if missing not in error.instance and not (partial and not path):
                what = f'required field "{missing}" is missing'
                yield FieldError((*path, missing), "missing", what, f'add "{missing}"')
    elif error.validator in ("additionalProperties", "unevaluatedProperties"):
        allowed = error.schema.get("properties", {})
        for extra in sorted(set(error.instance) - set(allowed)):
            yield unknown_field((*path, extra), allowed)
    elif error.validator == "type":
        what = (
            f'"{name}" must be {_json_type(error.validator_value)}, not {type_name(error.instance)}'
        )
        yield FieldError(path, "type", what)
    elif error.validator == "enum":
        options = [str(option) for option in error.validator_value]
        fix = f"{nearest(str(error.instance), options)}Allowed: {', '.join(options)}"
        yield FieldError(path, "value", f'"{name}" has a value that is not allowed', fix)
    elif not (partial and not path):
        fix = "see what the plugin's documentation says about this field"
        yield FieldError(path, "value", f'"{name}" breaks the rule "{error.validator}"', fix)


def _json_type(value: Any) -> str:
    names = {
        "object": "a mapping",
        "array": "a list",
        "string": "text",
        "integer": "a whole number",
        "number": "a number",
        "boolean": "true or false",
    }
    kinds = [value] if isinstance(value, str) else value
    return " or ".join(names.get(kind, kind) for kind in kinds)


def _normalise(
    value: Any, part: Mapping[str, Any], root: Mapping[str, Any], path: Path,
    errors: list[FieldError], *, fill: bool,
) -> Any:  # fmt: skip
    options = list(parts_of(part, root))
    if isinstance(value, str):
        for option in options:
            if (convert := _UNITS.get(option.get("format", ""))) is not None:
                try:
                    return convert(value)
                except ValueError as error:
                    what, _, fix = str(error).partition("; ")
                    errors.append(FieldError(path, "value", what, fix))
        return value
    if isinstance(value, list):
        inner: Mapping[str, Any] = next(
            (o["items"] for o in options if isinstance(o.get("items"), Mapping)), {}
        )
        return [
            _normalise(item, inner, root, (*path, i), errors, fill=fill)
            for i, item in enumerate(value)
        ]
    if not isinstance(value, Mapping):
        return value
    known = {k: v for o in reversed(options) for k, v in o.get("properties", {}).items()}
    result = {
        _snake(key) if key in known else key: _normalise(
            item, known.get(key, {}), root, (*path, key), errors, fill=fill
        )
        for key, item in value.items()
    }
    if fill:
        for key, described in known.items():
            if key not in value and isinstance(described, Mapping) and "default" in described:
                result[_snake(key)] = described["default"]
    return result


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: f"_{found[1].lower()}", name)
