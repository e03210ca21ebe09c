"""The one tree of errors, and the problems they carry.

MycelialError                  exit code 70 unless a subclass says otherwise
|- UsageError            (64)  the command line asks for something impossible
|- InvalidManifest       (65)  manifests with problems, in any command but validate (there: 1)
|- CheckSaysNo           (1)   a check ran and the answer is no
|  `- StalePlan          (1)   the plan was made for a state that has moved on
|- NotAllowed            (4)   authentication, permission or local policy refuses
|- Unreachable           (5)   the control plane does not answer
|- OperationFailed       (3)   started, and failed or timed out
|  |- StateCorrupt       (3)   a file of ours cannot be trusted; quarantined, never guessed at
|  `- Conflict           (3)   somebody else wrote first; read again and retry
`- InternalError         (70)  a bug of ours

Errors of connectors (transient, permanent, throttled, ambiguous) are in `mycelial.sdk.errors`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


class ExitCode(enum.IntEnum):
    """What the shell is told. DESIGN: one meaning per number, in every command."""

    DONE = 0
    SAYS_NO = 1
    CHANGES = 2
    FAILED = 3
    NOT_ALLOWED = 4
    UNREACHABLE = 5
    USAGE = 64
    INVALID = 65
    INTERNAL = 70
    INTERRUPTED = 130


class Severity(enum.StrEnum):
    """`error` blocks the object it is about; `warning` blocks nothing."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, order=True)
class Location:
    """A place in a file. `line` and `column` count from 1; 0 means the whole file."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Problem:
    """A located, coded, fixable finding. Many of them make one validation error.

    `code` is stable (`MYC-<AREA>-<NNN>`), `what` states the finding, `fix` the next thing to do.
    `frame` holds up to three source lines around `where`, as (line number, text) pairs.
    `path` is the field path inside the document, such as `spec.source.sqlite.tabel`.
    Never put a secret's value into any of them (I11).
    """

    code: str
    what: str
    fix: str = ""
    where: Location | None = None
    severity: Severity = Severity.ERROR
    path: str = ""
    subject: str = ""  # "Workflow/orders" when the finding is about one object
    frame: tuple[tuple[int, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the problem as plain JSON values, for `-o json` and for the wire."""
        return {
            "code": self.code,
            "severity": str(self.severity),
            "what": self.what,
            "fix": self.fix,
            "file": self.where.file if self.where else None,
            "line": self.where.line if self.where else None,
            "column": self.where.column if self.where else None,
            "path": self.path,
            "subject": self.subject,
            "frame": [list(pair) for pair in self.frame],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Problem:
        """Rebuild a problem from `to_json`."""
        where = (
            Location(data["file"], data.get("line") or 0, data.get("column") or 0)
            if data.get("file")
            else None
        )
        return cls(
            code=data["code"],
            what=data["what"],
            fix=data.get("fix", ""),
            where=where,
            severity=Severity(data.get("severity", "error")),
            path=data.get("path", ""),
            subject=data.get("subject", ""),
            frame=tuple((int(n), str(t)) for n, t in data.get("frame", [])),
        )


class MycelialError(Exception):
    """An expected failure: it prints as code, what, where, fix, and never as a traceback."""

    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL

    def __init__(
        self, code: str, what: str, *, fix: str = "", where: Location | None = None
    ) -> None:
        self.problem = Problem(code=code, what=what, fix=fix, where=where)
        super().__init__(f"{code} {what}")

    @property
    def code(self) -> str:
        """The stable code of this failure."""
        return self.problem.code

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Every finding this error stands for; one unless a subclass collects many."""
        return (self.problem,)


class UsageError(MycelialError):
    """The command line asks for something impossible."""

    exit_code = ExitCode.USAGE


class InvalidManifest(MycelialError):
    """One or more manifests have problems; carries them all."""

    exit_code = ExitCode.INVALID

    def __init__(self, problems: Sequence[Problem]) -> None:
        errors = [p for p in problems if p.severity is Severity.ERROR]
        first = errors[0] if errors else problems[0]
        super().__init__(first.code, first.what, fix=first.fix, where=first.where)
        self._problems = tuple(problems)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All findings, in file order."""
        return self._problems


class CheckSaysNo(MycelialError):
    """A check ran to its end and the answer is no."""

    exit_code = ExitCode.SAYS_NO


class StalePlan(CheckSaysNo):
    """The plan was made for a state that has moved on; make it again."""


class NotAllowed(MycelialError):
    """Authentication, permission or the daemon's local policy refuses (I12)."""

    exit_code = ExitCode.NOT_ALLOWED


class Unreachable(MycelialError):
    """The control plane does not answer."""

    exit_code = ExitCode.UNREACHABLE


class OperationFailed(MycelialError):
    """Started, and failed or timed out; the message says what was and was not done."""

    exit_code = ExitCode.FAILED


class StateCorrupt(OperationFailed):
    """A file of ours cannot be trusted. It is set aside, never guessed at."""


class Conflict(OperationFailed):
    """Somebody else wrote first: read again and retry (R5)."""


class InternalError(MycelialError):
    """A bug of ours."""
