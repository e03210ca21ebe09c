"""The daemons' API: routes and nothing else. A daemon may act only as the id in its certificate."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from mycelial.controlplane.api import LONG_POLL_SECONDS_MAX, health_routes, no_such_route
from mycelial.controlplane.auth import daemon_of
from mycelial.controlplane.http import answer, decoded, number, read_json, route
from mycelial.controlplane.service import ControlPlane
from mycelial.kernel.ports import Log
from mycelial.schemas.codec import encode
from mycelial.schemas.wire import CommandResult, EnrollRequest, Report, WatchEvent

ENROLL_BYTES_MAX = 8 * 1024


@dataclass(frozen=True, slots=True)
class RenewRequest:
    """A CSR over the key that the calling certificate is for."""

    csr: str


def build_daemon_app(service: ControlPlane, *, log: Log) -> Starlette:
    """Return the application of the daemons' listener."""
    joining, links = service.joining, service.links

    def caller(request: Request) -> str:
        tls = request.scope.get("extensions", {}).get("tls", {})
        return links.admit(
            certificate_id=daemon_of(tls.get("peer_certificate")),
            path_id=request.path_params["id"],
        )

    async def authority(_request: Request) -> Response:
        return JSONResponse({"ca_bundle": joining.ca_bundle()})

    async def enroll(request: Request) -> Response:
        joining.throttle()  # before the body: a flood must cost nothing
        body = await read_json(request, bytes_max=ENROLL_BYTES_MAX)
        return answer(await joining.enroll(decoded(EnrollRequest, body)))

    async def renew(request: Request) -> Response:
        daemon_id = caller(request)
        body = decoded(RenewRequest, await read_json(request, bytes_max=ENROLL_BYTES_MAX))
        return answer(await joining.renew(daemon_id, body.csr))

    async def report(request: Request) -> Response:
        daemon_id = caller(request)
        return answer(await links.report(daemon_id, decoded(Report, await read_json(request))))

    async def watch(request: Request) -> Response:
        daemon_id = caller(request)
        waits = "wait" in request.query_params
        events = links.watch(
            daemon_id,
            token=request.query_params.get("token", ""),
            held_hash=request.query_params.get("hash", ""),
            wait_seconds=number(request, "wait", 45, low=0, high=LONG_POLL_SECONDS_MAX)
            if waits
            else None,
        )
        return StreamingResponse(
            _lines(events),
            media_type="application/x-ndjson",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )

    async def result(request: Request) -> Response:
        daemon_id = caller(request)
        taken = links.result(daemon_id, decoded(CommandResult, await read_json(request)))
        return JSONResponse({"taken": taken})

    base = "/v1/daemons/{id}"
    return Starlette(
        routes=[
            *health_routes(service, log=log),
            route("/v1/ca", authority, log=log),
            route("/v1/enroll", enroll, log=log, method="POST"),
            route(base + "/renew", renew, log=log, method="POST"),
            route(base + "/report", report, log=log, method="POST"),
            route(base + "/watch", watch, log=log),
            route(base + "/results", result, log=log, method="POST"),
        ],
        exception_handlers={404: no_such_route, 405: no_such_route},
    )


async def _lines(events: AsyncGenerator[WatchEvent]) -> AsyncIterator[bytes]:
    # Closed here and not by the garbage collector: closing ends the daemon's place in the hub.
    async with aclosing(events):
        async for event in events:
            yield json.dumps(encode(event), separators=(",", ":")).encode() + b"\n"
