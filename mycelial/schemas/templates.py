"""`${...}` in strings: finding, checking and filling it in. Stdlib only.

Names: `daemon.name`, `daemon.labels.<label>`, `var.<name>`. `$${` writes a literal `${`. Inside
SQL text a name becomes a bound parameter, so a value can never change the statement.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

SQL_TEXTS: Mapping[str, str] = {"sql": "query"}
"""Transform plugin -> field that holds a SQL statement; its `params` hold the bound values."""

_PART = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_NAME = re.compile(
    r"daemon\.name|daemon\.labels\.[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?"
    r"|var\.[A-Za-z][A-Za-z0-9_-]*"
)
_SQL_PART = re.compile(
    r"(?P<escape>\$\$\{)|(?P<name>\$\{[^{}]*\})"
    r"|(?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))"
    r"|(?P<quoted>'(?:[^']|'')*(?:'|\Z)|\"(?:[^\"]|\"\")*(?:\"|\Z)"
    r"|\$(?P<tag>(?:[A-Za-z_]\w*)?)\$(?!\{).*?(?:\$(?P=tag)\$|\Z))",
    re.DOTALL,
)


class TemplateError(ValueError):
    """A `${...}` that cannot be filled in; the message names it."""


def has_template(text: str) -> bool:
    """Tell whether a string holds anything that `fill` would change."""
    return "${" in text


def names_in(text: str) -> Iterator[str]:
    """Yield the names that a string uses. Raises: TemplateError for what is no name."""
    for found in _PART.finditer(text):
        if found[0] == "$${":
            continue
        if found[1] is None:
            raise TemplateError('"${" without "}"; write $${ for a literal "${"')
        name = found[1].strip()
        if _NAME.fullmatch(name) is None:
            raise TemplateError(f"unknown name ${{{name}}}")
        yield name


def fill(text: str, lookup: Callable[[str], str]) -> str:
    """Replace every name by `lookup(name)`, once: values are not looked at again."""
    if not has_template(text):
        return text
    tuple(names_in(text))
    return _PART.sub(lambda found: "${" if found[1] is None else lookup(found[1].strip()), text)


def fill_all(value: Any, lookup: Callable[[str], str]) -> Any:
    """Fill every string of a JSON value; keys are left alone."""
    if isinstance(value, str):
        return fill(value, lookup)
    if isinstance(value, Mapping):
        return {key: fill_all(item, lookup) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [fill_all(item, lookup) for item in value]
    return value


def strings_in(
    value: Any, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield (path, text) of every string that holds a template."""
    if isinstance(value, str):
        if has_template(value):
            yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from strings_in(item, (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from strings_in(item, (*path, index))


def quoted_in_sql(text: str) -> str | None:
    """Return the first `${...}` that stands inside quotes, where no value can be bound."""
    for found in _SQL_PART.finditer(text):
        if found["quoted"]:
            inner = re.search(r"(?<!\$)\$\{[^{}]*\}", found["quoted"])
            if inner:
                return inner[0]
    return None


def bind(
    text: str, lookup: Callable[[str], str], taken: frozenset[str] = frozenset()
) -> tuple[str, dict[str, str]]:
    """Return the statement with `$p_...` parameters and their values.

    `taken` names parameters that the statement already has. Comments keep their text.
    """
    parameters: dict[str, str] = {}
    chosen: dict[str, str] = {}
    if (quoted := quoted_in_sql(text)) is not None:
        raise TemplateError(f"{quoted} stands inside quotes")

    def replace(found: re.Match[str]) -> str:
        if found["escape"]:
            return "${"
        if not found["name"]:
            return found[0].replace("$${", "${") if found["quoted"] else found[0]
        (name,) = names_in(found["name"])
        if name not in chosen:
            base = "p_" + re.sub(r"[^A-Za-z0-9]", "_", name)
            label, count = base, 1
            while label in parameters or label in taken:
                count += 1
                label = f"{base}_{count}"
            chosen[name] = label
            parameters[label] = lookup(name)
        return f"${chosen[name]}"

    return _SQL_PART.sub(replace, text), parameters
