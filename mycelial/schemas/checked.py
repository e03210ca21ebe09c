"""What is left of a file after checking: enough to compile a tree. Stdlib only, JSON both ways.

Callers cache it by blob id and catalog digest, so that a commit costs the files it touches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mycelial.kernel.errors import Location, Problem, Severity

FORMAT = 1
PROJECT_FILE = "mycelial.yaml"
Mark = tuple[int, int]  # line, column; from 1


@dataclass(frozen=True, slots=True)
class CheckedObject:
    """One object of a file. `spec` is None when the object has errors of its own.

    spec is normalised JSON: for a Workflow all that the template needs; a plugin that uses a
    Connection keeps its `config` as the manifest has it until both are merged. `digest` covers
    spec alone. `marks` tell where the fields stand that other files can put in the wrong:
    field path -> place. `uses` are the names in `${...}` with their field paths.
    """

    kind: str
    name: str
    line: int
    column: int
    spec: Mapping[str, Any] | None = None
    digest: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    moved_from: tuple[str, ...] = ()
    marks: Mapping[str, Mark] = field(default_factory=dict)
    uses: tuple[tuple[str, str], ...] = ()

    @property
    def id(self) -> str:
        """`Workflow/orders`."""
        return f"{self.kind}/{self.name}"

    def at(self, file: str, path: str) -> Location:
        """Return where a field stands; the object itself when that is not known."""
        line, column = self.marks.get(path, (self.line, self.column))
        return Location(file, line, column)


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """One file, checked by itself. `complete` is false when any of it could not be used.

    `masks` are the spans that frames must not show (I11).
    """

    path: str
    objects: tuple[CheckedObject, ...] = ()
    problems: tuple[Problem, ...] = ()
    complete: bool = True
    masks: tuple[tuple[int, int, int, int], ...] = ()

    @property
    def has_errors(self) -> bool:
        """True when the file has an error of its own."""
        return any(p.severity is Severity.ERROR for p in self.problems)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "format": FORMAT,
            "path": self.path,
            "objects": [
                [o.kind, o.name, o.line, o.column, o.spec, o.digest, o.labels, o.annotations,
                 o.moved_from, o.marks, o.uses]
                for o in self.objects
            ],
            "problems": [p.to_json() for p in self.problems],
            "complete": self.complete,
            "masks": self.masks,
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, path: str | None = None) -> CheckedFile:
        """Rebuild from `to_json`, at another path if the same blob was moved.

        Raises: ValueError when it was written by another format: check the file again.
        """
        if data.get("format") != FORMAT:
            raise ValueError(f"a checked file of format {data.get('format')}, not {FORMAT}")
        moved = path is not None and path != data["path"]
        problems = tuple(Problem.from_json(p) for p in data["problems"])
        if moved and problems:
            raise ValueError("a file with problems was moved: check it again")
        return cls(
            path=path if path is not None else data["path"],
            objects=tuple(
                CheckedObject(
                    kind, name, line, column, spec, digest, labels, annotations, tuple(moved_from),
                    marks, tuple((u[0], u[1]) for u in uses),
                )
                for kind, name, line, column, spec, digest, labels, annotations, moved_from, marks,
                uses in data["objects"]
            ),
            problems=problems,
            complete=data["complete"],
            masks=tuple((m[0], m[1], m[2], m[3]) for m in data["masks"]),
        )  # fmt: skip
