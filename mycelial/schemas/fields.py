"""What is wrong with a value, by field path, from pydantic or jsonschema alike.

Messages name fields and types, never the values of secrets (I11).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from mycelial.kernel.errors import Problem
from mycelial.schemas.locate import Path, dotted, place
from mycelial.schemas.near import nearest
from mycelial.schemas.yaml import Node

M = TypeVar("M", bound=BaseModel)
Kind = Literal["unknown", "missing", "type", "value", "secret", "rule"]
_CODES: dict[Kind, str] = {
    "unknown": "MYC-SCHEMA-010",
    "missing": "MYC-SCHEMA-011",
    "type": "MYC-SCHEMA-012",
    "value": "MYC-SCHEMA-013",
    "secret": "MYC-SCHEMA-014",
    "rule": "MYC-SCHEMA-013",
}
_TYPE_NAMES = {
    dict: "a mapping",
    list: "a list",
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    type(None): "nothing (null)",
}
_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


@dataclass(frozen=True, slots=True)
class FieldError:
    """One finding about one field. `kind` rule: about the whole, not about one field."""

    path: Path
    kind: Kind
    what: str
    fix: str = ""


def validate_model(model: type[M], value: Mapping[str, Any]) -> tuple[M | None, list[FieldError]]:
    """Validate by JSON's rules (lists fill tuples, text fills enums); `x-` keys are taken out."""
    data: Any = value
    for _ in range(2):
        try:
            return model.model_validate_json(json.dumps(data)), []
        except ValidationError as error:
            found = error.errors(include_url=False)
        free = [e["loc"] for e in found if _is_free(e)]
        if not free:
            break
        data = _without(data, free)
    return None, _without_echoes([_field_error(model, e) for e in found])


def _without_echoes(errors: list[FieldError]) -> list[FieldError]:
    """Drop "missing" where the field is there under a misspelt name."""
    meant = {
        (*e.path[:-1], name)
        for e in errors
        if e.kind == "unknown"
        for name in re.findall(r'^did you mean "([^"]+)"', e.fix)
    }
    return [e for e in errors if not (e.kind == "missing" and e.path in meant)]


def to_problem(
    error: FieldError, *, file: str, node: Node, base: Path = (), subject: str = ""
) -> Problem:
    """Locate a finding: at the key if it is unknown, its parent if missing, else at the value."""
    path = (*base, *error.path)
    shown = path[:-1] if error.kind == "missing" else path
    at: Literal["key", "value"] = "value" if error.kind in ("type", "value", "secret") else "key"
    return Problem(
        code=_CODES[error.kind],
        what=_in_words(error, path),
        fix=error.fix or f"see `mycelial explain {_explained(path, subject)}`",
        where=place(file, node, shown, at=at),
        path=dotted(path),
        subject=subject,
    )


def _in_words(error: FieldError, path: Path) -> str:
    names_the_field = f'"{path[-1]}"' in error.what if path else False
    if names_the_field:
        return f"{error.what} in {dotted(path[:-1])}" if path[:-1] else error.what
    return f"{dotted(path)}: {error.what}" if path else error.what


def _explained(path: Path, subject: str) -> str:
    """Return what `explain` knows a field by."""
    names = [element for element in path if isinstance(element, str)]
    if len(names) > 2 and names[1] in ("source", "destination", "transforms"):
        group = "transform" if names[1] == "transforms" else "connector"
        return f"{group}/{names[2]}"
    kind = subject.partition("/")[0].lower() or "workflow"
    return ".".join([kind, *names])


def unknown_field(path: Path, allowed: Iterable[str]) -> FieldError:
    """Return the finding that a field is not known, with near misses."""
    name, known = str(path[-1]), sorted(allowed)
    listed = f"Allowed: {', '.join(known)}" if known else "No fields are allowed here"
    return FieldError(path, "unknown", f'unknown field "{name}"', nearest(name, known) + listed)


def type_name(value: Any) -> str:
    """Return what people call the type of a value."""
    return _TYPE_NAMES.get(type(value), type(value).__name__)


def _is_free(error: Any) -> bool:
    last = error["loc"][-1] if error["loc"] else ""
    return error["type"] == "extra_forbidden" and str(last).startswith("x-")


def _without(data: Any, paths: list[Path]) -> Any:
    copied = json.loads(json.dumps(data))
    for path in paths:
        owner = copied
        for element in path[:-1]:
            try:
                owner = owner[element]
            except (KeyError, IndexError, TypeError):
                continue  # a union's tag
        owner.pop(path[-1], None)
    return copied


def _field_error(model: type[BaseModel], error: Any) -> FieldError:
    path = tuple(e for e in error["loc"] if not (isinstance(e, str) and e.startswith("<")))
    kind, found, context = error["type"], error["input"], error.get("ctx", {})
    name = str(path[-1]) if path else "the value"
    if kind == "extra_forbidden":
        return unknown_field(path, allowed_fields(model, error["loc"][:-1]))
    if kind == "missing":
        fix = f'add "{name}"'
        return FieldError(path, "missing", f'required field "{name}" is missing', fix)
    if kind in _EXPECTED:
        return _wrong_type(path, name, _EXPECTED[kind], found)
    if kind in ("literal_error", "enum"):
        options = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        fix = f"{nearest(str(found), options)}Allowed: {', '.join(options)}"
        return FieldError(path, "value", f'"{name}" has a value that is not allowed', fix)
    if kind == "value_error":
        what, _, fix = str(context.get("error", error["msg"])).partition("; ")
        return FieldError(path, "value" if path else "rule", what, fix)
    if kind == "string_pattern_mismatch":
        what = f'"{name}" does not have the form {context.get("pattern")}'
        return FieldError(path, "value", what, "use only the characters that the form allows")
    return FieldError(path, "value", f'"{name}" {_lower(error["msg"])}')


def _wrong_type(path: Path, name: str, expected: str, found: Any) -> FieldError:
    if isinstance(path[-1] if path else "", int):
        name = f"item {name}"
    what = f'"{name}" must be {expected}, not {type_name(found)}'
    fix = f"write {expected}"
    if expected == "text" and isinstance(found, bool | int | float):
        fix = "put the value in quotes"
    return FieldError(path, "type", what, fix)


def _lower(message: str) -> str:
    return message.replace("Input should", "should").replace("Value error, ", "")


@cache
def allowed_fields(model: type[BaseModel], path: Path) -> tuple[str, ...]:
    """Return the names that may stand at a path of a model, as manifests write them."""
    models: list[type[BaseModel]] = [model]
    for element in path:
        fields = [m.model_fields.items() for m in models]
        inner = [
            found
            for items in fields
            for name, info in items
            if element in (info.alias or name, name)
            for found in _models_in(info.annotation)
        ]
        models = inner or models
    if len(models) > 1:  # a union: the tag in angle brackets tells which
        tagged = [m for m in models if f"<{m.__name__}>" in path]
        models = tagged or models
    return tuple(info.alias or name for m in models for name, info in m.model_fields.items())


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
