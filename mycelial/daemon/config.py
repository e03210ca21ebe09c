"""`config.toml`: what only the machine's owner decides. Typed, located, all problems at once.

Unknown options refuse the start: an option that is silently ignored is a promise not kept. A
secret never stands here, only its name. Nothing in this file can be set from the control plane.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mycelial.daemon.toml import Path as KeyPath
from mycelial.daemon.toml import locate, positions
from mycelial.kernel.errors import InvalidManifest, Location, Problem
from mycelial.schemas.units import parse_size

NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
CONFIG_BYTES_MAX = 1024 * 1024


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Who this machine says it is. `labels` are proposed; labels in git win."""

    name: str = ""
    state_dir: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where the control plane is, in order of preference. `ca_pin` is `sha256:<hex>` of its CA."""

    urls: tuple[str, ...] = ()
    ca_pin: str = ""


@dataclass(frozen=True, slots=True)
class SecretsConfig:
    """Where secrets are looked up, in this order; empty means: not there."""

    env_prefix: str = ""
    file_path: str = ""


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """What may run here, whatever git says (I12). None means no limit."""

    read_paths: tuple[str, ...] | None = None
    write_paths: tuple[str, ...] | None = None
    hosts: tuple[str, ...] | None = None
    connectors: tuple[str, ...] | None = None
    memory_max_bytes: int | None = None
    pipelines_max: int | None = None


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """A named source or destination of this machine; manifests use it as `daemon/name`."""

    name: str
    connector: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """The whole file; every table may be left out."""

    node: NodeConfig = field(default_factory=NodeConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    secrets: SecretsConfig = field(default_factory=SecretsConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    sources: tuple[EndpointConfig, ...] = ()
    destinations: tuple[EndpointConfig, ...] = ()
    base_dir: str = ""  # the folder of the file: relative paths start here


def load(path: Path) -> DaemonConfig:
    """Read and check a config file. Raises: InvalidManifest (exit 65) with every problem."""
    where = Location(str(path))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidManifest(
            [
                Problem(
                    "MYC-DAEMON-001",
                    f"cannot read the config: {error.strerror or error}",
                    fix="check the path and its permissions",
                    where=where,
                )
            ]
        ) from error
    if len(data) > CONFIG_BYTES_MAX:
        raise InvalidManifest(
            [Problem("MYC-DAEMON-001", "the config is larger than 1 MiB", where=where)]
        )
    return parse(data, file=str(path), base_dir=str(path.resolve().parent))


def parse(data: bytes, *, file: str = "config.toml", base_dir: str = "") -> DaemonConfig:
    """Check a config text. Raises: InvalidManifest (exit 65) with every problem, in file order."""
    try:
        text = data.decode()
        tree = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InvalidManifest(
            [Problem("MYC-DAEMON-002", "not UTF-8 text", where=Location(file, line, 1))]
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidManifest([_syntax_problem(str(error), file, text)]) from error
    reader = _Reader(file, text)
    config = _read_root(reader, tree, base_dir)
    if reader.problems:
        raise InvalidManifest(sorted(reader.problems, key=lambda p: p.where or Location("")))
    return config


def _syntax_problem(message: str, file: str, text: str) -> Problem:
    found = re.search(r"\(at line (\d+), column (\d+)\)", message)
    lines = text.splitlines()
    line, column = (int(found[1]), int(found[2])) if found else (max(len(lines), 1), 1)
    what = re.sub(r"\s*\(at .*\)$", "", message)
    return Problem(
        "MYC-DAEMON-002",
        f"not valid TOML: {what[:1].lower()}{what[1:]}",
        fix='values are written like: name = "shop-01"',
        where=Location(file, line, column),
        frame=_frame(lines, line),
    )


def _frame(lines: list[str], line: int) -> tuple[tuple[int, str], ...]:
    return tuple((n, lines[n - 1]) for n in range(line - 1, line + 2) if 0 < n <= len(lines))


Check = Callable[["_Reader", KeyPath, Any], Any]


class _Reader:
    """Collects problems while it walks the tree."""

    def __init__(self, file: str, text: str) -> None:
        self.problems: list[Problem] = []
        self._file = file
        self._lines = text.splitlines()
        self._positions = positions(text)

    def table(self, path: KeyPath, value: Any, fields: Mapping[str, Check]) -> dict[str, Any]:
        """Return the checked values of a table; unknown keys and wrong types become problems."""
        if not isinstance(value, dict):
            self.wrong(path, "a table", value)
            return {}
        where = _name(path)
        for key in value:
            if key not in fields:
                near = difflib.get_close_matches(key, fields, n=1)
                hint = f'did you mean "{near[0]}"? ' if near else ""
                self.add(
                    "MYC-DAEMON-003",
                    (*path, key),
                    f'unknown option "{key}"' + (f" in [{where}]" if where else ""),
                    f"{hint}Allowed: {', '.join(sorted(fields))}",
                )
        return {
            key: check(self, (*path, key), value[key])
            for key, check in fields.items()
            if key in value
        }

    def wrong(self, path: KeyPath, wanted: str, value: Any) -> None:
        """Note a value of the wrong type. Names its type, never the value: it may be a secret."""
        kind = _KINDS.get(type(value), type(value).__name__)
        self.add("MYC-DAEMON-004", path, f"{_name(path)} must be {wanted}, found {kind}", "")

    def add(self, code: str, path: KeyPath, what: str, fix: str) -> None:
        """Note a problem at the position of `path`."""
        line, column = locate(self._positions, path)
        self.problems.append(
            Problem(
                code,
                what,
                fix=fix,
                where=Location(self._file, line, column),
                path=_name(path),
                frame=_frame(self._lines, line),
            )
        )


_KINDS = {
    str: "text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}


def _name(path: KeyPath) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _text(reader: _Reader, path: KeyPath, value: Any) -> str:
    if isinstance(value, str):
        return value
    reader.wrong(path, "text", value)
    return ""


def _texts(reader: _Reader, path: KeyPath, value: Any) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    reader.wrong(path, "a list of texts", value)
    return ()


def _urls(reader: _Reader, path: KeyPath, value: Any) -> tuple[str, ...]:
    urls = (value,) if isinstance(value, str) else _texts(reader, path, value)
    for url in urls:
        if not re.fullmatch(r"https://[^/\s@]+/?", url):
            reader.add(
                "MYC-DAEMON-005",
                path,
                f'"{url.partition("@")[2] or url}" is not the address of a control plane',
                'write it like "https://control.example:8443"; no path, no user',
            )
    return tuple(url.rstrip("/") for url in urls)


def _labels(reader: _Reader, path: KeyPath, value: Any) -> Mapping[str, str]:
    if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
        return dict(value)
    reader.wrong(path, 'a table of texts, such as { site = "lyon" }', value)
    return {}


def _dns_name(reader: _Reader, path: KeyPath, value: Any) -> str:
    text = _text(reader, path, value)
    if text and not NAME.fullmatch(text):
        reader.add(
            "MYC-DAEMON-005",
            path,
            f'"{text}" is not a name',
            "use 1 to 63 lower-case letters, digits, '-' and '.', starting and ending with a "
            "letter or digit",
        )
    return text


def _pin(reader: _Reader, path: KeyPath, value: Any) -> str:
    text = _text(reader, path, value).lower()
    pin = text.removeprefix("sha256:")
    if text and not re.fullmatch(r"[0-9a-f]{64}", pin):
        reader.add(
            "MYC-DAEMON-005", path, "ca_pin is not a SHA-256 digest", "write sha256:<64 hex digits>"
        )
    return f"sha256:{pin}" if pin else ""


def _size(reader: _Reader, path: KeyPath, value: Any) -> int | None:
    if isinstance(value, str):
        with contextlib.suppress(ValueError):  # told below, without the value
            return parse_size(value)
    reader.wrong(path, 'a size such as "512MiB"', value)
    return None


def _count(reader: _Reader, path: KeyPath, value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return int(value)
    reader.wrong(path, "a whole number from 0", value)
    return None


def _settings(reader: _Reader, path: KeyPath, value: Any) -> Mapping[str, Any]:
    if isinstance(value, dict):
        _refuse_dates(reader, path, value)
        return value
    reader.wrong(path, "a table", value)
    return {}


def _refuse_dates(reader: _Reader, path: KeyPath, value: Any) -> None:
    """Settings travel as JSON, which has no dates."""
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_dates(reader, (*path, key), item)
    elif isinstance(value, list):
        for item in value:
            _refuse_dates(reader, path, item)
    elif not isinstance(value, str | int | float | bool):
        reader.wrong(path, "text, number, true or false, list or table", value)


def _only(name: str, check: Check) -> Check:
    """Check a table that has exactly one option, and return that option's value."""

    def one(reader: _Reader, path: KeyPath, value: Any) -> Any:
        return reader.table(path, value, {name: check}).get(name, "")

    return one


def _endpoints(reader: _Reader, path: KeyPath, value: Any) -> tuple[EndpointConfig, ...]:
    if not isinstance(value, list):
        reader.wrong(path, f"an array of tables, written [[{path[-1]}]]", value)
        return ()
    found: dict[str, EndpointConfig] = {}
    for index, item in enumerate(value):
        here = (*path, index)
        fields = reader.table(here, item, _ENDPOINT)
        missing = [key for key in ("name", "connector") if key not in item]
        for key in missing:
            reader.add("MYC-DAEMON-006", here, f'[[{path[-1]}]] lacks "{key}"', f'add {key} = "…"')
        if missing:
            continue
        endpoint = EndpointConfig(**fields)
        if endpoint.name in found:
            reader.add(
                "MYC-DAEMON-007",
                (*here, "name"),
                f'two {path[-1]} are called "{endpoint.name}"',
                "give each its own name",
            )
        found[endpoint.name] = endpoint
    return tuple(found.values())


_NODE: Mapping[str, Check] = {"name": _dns_name, "state_dir": _text, "labels": _labels}
_SERVER: Mapping[str, Check] = {"url": _urls, "urls": _urls, "ca_pin": _pin}
_SECRETS: Mapping[str, Check] = {"env": _only("prefix", _text), "file": _only("path", _text)}
_POLICY: Mapping[str, Check] = {
    "read_paths": _texts,
    "write_paths": _texts,
    "hosts": _texts,
    "connectors": _texts,
    "memory_max": _size,
    "pipelines_max": _count,
}
_ENDPOINT: Mapping[str, Check] = {"name": _dns_name, "connector": _text, "settings": _settings}
_ROOT: Mapping[str, Check] = {
    "node": lambda reader, path, value: reader.table(path, value, _NODE),
    "server": lambda reader, path, value: reader.table(path, value, _SERVER),
    "secrets": lambda reader, path, value: reader.table(path, value, _SECRETS),
    "policy": lambda reader, path, value: reader.table(path, value, _POLICY),
    "sources": _endpoints,
    "destinations": _endpoints,
}


def _read_root(reader: _Reader, tree: Mapping[str, Any], base_dir: str) -> DaemonConfig:
    root = reader.table((), tree, _ROOT)
    server, policy = root.get("server", {}), root.get("policy", {})
    if "url" in server and "urls" in server:
        reader.add(
            "MYC-DAEMON-007", ("server", "urls"), "[server] has both url and urls", "keep urls"
        )
    secrets = root.get("secrets", {})
    memory_max_bytes = policy.pop("memory_max", None)
    return DaemonConfig(
        node=NodeConfig(**root.get("node", {})),
        server=ServerConfig(
            urls=server.get("urls") or server.get("url") or (), ca_pin=server.get("ca_pin", "")
        ),
        secrets=SecretsConfig(env_prefix=secrets.get("env", ""), file_path=secrets.get("file", "")),
        policy=PolicyConfig(**policy, memory_max_bytes=memory_max_bytes),
        sources=root.get("sources", ()),
        destinations=root.get("destinations", ()),
        base_dir=base_dir,
    )
