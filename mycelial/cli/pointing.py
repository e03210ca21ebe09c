"""Where in a manifest the failure of a running pipeline belongs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from mycelial.kernel.errors import Problem

_STEP = re.compile(r"[^.\[\]]+")


def point(problem: Problem, *, files: Mapping[str, bytes], file: str, workflow: str) -> Problem:
    """Return the problem at the field it names, with the lines around it.

    A problem that has a place keeps it; one that names no field is put at the workflow's name.
    """
    from mycelial.schemas.catalog import Catalog
    from mycelial.schemas.check import check_file
    from mycelial.schemas.locate import place
    from mycelial.schemas.parse import parse_file
    from mycelial.schemas.validate import framed

    if problem.where is not None or file not in files:
        return problem
    parsed = parse_file(file, files[file])
    for document in parsed.documents:
        metadata = document.value.get("metadata") if isinstance(document.value, dict) else None
        if document.node is None or not isinstance(metadata, dict):
            continue
        if metadata.get("name") == workflow and document.value.get("kind") == "Workflow":
            path = [int(s) if s.isdigit() else s for s in _STEP.findall(problem.path)]
            where = place(file, document.node, path or ["metadata", "name"])
            located = replace(problem, where=where)
            # Checking once more finds the spans that a frame must not show (I11).
            (shown,) = framed([located], files, [check_file(parsed, Catalog(()))])
            return shown
    return problem
