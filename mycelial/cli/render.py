"""Values as text: tables, problems, plans, JSON and YAML. Data on stdout, prose on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import click

from mycelial.kernel.errors import Problem, Severity
from mycelial.schemas.codec import encode

F = TypeVar("F", bound=Callable[..., Any])
FORMAT_VERSION = 1


def output_option(*allowed: str) -> Callable[[F], F]:
    """Return the `-o` option with the given formats; the first one is the default."""
    return click.option(
        "-o", "--output", type=click.Choice(allowed), default=allowed[0], show_default=True
    )


def show_problems(problems: Sequence[Problem], *, err: bool = True) -> None:
    """Print problems as file:line:col CODE message, frame and fix."""
    from mycelial.schemas.report import render_problem

    stream = sys.stderr if err else sys.stdout
    color = stream.isatty()
    for problem in problems:
        click.echo(render_problem(problem, color=color), file=stream)


def count_line(problems: Sequence[Problem], *, files: int, objects: int, seconds: float) -> str:
    """Return the closing line of a check."""
    errors = sum(problem.severity is Severity.ERROR for problem in problems)
    return (
        f"{plural(files, 'file')}, {plural(objects, 'object')}: {plural(errors, 'error')}, "
        f"{plural(len(problems) - errors, 'warning')} ({seconds:.1f}s)"
    )


def plural(count: int, noun: str) -> str:
    """Return `1 file`, `2 files`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def show_json(value: Any) -> None:
    """Print a value as JSON with the format's version beside it."""
    click.echo(json.dumps({"formatVersion": FORMAT_VERSION, **_document(value)}, indent=2))


def show_yaml(value: Any) -> None:
    """Print a value as YAML; JSON scalars and quoting, which every YAML 1.2 reader takes."""
    click.echo("\n".join(_yaml({"formatVersion": FORMAT_VERSION, **_document(value)}, 0)))


def show_names(kind: str, names: Iterable[str]) -> None:
    """Print `kind/name`, one a line, for scripts."""
    for name in names:
        say(f"{kind.lower()}/{name}")


def _document(value: Any) -> Mapping[str, Any]:
    encoded = encode(value)
    return {"items": encoded} if isinstance(encoded, list) else encoded


def _yaml(value: Any, depth: int) -> list[str]:
    pad = "  " * depth
    if isinstance(value, Mapping) and value:
        lines = []
        for key, item in value.items():
            if isinstance(item, Mapping | list) and item:
                lines += [f"{pad}{_scalar(key)}:", *_yaml(item, depth + 1)]
            else:
                lines.append(f"{pad}{_scalar(key)}: {_scalar(item)}")
        return lines
    if isinstance(value, list) and value:
        lines = []
        for item in value:
            inner = _yaml(item, depth + 1)
            lines.append(f"{pad}- {inner[0].lstrip()}")
            lines += inner[1:]
        return lines
    return [pad + _scalar(value)]


def _scalar(value: Any) -> str:
    plain = (
        isinstance(value, str)
        and value
        and value[0].isalpha()
        and all(char.isalnum() or char in "._/-" for char in value)
        and value.lower() not in ("true", "false", "null", "yes", "no", "on", "off", "nan", "inf")
    )
    is_safe = not isinstance(value, str) or value.isprintable()
    return value if plain else json.dumps(value, ensure_ascii=not is_safe)


def show_table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print aligned columns; `empty` says what to do next when there are no rows."""
    cells = [[clean(str(cell)) for cell in row] for row in rows]
    if not cells:
        click.echo(empty, err=True)
        return
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    for line in [list(headers), *cells]:
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo(text.rstrip())


def say(line: str) -> None:
    """Print one line of text that others wrote: it stays one line, and drives no terminal."""
    click.echo(clean(line))


def say_lines(text: str) -> None:
    """Print text of several lines that others wrote, such as a manifest; nothing for none."""
    for line in text.removesuffix("\n").split("\n") if text else ():
        click.echo("\t".join(map(clean, line.split("\t"))))


def clean(text: str) -> str:
    """Escape control and direction characters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def age(seconds: float) -> str:
    """Return `8s`, `3m`, `5h`, `20d`."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


def quantity(value: float) -> str:
    """Return a rate or count in at most five characters: `812`, `1.2k`, `3.4M`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.1f}{unit}"
    return f"{value:.0f}"


def nbytes(value: float) -> str:
    """Return bytes with a binary unit: `33.8 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")
