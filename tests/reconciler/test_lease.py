"""How the numbers grow with the fleet, and what silence means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycelial.reconciler.lease import BOOT_GRACE, Timing, liveness
from mycelial.reconciler.observed import Liveness


@pytest.mark.parametrize(
    ("daemons", "interval", "lease", "window"),
    [
        pytest.param(0, 15, 60, 2, id="empty"),
        pytest.param(1, 15, 60, 2, id="one"),
        pytest.param(4_500, 15, 60, 22.5, id="where-it-starts-to-grow"),
        pytest.param(6_000, 20, 70, 30, id="six-thousand"),
        pytest.param(10_000, 33.33, 110, 50, id="ten-thousand"),
        pytest.param(100_000, 333.33, 1010, 300, id="window-is-capped"),
    ],
)
def test_timing_of_a_fleet(daemons, interval, lease, window):
    timing = Timing.for_fleet(daemons)
    found = (timing.interval_seconds, timing.lease_seconds, timing.reconnect_window_seconds)
    assert found == pytest.approx((interval, lease, window), rel=1e-3)


SMALL = Timing.for_fleet(1)
LONG_AGO = -10_000.0


@pytest.mark.parametrize(
    ("silence", "expected"),
    [
        (0, Liveness.ONLINE),
        (30, Liveness.ONLINE),
        (30.1, Liveness.LATE),
        (60, Liveness.LATE),
        (60.1, Liveness.OFFLINE),
    ],
)
def test_silence_of_a_daemon(silence, expected):
    assert liveness(100, 100 + silence, timing=SMALL, started=LONG_AGO) is expected


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (0, Liveness.LATE),
        (BOOT_GRACE, Liveness.LATE),
        (BOOT_GRACE + 0.1, Liveness.OFFLINE),
    ],
)
def test_after_a_start_nobody_is_offline_for_a_while(now, expected):
    assert liveness(None, now, timing=SMALL, started=0) is expected
    assert liveness(-500, now, timing=SMALL, started=0) is expected


def test_revoked_is_revoked_however_fresh():
    assert liveness(5, 5, timing=SMALL, started=0, is_revoked=True) is Liveness.REVOKED


@given(daemons=st.integers(0, 10**6))
def test_a_lease_always_outlives_three_reports(daemons):
    timing = Timing.for_fleet(daemons)
    assert timing.lease_seconds >= 3 * timing.interval_seconds + 10
    assert daemons / timing.interval_seconds <= 300.0001
