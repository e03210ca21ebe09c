"""Joining and speaking as a daemon: who may, as whom, and what a stranger is told."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import httpx
import pytest

from mycelial.client.link import Held, LinkRefused, enroll, fetch_ca
from mycelial.controlplane.joining import ENROLL_PER_SECOND
from mycelial.kernel.errors import CheckSaysNo
from mycelial.schemas.codec import encode
from mycelial.schemas.wire import CommandResult, EnrollRequest, ReplyFlag
from mycelial.security.ca import key_hash, make_csr
from mycelial.security.tls import client_context


def stranger(world) -> httpx.AsyncClient:
    tls = client_context(cert=None, key=None, ca=world.authority.ca_pem)
    return httpx.AsyncClient(verify=tls, base_url=world.daemon_url, trust_env=False)


async def test_joining_twice_with_one_key_gives_one_identity(world) -> None:
    async with world.running():
        token = (await world.call(world.client.create_token, "shop-01")).token
        key = make_csr("shop-01")
        first = await world.join("shop-01", token, key)
        again = await world.join("shop-01", token, key)
        assert again.id == first.id
        assert (await world.reasons()).count("DaemonJoined") == 1
        assert len(await world.call(world.client.daemons)) == 1


async def refusal_of(world, **changes: str) -> tuple[int, dict[str, object]]:
    body = {"name": "shop-01", "csr": make_csr("shop-01")[1], "token": "", **changes}
    async with stranger(world) as http:
        reply = await http.post("/v1/enroll", json=body)
    return reply.status_code, reply.json()


async def test_used_expired_unknown_and_foreign_tokens_get_one_same_reply(world) -> None:
    async with world.running():
        used = (await world.call(world.client.create_token, "shop-01")).token
        await world.join("shop-01", used)
        expired = (await world.call(world.client.create_token, "shop-02", None, 0.001)).token
        bound = (await world.call(world.client.create_token, "shop-03")).token
        await asyncio.sleep(0.01)  # wall time is what expires a token
        replies = [
            await refusal_of(world, token=used, name="shop-01"),
            await refusal_of(world, token=expired, name="shop-02"),
            await refusal_of(world, token="myc1.nothing", name="shop-02"),
            await refusal_of(world, token=bound, name="shop-04"),
        ]
        assert [status for status, _ in replies[1:]] == [401, 401, 401]
        assert replies[1][1] == replies[2][1] == replies[3][1]
        assert (await world.reasons()).count("EnrollmentRefused") >= 3
        text = json.dumps([encode(e) for e in await world.call(world.client.events)])
        assert not any(secret in text for secret in (used, expired, bound))


async def test_a_used_token_joins_no_second_machine(world) -> None:
    async with world.running():
        token = (await world.call(world.client.create_token)).token
        await world.join("shop-01", token)
        with pytest.raises(LinkRefused, match="401"):
            await world.join("shop-02", token)
        assert [d.name for d in await world.call(world.client.daemons)] == ["shop-01"]


async def test_a_taken_name_is_refused_and_the_token_stays_good(world) -> None:
    async with world.running():
        await world.join("shop-01")
        token = (await world.call(world.client.create_token)).token
        status, body = await refusal_of(world, token=token, name="shop-01")
        assert (status, body["problems"][0]["code"]) == (409, "MYC-CP-031")
        assert (await world.join("shop-02", token)).name == "shop-02"


async def test_labels_of_the_token_win_over_those_proposed(world) -> None:
    async with world.running():
        token = await world.call(world.client.create_token, "shop-01", {"role": "till"})
        request = EnrollRequest(
            token.token, "shop-01", make_csr("x")[1], {"role": "hub", "site": "lyon"}
        )
        tls = client_context(cert=None, key=None, ca=world.authority.ca_pem)
        await enroll(world.daemon_url, request, tls=tls)
        (daemon,) = await world.call(world.client.daemons)
        assert daemon.labels == {"role": "till", "site": "lyon"}


async def test_the_certificate_of_one_daemon_opens_nothing_of_another(world) -> None:
    async with world.running():
        mine, other = await world.join("shop-01"), await world.join("shop-02")
        posing = mine.link_as(other.id)
        mine.link, honest = posing, mine.link
        with pytest.raises(LinkRefused, match="403"):
            await mine.report()
        with pytest.raises(LinkRefused, match="403"):
            async for _ in posing.watch(Held()):
                pass
        with pytest.raises(LinkRefused, match="403"):
            await posing.results(CommandResult("c", ok=True))
        mine.link = honest
        assert (await mine.report()).ack_seq == mine.seq
        assert "ImpersonationRefused" in await world.reasons()


@pytest.mark.parametrize("call", ["report", "watch", "results", "renew"])
async def test_without_a_certificate_a_daemons_call_is_refused(world, call: str) -> None:
    async with world.running():
        daemon = await world.join()
        async with stranger(world) as http:
            method = "GET" if call == "watch" else "POST"
            reply = await http.request(method, f"/v1/daemons/{daemon.id}/{call}", json={})
        assert reply.status_code == 401
        assert reply.json()["problems"][0]["code"] == "MYC-API-402"


async def test_a_certificate_of_another_authority_is_refused_by_tls(world, tmp_path) -> None:
    from mycelial.security.ca import CertificateAuthority

    foreign = CertificateAuthority.create_or_load(tmp_path / "foreign")
    async with world.running():
        daemon = await world.join()
        private, csr = make_csr("shop-01")
        certificate = foreign.sign_daemon(csr, daemon_id=daemon.id, name="shop-01")
        (tmp_path / "f.crt").write_text(certificate)
        (tmp_path / "f.key").write_bytes(private)
        tls = client_context(
            cert=tmp_path / "f.crt", key=tmp_path / "f.key", ca=world.authority.ca_pem
        )
        async with httpx.AsyncClient(verify=tls, trust_env=False) as http:
            with pytest.raises(httpx.TransportError):
                await http.get(f"{world.daemon_url}/v1/daemons/{daemon.id}/watch?wait=0")


async def test_a_revoked_daemon_is_cut_off_and_refused_also_after_a_restart(world) -> None:
    async with world.running():
        daemon = await world.join()
        async with daemon.watching() as watch:
            await watch.next("hello")
            await world.call(world.client.revoke, "shop-01")
            async with asyncio.timeout(5):
                assert (await watch.next()).type == "bye"
        with pytest.raises(LinkRefused, match="403"):
            await daemon.report()
        assert (await world.join("shop-01")).id != daemon.id
    async with world.running():
        daemon.url = world.daemon_url
        daemon.link = daemon.link_as(daemon.id)
        with pytest.raises(LinkRefused, match="403"):
            await daemon.report()


async def test_a_replayed_report_is_acknowledged_and_a_gap_asks_for_everything(world) -> None:
    async with world.running():
        daemon = await world.join()
        await daemon.report()
        daemon.seq -= 1
        assert (await daemon.report()).ack_seq == daemon.seq
        daemon.seq += 3
        reply = await daemon.report(pipelines=None)
        assert ReplyFlag.REPORT_FULL in reply.flags
        assert reply.ack_seq == daemon.seq


async def test_the_server_dictates_the_rhythm(world) -> None:
    async with world.running():
        reply = await (await world.join()).report()
    assert (reply.next_report_seconds, reply.lease_seconds) == (15.0, 60.0)


async def test_a_certificate_is_renewed_for_its_own_key_only(world) -> None:
    async with world.running():
        key = make_csr("shop-01")
        daemon = await world.join("shop-01", key=key)
        renewed = await daemon.link.renew(key[1])
        assert renewed.daemon_id == daemon.id
        assert renewed.certificate != daemon.reply.certificate
        with pytest.raises(LinkRefused, match="403"):
            await daemon.link.renew(make_csr("shop-01")[1])


async def test_a_long_poll_works_where_streams_are_buffered(world, manifest) -> None:
    async with world.running():
        daemon = await world.join()
        await world.apply(manifest())
        daemon.link._polls_until = float("inf")
        assert [a.name for a in (await daemon.next_set()).assignments] == ["orders"]


async def test_the_authority_is_public(world) -> None:
    async with world.running():
        assert await fetch_ca(world.daemon_url) == world.authority.ca_pem


async def test_enrolment_bodies_are_small_and_their_rate_is_bounded(world) -> None:
    async with world.running(), stranger(world) as http:
        big = await http.post("/v1/enroll", content=b"x" * 9000)
        assert big.status_code == 413
        replies = [
            (await http.post("/v1/enroll", json={})).status_code
            for _ in range(int(ENROLL_PER_SECOND) * 3)
        ]
    assert set(replies) == {400, 429}


async def test_every_request_on_a_kept_connection_knows_its_certificate(world) -> None:
    async with world.running():
        daemon = await world.join()
        assert [(await daemon.report()).ack_seq for _ in range(5)] == list(range(2, 7))


async def test_a_copied_state_directory_is_found_out(world) -> None:
    async with world.running():
        daemon = await world.join()
        first, daemon.boot_id = daemon.boot_id, "copy"
        await daemon.report()
        daemon.boot_id = first
        await daemon.report()
        daemon.boot_id = "copy"
        with pytest.raises(LinkRefused):
            await daemon.report()
        assert "DuplicateIdentity" in await world.reasons()


async def test_commands_reach_the_daemon_and_its_answer_the_caller(world, manifest) -> None:
    async with world.running():
        daemon = await world.join()
        await world.apply(manifest())
        await daemon.next_set()
        async with daemon.watching(Held("", 0, "")) as watch:
            await watch.next("snapshot")
            lines = [{"event": "started"}]
            async with asyncio.TaskGroup() as group:
                asked = group.create_task(world.call(world.client.logs, "orders", lines=5))
                command = (await watch.next("command")).command
                assert command is not None
                assert (command.kind, command.args["lines"]) == ("logs", 5)
                value = {"lines": lines, "cursor": "c9"}
                await daemon.link.results(CommandResult(command.id, ok=True, value=value))
            (reply,) = asked.result()
        assert (reply.daemon, list(reply.lines), reply.cursor) == ("shop-01", lines, "c9")


async def test_a_daemon_that_is_away_is_not_asked(world, manifest) -> None:
    async with world.running():
        daemon = await world.join()
        await world.apply(manifest())
        await daemon.next_set()
        with pytest.raises(CheckSaysNo, match="MYC-API-061"):
            await world.call(world.client.logs, "orders")


async def test_reported_inventory_is_shown_and_survives(world) -> None:
    async with world.running():
        daemon = await world.join()
        assert replace(daemon.reply, name="").daemon_id == daemon.id
    async with world.running():
        (view,) = await world.call(world.client.daemons)
        assert view.inventory is not None
        assert view.inventory.capabilities == ("connector/toy",)


def test_the_key_of_a_request_is_what_makes_enrolment_idempotent() -> None:
    one, other = make_csr("a")[1], make_csr("a")[1]
    assert key_hash(one) == key_hash(one) != key_hash(other)


async def test_what_a_stranger_calls_itself_harms_no_record_of_it(world) -> None:
    async with world.running(), stranger(world) as http:
        for name in (r'"\ud800"', r'"\u001b[2J\u0000\n"', '"' + "x" * 4000 + '"'):
            body = '{"token": "x", "csr": "x", "name": ' + name + "}"
            assert (await http.post("/v1/enroll", content=body)).status_code in (400, 401)
        told = await world.reasons()
        events = await world.call(world.client.events, limit=100)
        assert "EnrollmentRefused" in told
        assert all(e.subject.isprintable() and len(e.subject) < 200 for e in events)
        assert (await world.join()).name == "shop-01"


async def test_a_machine_cannot_label_itself_with_what_drives_a_terminal(world) -> None:
    async with world.running(), stranger(world) as http:
        token = (await world.call(world.client.create_token, "shop-01")).token
        request = EnrollRequest(token, "shop-01", make_csr("shop-01")[1], {"site": "\x1b[2J"})
        reply = await http.post("/v1/enroll", json=encode(request))
        assert (reply.status_code, reply.json()["problems"][0]["code"]) == (400, "MYC-API-031")
        assert (await world.join(token=token)).name == "shop-01"
