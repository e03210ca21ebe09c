"""The cases of client-go's work queue (util/workqueue), retold against a given clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycelial.reconciler.backoff import CAP_SECONDS, Backoff, ceiling, delay
from mycelial.reconciler.workqueue import WorkQueue


class Top:
    """Chance that always draws the longest delay."""

    def uniform(self, low, high):
        return high


def queue(*keys):
    q = WorkQueue()
    for key in keys:
        q.add(key)
    return q


def drained(q, now=0.0):
    found = []
    while (key := q.get(now=now)) is not None:
        found.append(key)
        q.done(key)
    return found


def test_keys_come_out_in_the_order_they_went_in():
    assert drained(queue("a", "b", "c")) == ["a", "b", "c"]


def test_length_counts_what_is_ready():
    q = queue("a", "b")
    q.get(now=0)
    assert len(q) == 1


def test_collapse():
    assert drained(queue("a", "a", "b", "a")) == ["a", "b"]


def test_collapse_while_processing():
    q = queue("a")
    q.get(now=0)
    q.add("a")
    q.add("a")
    assert len(q) == 0
    q.done("a")
    assert drained(q) == ["a"]


def test_add_while_processing_is_not_handed_out_twice_at_once():
    q = queue("a")
    q.get(now=0)
    q.add("a")
    assert q.get(now=0) is None


def test_reinsert_after_done():
    q = queue("a")
    q.get(now=0)
    q.add("a")
    q.done("a")
    assert q.get(now=0) == "a"
    q.done("a")
    assert q.get(now=0) is None


def test_done_without_add_leaves_nothing():
    q = queue("a")
    q.done(q.get(now=0))
    assert q.get(now=0) is None
    assert (len(q), q.next_due(), q.failures("a")) == (0, None, 0)


def test_nothing_is_added_after_shutdown():
    q = queue("a")
    q.shut_down()
    q.add("b")
    q.add_after("c", 1, now=0)
    assert drained(q, now=9) == ["a"]


def test_shutdown_hands_out_what_is_ready_and_is_then_finished():
    q = queue("a")
    q.shut_down()
    assert not q.is_finished
    q.get(now=0)
    assert q.is_finished, "without a drain nobody waits for work in progress"


def test_shutdown_with_drain_waits_for_work_in_progress():
    q = queue("a")
    q.get(now=0)
    q.shut_down(drain=True)
    assert not q.is_finished
    q.done("a")
    assert q.is_finished


def test_shutdown_with_drain_hands_a_dirty_key_out_again():
    q = queue("a")
    q.get(now=0)
    q.add("a")
    q.shut_down(drain=True)
    q.done("a")
    assert not q.is_finished
    assert drained(q) == ["a"]
    assert q.is_finished


def test_a_forced_shutdown_ends_a_drain():
    q = queue("a")
    q.get(now=0)
    q.shut_down(drain=True)
    q.shut_down()
    assert q.is_finished


def test_delayed_key_is_not_ready_before_its_time():
    q = queue()
    q.add_after("a", 5, now=10)
    assert q.get(now=14.9) is None
    assert q.next_due() == 15
    assert q.get(now=15) == "a"
    assert q.next_due() is None


def test_delayed_dedup_the_earliest_time_wins():
    q = queue()
    for seconds in (50, 5, 100):
        q.add_after("a", seconds, now=0)
    assert q.next_due() == 5
    assert drained(q, now=5) == ["a"]
    assert drained(q, now=200) == []


def test_two_delayed_keys_come_in_the_order_of_their_times():
    q = queue()
    q.add_after("late", 3, now=0)
    q.add_after("early", 1, now=0)
    assert drained(q, now=1) == ["early"]
    assert drained(q, now=3) == ["late"]


def test_a_delayed_key_that_is_already_ready_comes_once():
    q = queue("a")
    q.add_after("a", 1, now=0)
    assert drained(q, now=1) == ["a"]


def test_a_delayed_key_due_while_processing_comes_after_done():
    q = queue("a")
    q.get(now=0)
    q.add_after("a", 1, now=0)
    assert q.get(now=2) is None
    q.done("a")
    assert q.get(now=2) == "a"


@pytest.mark.parametrize("seconds", [0, -1])
def test_no_delay_is_an_add(seconds):
    q = queue()
    q.add_after("a", seconds, now=0)
    assert q.get(now=0) == "a"


def test_retries_wait_longer_each_time_until_forgotten():
    q = queue()
    delays = [q.retry("a", Top(), now=0) for _ in range(4)]
    assert delays == [0.75, 1.5, 3.0, 6.0]
    assert q.failures("a") == 4
    q.forget("a")
    assert q.retry("a", Top(), now=0) == 0.75


def test_retries_of_other_keys_do_not_matter():
    q = queue()
    q.retry("a", Top(), now=0)
    assert q.retry("b", Top(), now=0) == 0.75


def test_a_new_generation_starts_over():
    backoff = Backoff()
    assert [backoff.next_delay("a", Top(), generation=g) for g in (1, 1, 2, 2)] == [
        0.75,
        1.5,
        0.75,
        1.5,
    ]


@pytest.mark.parametrize(
    ("failures", "seconds"),
    [(0, 0.0), (1, 0.75), (2, 1.5), (10, 384.0), (11, 768.0), (12, 900.0), (10_000, 900.0)],
)
def test_the_ceiling_of_backoff(failures, seconds):
    assert ceiling(failures) == seconds


@given(failures=st.integers(1, 10**9), seed=st.randoms(use_true_random=False))
def test_jitter_comes_after_the_cap(failures, seed):
    assert 0 <= delay(failures, seed) <= CAP_SECONDS


def test_jitter_fills_the_whole_range_at_the_cap():
    class Half:
        def uniform(self, low, high):
            return (low + high) / 2

    assert delay(50, Half()) == CAP_SECONDS / 2


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from("abc")),
        st.tuples(st.just("after"), st.tuples(st.sampled_from("abc"), st.integers(0, 5))),
        st.tuples(st.just("get"), st.none()),
        st.tuples(st.just("done"), st.none()),
        st.tuples(st.just("tick"), st.integers(1, 5)),
    ),
    max_size=60,
)


@given(history=steps)
def test_a_key_is_never_handed_out_twice_at_once_and_no_add_is_lost(history):
    q, now, held, wanted = WorkQueue(), 0, [], set()
    for kind, value in history:
        match kind:
            case "add":
                q.add(value)
                wanted.add(value)
            case "after":
                q.add_after(*value, now=now)
                wanted.add(value[0])
            case "get":
                key = q.get(now=now)
                if key is not None:
                    assert key not in held
                    held.append(key)
                    wanted.discard(key)
            case "done" if held:
                q.done(held.pop())
            case "tick":
                now += value
    while held:
        q.done(held.pop())
    assert wanted <= set(drained(q, now=now + 100))
