"""What every store promises. A new store is done when it passes this."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from fleetmodel import workflow
from mycelial.kernel.errors import Conflict, OperationFailed
from mycelial.reconciler.observed import Duty, KnownWorkflow, Ledger
from mycelial.schemas.desired import DeletionPolicy, Delivery, Schedule
from mycelial.schemas.wire import (
    Inventory,
    PipelineState,
    PipelineStatus,
    SignedSet,
    Tombstone,
    spec_hash_of,
)
from mycelial.storage.base import DaemonRecord, Event, FleetWrite, JoinToken, StoredReport
from mycelial.storage.rules import COLLAPSE_WITHIN_SECONDS

KNOWN = KnownWorkflow("u", "orders", "sha256:d", 2, 3, on_delete=DeletionPolicy.STOP)
SPEC = replace(
    workflow("orders", uid="u", sql="select 1", labels={"ü": "✓"}).template,
    schedule=Schedule("cron", cron="0 * * * *"),
    delivery=Delivery(unit_seconds=1.0, unit_rows=7),
    rate_rows_per_second=2.5,
)
DUTY = Duty("d1", "u", "orders", 2, 3, spec_hash_of(SPEC), SPEC, "main@1", resolve_key="k")
TOMB = Duty("d2", "u", "orders", 2, 3, tombstone=Tombstone("u", "orders", 2, 3, forget=True))
SIGNED = SignedSet('{"a":"ü"}', "sig", "key-1")


def write(version=0, **more):
    return FleetWrite(version, **{"known": (KNOWN,), "duties": (DUTY, TOMB), **more})


def test_a_new_store_is_empty_and_has_an_id(store):
    assert store.ledger() == Ledger()
    assert len(store.store_id()) >= 16
    assert (store.daemons(), store.reports(), store.tokens(), store.events()) == ((), (), (), ())
    assert store.signed_set("d1") is None
    assert store.get_value("x") is None


def test_a_fleet_write_comes_back_as_it_was(store):
    version = store.write_fleet(
        write(
            sets={"d1": SIGNED},
            revs={"d1": 4},
            confirmed_deletions=frozenset({"Workflow/x"}),
            events=(event(),),
            applied_revision="main@1",
        )
    )
    assert version == 1
    assert store.ledger() == Ledger(
        version=1,
        known={"u": KNOWN},
        duties={("d1", "u"): DUTY, ("d2", "u"): TOMB},
        revs={"d1": 4},
        confirmed_deletions=frozenset({"Workflow/x"}),
    )
    assert store.signed_set("d1") == SIGNED
    assert store.get_value("applied_revision") == "main@1"
    assert len(store.events()) == 1


def test_a_spec_keeps_its_hash_over_storage(store):
    store.write_fleet(write())
    assert spec_hash_of(store.ledger().duties[("d1", "u")].spec) == DUTY.spec_hash


def test_a_delta_adds_replaces_and_ends(store):
    store.write_fleet(write(confirmed_deletions=frozenset({"Workflow/x"}), revs={"d1": 1}))
    store.write_fleet(
        FleetWrite(
            1,
            known=(replace(KNOWN, generation=3),),
            duties=(replace(DUTY, generation=3),),
            ended=(("d2", "u"), ("never", "was")),
            revs={"d1": 2, "d2": 1},
        )
    )
    ledger = store.ledger()
    assert ledger.version == 2
    assert ledger.known["u"].generation == 3
    assert set(ledger.duties) == {("d1", "u")}
    assert ledger.revs == {"d1": 2, "d2": 1}
    assert ledger.confirmed_deletions == {"Workflow/x"}, "None leaves them"


def test_a_write_from_an_older_ledger_conflicts_and_changes_nothing(store):
    store.write_fleet(write())
    before = store.ledger()
    with pytest.raises(Conflict) as caught:
        store.write_fleet(
            write(0, known=(replace(KNOWN, name="x"),), sets={"d1": SIGNED}, events=(event(),))
        )
    assert caught.value.code == "MYC-STORE-010"
    assert store.ledger() == before
    assert (store.signed_set("d1"), store.events()) == (None, ())


def test_a_duty_without_its_workflow_is_refused_whole(store):
    with pytest.raises(OperationFailed) as caught:
        store.write_fleet(write(known=(), events=(event(),), sets={"d1": SIGNED}))
    assert caught.value.code == "MYC-STORE-014"
    assert store.ledger() == Ledger()
    assert (store.signed_set("d1"), store.events()) == (None, ())
    assert store.write_fleet(write()) == 1


def test_of_many_writers_of_one_version_exactly_one_wins(store):
    start, outcomes = threading.Barrier(8), []

    def attempt(n):
        start.wait(timeout=10)
        try:
            outcomes.append(store.write_fleet(write(known=(replace(KNOWN, generation=n),))))
        except Conflict:
            outcomes.append(None)

    threads = [threading.Thread(target=attempt, args=(n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(outcomes, key=str) == [1] + [None] * 7
    assert store.ledger().version == 1


# -- daemons and reports -------------------------------------------------------------------------


def record(daemon_id="d1", name="shop", **more):
    return DaemonRecord(daemon_id, name, "kh", "01", 5.0, {"role": "till"}, **more)


def test_daemons_come_back_by_name(store):
    inventory = Inventory("1", "linux", ("connector/sqlite",), labels={"a": "b"})
    store.add_daemon(record("d2", "z"))
    store.add_daemon(record("d1", "a", inventory=inventory))
    assert store.daemons() == (record("d1", "a", inventory=inventory), record("d2", "z"))


@pytest.mark.parametrize(
    ("second", "code"),
    [
        pytest.param(record("d1", "other"), "MYC-STORE-011", id="same-id"),
        pytest.param(record("d2", "shop"), "MYC-STORE-012", id="same-name"),
    ],
)
def test_a_daemon_that_exists_conflicts(store, second, code):
    store.add_daemon(record())
    with pytest.raises(Conflict) as caught:
        store.add_daemon(second)
    assert caught.value.code == code
    assert store.daemons() == (record(),)


def test_the_name_of_a_revoked_daemon_is_free_again(store):
    store.add_daemon(record())
    store.update_daemon(record(revoked_at=9.0))
    store.add_daemon(record("d2"))
    with pytest.raises(Conflict):
        store.update_daemon(record(revoked_at=None))
    assert [(d.id, d.revoked_at) for d in store.daemons()] == [("d1", 9.0), ("d2", None)]


def test_only_a_daemon_that_joined_can_be_updated(store):
    with pytest.raises(OperationFailed) as caught:
        store.update_daemon(record())
    assert caught.value.code == "MYC-STORE-013"
    assert store.daemons() == ()


def report(seq=1, boot="b1", daemon_id="d1", **more):
    status = PipelineStatus("u", "orders", 2, 2, 3, 1, "h", PipelineState.RUNNING)
    return StoredReport(daemon_id, boot, seq, 1.5, "r", "a", "i", (status,), ("u2",), **more)


@pytest.mark.parametrize(
    ("second", "kept"),
    [
        pytest.param(report(2), report(2), id="next"),
        pytest.param(report(0), report(1), id="late-one-is-dropped"),
        pytest.param(report(0, boot="b2"), report(0, boot="b2"), id="after-a-reboot"),
    ],
)
def test_the_newest_report_of_a_daemon_is_kept(store, second, kept):
    store.save_reports([report()])
    store.save_reports([second])
    assert store.reports() == (kept,)


def test_reports_of_many_daemons_are_saved_at_once(store):
    store.save_reports([report(n, daemon_id=f"d{n % 3}") for n in (5, 4, 3, 8)])
    assert [(r.daemon_id, r.seq) for r in store.reports()] == [("d0", 3), ("d1", 4), ("d2", 8)]


# -- tokens --------------------------------------------------------------------------------------

TOKEN = JoinToken("th", 1.0, 100.0, "shop", {"role": "till"})


def test_a_token_is_used_once_but_the_same_key_may_come_again(store):
    store.add_token(TOKEN)
    used = replace(TOKEN, used_by_key="k1", used_at=50.0)
    assert store.use_token("th", key_hash="k1", now=50.0) == used
    assert store.use_token("th", key_hash="k2", now=51.0) is None
    assert store.use_token("th", key_hash="k1", now=500.0) == used
    assert store.tokens() == (used,)


@pytest.mark.parametrize(
    ("token_hash", "now"), [("th", 100.0), ("nope", 1.0)], ids=["expired", "unknown"]
)
def test_a_token_that_is_not_good(store, token_hash, now):
    store.add_token(TOKEN)
    assert store.use_token(token_hash, key_hash="k1", now=now) is None
    assert store.tokens() == (TOKEN,)


def test_a_token_is_added_once(store):
    store.add_token(TOKEN)
    with pytest.raises(Conflict):
        store.add_token(TOKEN)


def test_of_many_keys_exactly_one_gets_the_token(store):
    store.add_token(TOKEN)
    start, winners = threading.Barrier(8), []

    def attempt(key):
        start.wait(timeout=10)
        if store.use_token("th", key_hash=key, now=2.0):
            winners.append(key)

    threads = [threading.Thread(target=attempt, args=(f"k{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(winners) == 1
    assert store.tokens()[0].used_by_key == winners[0]


# -- events and values ---------------------------------------------------------------------------


def event(message="m", at=1.0, **more):
    values = {"severity": "info", "reason": "Applied", "subject": "Workflow/a", **more}
    return Event(at=at, message=message, **values)


def test_events_are_numbered_upwards(store):
    store.add_events([event("a"), event("b")])
    store.add_events([event("c")])
    newest, oldest = store.events(), store.events(newest=False)
    assert [e.message for e in newest] == ["c", "b", "a"]
    assert newest == oldest[::-1]
    assert [e.id for e in oldest] == sorted({e.id for e in oldest})


def test_events_are_found_by_id_subject_and_limit(store):
    store.add_events([event(f"m{n}", subject=f"Workflow/{n % 2}") for n in range(6)])
    ids = [e.id for e in store.events(newest=False)]
    after = store.events(after_id=ids[2], newest=False)
    assert [e.message for e in after] == ["m3", "m4", "m5"]
    assert [e.message for e in store.events(limit=2)] == ["m5", "m4"]
    assert [e.message for e in store.events(subject="Workflow/1", limit=2)] == ["m5", "m3"]


def test_repeats_collapse_and_come_up_again(store):
    store.add_events([event(), event(subject="Workflow/b"), event(at=9.0)])
    newest = store.events()[0]
    assert (newest.subject, newest.count, newest.at) == ("Workflow/a", 2, 9.0)
    assert len(store.events()) == 2
    store.add_events([event(at=10.0)])
    assert [e.count for e in store.events(after_id=newest.id)] == [3]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(event("other"), id="message"),
        pytest.param(event(reason="Failed"), id="reason"),
        pytest.param(event(subject="Workflow/b"), id="subject"),
        pytest.param(event(daemon="d2"), id="daemon"),
        pytest.param(event(at=2.0 + COLLAPSE_WITHIN_SECONDS), id="much-later"),
    ],
)
def test_what_differs_does_not_collapse(store, other):
    store.add_events([event(), other])
    assert [e.count for e in store.events()] == [1, 1]


def test_history_is_bounded_to_the_newest(open_store):
    store = open_store(events_max=10)
    store.add_events([event(f"m{n}") for n in range(25)])
    store.add_events([event("m24"), event("last")])
    assert [e.message for e in store.events(newest=False)] == [
        *(f"m{n}" for n in range(16, 25)),
        "last",
    ]


@pytest.mark.parametrize("value", [None, 0, "x", [1, {"a": None}], {"ü": True}], ids=repr)
def test_small_values_come_back(store, value):
    store.set_value("k", value)
    store.set_value("other", 1)
    assert store.get_value("k") == value
    store.set_value("k", "new")
    assert store.get_value("k") == "new"


def test_no_number_that_json_cannot_hold_is_stored(store):
    with pytest.raises(ValueError, match="JSON"):
        store.set_value("k", float("nan"))
    assert store.get_value("k") is None
