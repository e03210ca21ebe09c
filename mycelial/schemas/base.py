"""The models that kinds and plugin configurations are made of. Loads pydantic.

camelCase in manifests, snake_case in Python. Unknown fields are errors; `x-` keys are taken out
before validation. Units are typed strings: `30s`, `2GiB`, `10%`.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from itertools import pairwise
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.alias_generators import to_camel

# Offered here too, beside the types that they make.
from mycelial.schemas.units import parse_duration as parse_duration  # noqa: PLC0414
from mycelial.schemas.units import parse_percent as parse_percent  # noqa: PLC0414
from mycelial.schemas.units import parse_size as parse_size  # noqa: PLC0414


class StrictModel(BaseModel):
    """A part of a manifest: unknown fields are errors, values are not coerced across types."""

    model_config = ConfigDict(
        extra="forbid",
        # Built when first used: a command needs few of the models, and nested ones only once.
        defer_build=True,
        strict=True,
        frozen=True,
        alias_generator=to_camel,
        validate_by_alias=True,
        validate_by_name=False,
    )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: Any, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Describe fields by their attribute docstrings.

        Done here, when a schema is asked for, and not by pydantic when the class is made: that
        reads the source of every model at each start of the command line.
        """
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in attribute_docstrings(cls).items():
            field = cls.model_fields.get(name)
            described = properties.get((field.alias or name) if field else name)
            if described is not None:
                described.setdefault("description", text)
        return schema


def attribute_docstrings(cls: type) -> dict[str, str]:
    """Return the string literals that stand below the annotated fields of a class's source."""
    found: dict[str, str] = {}
    for base in reversed([c for c in cls.__mro__ if issubclass(c, BaseModel)]):
        if base is BaseModel:
            continue
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except (OSError, TypeError):  # no source: a class made at run time
            continue
        statements = body.body if isinstance(body, ast.ClassDef) else []
        for field, after in pairwise(statements):
            match field, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                    value=ast.Constant(str(text))
                ):
                    found[name] = inspect.cleandoc(text)
    return found


class SecretRef(StrictModel):
    """A secret by name, resolved on the daemon. The value never stands in a manifest (I11)."""

    # Foreign schemas mark their secret fields with the same keyword.
    model_config = ConfigDict(json_schema_extra={"x-secret": True})

    secret: str = Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")
    """Name of the secret as the daemon's `[secrets]` providers know it."""


class PluginConfig(StrictModel):
    """Base of every connector's and transform's configuration.

    Descriptions of fields become the docs, the JSON Schema, `explain` and the forms of the UI:
    write them as attribute docstrings. A secret field has type `SecretRef`.
    `connection_fields` names the fields that a Connection may hold for workflows to share.
    `shorthand` names the field that a bare value fills: with `shorthand = "where"`,
    `filter: qty > 0` means `filter: {where: qty > 0}`. A mapping fills it too when the field is
    one. `continuous_by_default` is for sources that follow for ever when no schedule is given.
    """

    connection_fields: ClassVar[frozenset[str]] = frozenset()
    shorthand: ClassVar[str | None] = None
    continuous_by_default: ClassVar[bool] = False


def _from_text(parser: Any) -> BeforeValidator:
    def convert(value: Any) -> Any:
        if isinstance(value, str):
            return parser(value)
        raise ValueError("a bare value has no unit; write it as text such as 30s, 64MiB or 10%")

    return BeforeValidator(convert)


def _text(form: str, *examples: str) -> Any:
    return Field(json_schema_extra={"type": "string", "format": form, "examples": list(examples)})


Duration = Annotated[float, _from_text(parse_duration), _text("duration", "30s", "5m")]
"""Seconds; written `30s`."""
Size = Annotated[int, _from_text(parse_size), _text("size", "64MiB")]
"""Bytes; written `64MiB`."""
Percent = Annotated[float, _from_text(parse_percent), _text("percent", "10%")]
"""A fraction from 0 to 1; written `10%`."""
