"""The people's API: routes and nothing else. Every route asks the gate, then one use case."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute

from mycelial.controlplane.auth import Gate, Principal
from mycelial.controlplane.http import NotFound, answer, decoded, number, problem_response
from mycelial.controlplane.http import read_json as read
from mycelial.controlplane.http import route as plain_route
from mycelial.controlplane.service import ControlPlane
from mycelial.kernel.ports import Log
from mycelial.schemas.views import (
    ApplyRequest,
    PlanRequest,
    RollbackRequest,
    StateChange,
    TokenRequest,
)

LONG_POLL_SECONDS_MAX = 60.0
LIMIT_MAX = 1000

UseCase = Callable[[Principal, Request], Awaitable[Any]]


def build_app(
    service: ControlPlane, *, gate: Gate, log: Log, extra_mounts: Sequence[BaseRoute] = ()
) -> Starlette:
    """Return the application of the people's listener; `extra_mounts` come after the API."""

    def case(path: str, use_case: UseCase, method: str = "GET") -> BaseRoute:
        async def handle(request: Request) -> Response:
            principal = gate.identify(request.headers.get("authorization", ""))
            return answer(await use_case(principal, request))

        return plain_route("/api/v1" + path, handle, log=log, method=method)

    return Starlette(
        routes=[
            *health_routes(service, log=log),
            *(case(path, use_case) for path, use_case in _looks(service)),
            *(case(path, use_case, "POST") for path, use_case in _acts(service)),
            *extra_mounts,
        ],
        exception_handlers={404: no_such_route, 405: no_such_route},
    )


async def no_such_route(request: Request, _error: Exception) -> Response:
    """Answer an unknown path or method as a problem too."""
    return problem_response(
        NotFound(
            "MYC-API-404",
            f"there is no {request.method} {request.url.path}",
            fix="compare the versions of client and server",
        )
    )


def health_routes(service: ControlPlane, *, log: Log) -> list[BaseRoute]:
    """Return /livez (the loop turns) and /readyz (store and source answer; `?verbose` lists)."""

    async def live(_request: Request) -> Response:
        return PlainTextResponse("ok")

    async def ready(request: Request) -> Response:
        checks = await service.readiness()
        status = 200 if all(word == "ok" for word in checks.values()) else 503
        if "verbose" in request.query_params:
            return JSONResponse(checks, status_code=status)
        return PlainTextResponse("ok" if status == 200 else "not ready", status_code=status)

    return [plain_route("/livez", live, log=log), plain_route("/readyz", ready, log=log)]


def _looks(service: ControlPlane) -> list[tuple[str, UseCase]]:
    async def whoami(who: Principal, _request: Request) -> Any:
        return await service.whoami(who)

    async def status(who: Principal, _request: Request) -> Any:
        return await service.status(who)

    async def workflows(who: Principal, request: Request) -> Any:
        return await service.workflows(who, selector=request.query_params.get("selector", ""))

    async def workflow(who: Principal, request: Request) -> Any:
        return await service.workflow(who, request.path_params["name"])

    async def daemons(who: Principal, _request: Request) -> Any:
        return await service.daemons(who)

    async def daemon(who: Principal, request: Request) -> Any:
        return await service.daemon(who, request.path_params["name"])

    async def objects(who: Principal, request: Request) -> Any:
        return await service.objects(who, kind=request.query_params.get("kind", ""))

    async def one_object(who: Principal, request: Request) -> Any:
        return await service.one_object(
            who, kind=request.path_params["kind"], name=request.path_params["name"]
        )

    async def history(who: Principal, request: Request) -> Any:
        return await service.history(
            who,
            limit=int(number(request, "limit", 50, low=1, high=LIMIT_MAX)),
            name=request.query_params.get("name", ""),
        )

    async def events(who: Principal, request: Request) -> Any:
        return await service.events(
            who,
            after=int(number(request, "after", 0, low=0, high=2**53)),
            limit=int(number(request, "limit", 200, low=1, high=LIMIT_MAX)),
            subject=request.query_params.get("subject", ""),
            newest=request.query_params.get("newest", "true") != "false",
            wait_seconds=number(request, "wait", 0, low=0, high=LONG_POLL_SECONDS_MAX),
        )

    async def logs(who: Principal, request: Request) -> Any:
        return await service.logs(
            who,
            request.path_params["name"],
            daemon=request.query_params.get("daemon", ""),
            tail=int(number(request, "tail", 100, low=1, high=LIMIT_MAX)),
            cursor=request.query_params.get("cursor", ""),
        )

    async def state(who: Principal, request: Request) -> Any:
        return await service.state(who, request.path_params["name"])

    async def wait(who: Principal, request: Request) -> Any:
        return await service.wait(
            who,
            subject=request.query_params.get("subject", ""),
            condition=request.query_params.get("condition", ""),
            wait_seconds=number(request, "wait", 30, low=0, high=LONG_POLL_SECONDS_MAX),
        )

    return [
        ("/whoami", whoami),
        ("/status", status),
        ("/workflows", workflows),
        ("/workflows/{name}", workflow),
        ("/workflows/{name}/logs", logs),
        ("/workflows/{name}/state", state),
        ("/daemons", daemons),
        ("/daemons/{name}", daemon),
        ("/objects", objects),
        ("/objects/{kind}/{name}", one_object),
        ("/history", history),
        ("/events", events),
        ("/wait", wait),
    ]


def _acts(service: ControlPlane) -> list[tuple[str, UseCase]]:
    async def plan(who: Principal, request: Request) -> Any:
        return await service.plan(who, decoded(PlanRequest, await read(request)))

    async def apply(who: Principal, request: Request) -> Any:
        return await service.apply(who, decoded(ApplyRequest, await read(request)))

    async def rollback(who: Principal, request: Request) -> Any:
        return await service.rollback(who, decoded(RollbackRequest, await read(request)))

    async def set_state(who: Principal, request: Request) -> Any:
        change = decoded(StateChange, await read(request))
        return await service.set_state(who, request.path_params["name"], change)

    async def retry(who: Principal, request: Request) -> Any:
        return await service.retry(who, request.path_params["name"])

    async def sync(who: Principal, _request: Request) -> Any:
        return await service.sync(who)

    async def token(who: Principal, request: Request) -> Any:
        return await service.create_token(who, decoded(TokenRequest, await read(request)))

    async def revoke(who: Principal, request: Request) -> Any:
        return await service.revoke(who, request.path_params["name"])

    return [
        ("/plan", plan),
        ("/apply", apply),
        ("/rollback", rollback),
        ("/workflows/{name}/state", set_state),
        ("/workflows/{name}/retry", retry),
        ("/sync", sync),
        ("/tokens", token),
        ("/daemons/{name}/revoke", revoke),
    ]
