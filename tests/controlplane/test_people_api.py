"""The people's API as a stranger, a mistake or a broken disk meets it: problems, no tracebacks."""

from __future__ import annotations

import json
import socket

import httpx
import pytest

from mycelial.client.api import Client
from mycelial.controlplane.datadir import DataDir, DirLock
from mycelial.controlplane.http import BODY_BYTES_MAX
from mycelial.controlplane.server import HttpServer, Listener
from mycelial.kernel.errors import (
    CheckSaysNo,
    ExitCode,
    NotAllowed,
    OperationFailed,
    Unreachable,
    UsageError,
)
from mycelial.kernel.ports import NullLog
from mycelial.kernel.secret import Secret


def raw(world) -> httpx.AsyncClient:
    token = world.data.admin_token().reveal()
    return httpx.AsyncClient(
        base_url=world.people_url, trust_env=False, headers={"authorization": f"Bearer {token}"}
    )


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("", id="none"),
        pytest.param("Bearer wrong", id="wrong"),
        pytest.param("Basic {token}", id="other-scheme"),
        pytest.param("Bearer {token}x", id="longer"),
    ],
)
async def test_without_the_token_everybody_gets_one_same_reply(world, header: str) -> None:
    async with world.running(), httpx.AsyncClient(base_url=world.people_url) as http:
        value = header.format(token=world.data.admin_token().reveal())
        reply = await http.get("/api/v1/status", headers={"authorization": value})
    assert reply.status_code == 401
    assert reply.json()["problems"][0]["code"] == "MYC-API-401"


async def test_every_route_of_the_api_asks_for_the_token(world) -> None:
    async with world.running(), httpx.AsyncClient(base_url=world.people_url) as http:
        routes = [r for r in world.plane.people_app().routes if r.path.startswith("/api/")]
        assert len(routes) > 15
        for route in routes:
            path = route.path.format(name="x", kind="x")
            for method in route.methods - {"HEAD"}:
                assert (await http.request(method, path)).status_code == 401, path


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        pytest.param("POST", "/plan", b"{", 400, "MYC-API-001", id="no-json"),
        pytest.param("POST", "/plan", b"[" * 100 + b"]" * 100, 400, "MYC-API-002", id="deep"),
        pytest.param("POST", "/plan", b"[" * 200_000, 400, "MYC-API-002", id="very-deep"),
        pytest.param("POST", "/plan", b'{"prune": NaN}', 400, "MYC-API-001", id="nan"),
        pytest.param("POST", "/plan", b'["\\ud800"]', 400, "MYC-API-001", id="half-a-character"),
        pytest.param("POST", "/plan", b'{"files": 3}', 400, "MYC-API-004", id="wrong-type"),
        pytest.param("GET", "/workflows/none", b"", 404, "MYC-API-020", id="no-such-workflow"),
        pytest.param("GET", "/nothing", b"", 404, "MYC-API-404", id="no-such-route"),
        pytest.param("DELETE", "/status", b"", 404, "MYC-API-404", id="no-such-method"),
        pytest.param("GET", "/events?limit=x", b"", 400, "MYC-API-005", id="no-number"),
        pytest.param("GET", "/events?limit=nan", b"", 400, "MYC-API-005", id="not-a-number"),
        pytest.param("GET", "/workflows?selector=((", b"", 400, "MYC-API-006", id="selector"),
        pytest.param("GET", "/wait?subject=x&wait=0", b"", 400, "MYC-API-007", id="subject"),
    ],
)
async def test_mistakes_are_answered_as_problems(
    world, method: str, path: str, body: bytes, status: int, code: str
) -> None:
    async with world.running(), raw(world) as http:
        reply = await http.request(method, "/api/v1" + path, content=body)
    assert (reply.status_code, reply.json()["problems"][0]["code"]) == (status, code)


async def test_bodies_are_bounded_also_when_their_length_is_not_announced(world) -> None:
    async def endless():
        for _ in range(BODY_BYTES_MAX // 1_000_000 + 2):
            yield b"x" * 1_000_000

    async with world.running(), raw(world) as http:
        announced = await http.post("/api/v1/plan", content=b"x" * (BODY_BYTES_MAX + 1))
        chunked = await http.post("/api/v1/plan", content=endless())
        zipped = await http.post("/api/v1/plan", content=b"x", headers={"content-encoding": "gzip"})
    assert [announced.status_code, chunked.status_code, zipped.status_code] == [413, 413, 400]


async def test_health_needs_no_token(world) -> None:
    async with world.running(), httpx.AsyncClient(base_url=world.people_url) as http:
        assert (await http.get("/livez")).text == "ok"
        ready = await http.get("/readyz?verbose")
        assert (ready.status_code, ready.json()) == (
            200,
            {"loop": "ok", "store": "ok", "controller": "ok"},
        )


class BrokenDisk:
    """A store whose writes and reads fail when told to."""

    def __init__(self, store) -> None:
        self._store, self.is_broken = store, False

    def __getattr__(self, name: str):
        if self.is_broken and name != "close":

            def fail(*_a, **_k):
                raise OperationFailed("MYC-STORE-001", "the disk is full", fix="free some space")

            return fail
        return getattr(self._store, name)


async def test_a_failing_store_is_a_503_problem_and_heals(world, manifest) -> None:
    world.wrap_store = BrokenDisk
    async with world.running(), raw(world) as http:
        daemon = await world.join()
        await daemon.report()
        world.store.is_broken = True
        reply = await http.get("/api/v1/events")
        assert (reply.status_code, reply.json()["problems"][0]["code"]) == (503, "MYC-STORE-001")
        assert "Traceback" not in reply.text
        assert (await http.get("/readyz")).status_code == 503
        world.store.is_broken = False
        await world.apply(manifest())
        assert [a.name for a in (await daemon.next_set()).assignments] == ["orders"]
        assert (await http.get("/readyz")).status_code == 200


async def test_a_bug_is_a_coded_500_without_a_traceback(world, monkeypatch) -> None:
    async with world.running(), raw(world) as http:

        async def broken(_who):
            raise ZeroDivisionError("inner detail")

        monkeypatch.setattr(world.plane.service, "whoami", broken)
        reply = await http.get("/api/v1/whoami")
    assert (reply.status_code, reply.json()["problems"][0]["code"]) == (500, "MYC-API-500")
    assert "inner detail" not in reply.text


async def test_the_token_is_in_no_answer(world, manifest) -> None:
    async with world.running(), raw(world) as http:
        await world.apply(manifest())
        texts = [
            (await http.get(f"/api/v1/{path}")).text
            for path in ("status", "whoami", "events", "history", "workflows/orders", "daemons")
        ]
    assert not any(world.data.admin_token().reveal() in text for text in texts)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        pytest.param(lambda c: c.workflow("nothing"), CheckSaysNo, id="not-found"),
        pytest.param(lambda c: c.workflows("(("), UsageError, id="usage"),
        pytest.param(lambda c: c.daemon("a/../b"), CheckSaysNo, id="escaped-path"),
    ],
)
async def test_the_client_raises_what_the_server_meant(world, call, error) -> None:
    async with world.running():
        with pytest.raises(error):
            await world.call(call, world.client)


async def test_a_wrong_token_is_not_allowed_for_the_client(world) -> None:
    async with world.running():
        with Client(world.people_url, Secret("x")) as client, pytest.raises(NotAllowed):
            await world.call(client.status)


def test_no_server_is_unreachable_with_a_fix() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    client = Client(f"http://127.0.0.1:{port}", Secret("x"))
    with client, pytest.raises(Unreachable, match="MYC-API-010") as caught:
        client.status()
    assert caught.value.exit_code is ExitCode.UNREACHABLE
    assert caught.value.problem.fix


def test_another_web_server_is_told_apart() -> None:
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, text="<html>"))
    client = Client("http://x", Secret("x"), transport=transport)
    with client, pytest.raises(OperationFailed, match="MYC-API-012"):
        client.status()


async def nothing(_scope, _receive, _send) -> None: ...


def test_plain_http_stays_on_this_machine() -> None:
    server = HttpServer((Listener("people", "0.0.0.0", 0, nothing),), log=NullLog())
    with pytest.raises(NotAllowed, match="MYC-CP-040"):
        server.bind()


def test_a_taken_port_is_an_operation_that_failed() -> None:
    first = HttpServer((Listener("people", "127.0.0.1", 0, nothing),), log=NullLog())
    port = first.bind()["people"][1]
    second = HttpServer((Listener("people", "127.0.0.1", port, nothing),), log=NullLog())
    with pytest.raises(OperationFailed, match="MYC-CP-041") as caught:
        second.bind()
    first.close()
    assert caught.value.exit_code is ExitCode.FAILED
    assert caught.value.problem.fix


def test_a_second_server_on_one_directory_is_refused(tmp_path) -> None:
    with DirLock(tmp_path), pytest.raises(OperationFailed, match="MYC-CP-002"):
        DirLock(tmp_path)
    DirLock(tmp_path).close()


def test_the_admin_token_is_made_once_and_private(tmp_path) -> None:
    data = DataDir(tmp_path / "data")
    data.create()
    assert data.admin_token().reveal() == data.admin_token().reveal()
    assert data.admin_token_file.stat().st_mode & 0o777 == 0o600


def test_importing_the_client_loads_no_terminal_library() -> None:
    import subprocess
    import sys

    code = "import sys, mycelial.client.api; print(json.dumps(sorted(sys.modules)))"
    out = subprocess.run(
        [sys.executable, "-c", "import json;" + code], capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(out.stdout))
    assert not loaded & {"rich", "pygments", "pydantic", "click", "cryptography"}


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("../out.yaml", id="above"),
        pytest.param("a/../../out.yaml", id="above-later"),
        pytest.param("/tmp/out.yaml", id="absolute"),
        pytest.param(".git/hooks/out.yaml", id="git"),
        pytest.param("-o.yaml", id="option"),
        pytest.param("a\x00\n\x1b[2J.yaml", id="control-characters"),
        pytest.param("", id="empty"),
    ],
)
async def test_the_repository_decides_where_a_new_object_is_kept(world, manifest, path) -> None:
    async with world.running(), raw(world) as http:
        body = {"request": {"files": {path: manifest()}}, "message": "a\x00\x1b[2J\nb"}
        assert (await http.post("/api/v1/apply", json=body)).status_code == 200
        tree = await world.call(world.source.tree, world.source.probe(None).revision)
    assert list(tree.files) == ["workflows/orders.yaml"]


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param({"site": "\x1b[2J"}, id="control-characters"),
        pytest.param({"\u202e": "x"}, id="direction"),
        pytest.param({"": "x"}, id="no-name"),
        pytest.param({"site": "x" * 1000}, id="long"),
        pytest.param({f"l{n}": "" for n in range(100)}, id="many"),
    ],
)
async def test_labels_of_a_token_are_few_short_and_printable(world, labels) -> None:
    async with world.running(), raw(world) as http:
        reply = await http.post("/api/v1/tokens", json={"labels": labels, "ttl_seconds": 60})
    assert (reply.status_code, reply.json()["problems"][0]["code"]) == (400, "MYC-API-031")
