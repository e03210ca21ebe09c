"""The one HTTP server: two listeners in one process and loop. The only importer of uvicorn.

People's on loopback, plain HTTP or TLS; daemons' always TLS 1.3, the client certificate optional
(enrolment has none) and put into the ASGI scope as `extensions.tls.peer_certificate`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mycelial.kernel.errors import NotAllowed, OperationFailed
from mycelial.kernel.ports import Log

CLOSE_SECONDS_MAX = 5
HEAD_BYTES_MAX = 64 * 1024
_BACKLOG = 2048
_HEAD_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)

App = Callable[..., Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Listener:
    """One address and what is served there. Port 0 takes a free one."""

    name: str
    host: str
    port: int
    app: App
    tls: ssl.SSLContext | None = None


class PeerCertificateProtocol(HttpToolsProtocol):
    """Adds the peer's certificate (DER, or None) to each scope, and bounds what is not a body.

    uvicorn knows the certificate and does not pass it on; without it mutual TLS proves that some
    daemon is calling, not which. It also holds a request's line and headers of any size, and they
    are read before anybody is recognised. These are its internals: the minor version is pinned.
    """

    _peer_certificate: bytes | None = None
    _head_bytes = 0  # of this message's line and headers, trailers included
    _unread_bytes = 0  # since the parser last found something whole

    def data_received(self, data: bytes) -> None:
        """Parse, and end a connection whose request has no end before its body."""
        self._unread_bytes += len(data)
        super().data_received(data)
        if max(self._head_bytes, self._unread_bytes) > HEAD_BYTES_MAX + len(data):
            self._refuse_head()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request's line."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header or trailer, up to the bound."""
        self._count_head(len(name) + len(value))
        if self._head_bytes <= HEAD_BYTES_MAX:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request, unless its headers were too many."""
        self._unread_bytes = 0
        if self._head_bytes > HEAD_BYTES_MAX:
            self._refuse_head()
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body, which has its own bound."""
        self._unread_bytes = 0
        if self._head_bytes <= HEAD_BYTES_MAX:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request."""
        self._unread_bytes = 0
        if self._head_bytes <= HEAD_BYTES_MAX:
            super().on_message_complete()

    def _count_head(self, count: int) -> None:
        self._head_bytes += count
        self._unread_bytes = 0

    def _refuse_head(self) -> None:
        if not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(_HEAD_TOO_LARGE)
            self.transport.close()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Remember the certificate of this connection."""
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        self._peer_certificate = tls.getpeercert(binary_form=True) if tls is not None else None

    def on_message_begin(self) -> None:
        """Put the certificate into the scope of each request, also of a kept connection."""
        super().on_message_begin()
        self._head_bytes = 0
        extensions = self.scope.setdefault("extensions", {})
        extensions["tls"] = {"peer_certificate": self._peer_certificate}

    def shutdown(self) -> None:
        """Cut an idle connection: an orderly TLS close waits for a peer that is not reading."""
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self.transport.get_write_buffer_size() == 0:
            self.transport.abort()
        else:
            super().shutdown()


class _Server(uvicorn.Server):
    """uvicorn without its own signals and ten wake-ups a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stop = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process."""
        yield

    async def main_loop(self) -> None:
        """Wait for the end."""
        await self.stop.wait()


class HttpServer:
    """Listeners that are open from `bind` on and serve inside `serving`."""

    def __init__(self, listeners: tuple[Listener, ...], *, log: Log) -> None:
        self._listeners = listeners
        self._log = log
        self._sockets: list[socket.socket] = []

    def bind(self) -> dict[str, tuple[str, int]]:
        """Open every address and return them by listener name.

        Raises: NotAllowed MYC-CP-040 for plain HTTP beyond this machine; OperationFailed
        MYC-CP-041 when an address is taken or does not exist here.
        """
        bound = {}
        try:
            for listener in self._listeners:
                opened = _bind(listener)
                self._sockets.append(opened)
                bound[listener.name] = (listener.host, opened.getsockname()[1])
        except BaseException:
            self.close()
            raise
        return bound

    def close(self) -> None:
        """Close the sockets; for a start that failed."""
        for opened in self._sockets:
            opened.close()
        self._sockets.clear()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Answer requests until the block ends, then finish those in flight within 5 s."""
        pairs = zip(self._listeners, self._sockets, strict=True)
        servers = [(_Server(_config(listener)), opened) for listener, opened in pairs]
        async with asyncio.TaskGroup() as group:
            for (server, opened), listener in zip(servers, self._listeners, strict=True):
                group.create_task(server.serve([opened]), name=f"http/{listener.name}")
            try:
                yield
            finally:
                self._log.info("closing listeners")
                for server, _ in servers:
                    server.stop.set()


@contextlib.contextmanager
def stop_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on the loop at SIGINT or SIGTERM, inside the block."""
    loop = asyncio.get_running_loop()
    names = (signal.SIGINT, signal.SIGTERM)
    try:
        for name in names:
            loop.add_signal_handler(name, stop)
    except NotImplementedError:  # pragma: no cover - Windows' loop has no signal handlers
        previous = {
            name: signal.signal(name, lambda *_: loop.call_soon_threadsafe(stop)) for name in names
        }
        try:
            yield
        finally:
            for name, handler in previous.items():
                signal.signal(name, handler)
        return
    try:
        yield
    finally:
        for name in names:
            loop.remove_signal_handler(name)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return uvloop's loop where it is installed, else asyncio's."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _config(listener: Listener) -> uvicorn.Config:
    tls = listener.tls
    return uvicorn.Config(
        listener.app,
        http=PeerCertificateProtocol,
        ws="none",
        lifespan="off",
        loop="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=CLOSE_SECONDS_MAX - 1,
        ssl_context_factory=(lambda _config, _default: tls) if tls else None,
    )


def _bind(listener: Listener) -> socket.socket:
    if listener.tls is None and not _is_loopback(listener.host):
        raise NotAllowed(
            "MYC-CP-040",
            f"the {listener.name} listener would serve plain HTTP on {listener.host}",
            fix="give it a certificate and key, or bind it to 127.0.0.1",
        )
    try:
        found = socket.getaddrinfo(
            listener.host, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        opened = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _cannot_listen(listener, error) from error
    try:
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # pragma: no cover - Windows
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(_BACKLOG)
    except OSError as error:
        opened.close()
        raise _cannot_listen(listener, error) from error
    opened.setblocking(False)
    return opened


def _cannot_listen(listener: Listener, error: OSError) -> OperationFailed:
    return OperationFailed(
        "MYC-CP-041",
        f"cannot listen on {listener.host}:{listener.port} for {listener.name}: {error.strerror}",
        fix="stop what uses the port, or choose another; nothing was started",
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
