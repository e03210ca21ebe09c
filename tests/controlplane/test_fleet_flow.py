"""From a commit to a daemon and back, through real sockets, TLS, git and SQLite."""

from __future__ import annotations

import asyncio

import pytest

from mycelial.client.link import Held
from mycelial.kernel.errors import CheckSaysNo
from mycelial.schemas.views import PlanRequest
from mycelial.schemas.wire import PipelineState


async def test_an_applied_workflow_reaches_its_daemon_and_is_shown_healthy(world, manifest) -> None:
    async with world.running():
        daemon = await world.join()
        async with daemon.watching() as watch:
            reply = await world.apply(manifest())
            found = await watch.next_set()
        assert [a.name for a in found.assignments] == ["orders"]
        assert found.assignments[0].revision == reply.revision
        before = await world.call(world.client.workflow, "orders")
        assert (before.placed, before.applied, before.healthy) == (1, 0, 0)
        await daemon.report()
        after = await world.call(world.client.workflow, "orders")
        assert (after.placed, after.applied, after.healthy) == (1, 1, 1)
        assert after.manifest == manifest()
        status = await world.call(world.client.status)
        assert (status.applied, status.healthy, status.daemons) == (1, 1, {"Online": 1})
        assert status.revision_applied == status.revision_seen == reply.revision


async def test_a_daemon_with_the_right_hash_gets_no_snapshot(world, manifest) -> None:
    async with world.running():
        daemon = await world.join()
        await world.apply(manifest())
        found = await daemon.next_set()
        reply = await daemon.report()
        assert reply.desired_hash == found.bundle_hash()
        held = Held(found.store_id, found.rev, found.bundle_hash())
        async with daemon.watching(held) as watch:
            assert (await watch.next()).type == "hello"
            await world.apply(manifest(table="other"))
            newer = await watch.next_set()
        assert newer.rev == found.rev + 1


async def test_a_deleted_workflow_is_entombed_and_forgotten_once_the_daemon_says_so(
    world, manifest
) -> None:
    async with world.running():
        daemon = await world.join()
        await world.apply(manifest("orders"), manifest("stock"))
        await daemon.next_set()
        await world.call(world.client.delete, ("Workflow/orders",))
        found = await daemon.next_set()
        assert [t.name for t in found.tombstones] == ["orders"]
        assert [a.name for a in found.assignments] == ["stock"]
        await world.until(lambda: {d.name for d in world.duties()} == {"stock"})
        reasons = await world.reasons()
    assert "WorkflowDeleted" in reasons


async def test_a_restart_keeps_everything(world, manifest) -> None:
    async with world.running():
        daemon = await world.join()
        await world.apply(manifest())
        before = await daemon.next_set()
        events = await world.reasons()
        workflow = await world.call(world.client.workflow, "orders")
    async with world.running():
        daemon.url = world.daemon_url
        daemon.link = daemon.link_as(daemon.id)
        again = await world.reasons()
        assert again[: len(events)] == events
        assert "WorkflowCreated" not in again[len(events) :]
        held = Held(before.store_id, before.rev, before.bundle_hash())
        async with daemon.watching(held) as watch:
            hello = await watch.next()
            assert (hello.type, hello.rev, hello.bundle_hash) == (
                "hello",
                *(before.rev, before.bundle_hash()),
            )
        assert (await daemon.report()).desired_hash == before.bundle_hash()
        after = await world.call(world.client.workflow, "orders")
    assert (after.uid, after.generation, after.applied) == (workflow.uid, workflow.generation, 1)


async def test_a_restart_parses_no_file_again(world, manifest) -> None:
    async with world.running():
        await world.push({f"w/{n}.yaml": manifest(f"w{n}") for n in range(20)})
    async with world.running():
        assert len(world.names()) == 20
        assert world.compiler.files_checked == 0


async def test_one_changed_file_costs_one_file(world, manifest) -> None:
    async with world.running():
        await world.push({f"w/{n}.yaml": manifest(f"w{n}") for n in range(20)})
        before = world.compiler.files_checked
        await world.push({"w/3.yaml": manifest("w3", table="new")})
        assert world.compiler.files_checked == before + 1


async def test_an_invalid_file_keeps_its_last_good_version_and_lets_siblings_through(
    world, manifest
) -> None:
    async with world.running():
        daemon = await world.join()
        good = await world.push({"a.yaml": manifest("a"), "b.yaml": manifest("b")})
        await daemon.next_set()
        bad = await world.push(
            {"a.yaml": manifest("a").replace("table", "tabel"), "b.yaml": manifest("b", table="x")}
        )
        found = await daemon.next_set()
        tables = {a.name: a.spec.source.config["table"] for a in found.assignments}
        assert tables == {"a": "orders", "b": "x"}
        status = await world.call(world.client.status)
        assert (status.revision_seen, status.revision_applied) == (bad, good)
        assert [p.where.file for p in status.problems if p.where] == ["a.yaml"] * len(
            status.problems
        )
        assert "RevisionInvalid" in await world.reasons()
        history = await world.call(world.client.history)
        assert [h.outcome for h in history[:2]] == ["invalid", "current"]


async def test_a_broken_head_keeps_the_last_good_version_over_a_restart(world, manifest) -> None:
    async with world.running():
        daemon = await world.join()
        await world.push({"a.yaml": manifest("a"), "b.yaml": manifest("b")})
        await daemon.next_set()
        await world.push({"a.yaml": "kind: [broken", "b.yaml": manifest("b")})
    async with world.running():
        assert world.names() == {"a", "b"}
        assert {d.name for d in world.duties() if d.tombstone is None} == {"a", "b"}


async def test_a_file_broken_while_the_server_was_away_deletes_nothing(world, manifest) -> None:
    async with world.running():
        daemon = await world.join()
        await world.push({"a.yaml": manifest("a"), "b.yaml": manifest("b")})
        await daemon.next_set()
    from mycelial.gitops.base import Commit
    from mycelial.gitops.embedded import EmbeddedSource

    source = EmbeddedSource(world.data.repository)
    source.commit(
        Commit(source.probe(None).revision, "x", files={"a.yaml": b"kind: [x", "b.yaml": None})
    )
    source.close()
    async with world.running():
        assert world.names() == {"a", "b"}
        assert all(d.tombstone is None for d in world.duties())


async def test_an_emptied_repository_is_held(world, manifest) -> None:
    async with world.running():
        daemon = await world.join()
        await world.push({f"{n}.yaml": manifest(f"w{n}") for n in range(3)})
        await daemon.next_set()
        await world.push({f"{n}.yaml": None for n in range(3)})
        await world.until(lambda: bool(world.plane.controller.snapshot.held))
        status = await world.call(world.client.status)
        assert len(status.held) == 3
        assert all(d.tombstone is None for d in world.duties())
        assert (await world.reasons()).count("DeletionHeld") == 3


async def test_a_held_deletion_that_was_pushed_is_confirmed_by_its_names(world, manifest) -> None:
    async with world.running():
        daemon = await world.join()
        await world.push({f"{n}.yaml": manifest(f"w{n}") for n in range(3)})
        await daemon.next_set()
        head = await world.push({f"{n}.yaml": None for n in range(3)})
        await world.until(lambda: bool(world.plane.controller.snapshot.held))
        names = tuple(f"Workflow/w{n}" for n in range(3))
        reply = await world.call(world.client.delete, names)
        assert (reply.committed, reply.revision) == (False, head)
        assert {t.name for t in (await daemon.next_set()).tombstones} == {"w0", "w1", "w2"}
        assert (await world.call(world.client.status)).held == ()
        assert (await world.reasons()).count("DeletionConfirmed") == 3


async def test_a_part_of_a_held_deletion_cannot_be_confirmed(world, manifest) -> None:
    async with world.running():
        daemon = await world.join()
        await world.push({f"{n}.yaml": manifest(f"w{n}") for n in range(3)})
        await daemon.next_set()
        await world.push({f"{n}.yaml": None for n in range(3)})
        await world.until(lambda: bool(world.plane.controller.snapshot.held))
        with pytest.raises(CheckSaysNo, match=r"MYC-API-057.*w1, Workflow/w2"):
            await world.call(world.client.delete, ("Workflow/w0",))
        assert len((await world.call(world.client.status)).held) == 3


async def test_a_confirmed_deletion_of_everything_is_carried_out(world, manifest) -> None:
    async with world.running():
        daemon = await world.join()
        await world.apply(*(manifest(f"w{n}") for n in range(3)))
        await daemon.next_set()
        names = tuple(f"Workflow/w{n}" for n in range(3))
        plan = await world.call(world.client.plan, PlanRequest(delete=names))
        assert [bool(c.held) for c in plan.plan.changes] == [True] * 3
        await world.call(world.client.delete, names)
        found = await daemon.next_set()
        assert {t.name for t in found.tombstones} == {"w0", "w1", "w2"}


async def test_a_rewritten_history_is_accepted_and_told(world, manifest) -> None:
    async with world.running():
        daemon = await world.join()
        first = await world.push({"a.yaml": manifest("a"), "b.yaml": manifest("b")})
        await world.push({"a.yaml": manifest("a", table="second")})
        await daemon.next_set()
        import subprocess

        sha = first.partition("@")[2]
        subprocess.run(
            ["git", "-C", str(world.data.repository), "update-ref", "refs/heads/main", sha],
            check=True,
        )
        world.plane.controller.look()
        await world.seen(first)
        found = await daemon.next_set()
        assert found.assignments[0].spec.source.config["table"] == "orders"
        assert "HistoryRewritten" in await world.reasons()


async def test_a_daemon_that_joins_later_gets_what_matches_it(world, manifest) -> None:
    async with world.running():
        await world.apply(manifest(daemon="late-01"))
        view = await world.call(world.client.workflow, "orders")
        assert (view.placed, view.applied) == (0, 0)
        daemon = await world.join("late-01")
        assert [a.name for a in (await daemon.next_set()).assignments] == ["orders"]


async def test_waiting_ends_when_the_workflow_is_healthy(world, manifest) -> None:
    async with world.running():
        daemon = await world.join()
        await world.apply(manifest())
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(
                world.call(world.client.wait, "Workflow/orders", "Healthy", 10.0)
            )
            await daemon.next_set()
        assert waiting.result().met
        early = await world.call(world.client.wait, "Workflow/orders", "Finished", 0.0)
        assert not early.met


async def test_waiting_ends_at_once_when_it_failed_for_good(world, manifest) -> None:
    from mycelial.kernel.errors import Problem

    async with world.running():
        daemon = await world.join()
        await world.apply(manifest())
        found = await daemon.next_set()
        from dataclasses import replace

        failed = replace(
            daemon.status_of(found.assignments[0], PipelineState.FAILED),
            error=Problem("MYC-TOY-001", "no such table"),
        )
        await daemon.report(pipelines=(failed,))
        with pytest.raises(CheckSaysNo, match="MYC-TOY-001"):
            await world.call(world.client.wait, "Workflow/orders", "Healthy", 10.0)
