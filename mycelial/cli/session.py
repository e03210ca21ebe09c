"""What every verb may need: the working context, colours, and the client of the control plane.

Precedence everywhere: flag, environment, config file. No other module reads the environment.
"""

from __future__ import annotations

import os
import sys
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mycelial.kernel.errors import NotAllowed, UsageError
from mycelial.kernel.secret import Secret

if TYPE_CHECKING:
    from mycelial.client.api import Client

DEFAULT_URL = "http://127.0.0.1:7777"


def config_file() -> Path:
    """Return the user's config file; it need not exist."""
    if explicit := os.environ.get("MYCELIAL_CONFIG"):
        return Path(explicit)
    if sys.platform == "win32":
        base = Path(os.environ.get("APPDATA", Path.home() / "AppData" / "Roaming"))
    else:
        base = Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config"))
    return base / "mycelial" / "config.toml"


def data_home() -> Path:
    """Return the folder under which processes keep their data unless told otherwise."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "mycelial"
    return Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share")) / "mycelial"


def cache_home() -> Path:
    """Return the folder for what can be made again."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "mycelial" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mycelial"


@dataclass(frozen=True)
class Target:
    """A control plane and how to speak to it."""

    url: str
    token: Secret
    origin: str
    ca_file: Path | None = None


@dataclass
class Session:
    """Made once per command; `click.pass_obj` hands it to the verb."""

    context: str | None = None
    url: str | None = None
    color: str = "auto"
    verbose: bool = False

    def use_color(self, stream: Any) -> bool:
        """Tell whether escape codes may go to `stream` (NO_COLOR, FORCE_COLOR, --color)."""
        if self.color != "auto":
            return self.color == "always"
        if os.environ.get("NO_COLOR"):
            return False
        return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()

    @cached_property
    def client(self) -> Client:
        """Return a client of the control plane. Raises: UsageError, NotAllowed without a token."""
        from mycelial.client.api import Client

        target = self.target()
        if self.verbose:
            click.echo(f"control plane {target.url} ({target.origin})", err=True)
        return Client(
            target.url, target.token, ca_file=str(target.ca_file) if target.ca_file else None
        )

    def target(self) -> Target:
        """Resolve the control plane to talk to."""
        chosen = self._from_config()
        url = self.url or os.environ.get("MYCELIAL_URL") or (chosen.url if chosen else DEFAULT_URL)
        token = _token_from_environment()
        if token is None and chosen is not None and chosen.url == url:
            token = chosen.token
        if token is None:
            raise NotAllowed(
                "MYC-CLI-001",
                f"no token for the control plane {url}",
                fix="set MYCELIAL_TOKEN_FILE to the server's admin.token file (or MYCELIAL_TOKEN), "
                f"or add a context to {config_file()}",
            )
        return Target(
            url,
            token,
            chosen.origin if chosen else "environment",
            chosen.ca_file if chosen else None,
        )

    def _from_config(self) -> Target | None:
        path = config_file()
        wanted = self.context or os.environ.get("MYCELIAL_CONTEXT")
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            if wanted:
                raise UsageError(
                    "MYC-CLI-002", f"there is no context {wanted!r}: {path} does not exist"
                ) from None
            return None
        try:
            config = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UsageError("MYC-CLI-003", f"{path}: {error}", fix="correct the file") from error
        name = wanted or config.get("current", "local")
        entry = config.get("contexts", {}).get(name)
        if entry is None:
            if not wanted:
                return None
            known = ", ".join(sorted(config.get("contexts", {}))) or "none"
            raise UsageError(
                "MYC-CLI-002",
                f"there is no context {name!r} in {path}",
                fix=f"known contexts: {known}",
            )
        token = _read_token(Path(entry["token_file"]).expanduser())
        ca_file = Path(entry["ca_file"]).expanduser() if "ca_file" in entry else None
        return Target(entry["url"], token, f"context {name}", ca_file)


def _token_from_environment() -> Secret | None:
    if text := os.environ.get("MYCELIAL_TOKEN"):
        return Secret(text.strip())
    if path := os.environ.get("MYCELIAL_TOKEN_FILE"):
        return _read_token(Path(path))
    return None


def _read_token(path: Path) -> Secret:
    try:
        return Secret(path.read_text(encoding="utf-8").strip())
    except OSError as error:
        raise NotAllowed(
            "MYC-CLI-004",
            f"cannot read the token file {path}: {error.strerror}",
            fix="point MYCELIAL_TOKEN_FILE or the context's token_file at the admin.token file",
        ) from error
