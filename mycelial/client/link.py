"""A daemon's calls to its control plane: report, watch, results, and the two calls of joining.

One Link is one certificate: build another after a rotation. Nothing here retries; the agent
decides when. Failures come as one of four classes, each with the code, place and fix:

LinkUnreachable  MYC-LINK-001  no answer, a cut connection, a timeout
LinkRefused      MYC-LINK-002  401, 403: the certificate or token is not accepted; 400, 409, 422
                               with a reason: what was asked for is not
LinkBusy         MYC-LINK-003  429 or 503: `retry_after_seconds` is a floor
LinkBroken       MYC-LINK-004  an answer that is not our protocol, or too long
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from mycelial.kernel.canonical import canonical_json
from mycelial.kernel.clock import Clock
from mycelial.kernel.errors import NotAllowed, OperationFailed, Unreachable
from mycelial.schemas.codec import DecodeError, decode, encode
from mycelial.schemas.wire import (
    CommandResult,
    EnrollReply,
    EnrollRequest,
    Report,
    ReportReply,
    WatchEvent,
)

T = TypeVar("T")

LINE_BYTES_MAX = 16 * 1024 * 1024
REPLY_BYTES_MAX = 1024 * 1024
_TIMEOUT = httpx.Timeout(connect=10.0, read=65.0, write=10.0, pool=5.0)
_LIMITS = httpx.Limits(max_connections=4, max_keepalive_connections=2, keepalive_expiry=90.0)
# A compressed answer could unfold to any size; ours are small, so we ask for plain ones.
_HEADERS = {"accept-encoding": "identity", "user-agent": "mycelial-daemon"}


class LinkUnreachable(Unreachable):
    """The control plane does not answer."""


class LinkRefused(NotAllowed):
    """The control plane does not accept who we are."""

    def __init__(self, code: str, what: str, *, status: int, detail: str = "", fix: str) -> None:
        super().__init__(code, what, fix=fix)
        self.status = status
        self.detail = detail


class LinkBusy(Unreachable):
    """The control plane asks for patience."""

    def __init__(self, what: str, *, retry_after_seconds: float) -> None:
        super().__init__("MYC-LINK-003", what, fix="nothing to do: it is tried again by itself")
        self.retry_after_seconds = retry_after_seconds


class LinkBroken(OperationFailed):
    """What came back is not our protocol."""

    def __init__(self, what: str) -> None:
        super().__init__(
            "MYC-LINK-004",
            what,
            fix="check that the address is a control plane's daemon port, and that no proxy on "
            "the way rewrites its answers",
        )


LinkError = LinkUnreachable | LinkRefused | LinkBusy | LinkBroken
LINK_ERRORS = (LinkUnreachable, LinkRefused, LinkBusy, LinkBroken)


@dataclass(frozen=True, slots=True)
class LinkTiming:
    """Seconds. Where no hello is seen in time a proxy buffers the stream, and for
    `fallback_seconds` the watch is a chain of long polls."""

    hello_seconds: float = 10.0
    poll_wait_seconds: float = 45.0
    fallback_seconds: float = 86_400.0


@dataclass(frozen=True, slots=True)
class Held:
    """The set a daemon has; the zero value asks for a snapshot."""

    store_id: str = ""
    rev: int = 0
    bundle_hash: str = ""

    @property
    def token(self) -> str:
        """The watch token, or nothing."""
        return f"{self.store_id}:{self.rev}" if self.store_id else ""


@dataclass(frozen=True, slots=True)
class _Authority:
    ca_bundle: str


class Link:
    """The calls of one joined daemon. Use it from one loop, and close it.

    `urls` are tried in order: a transport failure moves on to the next for the following call.
    """

    def __init__(
        self,
        *,
        urls: Sequence[str],
        daemon_id: str,
        tls: ssl.SSLContext,
        clock: Clock,
        timing: LinkTiming | None = None,
    ) -> None:
        assert urls, "a link needs an address"
        self._urls = tuple(urls)
        self._url_index = 0
        self._daemon_id = daemon_id
        self._clock = clock
        self._timing = timing or LinkTiming()
        self._polls_until = float("-inf")
        self._client = _client(tls)

    @property
    def url(self) -> str:
        """The address in use."""
        return self._urls[self._url_index % len(self._urls)]

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def report(self, report: Report) -> ReportReply:
        """Send a report; idempotent by (boot_id, seq). Raises: a LinkError."""
        return _decode(ReportReply, await self._post("report", report))

    async def results(self, result: CommandResult) -> None:
        """Answer a command. Raises: a LinkError."""
        await self._post("results", result)

    async def renew(self, csr: str) -> EnrollReply:
        """Exchange a CSR for the same key's next certificate. Raises: a LinkError."""
        return _decode(EnrollReply, await self._post("renew", {"csr": csr}))

    async def watch(self, held: Held) -> AsyncGenerator[WatchEvent, None]:
        """Yield events until the server says bye or closes; begins with hello.

        With long polls the chain ends where its caller's `held` would be outdated: after the
        first event that is neither hello nor ping. Raises: a LinkError.
        """
        is_doubtful = False
        if self._clock.monotonic() >= self._polls_until:
            async with aclosing(self._stream(held, wait_seconds=None)) as events:
                try:
                    async with asyncio.timeout(self._timing.hello_seconds):
                        first = await anext(events, None)
                except TimeoutError:
                    is_doubtful = True
                else:
                    if first is not None:
                        yield first
                    async for event in events:
                        yield event
                    # Reached only without a bye, which ends the caller's interest.
                    raise self._cut_short()
        has_news = False
        while not has_news:
            began = self._clock.monotonic()
            wait, count = self._timing.poll_wait_seconds, 0
            async with aclosing(self._stream(held, wait_seconds=wait)) as events:
                async for event in events:
                    if is_doubtful:  # only now is it the stream, and not the server, that is slow
                        self._polls_until = began + self._timing.fallback_seconds
                        is_doubtful = False
                    count += 1
                    has_news = has_news or event.type not in ("hello", "ping")
                    yield event
            if count == 0:
                raise self._cut_short()
            if not has_news and self._clock.monotonic() - began < 1.0:
                await self._clock.pause(1.0)  # a server that does not wait must not make us spin

    async def _stream(
        self, held: Held, *, wait_seconds: float | None
    ) -> AsyncGenerator[WatchEvent, None]:
        params: dict[str, str] = {"token": held.token, "hash": held.bundle_hash}
        if wait_seconds is not None:
            params["wait"] = f"{wait_seconds:g}"
        path = f"{self.url}/v1/daemons/{self._daemon_id}/watch"
        try:
            async with self._client.stream("GET", path, params=params) as response:
                await _check(response)
                async for line in _lines(response):
                    yield _decode(WatchEvent, _json(line))
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    async def _post(self, call: str, body: object) -> Any:
        path = f"{self.url}/v1/daemons/{self._daemon_id}/{call}"
        try:
            return await _post(self._client, path, body)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _cut_short(self) -> LinkUnreachable:
        return LinkUnreachable(
            "MYC-LINK-001",
            f"{self.url} ended the watch without saying why",
            fix="it is opened again by itself; if this repeats, look at the proxies on the way",
        )

    def _unreachable(self, error: httpx.HTTPError) -> LinkUnreachable:
        failed = self.url
        self._url_index += 1
        return _unreachable(failed, error)


async def fetch_ca(url: str) -> str:
    """Return the CA bundle (PEM) of a control plane *without* verifying who sends it.

    The caller must compare it with a pin that came another way, before any other use.
    Raises: a LinkError.
    """
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.check_hostname = False
    blind.verify_mode = ssl.CERT_NONE
    async with _client(blind) as client:
        try:
            async with client.stream("GET", f"{url}/v1/ca") as response:
                await _check(response)
                data = _json(await _body(response, REPLY_BYTES_MAX))
        except httpx.HTTPError as error:
            raise _unreachable(url, error) from error
    return _decode(_Authority, data).ca_bundle


async def enroll(url: str, request: EnrollRequest, *, tls: ssl.SSLContext) -> EnrollReply:
    """Exchange a token and a CSR for a certificate; idempotent by the key. Raises: a LinkError."""
    async with _client(tls) as client:
        try:
            return _decode(EnrollReply, await _post(client, f"{url}/v1/enroll", request))
        except httpx.HTTPError as error:
            raise _unreachable(url, error) from error


def _client(tls: ssl.SSLContext) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        verify=tls,
        trust_env=False,
        follow_redirects=False,
        timeout=_TIMEOUT,
        limits=_LIMITS,
        headers=_HEADERS,
    )


async def _post(client: httpx.AsyncClient, path: str, body: object) -> Any:
    async with client.stream(
        "POST",
        path,
        content=canonical_json(encode(body)),
        headers={"content-type": "application/json"},
    ) as response:
        await _check(response)
        data = await _body(response, REPLY_BYTES_MAX)
    return _json(data) if data.strip() else {}


async def _check(response: httpx.Response) -> None:
    """Turn a status that is not success into its error class."""
    status = response.status_code
    if 200 <= status < 300:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise LinkBroken("the answer is compressed, though plain was asked for")
        return
    detail, fix = _said(await _body(response, 64 * 1024))
    said = f": {detail}" if detail else ""
    if status in (401, 403) or (status in (400, 409, 422) and detail):
        raise LinkRefused(
            "MYC-LINK-002",
            f"the control plane refuses this daemon (HTTP {status}){said}",
            status=status,
            detail=detail,
            fix=fix or "see `mycelial get daemons`; a revoked daemon joins again with a new token",
        )
    if status in (429, 503):
        seconds = _retry_after(response.headers)
        raise LinkBusy(
            f"the control plane is busy (HTTP {status}){said}", retry_after_seconds=seconds
        )
    if status >= 500:
        raise LinkUnreachable(
            "MYC-LINK-001",
            f"the control plane failed (HTTP {status}){said}",
            fix="look at the control plane's log; it is tried again by itself",
        )
    raise LinkBroken(f"unexpected answer HTTP {status}{said}")


async def _body(response: httpx.Response, bytes_max: int) -> bytes:
    data = bytearray()
    async for chunk in response.aiter_raw():
        data += chunk
        if len(data) > bytes_max:
            raise LinkBroken(f"the answer is longer than {bytes_max} bytes")
    return bytes(data)


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yield NDJSON lines. A line without an end is cut off at a bound, not collected for ever."""
    rest = bytearray()
    async for chunk in response.aiter_raw():
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            rest += chunk[start:end]
            start = end + 1
            if len(rest) > LINE_BYTES_MAX:
                break
            if rest.strip():
                yield bytes(rest)
            rest.clear()
        rest += chunk[start:]
        if len(rest) > LINE_BYTES_MAX:
            raise LinkBroken(f"a line of the watch is longer than {LINE_BYTES_MAX} bytes")
    # What follows the last newline was cut off by a lost connection: not a message.


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise LinkBroken("the answer is not JSON") from error


def _decode(cls: type[T], data: Any) -> T:
    try:
        return decode(cls, data)
    except DecodeError as error:
        raise LinkBroken(f"the answer has the wrong shape: {error}") from error


def _said(body: bytes) -> tuple[str, str]:
    """Return the first problem of an error body (code and what, fix), or empty texts. They are
    bounded and printable, for they end on terminals and in logs."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return "", ""
    problems = data.get("problems") if isinstance(data, Mapping) else None
    if not isinstance(problems, list) or not problems or not isinstance(problems[0], Mapping):
        return "", ""
    found = problems[0]
    return _printable(found.get("code"), found.get("what")), _printable(found.get("fix"))


def _printable(*parts: object) -> str:
    text = " ".join(part for part in parts if isinstance(part, str))
    return "".join(char for char in text if char.isprintable())[:500]


def _retry_after(headers: Mapping[str, str]) -> float:
    try:
        return min(max(float(headers.get("retry-after") or 60.0), 0.0), 3600.0)
    except ValueError:  # a date: we do not trust clocks to agree
        return 60.0


def _unreachable(url: str, error: httpx.HTTPError) -> LinkUnreachable:
    cause = _cause(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return LinkUnreachable(
            "MYC-LINK-005",
            f"{url} shows a certificate that this daemon does not trust: {cause.verify_message}",
            fix="check the address, and the clock of this machine; after a change of the CA join "
            "again with a new token",
        )
    reason = str(cause) or str(error) or type(error).__name__
    return LinkUnreachable(
        "MYC-LINK-001",
        f"no answer from {url}: {reason}",
        fix="check the address and the network; what runs here goes on running",
    )


def _cause(error: BaseException) -> BaseException:
    """Return the innermost cause: httpx and httpcore each wrap what really happened."""
    seen = error
    while (inner := seen.__cause__ or seen.__context__) is not None and inner is not seen:
        if isinstance(inner, asyncio.CancelledError | TimeoutError):
            break
        seen = inner
    return seen
