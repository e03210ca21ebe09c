"""Files that hold private keys: only their owner may read them."""

from __future__ import annotations

import os
from pathlib import Path

from mycelial.kernel.errors import OperationFailed


def check_private(path: Path) -> None:
    """Refuse a key file that others can read. Raises: OperationFailed (MYC-SEC-004), OSError."""
    mode = path.stat().st_mode & 0o777
    if os.name != "nt" and mode & 0o077:
        raise OperationFailed(
            "MYC-SEC-004",
            f"{path} holds a private key and can be read by others (mode {mode:04o})",
            fix=f"chmod 600 {path}, and replace the key if others may have copied it",
        )
