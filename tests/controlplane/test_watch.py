"""The watch hub: hello, snapshots on difference, the latest message only, commands, bye."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from mycelial.controlplane.watch import COMMANDS_MAX, HeldSet, WatchHub, WatchTiming
from mycelial.kernel.canonical import canonical_json
from mycelial.kernel.clock import SystemClock
from mycelial.kernel.entropy import seeded_rng
from mycelial.kernel.errors import OperationFailed
from mycelial.schemas.codec import encode
from mycelial.schemas.desired import PipelineSpec, PluginUse
from mycelial.schemas.wire import (
    Assignment,
    AssignmentSet,
    Command,
    CommandResult,
    SignedSet,
    WatchEvent,
)

FAR = 4e9


def signed(rev: int) -> SignedSet:
    spec = PipelineSpec("orders", "u", "sc", PluginUse("csv", {}), PluginUse("csv", {}))
    assignment = Assignment("u", "orders", rev, 1, f"hash-{rev}", spec)
    content = AssignmentSet("d1", "store", rev, (assignment,))
    return SignedSet(canonical_json(encode(content)).decode(), "sig", "key")


def hub(**timing: float) -> WatchHub:
    return WatchHub(
        store_id="store", clock=SystemClock(), rng=seeded_rng(1), timing=WatchTiming(**timing)
    )


def watch(made: WatchHub, token: str = "", held: str = "", wait: float | None = None):
    return aclosing(made.stream("d1", token=token, held_hash=held, wait_seconds=wait))


async def next_of(stream) -> WatchEvent:
    async with asyncio.timeout(5):
        return await anext(stream)


async def test_an_unknown_token_gets_a_snapshot_on_the_same_stream() -> None:
    made = hub()
    made.hold({"d1": HeldSet.of(signed(3))})
    async with watch(made, token="other-store:3") as stream:
        hello, snapshot = await next_of(stream), await next_of(stream)
    assert (hello.type, hello.rev, hello.store_id) == ("hello", 3, "store")
    assert (snapshot.type, snapshot.signed) == ("snapshot", signed(3))


async def test_an_equal_hash_gets_no_snapshot() -> None:
    made = hub(ping_seconds=0.02)
    made.hold({"d1": HeldSet.of(signed(3))})
    async with watch(made, token="store:3", held=made.desired_hash("d1")) as stream:
        assert [(await next_of(stream)).type for _ in range(3)] == ["hello", "ping", "ping"]


async def test_only_the_newest_of_many_sets_is_pushed() -> None:
    made = hub()
    made.hold({"d1": HeldSet.of(signed(1))})
    async with watch(made, token="store:1", held=made.desired_hash("d1")) as stream:
        await next_of(stream)
        for rev in range(2, 50):
            made.hold({"d1": HeldSet.of(signed(rev))})
        assert (await next_of(stream)).rev == 49
        made.hold({"d1": HeldSet.of(signed(50))})
        assert (await next_of(stream)).rev == 50


async def test_a_newer_connection_ends_the_older() -> None:
    made = hub()
    async with watch(made) as old, watch(made) as new:
        await next_of(old)
        await next_of(new)
        assert (await next_of(old)).type == "bye"
        made.hold({"d1": HeldSet.of(signed(1))})
        assert (await next_of(new)).type == "snapshot"
    assert not made.is_connected("d1")


async def test_a_cut_stream_ends_with_bye_and_its_commands_are_dropped() -> None:
    made = hub()
    async with watch(made) as stream:
        await next_of(stream)
        answer = made.send("d1", Command("c1", "retry", FAR))
        assert (await next_of(stream)).command == Command("c1", "retry", FAR)
        made.cut("d1")
        assert (await next_of(stream)).type == "bye"
    assert answer.cancelled()


async def test_an_answer_reaches_whoever_asked_and_is_taken_once() -> None:
    made = hub()
    answer = made.send("d1", Command("c1", "retry", FAR))
    async with watch(made) as stream:
        assert [(await next_of(stream)).type for _ in range(2)] == ["hello", "command"]
    result = CommandResult("c1", ok=True)
    assert made.answer("d1", result)
    assert await answer == result
    assert not made.answer("d1", result)


async def test_a_daemon_cannot_answer_for_another() -> None:
    made = hub()
    answer = made.send("d1", Command("c1", "retry", FAR))
    assert not made.answer("d2", CommandResult("c1", ok=True))
    assert not answer.done()
    answer.cancel()


async def test_an_unanswered_command_is_told_again_on_the_next_stream() -> None:
    made = hub()
    answer = made.send("d1", Command("c1", "retry", FAR))
    for _ in range(2):
        async with watch(made) as stream:
            assert [(await next_of(stream)).type for _ in range(2)] == ["hello", "command"]
    answer.cancel()


async def test_an_expired_command_is_never_told() -> None:
    made = hub(ping_seconds=0.01)
    answer = made.send("d1", Command("c1", "retry", expires_at=1.0))
    async with watch(made) as stream:
        assert [(await next_of(stream)).type for _ in range(2)] == ["hello", "ping"]
    assert answer.cancelled()


async def test_commands_are_bounded() -> None:
    made = hub()
    answers = [made.send("d1", Command(f"c{n}", "retry", FAR)) for n in range(COMMANDS_MAX)]
    with pytest.raises(OperationFailed, match="MYC-CP-020"):
        made.send("d1", Command("one-more", "retry", FAR))
    for answer in answers:
        answer.cancel()


async def test_a_stream_ends_at_its_age() -> None:
    made = hub(age_min_seconds=0.01, age_max_seconds=0.02, ping_seconds=5.0)
    async with watch(made) as stream:
        types = [event.type async for event in stream]
    assert (types[0], types[-1]) == ("hello", "bye")


async def test_a_long_poll_ends_with_the_first_news() -> None:
    made = hub()
    made.hold({"d1": HeldSet.of(signed(1))})
    async with watch(made, wait=30.0) as stream:
        assert [event.type async for event in stream] == ["hello", "snapshot"]


async def test_a_long_poll_without_news_ends_in_time() -> None:
    made = hub()
    async with watch(made, wait=0.02) as stream:
        types = [event.type async for event in stream]
    assert types[0] == "hello"
    assert set(types[1:]) <= {"ping"}


async def test_closing_the_hub_says_bye_to_everybody() -> None:
    made = hub()
    async with watch(made) as stream:
        await next_of(stream)
        made.close()
        assert (await next_of(stream)).type == "bye"
