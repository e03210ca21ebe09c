"""What may be handed to git at all: URLs, refs, paths, authors, revisions. Pure.

Everything here is an allowlist: git reads options, transports and helper names out of operands,
so an operand that is not plainly harmless is refused before a process starts.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from urllib.parse import urlsplit

from mycelial.kernel.errors import NotAllowed, OperationFailed

_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?"
_USER = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"
_URL = re.compile(
    rf"(?P<scheme>https|ssh)://(?:(?P<user>{_USER})@)?(?P<host>{_HOST}|\[[0-9A-Fa-f:]+\])"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<path>/[A-Za-z0-9_~.+%@/-]{1,1000})"
)
_SCP = re.compile(rf"(?P<user>{_USER})@(?P<host>{_HOST}):(?P<path>[A-Za-z0-9_~.+@/][^\s:\\$`'\"]*)")
_REF = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.+/@-]{0,198}[A-Za-z0-9_+@-])?")
_SHA = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_AUTHOR = re.compile(
    r"(?P<name>[^<>\x00-\x1f\x7f]{1,200}?) ?<(?P<email>[^<>\s\x00-\x1f\x7f]{0,200})>"
)


class Protocol(enum.StrEnum):
    """The transports we let git use; the value is git's own name for it."""

    HTTPS = "https"
    SSH = "ssh"
    LOCAL = "file"


@dataclass(frozen=True, slots=True)
class RemoteUrl:
    """A URL that passed the grammar. `host` is empty for a local path."""

    text: str
    protocol: Protocol
    host: str = ""


def parse_url(text: str, *, allow_local: bool = False) -> RemoteUrl:
    """Return the URL, or refuse it. Nothing in it is ever expanded.

    A local path must be absolute and is accepted only where the operator configured it.
    Raises: NotAllowed (MYC-GIT-002); the message never repeats the URL, which may hold a password.
    """
    if found := _URL.fullmatch(text):
        if found["port"] and not 0 < int(found["port"]) < 65536:
            raise _refuse_url("its port is out of range")
        if ".." in found["path"].split("/"):
            raise _refuse_url("its path climbs with ..")
        return RemoteUrl(text, Protocol(found["scheme"]), found["host"])
    if found := _SCP.fullmatch(text):
        if ".." in found["path"].split("/"):
            raise _refuse_url("its path climbs with ..")
        return RemoteUrl(text, Protocol.SSH, found["host"])
    if _is_local(text):
        if allow_local:
            return RemoteUrl(text, Protocol.LOCAL)
        raise _refuse_url("it is a local path, which only the server's own configuration may name")
    raise _refuse_url(_why_not(text))


def _is_local(text: str) -> bool:
    if not text or any(ord(char) < 32 for char in text) or text.startswith("//"):
        return False
    windows = PureWindowsPath(text)
    return PurePosixPath(text).is_absolute() or bool(windows.drive and windows.root)


def _why_not(text: str) -> str:
    if text.startswith("-"):
        return "it starts with a dash, which git reads as an option"
    if "::" in text:
        return "it names a remote helper, which runs a command"
    if re.match(r"[a-z]+://[^/]*:[^/]*@", text):
        return "it holds a password"
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*(?=:)", text)
    if scheme and scheme[0] not in ("https", "ssh"):
        return f"its scheme is {scheme[0]}"
    return "it is not of a form we hand to git"


def _refuse_url(why: str) -> NotAllowed:
    return NotAllowed(
        "MYC-GIT-002",
        f"the repository URL is refused: {why}",
        fix="write https://host/path.git or ssh://user@host/path.git; "
        "give a password by secret reference, never in the URL",
    )


def display_url(text: str) -> str:
    """Return a URL without user and password, for messages."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return "(malformed URL)"
    return text if "@" not in parts.netloc else text.replace(parts.netloc, parts.hostname or "", 1)


def check_branch(name: str) -> str:
    """Return a branch name that git cannot take for an option, a range or a path trick.

    Raises: NotAllowed (MYC-GIT-003).
    """
    bad = ("..", "//", "/.", "./", "@{")
    if (
        _REF.fullmatch(name)
        and name != "@"
        and not any(part in name for part in bad)
        and not any(part.endswith(".lock") for part in name.split("/"))
    ):
        return name
    raise NotAllowed(
        "MYC-GIT-003",
        f"the branch name {name[:80]!r} is refused",
        fix="use letters, digits and . _ / + @ -, not starting with a dash or a dot",
    )


def check_sha(text: str) -> str:
    """Return a full object id. Raises: OperationFailed (MYC-GIT-015)."""
    if _SHA.fullmatch(text):
        return text
    raise OperationFailed(
        "MYC-GIT-015",
        f"{text[:80]!r} is not a revision",
        fix="name the whole commit id, as history prints it",
    )


def sha_of(revision: str) -> str:
    """Return the commit id of `branch@sha`. Raises: OperationFailed (MYC-GIT-015)."""
    return check_sha(revision.rpartition("@")[2])


def check_path(path: str) -> str:
    """Return a path that stays inside the tree on every platform.

    Refused: absolute, `.` or `..` parts, `.git` in any spelling, backslashes, colons, control
    characters, parts ending in a dot or space. Raises: NotAllowed (MYC-GIT-004).
    """
    why = path_problem(path)
    if why is None:
        return path
    raise NotAllowed(
        "MYC-GIT-004",
        f"the path {path[:120]!r} is refused: {why}",
        fix="use a relative path with forward slashes that stays inside the repository",
    )


def path_problem(path: str) -> str | None:
    """Return why a path is refused, or None."""
    if not path or len(path.encode("utf-8", "surrogateescape")) > 1000:
        return "it is empty or longer than 1000 bytes"
    if any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) <= 0xDFFF for char in path):
        return "it holds control characters or is not UTF-8"
    if "\\" in path or ":" in path:
        return "it holds a backslash or a colon"
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "it is absolute or has an empty, . or .. part"
    if any(part.endswith((".", " ")) for part in parts):
        return "a part ends in a dot or a space"
    if any(_is_dot_git(part) for part in parts):
        return "it names git's own directory"
    return None


def _is_dot_git(part: str) -> bool:
    # HFS+ ignores these code points and NTFS knows the short name, so both reach `.git`.
    visible = re.sub("[\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]", "", part).lower()
    return visible in (".git", "git~1")


def split_author(author: str) -> tuple[str, str]:
    """Return (name, email) of `Name <email>`. Raises: NotAllowed (MYC-GIT-004)."""
    found = _AUTHOR.fullmatch(author)
    if found is None or not found["name"].strip(" .,:;\"'"):
        raise NotAllowed(
            "MYC-GIT-004",
            "the author of a commit must read `Name <email>`",
            fix="give a name and an address without control characters",
        )
    return found["name"], found["email"]
