"""When a lost control plane is tried again: pure rules, and the loop that follows them."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycelial.client.link import LinkUnreachable
from mycelial.daemon.reconnect import Attempts, Ending, next_delay
from mycelial.kernel.clock import ManualClock
from mycelial.kernel.entropy import seeded_rng


class Top:
    """The greatest jitter."""

    def uniform(self, low, high):
        return high


def delays(endings, attempts=None):
    attempts, found = attempts or Attempts(), []
    for ending in endings:
        attempts, delay = next_delay(attempts, ending, Top())
        found.append(delay)
    return found


NEVER, SHORT, LONG = Ending(), Ending(session_seconds=5.0), Ending(session_seconds=90.0)


@pytest.mark.parametrize(
    ("window", "endings", "expected"),
    [
        pytest.param(2, [NEVER] * 10, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300], id="doubling"),
        pytest.param(50, [LONG], [50], id="window-after-a-session"),
        pytest.param(0.1, [LONG], [2], id="window-floor"),
        pytest.param(9999, [LONG], [300], id="window-cap"),
        pytest.param(50, [LONG, NEVER, NEVER], [50, 4, 8], id="then-backoff"),
        pytest.param(50, [NEVER, NEVER, SHORT, SHORT], [2, 4, 8, 16], id="short-resets-nothing"),
        pytest.param(50, [NEVER, NEVER, LONG, NEVER], [2, 4, 50, 4], id="lasting-resets"),
        pytest.param(2, [Ending(retry_after_seconds=40.0)], [80], id="retry-after-is-a-floor"),
        pytest.param(2, [Ending(90.0, 7.0, is_bye=True)], [14], id="bye"),
        pytest.param(
            2, [Ending(is_refused=True)] * 7, [2, 4, 8, 16, 32, 3960, 3960], id="refused-is-slow"
        ),
    ],
)
def test_delays(window, endings, expected):
    assert delays(endings, Attempts(window_seconds=window)) == expected


@given(
    st.lists(
        st.builds(
            Ending,
            session_seconds=st.none() | st.floats(0, 1e5),
            retry_after_seconds=st.none() | st.floats(0, 3600),
            is_refused=st.booleans(),
            is_bye=st.booleans(),
        ),
        max_size=40,
    ),
    st.integers(0, 1000),
)
def test_delays_are_bounded_and_never_below_the_servers_wish(endings, seed):
    attempts, rng = Attempts(), seeded_rng(seed)
    for ending in endings:
        attempts, delay = next_delay(attempts, ending, rng)
        assert 0 <= delay <= 7200
        if not ending.is_refused:
            assert delay >= (ending.retry_after_seconds or 0)


class RecordingClock(ManualClock):
    """Notes how long it was asked to wait, and lets a few turns of the loop pass."""

    def __init__(self):
        super().__init__()
        self.pauses = []

    async def pause(self, seconds):
        self.pauses.append(seconds)
        self.advance(seconds)
        for _ in range(3):
            await asyncio.sleep(0)


class NoLink:
    """A control plane that is away."""

    def __init__(self, tried):
        self.tried = tried

    async def report(self, report):
        self.tried()
        raise LinkUnreachable("MYC-LINK-001", "away")

    async def close(self):
        pass


def test_the_loop_waits_by_the_given_clock_and_chance(control, machine, make_assignment):
    """Twelve attempts against nobody take no real time, and the pipelines never hear of it."""
    machine.join(urls=("https://localhost:1",))
    machine.environment["MYCELIAL_SECRET_WAREHOUSE_PW"] = "x"
    clock, count = RecordingClock(), 0
    enough = asyncio.Event()

    def tried():
        nonlocal count
        count += 1
        if count == 12:
            enough.set()

    asked = []

    class Jitter:
        def uniform(self, low, high):
            asked.append(high)
            return seeded_rng(len(asked)).uniform(low, high)

    async def scenario():
        around = {"clock": clock, "rng": Jitter(), "connect": lambda *_: NoLink(tried)}
        async with machine.running(**around):
            await enough.wait()

    asyncio.run(scenario())
    caps = [2.0**n for n in range(1, 9)] + [300.0] * 3
    assert [high for high in asked if high in {*caps}][:11] == caps
    assert machine.supervisor.journal == []
