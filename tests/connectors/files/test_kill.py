"""A writer killed at any step leaves a destination that its successor completes exactly."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from mycelial.sdk.envelope import Checkpoint, Envelope, FenceToken, Part
from mycelial.sdk.registry import Registry
from mycelial.sdk.settings import Settings
from mycelial.sdk.testing import (
    NARROW,
    MemoryContext,
    expected_rows,
    make_batch,
    place,
    rows_of,
    same_rows,
)

REGISTRY = Registry.discover_only(["csv", "parquet"])
UNITS, ROWS = 4, 25

SHAPES = {
    "parquet": ("parquet", {"path": "out"}),
    "csv": ("csv", {"path": "out.csv"}),
    "csv-files": ("csv", {"path": "out", "layout": "files"}),
}


def build(plugin: str, role: Any, manifest: dict[str, Any]) -> Any:
    loader = REGISTRY.loader(plugin, role)
    return loader.build(Settings(loader.config().model_validate(manifest).model_dump(mode="json")))


def write_all(shape: str, root: Path, attempt: int) -> None:
    """Write what is not committed yet, as the engine would after a restart."""
    plugin, manifest = SHAPES[shape]
    destination = build(plugin, "destination", manifest)
    fence = FenceToken(1, attempt)
    found = destination.open(MemoryContext(root), "s", fence).get(Part("0"))
    destination.migrate((NARROW,))
    for unit in range(found.seq if found else 0, UNITS):
        first = unit * ROWS
        batch = make_batch(NARROW, first, ROWS)
        destination.write(Envelope(Part("0"), unit, place(first + ROWS), "narrow", batch))
        destination.commit(Checkpoint("s", Part("0"), fence, unit + 1, place(first + ROWS), ROWS))
    destination.close()


def read_all(shape: str, root: Path) -> list[Any]:
    plugin, manifest = SHAPES[shape]
    pattern = manifest["path"] if shape == "csv" else f"out/*.{plugin}"
    types = {"columns": {"id": "int64"}} if plugin == "csv" else {}
    source = build(plugin, "source", {"path": pattern, **types})
    source.open(MemoryContext(root))
    rows = rows_of(e.batch for e in source.read(Part("0"), None) if e.batch is not None)
    source.close()
    return rows


def run_and_die(shape: str, root: Path, die_at: int) -> int:
    """Write in a forked process that kills itself before its n-th durable step (fsync or rename);
    return its wait status, or with `die_at` 0 the number of steps."""
    child = os.fork()
    if child == 0:
        steps = 0

        def counted(real: Any) -> Any:
            def step(*args: Any) -> Any:
                nonlocal steps
                steps += 1
                if steps == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args)

            return step

        os.fsync = counted(os.fsync)
        Path.replace = counted(Path.replace)  # type: ignore[method-assign]
        write_all(shape, root, 1)
        os._exit(steps)
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork, no SIGKILL")
@pytest.mark.parametrize("shape", SHAPES)
def test_killed_at_every_durable_step_it_ends_up_exact(shape: str, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    steps = run_and_die(shape, whole, 0)
    assert steps > UNITS
    for die_at in range(1, steps + 1):
        root = tmp_path / f"{die_at}"
        root.mkdir()
        assert run_and_die(shape, root, die_at) == -signal.SIGKILL
        write_all(shape, root, 2)
        same_rows(read_all(shape, root), expected_rows(NARROW, 0, UNITS * ROWS))
        assert not [path for path in root.rglob("*") if path.name.startswith(".tmp-")]
