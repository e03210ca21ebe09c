"""The driver: retries, requeues, ends, and never loses or doubles a key."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest

from mycelial.kernel.errors import NotAllowed, OperationFailed
from mycelial.reconciler.loop import Handled, Loop, jittered
from mycelial.reconciler.workqueue import WorkQueue


class Top:
    def uniform(self, low, high):
        return high


class Bench:
    """A loop whose time is the event loop's own, sped up by skipping idle waits."""

    def __init__(self, *outcomes, resync=None):
        self.outcomes = list(outcomes)
        self.calls = []
        self.failures = []
        self.queue = WorkQueue()
        self.now = 0.0
        self.loop = Loop(
            self.reconcile,
            monotonic=self.tell,
            rng=Top(),
            on_failure=lambda key, error, delay: self.failures.append((key, type(error), delay)),
            queue=self.queue,
            resync_seconds=resync,
        )

    def tell(self):
        # Jump to the next due key once nothing is ready: nobody has to wait for real.
        due = self.queue.next_due()
        if due is not None and not len(self.queue):
            self.now = max(self.now, due)
        return self.now

    async def reconcile(self, key):
        self.calls.append((key, self.now))
        outcome = self.outcomes.pop(0) if self.outcomes else Handled()
        if not self.outcomes:
            self.loop.shut_down()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def run(self, *keys, workers=1):
        async def main():
            for key in keys:
                self.loop.add(key)
            async with asyncio.timeout(10), asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(self.loop.run())

        asyncio.run(main())
        return self


FAILED = OperationFailed("MYC-X-001", "disk full")


def test_a_failure_is_retried_with_growing_delay_and_then_forgotten():
    bench = Bench(FAILED, FAILED, Handled(requeue_after=7), FAILED, Handled()).run("a")
    assert [at for _, at in bench.calls] == [0, 0.75, 2.25, 9.25, 10.0]


def test_a_bug_in_one_key_does_not_end_the_loop():
    bench = Bench(KeyError("x"), Handled(), Handled()).run("a", "b")
    assert [key for key, _ in bench.calls] == ["a", "b", "a"]
    assert bench.failures == [("a", KeyError, 0.75)]


def test_a_terminal_error_waits_for_a_change():
    bench = Bench(NotAllowed("MYC-X-002", "no"), Handled()).run("a", "b")
    assert [key for key, _ in bench.calls] == ["a", "b"]
    assert bench.failures == [("a", NotAllowed, None)]
    assert bench.queue.next_due() is None


def test_a_handled_key_comes_again_at_the_resync():
    bench = Bench(Handled(), Handled(), resync=300).run("a")
    assert [at for _, at in bench.calls] == [0, pytest.approx(330)]


def test_resyncs_are_spread():
    class Bottom:
        def uniform(self, low, high):
            return low

    assert (jittered(300, Bottom()), jittered(300, Top())) == pytest.approx((270, 330))


def test_a_new_generation_resets_the_backoff():
    async def main():
        delays = []
        done = asyncio.Event()

        async def reconcile(key):
            raise FAILED

        def on_failure(key, error, delay):
            delays.append(delay)
            if len(delays) == 3:
                done.set()
            else:
                loop.add(key, generation=len(delays) // 2)

        loop = Loop(reconcile, monotonic=lambda: 0.0, rng=Top(), on_failure=on_failure)
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            group.create_task(loop.run())
            loop.add("a", generation=0)
            await done.wait()
            loop.shut_down()
        assert delays == [0.75, 1.5, 0.75]

    asyncio.run(main())


def test_several_workers_never_share_a_key():
    async def main():
        active = defaultdict(int)
        most, count = 0, 0

        async def reconcile(key):
            nonlocal most, count
            active[key] += 1
            most = max(most, active[key])
            loop.add(key) if count < 50 else loop.shut_down(drain=True)
            count += 1
            await asyncio.sleep(0)
            active[key] -= 1
            return Handled()

        loop = Loop(reconcile, monotonic=lambda: 0.0, rng=Top(), on_failure=print)
        for key in "abc":
            loop.add(key)
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(loop.run())
        assert most == 1
        assert count >= 50

    asyncio.run(main())


def test_an_idle_loop_wakes_for_a_key():
    async def main():
        seen = asyncio.Event()

        async def reconcile(key):
            seen.set()
            return Handled()

        loop = Loop(reconcile, monotonic=lambda: 0.0, rng=Top(), on_failure=print)
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            group.create_task(loop.run())
            await asyncio.sleep(0)
            loop.add("a")
            await seen.wait()
            loop.shut_down()

    asyncio.run(main())


def test_a_cancelled_reconcile_gives_its_key_back():
    async def main():
        started, queue = asyncio.Event(), WorkQueue()

        async def reconcile(key):
            started.set()
            await asyncio.Event().wait()
            return Handled()

        loop = Loop(reconcile, monotonic=lambda: 0.0, rng=Top(), on_failure=print, queue=queue)
        loop.add("a")
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            task = group.create_task(loop.run())
            await started.wait()
            task.cancel()
        assert task.cancelled()
        assert queue.get(now=0) == "a"

    asyncio.run(main())
