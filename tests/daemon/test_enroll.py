"""Joining: the pin before anything else, one identity whatever is lost, clear refusals."""

from __future__ import annotations

import asyncio

import pytest

from mycelial.client.link import LinkUnreachable
from mycelial.daemon.enroll import join
from mycelial.kernel.clock import ManualClock
from mycelial.kernel.errors import MycelialError, NotAllowed, OperationFailed
from mycelial.security import tls
from mycelial.security.tokens import make_join_token


@pytest.fixture
def token(control):
    text = make_join_token(control.authority.pin()).text().reveal()
    control.tokens[text] = ""
    return text


@pytest.fixture
def joining(control, machine, events):
    def call(token, *, name="shop-01", url=None):
        return join(
            server_url=url or control.url,
            token=token,
            name=name,
            labels={"site": "lyon"},
            state_dir=machine.state_dir,
            clock=ManualClock(),
            events=events,
        )

    return call


def with_server(control, scenario):
    async def run():
        await control.start()
        try:
            return await scenario()
        finally:
            await control.stop()

    return asyncio.run(run())


def test_a_join_leaves_an_identity_that_opens_the_daemons_port(control, machine, joining, token):
    identity = with_server(control, lambda: joining(token))
    assert machine.local.identity() == identity
    assert identity.signing_keys == {control.signer.key_id: control.signer.public_key}
    local = machine.local
    tls.client_context(cert=local.cert_file, key=local.key_file, ca=local.ca_file)
    assert control.enrolled[0]["labels"] == {"site": "lyon"}
    assert local.key_file.stat().st_mode & 0o077 == 0


def test_the_private_key_and_the_token_stay_where_they_are(control, machine, joining, token):
    with_server(control, lambda: joining(token))
    assert "PRIVATE" not in str(control.enrolled)
    for path in machine.state_dir.iterdir():
        assert token.encode() not in path.read_bytes()


def test_a_lost_reply_is_answered_again_for_the_same_key(control, joining, token):
    control.lose_enroll_replies = 1

    async def scenario():
        with pytest.raises(LinkUnreachable):
            await joining(token)
        return await joining(token)

    assert with_server(control, scenario).daemon_id
    first, second = control.enrolled
    assert first["csr"] == second["csr"]


def test_joining_again_with_the_same_control_plane_changes_nothing(control, joining, token):
    async def scenario():
        return await joining(token), await joining(token)

    first, second = with_server(control, scenario)
    assert first == second
    assert len(control.enrolled) == 1


REFUSALS = [
    pytest.param("wrong-pin", "MYC-SEC-013", NotAllowed, id="wrong-pin"),
    pytest.param("used", "MYC-DAEMON-060", NotAllowed, id="used-token"),
    pytest.param("unknown", "MYC-DAEMON-060", NotAllowed, id="unknown-token"),
    pytest.param("malformed", "MYC-SEC-010", NotAllowed, id="malformed-token"),
]


@pytest.mark.parametrize(("kind", "code", "error"), REFUSALS)
def test_a_bad_token_is_refused_clearly(control, machine, joining, token, kind, code, error):
    other = make_join_token(control.authority.pin()).text().reveal()
    tokens = {
        "wrong-pin": make_join_token("0" * 64).text().reveal(),
        "used": token,
        "unknown": other,
        "malformed": token[:-3],
    }
    if kind == "used":
        control.tokens[token] = "another machine's request"

    async def scenario():
        with pytest.raises(error) as caught:
            await joining(tokens[kind])
        return caught.value

    refusal = with_server(control, scenario)
    assert refusal.code == code
    assert refusal.problem.fix
    assert tokens[kind] not in str(refusal) + refusal.problem.fix
    assert machine.local.identity() is None
    if kind == "wrong-pin":
        assert control.enrolled == []


def test_a_machine_that_joined_elsewhere_is_not_taken_over(control, machine, joining, token):
    async def scenario():
        await joining(token)
        with pytest.raises(OperationFailed) as caught:
            await joining(make_join_token("1" * 64).text().reveal())
        return caught.value

    assert with_server(control, scenario).code == "MYC-DAEMON-061"


def test_nobody_at_the_address_is_unreachable(joining, token):
    with pytest.raises(MycelialError) as caught:
        asyncio.run(joining(token, url="https://localhost:1"))
    assert (caught.value.code, caught.value.exit_code) == ("MYC-LINK-001", 5)


def test_a_running_daemon_is_not_joined_over(control, machine, joining, token):
    async def scenario():
        machine.join()
        async with machine.running():
            await control.until(lambda: control.reports)
            with pytest.raises(OperationFailed) as caught:
                await joining(token)
            return caught.value

    assert with_server(control, scenario).code == "MYC-DAEMON-020"
