"""Notices changes of files for `schedule: onChange`. The only importer of watchfiles here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mycelial.sdk.errors import Permanent
from mycelial.sdk.plugin import Context

_WILDCARDS = frozenset("*?[")


def watched_path(ctx: Context, config: Mapping[str, Any]) -> Path:
    """Return the existing file or directory to watch for a source's `path`.

    Raises: Permanent when the source has no path; PolicyDenied.
    """
    text = config.get("path")
    if not isinstance(text, str) or not text:
        raise Permanent(
            "MYC-RUN-014",
            "schedule onChange needs a source with a `path`",
            fix="use `schedule: every 30s` or `continuous` with this source",
        )
    path = Path(text)
    while _WILDCARDS & set(path.name):
        path = path.parent
    found = ctx.path(str(path), write=False)
    while not found.exists() and found != found.parent:
        found = found.parent
    return found


def start_watching(path: Path, on_change: Callable[[], None]) -> None:
    """Call `on_change` from a thread of its own, which ends with the process."""
    # Imported here: only pipelines with this schedule pay for it, and only after the fork.
    import watchfiles

    target = path if path.is_dir() else path.parent

    def is_ours(_: watchfiles.Change, changed: str) -> bool:
        # Databases write beside their file (-wal, -journal): the prefix catches those too.
        return path.is_dir() or changed.startswith(str(path))

    def run() -> None:
        for _ in watchfiles.watch(target, watch_filter=is_ours, debounce=200, step=50):
            on_change()

    threading.Thread(target=run, name="watch", daemon=True).start()
