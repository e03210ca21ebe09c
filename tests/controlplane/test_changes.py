"""Plan, apply, delete and rollback: each a commit, planned first, and refused when stale."""

from __future__ import annotations

import asyncio

import pytest

from mycelial.kernel.errors import (
    CheckSaysNo,
    Conflict,
    InvalidManifest,
    NotAllowed,
    StalePlan,
)
from mycelial.schemas.codec import encode
from mycelial.schemas.plan import Effect
from mycelial.schemas.views import ApplyRequest, PlanRequest
from mycelial.schemas.wire import CommandResult, LivePlan


def request(*texts: str, **changes: object) -> PlanRequest:
    return PlanRequest(files={f"f{n}.yaml": t for n, t in enumerate(texts)}, **changes)  # type: ignore[arg-type]


async def test_a_plan_changes_nothing_and_applying_it_does_what_it_said(world, manifest) -> None:
    async with world.running():
        await world.join()
        head = world.source.probe(None).revision
        plan = await world.call(world.client.plan, request(manifest()))
        assert [(c.name, c.effect, c.daemons) for c in plan.plan.changes] == [
            ("orders", Effect.CREATE, ("shop-01",))
        ]
        assert "+kind: Workflow" in plan.diff
        assert world.source.probe(None).revision == head
        reply = await world.call(
            world.client.apply, ApplyRequest(request(manifest()), plan_hash=plan.plan_hash)
        )
        assert reply.committed
        assert reply.plan == plan.plan
        assert world.names() == {"orders"}


async def test_a_plan_places_by_the_labels_that_the_same_change_gives(world, manifest) -> None:
    labelled = (
        "apiVersion: mycelial/v1\nkind: Daemon\n"
        "metadata: { name: shop-01, labels: { tier: gold } }\n"
    )
    selecting = manifest().replace("daemon: shop-01", "selector: tier=gold")
    assert selecting != manifest()
    async with world.running():
        await world.join()
        plan = (await world.call(world.client.plan, request(labelled, selecting))).plan
        (change,) = plan.changes
        assert (change.daemons, change.held) == (("shop-01",), "")


async def test_applying_twice_commits_once(world, manifest) -> None:
    async with world.running():
        first, second = await world.apply(manifest()), await world.apply(manifest())
    assert (second.committed, second.revision) == (False, first.revision)


async def test_a_stale_plan_is_refused_and_nothing_committed(world, manifest) -> None:
    async with world.running():
        await world.join()
        plan = await world.call(world.client.plan, request(manifest()))
        moved = await world.push({"other.yaml": manifest("other")})
        with pytest.raises(StalePlan, match="MYC-API-050"):
            await world.apply(manifest(), plan_hash=plan.plan_hash)
        assert world.source.probe(None).revision == moved


async def test_an_invalid_manifest_is_refused_with_its_places(world, manifest) -> None:
    async with world.running():
        head = world.source.probe(None).revision
        with pytest.raises(InvalidManifest) as caught:
            await world.apply(manifest().replace("table: orders", "tabel: orders"))
        assert all(p.where is not None and p.where.line for p in caught.value.problems)
        assert world.source.probe(None).revision == head


async def test_a_broken_neighbour_blocks_no_apply(world, manifest) -> None:
    async with world.running():
        await world.push({"bad.yaml": "kind: [broken"})
        assert (await world.apply(manifest())).committed
        assert world.names() == {"orders"}


async def test_an_existing_object_is_edited_in_its_file_and_comments_stay(world, manifest) -> None:
    async with world.running():
        text = "# mine\n" + manifest("a") + "---\n# keep this\n" + manifest("b")
        await world.push({"team/all.yaml": text})
        await world.apply(manifest("a", table="new"))
        tree = world.source.tree(world.source.probe(None).revision)
        assert set(tree.files) == {"team/all.yaml"}
        found = next(iter(world.source.read(tree.files.values()).values())).decode()
        assert "# keep this\n" + manifest("b") in found
        assert "table: new" in found


async def test_concurrent_applies_all_land(world, manifest) -> None:
    async with world.running():
        async with asyncio.TaskGroup() as group:
            for n in range(6):
                group.create_task(world.apply(manifest(f"w{n}")))
        assert world.names() == {f"w{n}" for n in range(6)}


async def test_a_deletion_must_be_confirmed_by_name(world, manifest) -> None:
    async with world.running():
        await world.apply(manifest("a"), manifest("b"))
        wanted = PlanRequest(delete=("Workflow/a",))
        with pytest.raises(CheckSaysNo, match="MYC-API-051"):
            await world.call(world.client.apply, ApplyRequest(wanted, confirmed=("Workflow/b",)))
        assert world.names() == {"a", "b"}
        await world.call(world.client.apply, ApplyRequest(wanted, confirmed=("Workflow/a",)))
        assert world.names() == {"b"}


async def test_deleting_what_does_not_exist_says_so(world) -> None:
    async with world.running():
        with pytest.raises(CheckSaysNo, match="MYC-API-020"):
            await world.call(world.client.delete, ("Workflow/nothing",))


async def test_prune_is_limited_to_the_files_given(world, manifest) -> None:
    async with world.running():
        await world.push(
            {"a.yaml": manifest("a1") + "---\n" + manifest("a2"), "b.yaml": manifest("b")}
        )
        wanted = PlanRequest(files={"a.yaml": manifest("a1")}, prune=True)
        await world.call(world.client.apply, ApplyRequest(wanted, confirmed=("Workflow/a2",)))
        assert world.names() == {"a1", "b"}


@pytest.mark.parametrize(
    "project",
    [
        pytest.param(None, id="no-project"),
        pytest.param("apiVersion: mycelial/v1\nkind: Project\nmetadata: {name: p}\n", id="no-spec"),
        pytest.param(
            "apiVersion: mycelial/v1\nkind: Project\nmetadata: {name: p}\nspec:\n"
            "  uid: u  # mine\n  incarnations: {Workflow/other: 3}\n",
            id="flow-map",
        ),
        pytest.param(
            "apiVersion: mycelial/v1\nkind: Project\nmetadata: {name: p}\nspec:\n"
            "  incarnations:\n    Workflow/orders: 4\n  uid: u\n",
            id="block-map",
        ),
    ],
)
async def test_forgetting_gives_the_name_another_identity(world, manifest, project) -> None:
    async with world.running():
        if project:
            await world.push({"mycelial.yaml": project})
        await world.apply(manifest(), manifest("other"))
        before = world.plane.controller.snapshot.desired.workflows["orders"].uid
        await world.call(world.client.delete, ("Workflow/orders",), forget=True)
        assert world.plane.controller.snapshot.problems == ()
        await world.apply(manifest())
        after = world.plane.controller.snapshot.desired.workflows["orders"].uid
    assert after != before


async def test_deleting_without_forgetting_keeps_the_identity(world, manifest) -> None:
    async with world.running():
        await world.apply(manifest(), manifest("other"))
        before = world.plane.controller.snapshot.desired.workflows["orders"].uid
        await world.call(world.client.delete, ("Workflow/orders",))
        await world.apply(manifest())
        assert world.plane.controller.snapshot.desired.workflows["orders"].uid == before


async def test_a_rollback_undoes_the_commit_and_quarantines_it(world, manifest) -> None:
    async with world.running():
        daemon = await world.join()
        await world.apply(manifest(table="good"))
        bad = await world.apply(manifest(table="bad"))
        await daemon.next_set()
        reply = await world.call(world.client.rollback, "Workflow/orders")
        assert reply.committed
        found = await daemon.next_set()
        assert found.assignments[0].spec.source.config["table"] == "good"
        assert found.assignments[0].generation == 3
        outcomes = {h.revision: h.outcome for h in await world.call(world.client.history)}
        assert (outcomes[bad.revision], outcomes[reply.revision]) == ("quarantined", "current")


async def test_a_quarantined_revision_never_comes_back(world, manifest) -> None:
    import subprocess

    async with world.running():
        await world.apply(manifest(table="good"))
        bad = (await world.apply(manifest(table="bad"))).revision
        await world.call(world.client.rollback)
    async with world.running():
        sha = bad.partition("@")[2]
        subprocess.run(
            ["git", "-C", str(world.data.repository), "update-ref", "refs/heads/main", sha],
            check=True,
        )
        world.plane.controller.look()
        await world.seen(bad)
        found = world.plane.controller.snapshot.desired.workflows["orders"]
        assert found.template.source.config["table"] == "good"
        status = await world.call(world.client.status)
        assert [p.code for p in status.problems] == ["MYC-CP-050"]


async def test_a_rollback_to_a_revision_undoes_everything_after_it(world, manifest) -> None:
    async with world.running():
        keep = (await world.apply(manifest(table="one"))).revision
        await world.apply(manifest(table="two"))
        await world.apply(manifest(table="three"))
        await world.call(world.client.rollback, to=keep)
        found = world.plane.controller.snapshot.desired.workflows["orders"]
        assert found.template.source.config["table"] == "one"
        outcomes = [h.outcome for h in await world.call(world.client.history)]
    assert outcomes[:4] == ["current", "quarantined", "quarantined", "applied"]


async def test_an_apply_to_another_branch_says_how(world, manifest) -> None:
    async with world.running():
        with pytest.raises(NotAllowed, match="MYC-API-052"):
            await world.apply(manifest(), branch="feature")


async def test_a_head_that_moves_during_apply_is_replanned_once(
    world, manifest, monkeypatch
) -> None:
    async with world.running():
        real, moves = world.source.commit, ["elsewhere.yaml"]

        def commit(change):
            if moves:
                moves.pop()
                raise Conflict("MYC-GIT-000", "the head moved")
            return real(change)

        monkeypatch.setattr(world.source, "commit", commit)
        assert (await world.apply(manifest())).committed
        assert world.names() == {"orders"}


async def test_a_live_plan_asks_connected_daemons_and_names_the_others(world, manifest) -> None:
    async with world.running():
        here, _away = await world.join("shop-01"), await world.join("shop-02")
        wanted = request(manifest("a", "shop-01"), manifest("b", "shop-02"), live=True)
        async with here.watching() as watch:
            await watch.next("hello")
            async with asyncio.TaskGroup() as group:
                asked = group.create_task(world.call(world.client.plan, wanted))
                command = (await watch.next("command")).command
                assert command is not None
                spec_hash = command.args["uid"]
                plan = LivePlan(
                    uid=command.args["uid"], spec_hash=spec_hash, guarantee="exactly-once",
                    guarantee_reason="", mode="append", target="copy", ddl=("CREATE TABLE copy",),
                )  # fmt: skip
                value = {"plan": encode(plan)}
                await here.link.results(CommandResult(command.id, ok=True, value=value))
        reply = asked.result()
        assert reply.live == {"a@shop-01": plan}
        assert reply.live_unknown == ("b@shop-02: online",)


async def test_events_of_an_apply_are_recorded_once(world, manifest) -> None:
    async with world.running():
        await world.join()
        await world.apply(manifest())
        await world.apply(manifest(table="two"))
        reasons = await world.reasons()
    wanted = ("Committed", "RevisionApplied", "WorkflowCreated", "WorkflowChanged", "DaemonJoined")
    assert {r: reasons.count(r) for r in wanted} == {
        "Committed": 2, "RevisionApplied": 3, "WorkflowCreated": 1, "WorkflowChanged": 1,
        "DaemonJoined": 1,
    }  # fmt: skip
