"""The number of worker starts: the lower half of the fence, raised before each start (R12)."""

from __future__ import annotations

from pathlib import Path

from mycelial.kernel.errors import StateCorrupt
from mycelial.kernel.files import make_private_dir, write_durable


def read_attempt(path: Path) -> int:
    """Return the number of the last start; 0 when there was none. Raises: StateCorrupt."""
    try:
        text = path.read_text("ascii")
    except FileNotFoundError:
        return 0
    except UnicodeDecodeError:
        text = ""
    if not text.strip().isdigit():
        raise StateCorrupt(
            "MYC-RUN-031",
            f"{path} does not hold a number",
            fix="write into it a number above every attempt seen in the pipeline's log",
        )
    return int(text)


def raise_attempt(path: Path, *, at_least: int = 1) -> int:
    """Return the next number; it is on disk before this returns, so it is never given twice."""
    make_private_dir(path.parent)
    number = max(read_attempt(path) + 1, at_least)
    write_durable(path, f"{number}\n".encode())
    return number
