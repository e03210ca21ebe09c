"""Where a daemon finds the values of secrets. Standard library only; never shows a value (I11)."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from mycelial.kernel.errors import NotAllowed, OperationFailed
from mycelial.kernel.secret import Secret

_VALUE_BYTES_MAX = 1024 * 1024
_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,252}")
_DOTENV = re.compile(r"(?:export\s+)?([A-Za-z0-9][A-Za-z0-9._/-]*)\s*=\s*(.*)")


class SecretProvider(Protocol):
    """One place to look in."""

    def get(self, ref: str) -> Secret | None:
        """Return the value, or None when this provider does not have it.

        Raises: NotAllowed, OperationFailed when it cannot be trusted or read.
        """

    def describe(self, ref: str) -> str:
        """Say where `ref` was looked for, without any value."""


class EnvSecrets:
    """`warehouse-pw` is `<prefix>WAREHOUSE_PW`; the environment is handed in."""

    def __init__(self, environment: Mapping[str, str], *, prefix: str = "MYCELIAL_SECRET_") -> None:
        self._environment, self._prefix = environment, prefix

    def _variable(self, ref: str) -> str:
        return self._prefix + re.sub(r"[^A-Za-z0-9]", "_", ref).upper()

    def get(self, ref: str) -> Secret | None:
        """Return the variable's value; an empty one counts as not set."""
        value = self._environment.get(self._variable(ref))
        return Secret(value) if value else None

    def describe(self, ref: str) -> str:
        """Name the variable."""
        return f"environment variable {self._variable(ref)}"


class FolderSecrets:
    """A file per secret, as orchestrators mount them; one trailing newline is not part of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, ref: str) -> Secret | None:
        """Return a file's content."""
        path = self._path(ref)
        data = _read_private(path) if path is not None else None
        return (
            None if data is None or path is None else Secret(_text(data, path).removesuffix("\n"))
        )

    def _path(self, ref: str) -> Path | None:
        # Mounts link `name` to `..data/name`, so links are followed, but only inside the folder.
        path = (self._folder / ref).resolve()
        return path if path.is_relative_to(self._folder.resolve()) else None

    def describe(self, ref: str) -> str:
        """Name the file."""
        return f"file {self._folder / ref}"


class FileSecrets:
    """One file of many secrets: TOML (`.toml`) or lines of `name=value`. Read at each look-up,
    so that a rotated value is found without a restart."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, ref: str) -> Secret | None:
        """Return the value of a name."""
        data = _read_private(self._path)
        if data is None:
            return None
        text = _text(data, self._path)
        entries = self._toml(text) if self._path.suffix == ".toml" else self._lines(text)
        value = entries.get(ref)
        return None if value is None else Secret(value)

    def _toml(self, text: str) -> dict[str, str]:
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            # Its message quotes the text around the error, and a traceback would show the cause.
            table = None
        if table is None:
            raise _unreadable(self._path, "it is not valid TOML")
        wrong = sorted(name for name, value in table.items() if not isinstance(value, str))
        if wrong:
            raise _unreadable(self._path, f"{wrong[0]} is not text")
        return {name: str(value) for name, value in table.items()}

    def _lines(self, text: str) -> dict[str, str]:
        entries = {}
        for number, line in enumerate(text.splitlines(), start=1):
            stripped = line.strip()
            if not stripped or stripped.startswith("#"):
                continue
            found = _DOTENV.fullmatch(stripped)
            if found is None:
                raise _unreadable(self._path, f"line {number} is not name=value")
            entries[found[1]] = _unquoted(found[2])
        return entries

    def describe(self, ref: str) -> str:
        """Name the file and the entry."""
        return f"{ref} in file {self._path}"


def resolve(ref: str, providers: Sequence[SecretProvider]) -> Secret:
    """Return the value from the first provider that has it.

    Raises: OperationFailed (MYC-SEC-030) naming the secret and every place looked in; NotAllowed
    (-031) for a name or a file that is not acceptable.
    """
    if not _REF.fullmatch(ref) or any(part in ("", ".", "..") for part in ref.split("/")):
        raise NotAllowed(
            "MYC-SEC-031",
            f"{ref[:80]!r} is not a name for a secret",
            fix="use letters, digits, dots, dashes, underscores and slashes",
        )
    for provider in providers:
        found = provider.get(ref)
        if found is not None:
            return found
    places = "; ".join(provider.describe(ref) for provider in providers)
    raise OperationFailed(
        "MYC-SEC-030",
        f"secret {ref!r} was not found; looked for: {places or 'nowhere, no provider is set up'}",
        fix="set it in one of these places on the machine that runs the pipeline",
    )


def _read_private(path: Path) -> bytes | None:
    """Return a file's bytes, or None when there is none; refuse one that everybody may read."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise _unreadable(path, "it is not a regular file")
            if os.name != "nt" and found.st_mode & 0o007:
                raise NotAllowed(
                    "MYC-SEC-031",
                    f"{path} holds secrets and is open to every user (mode "
                    f"{found.st_mode & 0o777:04o})",
                    fix=f"chmod 600 {path}, and replace the secrets if others may have read them",
                )
            data = file.read(_VALUE_BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(path, error.strerror or type(error).__name__) from error
    if len(data) > _VALUE_BYTES_MAX:
        raise _unreadable(path, f"it is larger than {_VALUE_BYTES_MAX} bytes")
    return data


def _text(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        pass  # the exception holds the bytes; it must not become anybody's cause
    raise _unreadable(path, "it is not UTF-8 text")


def _unquoted(value: str) -> str:
    quoted = len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if quoted else value


def _unreadable(path: Path, why: str) -> OperationFailed:
    return OperationFailed(
        "MYC-SEC-032", f"secrets in {path} cannot be read: {why}", fix="correct the file"
    )
