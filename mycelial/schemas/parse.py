"""Bytes to documents with places. The first step of every check."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mycelial.kernel.errors import Problem
from mycelial.schemas.locate import with_frames
from mycelial.schemas.yaml import Document, read_yaml

_KIND = re.compile(r"^[\"']?kind[\"']?\s*:\s*[\"']?([A-Za-z]+)", re.MULTILINE)
_NAME = re.compile(
    r"^[\"']?metadata[\"']?\s*:\s*(?:\{[^\n]*?|(?:#.*)?\n(?:[ \t]+.*\n|[ \t]*\n)*?[ \t]+)"
    r"\bname\s*:\s*[\"']?([A-Za-z0-9-]+)",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class ParsedFile:
    """A file as documents; `problems` are those of YAML alone, in the order of the text."""

    path: str
    text: str
    documents: tuple[Document, ...]
    problems: tuple[Problem, ...]


def parse_file(path: str, data: bytes) -> ParsedFile:
    """Parse a file. Never raises: what is wrong is in `problems`, all of it."""
    stream = read_yaml(path, data)
    problems = sorted(
        stream.problems, key=lambda p: (p.where.line, p.where.column) if p.where else (0, 0)
    )
    return ParsedFile(path, stream.text, stream.documents, with_frames(problems, stream.text))


def guess_object(text: str) -> tuple[str, str] | None:
    """Return (kind, name) that the text of a broken document seems to declare."""
    kind, name = _KIND.search(text), _NAME.search(text)
    return (kind[1], name[1]) if kind and name else None
