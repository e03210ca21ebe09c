"""The roster folds reports: idempotent, gap-aware, and never fooled by a copied identity."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mycelial.controlplane.fleet import Roster, effective_labels
from mycelial.kernel.errors import NotAllowed
from mycelial.reconciler.lease import BOOT_GRACE
from mycelial.reconciler.observed import Liveness
from mycelial.schemas.wire import (
    Inventory,
    PipelineState,
    PipelineStatus,
    ReplyFlag,
    Report,
)
from mycelial.storage.base import DaemonRecord

INVENTORY = Inventory(version="1", platform="linux", capabilities=("connector/sqlite",))
RECORD = DaemonRecord(
    id="d1", name="shop-01", key_hash="k", serial="1", joined_at=0.0, inventory=INVENTORY
)
STATUS = PipelineStatus(
    uid="u", name="orders", generation=1, observed_generation=1, epoch=1, attempt=1,
    spec_hash="h", state=PipelineState.RUNNING,
)  # fmt: skip


def report(seq: int = 1, *, boot: str = "b1", **changes: object) -> Report:
    base = Report(
        boot_id=boot, seq=seq, store_id="s", rev=1, received_hash="r", applied_hash="r",
        inventory_hash=INVENTORY.hash(), wall_time=0.0, pipelines=(),
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.fixture
def roster() -> Roster:
    made = Roster(started_at=0.0)
    made.load([RECORD], [])
    return made


def fold(roster: Roster, given: Report, at: float = 1.0):
    return roster.fold("d1", given, now=at, monotonic=at)


def state(roster: Roster, at: float = 1.0):
    return roster.states(at, {})["d1"]


def test_a_report_becomes_the_observed_state(roster: Roster) -> None:
    folded = fold(roster, report(pipelines=(STATUS,)))
    assert (folded.ack_seq, folded.flags, folded.news) == (1, (), True)
    assert state(roster).pipelines == {"u": STATUS}
    assert state(roster).liveness is Liveness.ONLINE


def test_a_replayed_report_is_acknowledged_and_changes_nothing(roster: Roster) -> None:
    fold(roster, report(1, pipelines=(STATUS,)))
    again = fold(roster, report(1, pipelines=()))
    assert (again.ack_seq, again.news, again.changed) == (1, False, False)
    assert state(roster).pipelines == {"u": STATUS}


def test_an_older_report_of_the_same_boot_never_replaces_a_newer(roster: Roster) -> None:
    fold(roster, report(1))
    fold(roster, report(2, pipelines=(STATUS,)))
    assert fold(roster, report(1, pipelines=())).ack_seq == 2
    assert state(roster).pipelines == {"u": STATUS}


@pytest.mark.parametrize(
    ("seq", "boot", "pipelines", "asked"),
    [
        pytest.param(2, "b1", None, False, id="next-and-unchanged"),
        pytest.param(3, "b1", None, True, id="gap-without-the-section"),
        pytest.param(3, "b1", (STATUS,), False, id="gap-with-the-whole-section"),
        pytest.param(1, "b2", None, True, id="restarted-without-the-section"),
        pytest.param(1, "b2", (STATUS,), False, id="restarted-in-full"),
    ],
)
def test_a_gap_asks_for_a_full_report(
    roster: Roster, seq: int, boot: str, pipelines: object, asked: bool
) -> None:
    fold(roster, report(1, pipelines=(STATUS,)))
    flags = fold(roster, report(seq, boot=boot, pipelines=pipelines)).flags
    assert (ReplyFlag.REPORT_FULL in flags) is asked
    assert state(roster).pipelines == {"u": STATUS}


def test_an_unknown_inventory_hash_asks_for_the_inventory_until_it_comes(roster: Roster) -> None:
    newer = replace(INVENTORY, capabilities=("connector/sqlite", "connector/csv"))
    assert fold(roster, report(1, inventory_hash=newer.hash())).flags == (ReplyFlag.INVENTORY,)
    given = fold(roster, report(2, inventory_hash=newer.hash(), inventory=newer))
    assert (given.flags, given.news) == ((), True)
    assert given.record is not None
    assert given.record.inventory == newer
    assert state(roster).capabilities == set(newer.capabilities)


def test_figures_alone_are_no_news_for_the_reconciler(roster: Roster) -> None:
    fold(roster, report(1, pipelines=(STATUS,)))
    faster = replace(STATUS, rows_per_second=9.0)
    folded = fold(roster, report(2, pipelines=(faster,)))
    assert (folded.news, folded.changed) == (False, True)


def test_a_done_tombstone_is_news(roster: Roster) -> None:
    fold(roster, report(1))
    assert fold(roster, report(2, tombstones_done=("u",))).news
    assert state(roster).tombstones_done == {"u"}


def test_a_copied_identity_is_found_out_and_the_newer_copy_refused(roster: Roster) -> None:
    fold(roster, report(1, boot="first", pipelines=(STATUS,)))
    fold(roster, report(1, boot="copy", pipelines=()))
    found = fold(roster, report(2, boot="first", pipelines=(STATUS,)))
    assert [t.reason for t in found.transitions] == ["DuplicateIdentity"]
    with pytest.raises(NotAllowed, match="MYC-CP-030"):
        fold(roster, report(2, boot="copy", pipelines=()))
    assert state(roster).pipelines == {"u": STATUS}
    assert fold(roster, report(3, boot="first", pipelines=(STATUS,))).ack_seq == 3


def test_a_restarted_daemon_is_no_copy(roster: Roster) -> None:
    for number in range(5):
        assert fold(roster, report(1, boot=f"boot-{number}")).transitions == ()


@pytest.mark.parametrize(
    ("silence", "expected"),
    [
        pytest.param(10, Liveness.ONLINE, id="in-time"),
        pytest.param(31, Liveness.LATE, id="two-missed"),
        pytest.param(61, Liveness.OFFLINE, id="lease-over"),
    ],
)
def test_silence_is_judged_by_the_monotonic_clock(
    roster: Roster, silence: float, expected: Liveness
) -> None:
    heard = BOOT_GRACE + 1
    fold(roster, report(1), at=heard)
    assert state(roster, heard + silence).liveness is expected


def test_after_our_own_start_nobody_is_offline_for_the_grace_period() -> None:
    first = Roster(started_at=0.0)
    first.load([RECORD], [])
    fold(first, report(1))
    restarted = Roster(started_at=1000.0)
    restarted.load([RECORD], first.take_unsaved())
    assert state(restarted, 1000.0 + BOOT_GRACE - 1).liveness is Liveness.LATE
    assert state(restarted, 1000.0 + BOOT_GRACE + 61).liveness is Liveness.OFFLINE


def test_turns_of_liveness_are_told_once(roster: Roster) -> None:
    roster.announce(0.0)
    heard = BOOT_GRACE + 1
    fold(roster, report(1), at=heard)
    assert roster.announce(heard) == ()  # joining was told already
    turns = [roster.announce(heard + s) for s in (31.0, 32.0, 61.0, 62.0)]
    assert [[t.reason for t in found] for found in turns] == [
        ["DaemonLate"], [], ["DaemonOffline"], [],
    ]  # fmt: skip


def test_a_failing_pipeline_is_told_when_it_turns_and_when_it_recovers(roster: Roster) -> None:
    failed = replace(STATUS, state=PipelineState.FAILED)
    told = [
        [t.reason for t in fold(roster, report(seq, pipelines=(status,))).transitions]
        for seq, status in enumerate((STATUS, failed, failed, STATUS), start=1)
    ]
    assert told == [[], ["PipelineFailed"], [], ["PipelineRecovered"]]


def test_reports_are_handed_over_once_and_only_the_newest(roster: Roster) -> None:
    fold(roster, report(1))
    fold(roster, report(2))
    taken = roster.take_unsaved()
    assert [r.seq for r in taken] == [2]
    assert roster.take_unsaved() == ()
    roster.put_back(taken)
    assert roster.take_unsaved() == taken


def test_git_labels_win_over_proposed_ones() -> None:
    record = replace(RECORD, proposed_labels={"role": "till", "site": "lyon"})
    assert effective_labels(record, {"role": "hub"}) == {"role": "hub", "site": "lyon"}
