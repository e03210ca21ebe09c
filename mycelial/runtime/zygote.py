"""Linux: forks workers from a process that has imported the heavy parts once.

The zygote is fresh and single-threaded: it imports an allowlist, maps the driver libraries,
freezes its heap, and from then on only forks, reaps and reports. It uses no library it has
imported: once a library has started threads, a fork of them is a broken copy.

Protocol on one SOCK_SEQPACKET pair. Host: `start` with two descriptors (the worker's input and
output). Zygote: `started <pid>` with a pidfd, `refused <why>`, `exit <pid> <status>`. The pipes
belong to the host, so workers outlive a dead zygote, and end with their host.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import importlib.util
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from mycelial.kernel.errors import OperationFailed
from mycelial.runtime.launcher import (
    HIDDEN_FROM_WORKERS,
    UNKNOWN_STATUS,
    WorkerHandle,
    environment_of_workers,
    request_line,
    write_line,
)
from mycelial.runtime.ports import WorkerRequest

ZYGOTE_ARGV = (sys.executable, "-m", "mycelial.cli.zygote")
PRELOAD = (
    "arro3.core",
    "arro3.io",
    "arro3.compute",
    "adbc_driver_manager.dbapi",
    "mycelial.runtime.worker",
)
DRIVERS = ("adbc_driver_sqlite", "adbc_driver_postgresql")
NEVER = frozenset({"pyarrow", "duckdb", "polars", "obstore"})  # start threads when imported
REPLY_SECONDS = 20.0
_PACKET_BYTES = 4096


def is_supported() -> bool:
    """True where workers can be forked and watched safely."""
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False  # an old kernel, or a sandbox that forbids it
    return True


# --- the zygote's side --------------------------------------------------------------------


def preload(extra: Iterable[str] = ()) -> None:
    """Import the allowlist and what plugins declare as safe; map the ADBC driver libraries."""
    for name in (*PRELOAD, *extra):
        if name.partition(".")[0] in NEVER or not _is_installed(name):
            continue
        if name == "adbc_driver_manager.dbapi" and _is_installed("pyarrow"):
            continue  # it would import pyarrow, whose allocator starts a thread
        importlib.import_module(name)
    for name in DRIVERS:
        if _is_installed(name):
            module = importlib.import_module(name)
            # Importing the package loads no library; mapping it here shares its pages.
            with contextlib.suppress(OSError, AttributeError):
                ctypes.CDLL(module._driver_path())


def serve(control: socket.socket, child_main: Callable[[int, int], int]) -> None:
    """Fork a worker for every order until the host's end closes.

    `child_main(in_fd, out_fd)` runs in the child and returns its exit code.
    """
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    os.set_blocking(wake_read, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    gc.collect()
    gc.freeze()  # a collection in a child then touches, and so copies, none of these pages
    children: set[int] = set()
    while True:
        ready, _, _ = select.select([control.fileno(), wake_read], [], [])
        if wake_read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake_read, 512)
            _reap(control, children)
        if control.fileno() in ready:
            packet, fds, _, _ = socket.recv_fds(control, _PACKET_BYTES, 2)
            if not packet:
                return
            _start(control, fds, children, child_main, (wake_read, wake_write))


def thread_count() -> int:
    """Return how many threads the kernel sees in this process."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def _start(
    control: socket.socket,
    fds: Sequence[int],
    children: set[int],
    child_main: Callable[[int, int], int],
    inherited: tuple[int, ...],
) -> None:
    if thread_count() != 1:
        # Something imported has started a thread: a fork now could inherit a lock held for ever.
        control.send(b"refused the zygote has more than one thread")
        _close_all(fds)
        return
    try:
        pid = os.fork()
    except OSError as error:
        control.send(f"refused {error.strerror}".encode())
        _close_all(fds)
        return
    if pid == 0:
        code = 70
        try:
            _become_worker(control, inherited)
            code = child_main(fds[0], fds[1])
        finally:
            os._exit(code)
    _close_all(fds)
    children.add(pid)
    pidfd = os.pidfd_open(pid)  # before any reaping, so it cannot name somebody else
    try:
        socket.send_fds(control, [f"started {pid}".encode()], [pidfd])
    finally:
        os.close(pidfd)


def _become_worker(control: socket.socket, inherited: tuple[int, ...]) -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    control.close()
    _close_all(inherited)
    os.setsid()
    with contextlib.suppress(OSError):  # workers go before the daemon when memory runs out
        Path("/proc/self/oom_score_adj").write_text("500", "ascii")


def _reap(control: socket.socket, children: set[int]) -> None:
    while children:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        children.discard(pid)
        control.send(f"exit {pid} {os.waitstatus_to_exitcode(status)}".encode())


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


# --- the host's side ----------------------------------------------------------------------


class ForkedWorker:
    """A worker that is the zygote's child; watched and killed through a pidfd."""

    def __init__(self, *, pid: int, pidfd: int, in_fd: int, out_fd: int, zygote: _Zygote) -> None:
        self._pid, self._pidfd, self._zygote = pid, pidfd, zygote
        self._in_fd, self._out_fd = in_fd, out_fd
        self._lock = threading.Lock()
        self._is_closed = False
        self._status: int | None = None

    @property
    def pid(self) -> int:
        """The process id."""
        return self._pid

    @property
    def out_fd(self) -> int:
        """The host's end of the worker's output."""
        return self._out_fd

    def send(self, line: bytes) -> None:
        """Write a line. Raises: OperationFailed when the worker is gone."""
        with self._lock:
            if self._is_closed:
                raise OperationFailed("MYC-RUN-060", "the worker's pipe is closed")
            write_line(self._in_fd, line)

    def wait(self, timeout_seconds: float) -> int | None:
        """Return the exit code; UNKNOWN_STATUS when the zygote died first; None: still alive."""
        if self._status is None and self._has_ended(timeout_seconds):
            self._status = self._zygote.status_of(self._pid)  # the zygote tells it once
        return self._status

    def kill(self) -> None:
        """End the process now, whether or not the zygote lives."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if not self._is_closed:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Close the host's ends."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                _close_all((self._in_fd, self._out_fd, self._pidfd))

    def _has_ended(self, timeout_seconds: float) -> bool:
        with self._lock:
            if self._is_closed:
                return True
            watch = os.dup(self._pidfd)
        try:
            poll = select.poll()
            poll.register(watch, select.POLLIN)
            return bool(poll.poll(max(0, int(timeout_seconds * 1000))))
        finally:
            os.close(watch)


class _Zygote:
    """The host's end of one zygote process. Thread-safe."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(REPLY_SECONDS)
        self._lock = threading.Lock()
        self._statuses: dict[int, int] = {}
        self.is_gone = False
        with theirs:
            self.process = subprocess.Popen(
                [*argv, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=environment,
                start_new_session=True,
            )

    def fork(self, worker_in: int, worker_out: int) -> tuple[int, int]:
        """Return (pid, pidfd) of a new worker. Raises: OperationFailed."""
        with self._lock:
            try:
                socket.send_fds(self._control, [b"start"], [worker_in, worker_out])
                while True:
                    words, fds = self._receive()
                    if words[0] == "started":
                        return int(words[1]), fds[0]
                    if words[0] == "refused":
                        raise OperationFailed(
                            "MYC-RUN-062",
                            f"a worker cannot be forked: {' '.join(words[1:])}",
                            fix="check the limits on processes of the daemon",
                        )
            except OSError as error:
                self.is_gone = True
                raise OperationFailed(
                    "MYC-RUN-063", "the zygote is gone", fix="a new one is started"
                ) from error

    def status_of(self, pid: int) -> int:
        """Return the exit status of an ended worker, or UNKNOWN_STATUS."""
        with self._lock:
            try:
                while pid not in self._statuses and not self.is_gone:
                    self._receive()
            except OSError:
                self.is_gone = True
            return self._statuses.pop(pid, UNKNOWN_STATUS)

    def close(self) -> None:
        """End the zygote; its workers live on."""
        self._control.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _receive(self) -> tuple[list[str], list[int]]:
        packet, fds, _, _ = socket.recv_fds(self._control, _PACKET_BYTES, 1)
        if not packet:
            raise ConnectionResetError
        words = packet.decode().split(" ")
        if words[0] == "exit":
            self._statuses[int(words[1])] = int(words[2])
        return words, fds


class ZygoteLauncher:
    """Forks workers; starts the zygote with the first one, and again when it has died."""

    def __init__(
        self,
        argv: Sequence[str] = ZYGOTE_ARGV,
        *,
        environment: Mapping[str, str] | None = None,
        hidden: Sequence[str] = HIDDEN_FROM_WORKERS,
    ) -> None:
        self._argv, self._environment, self._hidden = tuple(argv), environment, hidden
        self._lock = threading.Lock()
        self._zygote: _Zygote | None = None

    @property
    def zygote_pid(self) -> int | None:
        """The process id of the zygote, once there is one."""
        zygote = self._zygote
        return zygote.process.pid if zygote else None

    def start(self, request: WorkerRequest) -> WorkerHandle:
        """Fork a worker and hand it the request. Raises: OperationFailed."""
        with self._lock:
            try:
                worker = self._fork()
            except OperationFailed as error:
                if error.code != "MYC-RUN-063":
                    raise
                worker = self._fork()  # with a new zygote
        try:
            worker.send(request_line(request))
        except OperationFailed:
            worker.kill()
            worker.close()
            raise
        return worker

    def close(self) -> None:
        """End the zygote; its workers live on until their pipes close."""
        with self._lock:
            if self._zygote is not None:
                self._zygote.close()
                self._zygote = None

    def _fork(self) -> ForkedWorker:
        if self._zygote is not None and self._zygote.is_gone:
            self._zygote.close()
            self._zygote = None
        if self._zygote is None:
            self._zygote = _Zygote(
                self._argv, environment_of_workers(os.environ, self._environment, self._hidden)
            )
        worker_in, host_in = os.pipe()
        host_out, worker_out = os.pipe()
        try:
            pid, pidfd = self._zygote.fork(worker_in, worker_out)
        except OperationFailed:
            _close_all((host_in, host_out))
            raise
        finally:
            _close_all((worker_in, worker_out))
        return ForkedWorker(
            pid=pid, pidfd=pidfd, in_fd=host_in, out_fd=host_out, zygote=self._zygote
        )
