"""The README's tour, run as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

import console
import fleet_processes

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.e2e
def test_the_tour_of_the_readme_runs_as_shown(tmp_path: Path) -> None:
    people, daemons = fleet_processes.free_ports(2)
    changes = {
        "127.0.0.1:7777": f"127.0.0.1:{people}",
        "127.0.0.1:7443": f"127.0.0.1:{daemons}",
    }
    console.run_file(ROOT / "README.md", tmp_path, changes=changes)
