"""Do a piece of work in a child process, so that what it loads leaves with it.

Checking a manifest takes 25 MiB of models and parsers that a long `mycelial run` never needs
again. Where processes cannot be forked, the work is done right here.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from mycelial.kernel.errors import (
    ExitCode,
    InternalError,
    InvalidManifest,
    MycelialError,
    Problem,
    UsageError,
)


class _Relayed(MycelialError):
    """What the child raised, with its problems and its exit code."""

    def __init__(self, problems: list[Problem], exit_code: int) -> None:
        first = problems[0]
        super().__init__(first.code, first.what, fix=first.fix, where=first.where)
        self._problems = tuple(problems)
        self.exit_code = ExitCode(exit_code)  # type: ignore[misc]

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All findings."""
        return self._problems


class Apart:
    """A piece of work under way. `result` returns the JSON value that it returns.

    Raises: what it raises, if that is a MycelialError. Begin while the process has one thread.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._child = 0
        if not hasattr(os, "fork") or sys.platform == "darwin":
            return  # frameworks there do not survive a fork: it is done in `result`
        sys.stdout.flush()
        sys.stderr.flush()
        self._reading, writing = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(self._reading)
            os._exit(_serve(work, writing))
        os.close(writing)

    def result(self) -> Any:
        """Wait for the answer."""
        if not self._child:
            return self._work()
        with os.fdopen(self._reading, "rb") as pipe:
            answer = pipe.read()
        _, status = os.waitpid(self._child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code != 0 or not answer:
            raise InternalError("MYC-CLI-070", f"the checking process ended with {code}")
        reply = json.loads(answer)
        if "problems" in reply:
            raise _raised(reply)
        return reply["value"]


def _raised(reply: dict[str, Any]) -> MycelialError:
    problems = [Problem.from_json(item) for item in reply["problems"]]
    first = problems[0]
    match reply["kind"]:
        case "InvalidManifest":
            return InvalidManifest(problems)
        case "UsageError":
            return UsageError(first.code, first.what, fix=first.fix, where=first.where)
        case _:
            return _Relayed(problems, reply["exit"])


def _serve(work: Callable[[], Any], writing: int) -> int:
    """Run in the child; its exit code tells the parent whether there is an answer."""
    try:
        try:
            reply = {"value": work()}
        except MycelialError as error:
            reply = {
                "problems": [problem.to_json() for problem in error.problems],
                "kind": type(error).__name__,
                "exit": int(error.exit_code),
            }
        sys.stderr.flush()
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(json.dumps(reply).encode())
        return 0
    except Exception:  # the parent reports the bug; here only this process knows where it was
        traceback.print_exc()
        sys.stderr.flush()
        return 70
