"""What both HTTP applications share: bounded bodies, decoded requests, errors as problems."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mycelial.kernel.errors import (
    CheckSaysNo,
    Conflict,
    InternalError,
    InvalidManifest,
    MycelialError,
    NotAllowed,
    OperationFailed,
    UsageError,
)
from mycelial.kernel.ports import Log
from mycelial.schemas.codec import DecodeError, decode, encode

BODY_BYTES_MAX = 20 * 1024 * 1024
JSON_DEPTH_MAX = 32
FORMAT_VERSION = 1

_SURROGATE = re.compile(rb"\\u[dD]")

Handler = Callable[[Request], Awaitable[Response]]
T = TypeVar("T")

# Narrow classes first: the first match decides.
_STATUS: tuple[tuple[type[MycelialError], HTTPStatus], ...] = (
    (InvalidManifest, HTTPStatus.UNPROCESSABLE_ENTITY),
    (UsageError, HTTPStatus.BAD_REQUEST),
    (CheckSaysNo, HTTPStatus.CONFLICT),
    (NotAllowed, HTTPStatus.FORBIDDEN),
    (Conflict, HTTPStatus.CONFLICT),
    (OperationFailed, HTTPStatus.SERVICE_UNAVAILABLE),
)


class NotFound(CheckSaysNo):
    """The object that was asked for does not exist."""


class NotAuthenticated(NotAllowed):
    """No credential, or one we do not know; the reply never says which."""


class Throttled(OperationFailed):
    """Too many requests of this kind; nothing was done."""


class BodyTooLarge(UsageError):
    """The request's body is longer than this call takes."""


_SPECIAL = {
    NotFound: HTTPStatus.NOT_FOUND,
    NotAuthenticated: HTTPStatus.UNAUTHORIZED,
    Throttled: HTTPStatus.TOO_MANY_REQUESTS,
    BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
}


def status_of(error: MycelialError) -> HTTPStatus:
    """Return the HTTP status that says what the error's class says."""
    special = _SPECIAL.get(type(error))
    if special is not None:
        return special
    found = (status for kind, status in _STATUS if isinstance(error, kind))
    return next(found, HTTPStatus.INTERNAL_SERVER_ERROR)


def problem_response(error: MycelialError) -> JSONResponse:
    """Return the error as problems; `exitCode` lets a client rebuild its class."""
    status = status_of(error)
    headers = {"cache-control": "no-store"}
    if status is HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        headers["retry-after"] = "1"
    body = {
        "formatVersion": FORMAT_VERSION,
        "error": type(error).__name__,
        "exitCode": int(error.exit_code),
        "problems": [problem.to_json() for problem in error.problems],
    }
    return JSONResponse(body, status_code=status, headers=headers)


def answer(value: Any, status: HTTPStatus = HTTPStatus.OK) -> JSONResponse:
    """Return a dataclass, or a tuple of them under `items`, as JSON."""
    data = encode(value)
    body = {"items": data} if isinstance(data, list) else data
    return JSONResponse(body, status_code=status, headers={"cache-control": "no-store"})


def route(path: str, handler: Handler, *, log: Log, method: str = "GET") -> Route:
    """Return a route whose handler's errors become problems; a bug becomes a coded 500."""

    async def guarded(request: Request) -> Response:
        try:
            return await handler(request)
        except MycelialError as error:
            if isinstance(error, OperationFailed | InternalError):
                log.warning("request failed", path=path, code=error.code)
            return problem_response(error)
        except ClientDisconnect:
            return Response(status_code=HTTPStatus.BAD_REQUEST)
        except Exception as error:  # the supervisor of one request: no traceback leaves the process
            log.error("request crashed", path=path, error=type(error).__name__, exc_info=error)
            return problem_response(
                InternalError(
                    "MYC-API-500",
                    "the control plane failed at this request",
                    fix="look at its log, and report it with the code",
                )
            )

    return Route(path, guarded, methods=[method])


async def read_json(request: Request, *, bytes_max: int = BODY_BYTES_MAX) -> Any:
    """Return the body's JSON.

    Raises: UsageError MYC-API-001 for what is not plain JSON, MYC-API-002 when nested deeper than
    JSON_DEPTH_MAX; BodyTooLarge MYC-API-003 before more than `bytes_max` are held.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise UsageError("MYC-API-001", "compressed bodies are not accepted", fix="send plain JSON")
    body = await _read_body(request, bytes_max)
    try:
        data = json.loads(body, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:
        raise UsageError("MYC-API-001", f"the body is not JSON: {error}") from error
    if _SURROGATE.search(body):
        _check_text(data)
    _check_depth(data)
    return data


async def _read_body(request: Request, bytes_max: int) -> bytes:
    too_large = BodyTooLarge(
        "MYC-API-003",
        f"the body is longer than {bytes_max} bytes",
        fix="send fewer files at once",
    )
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > bytes_max:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > bytes_max:
            raise too_large
    return bytes(body)


def _check_text(data: Any) -> None:
    """Refuse half of a surrogate pair: no database, file or reply could hold it."""
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        what = "the body has an escape that is no character (half of a surrogate pair)"
        raise UsageError("MYC-API-001", what) from error
    except RecursionError as error:
        raise _too_deep() from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _too_deep() -> UsageError:
    return UsageError("MYC-API-002", f"the body is nested deeper than {JSON_DEPTH_MAX} levels")


def _check_depth(data: Any) -> None:
    level, depth = [data], 0
    while level:
        depth += 1
        if depth > JSON_DEPTH_MAX:
            raise _too_deep()
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(v for v in item.values() if isinstance(v, dict | list))
            elif isinstance(item, list):
                below.extend(v for v in item if isinstance(v, dict | list))
        level = below


def decoded(cls: type[T], data: Any) -> T:
    """Return `data` as a `cls`. Raises: UsageError MYC-API-004 naming the field."""
    try:
        return decode(cls, data)
    except DecodeError as error:
        raise UsageError("MYC-API-004", str(error), fix="correct the named field") from error


def number(request: Request, name: str, default: float, *, low: float, high: float) -> float:
    """Return a query parameter clamped to [low, high]. Raises: UsageError MYC-API-005."""
    text = request.query_params.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError as error:
        raise UsageError("MYC-API-005", f"{name}={text!r} is not a number") from error
    if math.isnan(value):
        raise UsageError("MYC-API-005", f"{name}={text!r} is not a number")
    return min(max(value, low), high)
