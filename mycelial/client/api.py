"""The typed client of the people's API. Synchronous; one method per use case.

Every failure arrives as the error class the control plane raised: exit codes survive the wire.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import quote

# httpx imports its own command line, and with it rich and pygments, when those are installed; a
# third of a short command's time. None makes that import fail early, which httpx allows for.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]

import httpx  # noqa: E402

from mycelial.kernel.errors import (  # noqa: E402
    CheckSaysNo,
    Conflict,
    ExitCode,
    InternalError,
    InvalidManifest,
    MycelialError,
    NotAllowed,
    OperationFailed,
    Problem,
    StalePlan,
    Unreachable,
    UsageError,
)
from mycelial.kernel.secret import Secret  # noqa: E402
from mycelial.schemas.codec import DecodeError, decode, encode  # noqa: E402
from mycelial.schemas.views import (  # noqa: E402
    ActReply,
    ApplyReply,
    ApplyRequest,
    DaemonView,
    EventView,
    LogsReply,
    ObjectView,
    PlanReply,
    PlanRequest,
    RevisionView,
    RollbackRequest,
    StateChange,
    StateView,
    StatusView,
    TokenReply,
    TokenRequest,
    WaitReply,
    WhoAmI,
    WorkflowView,
)

T = TypeVar("T")

TIMEOUT_SECONDS = 30.0
LOOKING_SECONDS = 20.0  # the server gives a daemon 15 s for its log
LONG_POLL_SECONDS = 30.0

_ERRNO = re.compile(r"^\[Errno -?\d+\] ")
_BY_NAME: dict[str, type[MycelialError]] = {
    "StalePlan": StalePlan,
    "Conflict": Conflict,
}
_BY_EXIT: dict[int, type[MycelialError]] = {
    ExitCode.SAYS_NO: CheckSaysNo,
    ExitCode.FAILED: OperationFailed,
    ExitCode.NOT_ALLOWED: NotAllowed,
    ExitCode.UNREACHABLE: Unreachable,
    ExitCode.USAGE: UsageError,
    ExitCode.INTERNAL: InternalError,
}


class Client:
    """A control plane at `url`.

    Args: ca_file: PEM of the authority behind a TLS listener; the system's are used otherwise.
    transport: for tests. Raises from every call: Unreachable (5), NotAllowed (4),
    InvalidManifest (65), StalePlan and CheckSaysNo (1), Conflict and OperationFailed (3),
    UsageError (64).
    """

    def __init__(
        self,
        url: str,
        token: Secret,
        *,
        ca_file: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._timeout_seconds = timeout_seconds
        self._http = httpx.Client(
            base_url=f"{self._url}/api/v1/",
            headers={"authorization": f"Bearer {token.reveal()}", "accept": "application/json"},
            timeout=httpx.Timeout(timeout_seconds, connect=10.0),
            trust_env=False,
            follow_redirects=False,
            verify=_trust(self._url, ca_file),
            transport=transport,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # Looking

    def whoami(self) -> WhoAmI:
        """Return who the token stands for."""
        return self._one(WhoAmI, "GET", "whoami")

    def status(self) -> StatusView:
        """Return the fleet on one screen."""
        return self._one(StatusView, "GET", "status")

    def workflows(self, selector: str = "") -> tuple[WorkflowView, ...]:
        """Return the workflows whose labels match, by name."""
        return self._many(WorkflowView, "workflows", selector=selector)

    def workflow(self, name: str) -> WorkflowView:
        """Return one workflow with its placements, manifest and problems."""
        return self._one(WorkflowView, "GET", f"workflows/{_part(name)}")

    def daemons(self, selector: str = "") -> tuple[DaemonView, ...]:
        """Return the daemons whose labels match, by name."""
        return self._many(DaemonView, "daemons", selector=selector)

    def daemon(self, name: str) -> DaemonView:
        """Return one daemon with its pipelines."""
        return self._one(DaemonView, "GET", f"daemons/{_part(name)}")

    def objects(self, kind: str = "") -> tuple[ObjectView, ...]:
        """Return the objects of one kind, or all, as compiled from git."""
        return self._many(ObjectView, "objects", kind=kind)

    def object(self, kind: str, name: str) -> ObjectView:
        """Return one object."""
        return self._one(ObjectView, "GET", f"objects/{_part(kind)}/{_part(name)}")

    def history(self, limit: int = 50, subject: str = "") -> tuple[RevisionView, ...]:
        """Return commits, newest first; those that touched `Kind/name`'s file when given."""
        return self._many(RevisionView, "history", limit=limit, name=subject)

    def events(
        self, *, after_id: int = 0, limit: int = 200, subject: str = "", wait_seconds: float = 0.0
    ) -> tuple[EventView, ...]:
        """Return events, oldest first: the newest ones, or those right after `after_id`.

        With `wait_seconds` the call returns as soon as there is one, or empty after that time.
        """
        return self._many(
            EventView,
            "events",
            after=after_id,
            limit=limit,
            subject=subject,
            wait=wait_seconds,
            newest="false" if after_id else "true",
        )

    def logs(
        self,
        workflow: str,
        *,
        daemon: str = "",
        lines: int = 100,
        cursors: Mapping[str, str] | None = None,
    ) -> tuple[LogsReply, ...]:
        """Return the end of the pipelines' logs, one reply per daemon.

        Args: cursors: daemon -> cursor of its last reply; only newer lines come back.
        """
        text = ",".join(f"{name}={cursor}" for name, cursor in sorted((cursors or {}).items()))
        path = f"workflows/{_part(workflow)}/logs"
        return self._many(LogsReply, path, daemon=daemon, tail=lines, cursor=text)

    def wait(self, subject: str, condition: str, timeout_seconds: float) -> WaitReply:
        """Block until `Kind/name` is as asked, or `met` is false after the timeout.

        Raises: CheckSaysNo at once when it has failed for good.
        """
        left = timeout_seconds
        while True:
            share = max(0.0, min(left, LONG_POLL_SECONDS))
            reply = self._one(
                WaitReply, "GET", "wait", subject=subject, condition=condition, wait=share
            )
            left -= share
            if reply.met or left <= 0:
                return reply

    # Changing

    def plan(self, request: PlanRequest) -> PlanReply:
        """Return what the request would do; live parts only when it asks for them."""
        return self._one(PlanReply, "POST", "plan", body=request)

    def apply(self, request: ApplyRequest) -> ApplyReply:
        """Commit the request as one unit. Raises: StalePlan, InvalidManifest, Conflict."""
        return self._one(ApplyReply, "POST", "apply", body=request)

    def delete(
        self, names: tuple[str, ...], *, message: str = "", forget: bool = False
    ) -> ApplyReply:
        """Commit the removal of exactly these objects ("Workflow/orders"), confirmed."""
        request = PlanRequest(delete=names, forget=forget)
        return self.apply(ApplyRequest(request=request, message=message, confirmed=names))

    def rollback(self, subject: str = "", *, to: str = "", message: str = "") -> ApplyReply:
        """Commit the reversal of the last revision (of `subject`), or of all after `to`."""
        request = RollbackRequest(name=subject, revision=to, message=message)
        return self._one(ApplyReply, "POST", "rollback", body=request)

    # Operating

    def state_get(self, workflow: str) -> Mapping[str, Mapping[str, str]]:
        """Return daemon -> part -> committed position, as last reported."""
        found = self._many(StateView, f"workflows/{_part(workflow)}/state")
        return {view.daemon: view.positions for view in found}

    def state_set(self, workflow: str, *, daemon: str, part: str, position: str) -> ActReply:
        """Make one pipeline go on from a position."""
        change = StateChange(daemon=daemon, part=part, position=position)
        return self._one(ActReply, "POST", f"workflows/{_part(workflow)}/state", body=change)

    def retry(self, workflow: str) -> ActReply:
        """Make failed and backing-off pipelines of a workflow try again now."""
        return self._one(ActReply, "POST", f"workflows/{_part(workflow)}/retry")

    def sync(self) -> ActReply:
        """Look at the source now, and have every connected daemon resync."""
        return self._one(ActReply, "POST", "sync")

    # Joining

    def create_token(
        self, name: str = "", labels: Mapping[str, str] | None = None, ttl_seconds: float = 86400.0
    ) -> TokenReply:
        """Return a single-use join token; it is shown this once."""
        request = TokenRequest(name=name, labels=labels or {}, ttl_seconds=ttl_seconds)
        return self._one(TokenReply, "POST", "tokens", body=request)

    def revoke(self, name: str) -> DaemonView:
        """Refuse a daemon from now on; its name becomes free."""
        return self._one(DaemonView, "POST", f"daemons/{_part(name)}/revoke")

    # The wire

    def _one(self, cls: type[T], method: str, path: str, *, body: Any = None, **query: Any) -> T:
        return _decoded(cls, self._call(method, path, body, query))

    def _many(self, cls: type[T], path: str, **query: Any) -> tuple[T, ...]:
        data = self._call("GET", path, None, query)
        items = data.get("items") if isinstance(data, dict) else None
        if not isinstance(items, list):
            raise _not_ours("a list was expected")
        return tuple(_decoded(cls, item) for item in items)

    def _call(self, method: str, path: str, body: Any, query: Mapping[str, Any]) -> Any:
        patience = min(self._timeout_seconds, LOOKING_SECONDS if method == "GET" else math.inf)
        timeout = httpx.Timeout(patience + float(query.get("wait", 0) or 0), connect=10.0)
        try:
            response = self._http.request(
                method,
                path,
                params={key: value for key, value in query.items() if value != ""},
                json=None if body is None else encode(body),
                timeout=timeout,
            )
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise UsageError(
                "MYC-API-012",
                f"{self._url!r} is not the address of a control plane",
                fix="write it with its scheme, such as http://127.0.0.1:7777",
            ) from error
        except httpx.TransportError as error:
            raise Unreachable(
                "MYC-API-010",
                f"the control plane at {self._url} does not answer: {_reason(error)}",
                fix="start it with `mycelial server`, or choose another with --url",
            ) from error
        if response.is_success:
            return _json(response)
        raise _error_of(response)


def _reason(error: Exception) -> str:
    return _ERRNO.sub("", str(error)) or type(error).__name__


def _part(text: str) -> str:
    return quote(text, safe="")


def _trust(url: str, ca_file: str | None) -> Any:
    """Return what httpx verifies with; building the system's trust store costs 20 ms and more."""
    if not url.startswith("https:"):
        return False
    if ca_file is None:
        return True
    import ssl

    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise UsageError(
            "MYC-API-011", f"the CA file {ca_file} cannot be used: {error}", fix="correct ca_file"
        ) from error


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError as error:
        raise _not_ours("the body is not JSON") from error


def _decoded(cls: type[T], data: Any) -> T:
    try:
        return decode(cls, data)
    except DecodeError as error:
        raise _not_ours(str(error)) from error


def _not_ours(why: str) -> OperationFailed:
    return OperationFailed(
        "MYC-API-012",
        f"the answer is not one of a control plane: {why}",
        fix="check the address, and compare the versions of client and server",
    )


def _error_of(response: httpx.Response) -> MycelialError:
    """Rebuild the error a reply stands for."""
    data = _json(response) if "json" in response.headers.get("content-type", "") else None
    if not isinstance(data, dict) or not data.get("problems"):
        return _not_ours(f"status {response.status_code}")
    try:
        problems = [Problem.from_json(item) for item in data["problems"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return _not_ours(str(error))
    if data.get("error") == "InvalidManifest" or data.get("exitCode") == ExitCode.INVALID:
        return InvalidManifest(problems)
    kind = _BY_NAME.get(str(data.get("error"))) or _BY_EXIT.get(data.get("exitCode", 0))
    first = problems[0]
    return (kind or InternalError)(first.code, first.what, fix=first.fix, where=first.where)
