"""The real command line as a process in a folder of its own, and what a user must never see."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CANARY = "hunter2-CANARY"
NEVER = ("Traceback", CANARY, "a bug in mycelial", "this is a defect", "NoneType", "object at 0x")
_DOUBLED = re.compile(r"(?<![\w-])([A-Za-z]{2,}) \1(?![\w-])")


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def text(self) -> str:
        """Return all that a terminal shows."""
        return self.out + self.err


@dataclass(frozen=True)
class Case:
    """A bad input: the command, its exit code, and what its answer has to hold.

    `has` are regular expressions: the code, the place where one exists, the way out.
    """

    args: Sequence[str]
    code: int
    has: Sequence[str]
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Terminal:
    """A folder with its own home; nothing of the machine's configuration gets in."""

    folder: Path

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment of a command."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MYCELIAL", "GITHUB"))}
        homes = {
            f"XDG_{name}_HOME": str(self.folder / f".{name}")
            for name in ("CONFIG", "DATA", "CACHE")
        }
        return {**kept, **homes, **(more or {})}

    def start(self, *args: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "mycelial", *args],
            cwd=self.folder,
            env=self.environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def run(self, *args: str, within: float = 40.0, **environment: str) -> Done:
        """Run a command to its end; one that hangs fails the test with what it had said."""
        begun = time.monotonic()
        process = self.start(*args, **environment)
        try:
            out, err = process.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            end_group(process)
            out, err = process.communicate()
            raise AssertionError(f"mycelial {args} hangs after {within:g} s:\n{out}{err}") from None
        return Done(process.returncode, out, err, time.monotonic() - begun)

    def write(self, files: Mapping[str, str | bytes]) -> None:
        """Write files under the folder."""
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def check(self, case: Case) -> Done:
        """Arrange and run a case, and hold its answer to what a user needs."""
        self.write(case.files)
        done = self.run(*case.args, **case.environment)
        expect(done, case.code, *case.has)
        return done


def expect(done: Done, code: int, *has: str) -> None:
    """Assert the exit code, what must be said, and what must never be."""
    assert done.code == code, f"exit {done.code}, not {code}:\n{done.text}"
    for pattern in has:
        assert re.search(pattern, done.text), f"no {pattern!r} in:\n{done.text}"
    for word in NEVER:
        assert word not in done.text, f"{word!r} in:\n{done.text}"
    prose = "\n".join(line for line in done.text.splitlines() if " | " not in line)
    assert not (twice := _DOUBLED.search(prose)), f"{twice[0]!r} in:\n{done.text}"


def end_group(process: subprocess.Popen[str]) -> None:
    """Kill a command and its children."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def until(what: str, is_true: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait for something that can only be seen by looking."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.02)


def multiset(rows: Sequence[Sequence[object]]) -> Counter[tuple[str, ...]]:
    """Return rows as a multiset of texts, so that sources and destinations compare."""
    return Counter(tuple(str(value) for value in row) for row in rows)
