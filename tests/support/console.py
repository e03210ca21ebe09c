"""Runs the `console` blocks of a Markdown file, so that the documentation cannot drift.

Lines that start with `$ ` are commands; what follows a backslash at the end of a line, and every
line of a here-document, belongs to them. The lines below are what a command prints, on stdout and
stderr together: `...` stands for anything within a line, a line of `...` alone for any lines. With
nothing below a command its output is not looked at. A comment `# exit 3` at the end of a command is
the exit code that it must have. All commands of a file share one shell, in the order of the file;
a block fenced as `console skip` is only shown.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(\w*)[ ]?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_EXIT = re.compile(r"\s+# exit (\d+)$")
_JOB_NOTICE = re.compile(r"bash: line \d+: +\d+ ")  # that a background job was killed
_HERE = re.compile(r"<<-?\s*'?(\w+)'?")


@dataclass(frozen=True)
class Fence:
    """A fenced block; `line` is that of its first line of text."""

    language: str
    flags: tuple[str, ...]
    text: str
    line: int


@dataclass(frozen=True)
class Step:
    """A command and what it shall print."""

    command: str
    expected: str
    exit_code: int
    line: int


def fences(markdown: str) -> Iterator[Fence]:
    """Yield the fenced blocks of a text."""
    for found in _FENCE.finditer(markdown):
        line = markdown.count("\n", 0, found.start()) + 2
        yield Fence(found[1], tuple(found[2].split()), found[3], line)


def steps(markdown: str) -> list[Step]:
    """Return the commands of all console blocks that are not fenced as `skip`."""
    made: list[Step] = []
    for fence in fences(markdown):
        if fence.language == "console" and "skip" not in fence.flags:
            made += _steps(fence)
    return made


def _steps(fence: Fence) -> Iterator[Step]:
    lines = fence.text.splitlines()
    index = 0
    while index < len(lines):
        line = fence.line + index
        assert lines[index].startswith("$ "), f"line {line}: output without a command"
        command = [lines[index][2:]]
        index += 1
        here = _HERE.search(command[0])
        while here and command[-1] != here[1]:
            command.append(lines[index])
            index += 1
        while not here and command[-1].endswith("\\"):
            command.append(lines[index])
            index += 1
        start = index
        while index < len(lines) and not lines[index].startswith("$ "):
            index += 1
        code = _EXIT.search(command[-1]) if not here else None
        if code:
            command[-1] = command[-1][: code.start()]
        expected = "\n".join(lines[start:index]).strip("\n")
        yield Step("\n".join(command), expected, int(code[1]) if code else 0, line)


def run_file(
    path: Path, folder: Path, *, changes: Mapping[str, str] | None = None, seconds: float = 60
) -> None:
    """Run a file's commands in `folder`. Raises: AssertionError at the first that differs.

    `changes` are made in the text before, such as another port. The shell finds this environment's
    `mycelial`; what was left running is ended with the shell.
    """
    text = path.read_text("utf-8")
    for before, after in (changes or {}).items():
        assert before in text, f"{path.name} does not say {before!r}"
        text = text.replace(before, after)
    with Shell(folder) as shell:
        for step in steps(text):
            where = f"{path.name}:{step.line}: $ {step.command}"
            output, code = shell.run(step.command, seconds)
            assert code == step.exit_code, f"{where}\nexit {code}\n{output}"
            assert matches(step.expected, output), (
                f"{where}\n-- expected\n{step.expected}\n-- printed\n{output}"
            )


def matches(expected: str, output: str) -> bool:
    """Tell whether an output is as shown."""
    if not expected:
        return True
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == "..." else f"{_line_pattern(line)}\n"
        for line in expected.splitlines()
    )
    printed = "".join(f"{line.rstrip()}\n" for line in output.strip("\n").splitlines())
    return re.fullmatch(pattern, printed) is not None


def _line_pattern(line: str) -> str:
    return ".*?".join(re.escape(part) for part in line.rstrip().split("..."))


class Shell:
    """One bash that runs commands one after the other."""

    def __init__(self, folder: Path) -> None:
        self._count = 1
        home = folder / ".home"
        home.mkdir(exist_ok=True)
        scripts = Path(sys.executable).parent
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("MYCELIAL_")}
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            start_new_session=True,
            env={
                **inherited,
                "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}",
                "HOME": str(home),
                "XDG_DATA_HOME": str(home / "data"),
                "XDG_CACHE_HOME": str(home / "cache"),
                "XDG_CONFIG_HOME": str(home / "config"),
            },
        )

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # Jobs of the shell end as a person would end them; then the shell itself.
        with contextlib.suppress(BrokenPipeError):  # a command may have ended the shell
            self._process.stdin.write("kill $(jobs -p) 2>/dev/null; wait\nexit\n")
            self._process.stdin.close()
        try:
            self._process.wait(20)
        finally:
            if self._process.poll() is None:
                os.killpg(self._process.pid, 9)
                self._process.wait()
            self._process.stdout.close()

    def run(self, command: str, seconds: float) -> tuple[str, int]:
        """Return a command's output and exit code. Raises: AssertionError when it takes longer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        mark = f"--end of command {self._count}--"
        self._count += 1
        late = threading.Timer(seconds, lambda: os.killpg(self._process.pid, 9))
        late.start()
        try:
            self._process.stdin.write(f"{command}\nprintf '\\n%s %s\\n' '{mark}' $?\n")
            self._process.stdin.flush()
            output = []
            for line in self._process.stdout:
                if line.startswith(mark):
                    text = "".join(output)
                    return text[:-1] if text.endswith("\n") else text, int(line.removeprefix(mark))
                if not _JOB_NOTICE.match(line):
                    output.append(line)
        finally:
            late.cancel()
        raise AssertionError(
            f"$ {command}\nended the shell or took {seconds:g} s\n{''.join(output)}"
        )
