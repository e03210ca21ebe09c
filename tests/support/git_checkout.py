"""A bare repository that others follow, and a clone of it in which somebody works with git."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

_ENVIRONMENT = {
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@localhost",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@localhost",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
}


class Checkout:
    """Works in `<folder>/clone` and pushes to `<folder>/origin.git`, branch main."""

    def __init__(self, folder: Path) -> None:
        self.bare, self.clone = folder / "origin.git", folder / "clone"
        self._run("init", "-q", "--bare", "-b", "main", str(self.bare))
        self._run("clone", "-q", str(self.bare), str(self.clone))

    def git(self, *words: str) -> str:
        """Run git in the clone; return what it prints."""
        return self._run("-C", str(self.clone), *words)

    def push(self, files: Mapping[str, str | None], message: str = "Change") -> str:
        """Write files (None removes one), commit, push; return the revision `main@<sha>`."""
        for path, text in files.items():
            file = self.clone / path
            if text is None:
                file.unlink()
            else:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, "utf-8")
        self.git("add", "-A")
        self.git("commit", "-qm", message)
        return self.push_head()

    def push_head(self, *options: str) -> str:
        """Push what is committed; return the revision."""
        self.git("push", "-q", *options, "origin", "HEAD:main")
        return f"main@{self.git('rev-parse', 'HEAD')}"

    def _run(self, *words: str) -> str:
        done = subprocess.run(
            ["git", *words], capture_output=True, text=True, env={**os.environ, **_ENVIRONMENT}
        )
        assert done.returncode == 0, f"git {' '.join(words)}: {done.stderr}"
        return done.stdout.strip()
