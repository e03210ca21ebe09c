"""Real repositories in temporary folders, and the git program as other people run it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path) -> Git:
    """Run git as an ordinary user would, without this machine's configuration."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("GIT_")},
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "Ada",
        "GIT_AUTHOR_EMAIL": "ada@example.org",
        "GIT_COMMITTER_NAME": "Ada",
        "GIT_COMMITTER_EMAIL": "ada@example.org",
    }

    def run(folder: Path, *arguments: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


@pytest.fixture
def upstream(tmp_path: Path, git: Git) -> Path:
    """A bare repository with one commit on main, as somebody else's server would hold it."""
    path = tmp_path / "upstream.git"
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", str(path))
    clone = tmp_path / "upstream-clone"
    git(tmp_path, "clone", "--quiet", str(path), str(clone))
    git(clone, "switch", "--quiet", "--create", "main")
    git(clone, "commit", "--quiet", "--allow-empty", "--message", "start")
    git(clone, "push", "--quiet", "origin", "main")
    return path
