"""The control plane's directory: what is where, and that one process owns it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from mycelial.kernel.errors import NotAllowed, OperationFailed
from mycelial.kernel.files import make_private_dir
from mycelial.kernel.secret import Secret
from mycelial.security.tokens import make_admin_token, parse_admin_token, save_token


@dataclass(frozen=True, slots=True)
class DataDir:
    """Paths below one root; `open` creates the root private to its owner."""

    root: Path

    @property
    def store(self) -> Path:
        """The store's database."""
        return self.root / "store.db"

    @property
    def repository(self) -> Path:
        """The embedded bare repository."""
        return self.root / "repo.git"

    @property
    def ca(self) -> Path:
        """The certificate authority's key and certificates."""
        return self.root / "ca"

    @property
    def keys(self) -> Path:
        """The key that signs assignment sets."""
        return self.root / "keys"

    @property
    def parse_cache(self) -> Path:
        """Checked files by blob id; may be deleted at any time."""
        return self.root / "parse-cache.db"

    @property
    def admin_token_file(self) -> Path:
        """The administrator's token, readable by the owner alone."""
        return self.root / "admin.token"

    def create(self) -> None:
        """Create the directory.

        Raises: OperationFailed MYC-CP-001 when the path cannot be made or entered.
        """
        try:
            make_private_dir(self.root)
        except OSError as error:
            raise OperationFailed(
                "MYC-CP-001",
                f"the data directory {self.root} cannot be used: {error.strerror}",
                fix="choose another with --data, or correct its owner and permissions",
            ) from error

    def admin_token(self) -> Secret:
        """Return the administrator's token, made at the first start.

        Raises: OperationFailed MYC-CP-003 when the file is there and holds none.
        """
        try:
            if not self.admin_token_file.exists():
                save_token(self.admin_token_file, make_admin_token())
            return parse_admin_token(self.admin_token_file.read_text(encoding="utf-8").strip())
        except (OSError, NotAllowed) as error:
            raise OperationFailed(
                "MYC-CP-003",
                f"{self.admin_token_file} cannot be used",
                fix="correct its owner and permissions, or delete it: the next start makes a "
                "new token",
            ) from error


class DirLock:
    """An exclusive claim on a data directory, held until closed; the system frees it on a crash.

    Raises: OperationFailed MYC-CP-002 when another process holds it.
    """

    def __init__(self, root: Path) -> None:
        self._file: IO[bytes] = (root / "lock").open("a+b")
        try:
            _lock(self._file)
        except OSError as error:
            self._file.close()
            raise OperationFailed(
                "MYC-CP-002",
                f"another server is using the data directory {root}",
                fix="stop it first, or start this one with another --data",
            ) from error

    def close(self) -> None:
        """Give the directory up."""
        self._file.close()

    def __enter__(self) -> DirLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _lock(file: IO[bytes]) -> None:
    if os.name == "nt":  # pragma: no cover - another platform
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
