"""What the examples' tests share: a copy of the example to run in, and the README's runner."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def example(tmp_path: Path) -> Callable[[str], Path]:
    """Copy an example as git has it, without what somebody's run left in it."""

    def copy(name: str) -> Path:
        leftovers = shutil.ignore_patterns(".state", ".home", "lake", "done", "*.db", "*.db-*")
        return Path(shutil.copytree(EXAMPLES / name, tmp_path / name, ignore=leftovers))

    return copy
