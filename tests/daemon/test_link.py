"""The daemon's HTTP client against a server that misbehaves."""

from __future__ import annotations

import asyncio

import pytest

from mycelial.client import link as links
from mycelial.client.link import Held, Link, LinkBroken, LinkBusy, LinkRefused, LinkUnreachable
from mycelial.kernel.clock import SystemClock
from mycelial.schemas.wire import CommandResult, Report, SignedSet
from mycelial.security import tls
from mycelial.security.ca import CertificateAuthority

REPORT = Report("boot", 1, "s", 1, "", "", "", 0.0)


@pytest.fixture
def call(control):
    """Run a coroutine function with a link to the started control plane."""

    def run(use, *, urls=None, ca=None, prepare=lambda: None):
        async def scenario():
            await control.start()
            prepare()
            context = tls.client_context(cert=None, key=None, ca=ca or control.authority.ca_pem)
            link = Link(
                urls=urls(control) if urls else [control.url],
                daemon_id="d1",
                tls=context,
                clock=SystemClock(),
            )
            try:
                return await use(link)
            finally:
                await link.close()
                await control.stop()

        return asyncio.run(scenario())

    return run


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        pytest.param(401, {}, LinkRefused, id="401"),
        pytest.param(403, {}, LinkRefused, id="403"),
        pytest.param(429, {"retry-after": "7"}, LinkBusy, id="429"),
        pytest.param(503, {"retry-after": "7"}, LinkBusy, id="503"),
        pytest.param(409, {}, LinkRefused, id="409-with-a-reason"),
        pytest.param(500, {}, LinkUnreachable, id="500"),
        pytest.param(404, {}, LinkBroken, id="404"),
        pytest.param(302, {"location": "https://elsewhere"}, LinkBroken, id="redirect"),
    ],
)
def test_statuses_become_classes(control, call, status, headers, error):
    def prepare():
        control.failing = (status, headers)

    async def use(link):
        with pytest.raises(error) as caught:
            await link.report(REPORT)
        return caught.value

    found = call(use, prepare=prepare)
    assert "MYC-CP-099 no" in found.problem.what
    if isinstance(found, LinkBusy):
        assert found.retry_after_seconds == 7.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", 60.0), ("12", 12.0), ("-3", 0.0), ("1e9", 3600.0), ("Wed, 21 Oct 2026", 60.0)],
)
def test_retry_after_is_bounded(text, seconds):
    assert links._retry_after({"retry-after": text}) == seconds


def test_a_report_is_answered_over_verified_tls(control, call):
    reply = call(lambda link: link.report(REPORT))
    assert reply.ack_seq == 1


def test_a_foreign_ca_is_named_and_nothing_is_sent(control, call, tmp_path):
    other = CertificateAuthority.create_or_load(tmp_path / "other").ca_pem

    async def use(link):
        with pytest.raises(LinkUnreachable) as caught:
            await link.report(REPORT)
        return caught.value

    assert call(use, ca=other).code == "MYC-LINK-005"
    assert control.reports == []


def test_the_next_address_is_used_after_a_failure(control, call):
    async def use(link):
        with pytest.raises(LinkUnreachable):
            await link.report(REPORT)
        return await link.report(REPORT)

    reply = call(use, urls=lambda control: ["https://localhost:1", control.url])
    assert reply.ack_seq == 1


def test_an_endless_line_is_cut_off(control, call, monkeypatch):
    monkeypatch.setattr(links, "LINE_BYTES_MAX", 4 * 1024 * 1024)
    control.endless_line = True

    async def use(link):
        async for event in link.watch(Held()):
            assert event.type == "hello"

    with pytest.raises(LinkBroken, match="longer than"):
        call(use)


def test_a_large_set_passes(control, call):
    signed = SignedSet("x" * 3_000_000, "s", "k")

    async def use(link):
        await control.publish_signed(signed, "sha256:x")
        async for event in link.watch(Held()):
            if event.type == "snapshot":
                return event.signed
        return None

    assert call(use) == signed


def test_a_cut_connection_is_unreachable_and_a_half_line_no_message(control, call):
    async def use(link):
        async for event in link.watch(Held()):
            assert event.type == "hello"
            control.cut()

    with pytest.raises(LinkUnreachable):
        call(use)


def test_answers_arrive(control, call):
    call(lambda link: link.results(CommandResult("../x y", ok=True)))
    assert control.results["../x y"]["ok"]


def test_the_environment_names_no_proxy(control, call, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://localhost:1")
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
    assert call(lambda link: link.report(REPORT)).ack_seq == 1
