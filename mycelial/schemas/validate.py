"""The one validator: validate, plan, apply, push, server and daemon all ask here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from mycelial.kernel.errors import Problem, Severity
from mycelial.schemas.catalog import Catalog
from mycelial.schemas.check import check_file
from mycelial.schemas.checked import CheckedFile
from mycelial.schemas.compile import compile_tree
from mycelial.schemas.desired import DesiredState
from mycelial.schemas.locate import with_frames
from mycelial.schemas.parse import parse_file
from mycelial.schemas.yaml import decode_text

NOT_CHECKED = "MYC-REF-001"


@dataclass(frozen=True, slots=True)
class Validation:
    """What a set of files means. `problems` come in the order of files and lines."""

    problems: tuple[Problem, ...]
    desired: DesiredState
    checked: tuple[CheckedFile, ...]

    @property
    def ok(self) -> bool:
        """True when nothing is an error."""
        return not any(p.severity is Severity.ERROR for p in self.problems)


def validate(
    files: Mapping[str, bytes],
    catalog: Catalog,
    *,
    strict: bool = False,
    revision: str = "",
    complete: bool = True,
    daemons: Mapping[str, Mapping[str, str]] | None = None,
) -> Validation:
    """Check files as one tree. `strict` makes "not checked" an error. Never raises for content."""
    checked = tuple(
        check_file(parse_file(path, data), catalog) for path, data in sorted(files.items())
    )
    desired = compile_tree(
        checked, revision=revision, complete=complete, catalog=catalog, daemons=daemons
    )
    problems = framed(desired.problems, files, checked)
    if strict:
        problems = made_strict(problems)
    return Validation(problems, replace(desired, problems=problems), checked)


def framed(
    problems: Iterable[Problem], files: Mapping[str, bytes], checked: Iterable[CheckedFile] = ()
) -> tuple[Problem, ...]:
    """Give problems that compiling found the lines around them, and sort all by place."""
    masks = {file.path: file.masks for file in checked}
    ordered = sorted(problems, key=_place)
    result: list[Problem] = []
    for problem in ordered:
        path = problem.where.file if problem.where else ""
        if problem.frame or path not in files:
            result.append(problem)
            continue
        result.extend(with_frames([problem], decode_text(files[path]), masks.get(path, ())))
    return tuple(result)


def _place(problem: Problem) -> tuple[str, int, int, str]:
    where = problem.where
    return (
        (where.file, where.line, where.column, problem.code) if where else ("", 0, 0, problem.code)
    )


def made_strict(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return the problems with "not checked" turned from a warning into an error."""
    return tuple(_strictly(p) for p in problems)


def _strictly(problem: Problem) -> Problem:
    if problem.code != NOT_CHECKED:
        return problem
    return replace(problem, severity=Severity.ERROR)
