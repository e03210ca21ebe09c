"""The one door to GitPython: runs one git command, bounded in time and size.

GitPython's conveniences build command lines out of their arguments, and two dozen advisories are
about exactly that. Here it only starts processes from argument lists that are fixed but for
operands which passed `grammar`. The environment and configuration of whoever started us is
neutralised: no hooks, no prompts, no helpers, no redirects, no system or user configuration.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from mycelial.kernel.clock import Clock, SystemClock
from mycelial.kernel.errors import OperationFailed

GITPYTHON_FLOOR = (3, 1, 60)
_STDERR_KEPT_BYTES = 16 * 1024
_CONFIG = (
    f"core.hooksPath={os.devnull}",
    "core.fsmonitor=false",
    "core.symlinks=false",
    "core.protectHFS=true",
    "core.protectNTFS=true",
    "core.fsync=objects,reference",  # what `commit` returned survives a power cut
    "core.fsyncMethod=batch",
    "core.logAllRefUpdates=false",
    "core.askPass=",
    "credential.helper=",
    "http.followRedirects=false",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    "fetch.fsckObjects=true",
    "fetch.unpackLimit=1",  # what arrives stays packed, so its size on disk is its size
    "core.bigFileThreshold=16m",
    "fetch.fsck.zeroPaddedFilemode=ignore",  # old, harmless, and all over public histories
    "gc.auto=0",
    "maintenance.auto=false",
    "log.showSignature=false",
)
# GitPython passes our own environment on and offers no way to drop a variable, so each one that
# would steer git is overridden by the value that means nothing.
_ENVIRONMENT = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_PARAMETERS": "",
    "GIT_CONFIG_COUNT": "0",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES": "",
    "GIT_NAMESPACE": "",
    "GIT_ASKPASS": "",
    "SSH_ASKPASS": "",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_PROTOCOL_FROM_USER": "0",
    "GIT_SSH_COMMAND": "false",
    "GIT_SSH_VARIANT": "ssh",
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_ALLOC_LIMIT": "256m",  # a delta that unfolds into gigabytes ends git, not the machine
    "GIT_TRACE": "0",
    "GIT_TRACE_CURL": "0",
    "GIT_CURL_VERBOSE": "0",
    "GIT_TRACE_PACKET": "0",
}
# For these git knows no harmless value, so whoever sets them has to stop doing so.
_REFUSED = ("GIT_COMMON_DIR", "GIT_WORK_TREE", "GIT_QUARANTINE_PATH", "GIT_SSL_NO_VERIFY")


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds on a repository that somebody else may write to."""

    seconds: float = 60.0
    repository_bytes: int = 200 * 1024 * 1024
    files: int = 20_000
    file_bytes: int = 1024 * 1024
    commit_bytes: int = 20 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ended by itself. `stderr` is what git told people, shortened."""

    status: int
    stdout: bytes
    stderr: str


class GitCommand:
    """Runs git on one bare repository. Any thread; keeps no process between calls."""

    def __init__(
        self, directory: Path, *, limits: Limits | None = None, clock: Clock | None = None
    ) -> None:
        self.directory = directory
        self.limits = limits or Limits()
        self.clock = clock or SystemClock()
        self._git = _load_gitpython().Git(str(directory))

    def run(
        self,
        *arguments: str,
        stdin: Iterable[bytes] = (),
        environment: Mapping[str, str] | None = None,
        ok: tuple[int, ...] = (0,),
        output_max: int = 64 * 1024 * 1024,
        guard: Callable[[], str | None] | None = None,
    ) -> Finished:
        """Run `git <arguments>` to its end; the caller has put `--` before operands.

        `guard` is asked every 50 ms and ends the command by returning a reason.
        Raises: OperationFailed: MYC-GIT-005 git said no, -006 too slow, -007 too large.
        """
        handle = self._start(arguments, stdin, environment or {})
        process: subprocess.Popen[bytes] = handle.proc
        watch = _Watch(process, self.limits.seconds, self.clock, guard)
        stderr = _Drain(process.stderr)
        try:
            assert process.stdout is not None
            output = process.stdout.read(output_max + 1)
            if len(output) > output_max:
                watch.end("limit", f"it wrote more than {output_max} bytes")
            status = process.wait()
            if guard and (reason := guard()) is not None:  # too fast for the watch
                watch.end("limit", reason)
        except BaseException:
            watch.end("limit", "it was interrupted")
            process.wait()
            raise
        finally:
            watch.close()
            stderr.close()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        verb = arguments[0]
        if watch.verdict is not None:
            raise _ended(verb, *watch.verdict)
        said = stderr.text()
        if status not in ok:
            raise OperationFailed(
                "MYC-GIT-005",
                f"git {verb} failed: {said or f'exit status {status}'}",
                fix="see what git says; the last good revision stays in force",
            )
        return Finished(status, output, said)

    def _start(
        self, arguments: tuple[str, ...], stdin: Iterable[bytes], environment: Mapping[str, str]
    ) -> Any:
        _check_environment()
        command = [_executable(self._git), f"--git-dir={self.directory}", "--literal-pathspecs"]
        for setting in _CONFIG:
            command += ["-c", setting]
        own = {
            **_ENVIRONMENT,
            "GIT_DIR": str(self.directory),
            "GIT_OBJECT_DIRECTORY": str(self.directory / "objects"),
            "GIT_INDEX_FILE": str(self.directory / "index"),
            **environment,
        }
        with tempfile.TemporaryFile() as feed:
            for chunk in stdin:
                feed.write(chunk)
            feed.seek(0)
            try:
                return self._git.execute(
                    [*command, *arguments],
                    istream=feed,
                    as_process=True,
                    shell=False,
                    env=own,
                    # A group of its own, so that helpers (ssh, index-pack) end with their parent.
                    **({} if os.name == "nt" else {"start_new_session": True}),
                )
            except _load_gitpython().GitCommandNotFound as error:
                raise _no_git() from error


class _Watch:
    """Ends a process that is too slow or that `guard` objects to."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        seconds: float,
        clock: Clock,
        guard: Callable[[], str | None] | None,
    ) -> None:
        self.verdict: tuple[str, str] | None = None
        self._process, self._guard, self._clock = process, guard, clock
        self._seconds = seconds
        self._deadline = clock.monotonic() + seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="git/watch", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while (left := self._deadline - self._clock.monotonic()) > 0:
            if self._done.wait(min(left, 0.05) if self._guard else left):
                return
            if self._guard and (reason := self._guard()) is not None:
                self.end("limit", reason)
                return
        self.end("timeout", f"it took longer than {self._seconds:g} s")

    def end(self, kind: str, reason: str) -> None:
        """Kill the process and all it started; the first reason is kept."""
        self.verdict = self.verdict or (kind, reason)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.name == "nt":
                self._process.kill()
            else:
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        self._done.set()
        self._thread.join()


class _Drain:
    """Reads stderr to its end, whatever its length, and keeps the last part."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        self._stream, self._kept = stream, b""
        self._thread = threading.Thread(target=self._drain, name="git/stderr", daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        while self._stream is not None and (chunk := self._stream.read1(65536)):  # type: ignore[attr-defined]
            self._kept = (self._kept + chunk)[-_STDERR_KEPT_BYTES:]

    def close(self) -> None:
        self._thread.join()

    def text(self) -> str:
        """Return the last lines, without the control characters that a remote may send."""
        text = self._kept.decode("utf-8", "replace").replace("\r", "\n")
        lines = [re.sub(r"[\x00-\x1f\x7f-\x9f]", "", line).strip() for line in text.split("\n")]
        return "; ".join(line for line in lines if line)[-800:]


def _ended(verb: str, kind: str, reason: str) -> OperationFailed:
    if kind == "timeout":
        return OperationFailed(
            "MYC-GIT-006",
            f"git {verb} was ended: {reason}",
            fix="check that the repository answers; the last good revision stays in force",
        )
    return OperationFailed(
        "MYC-GIT-007",
        f"git {verb} was ended: {reason}",
        fix="keep manifests in a repository of their own, without large files in its history",
    )


def _check_environment() -> None:
    found = [name for name in _REFUSED if name in os.environ]
    if found:
        raise OperationFailed(
            "MYC-GIT-001",
            f"the environment variable {found[0]} would steer git past its bounds",
            fix=f"start this process without {found[0]}",
        )


def _no_git() -> OperationFailed:
    return OperationFailed(
        "MYC-GIT-001", "the git program was not found", fix="install git 2.36 or newer"
    )


def _load_gitpython() -> Any:
    """Return the `git` module. Imported late: it looks for the git program while it loads."""
    version = tuple(int(part) for part in re.findall(r"\d+", metadata.version("gitpython"))[:3])
    if version < GITPYTHON_FLOOR:
        raise OperationFailed(
            "MYC-GIT-001",
            f"GitPython {'.'.join(map(str, version))} has published argument injections",
            fix=f"install GitPython {'.'.join(map(str, GITPYTHON_FLOOR))} or newer",
        )
    try:
        import git
    except ImportError as error:
        raise _no_git() from error
    return git


def _executable(git: Any) -> str:
    return str(git.GIT_PYTHON_GIT_EXECUTABLE or "git")
