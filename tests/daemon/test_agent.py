"""A daemon beside a real TLS server: what it runs, what it refuses, what it says."""

from __future__ import annotations

import asyncio
import errno
import json
from dataclasses import replace

import pytest

from mycelial.daemon import local
from mycelial.daemon.config import EndpointConfig, PolicyConfig
from mycelial.kernel.clock import SystemClock
from mycelial.kernel.errors import OperationFailed, StateCorrupt
from mycelial.kernel.files import write_durable
from mycelial.runtime.ports import WorkerPolicy
from mycelial.schemas.codec import encode
from mycelial.schemas.desired import DeletionPolicy
from mycelial.schemas.wire import Command, PipelineState, SignedSet, Tombstone, spec_hash_of


@pytest.fixture(autouse=True)
def _secret(machine):
    machine.environment["MYCELIAL_SECRET_WAREHOUSE_PW"] = "canary-4711"


def state_of(control, name):
    """Return the newest reported status of a workflow, whatever report it came in."""
    for report in reversed(control.reports):
        for status in report.get("pipelines") or ():
            if status["name"] == name:
                return status
    return None


def reported_done(control):
    return control.reports[-1]["tombstones_done"] if control.reports else None


def applied(control):
    return any(r["applied_hash"] == control.bundle_hash != "" for r in control.reports)


async def with_control(control, machine):
    await control.start()
    machine.join()


def test_a_published_set_runs_and_is_reported_applied(control, machine, make_assignment):
    async def scenario():
        await with_control(control, machine)
        async with machine.running():
            await control.until(lambda: control.watches)
            await control.publish([make_assignment("orders")])
            await control.until(lambda: applied(control))
            assert machine.supervisor.journal == [("start", "orders")]
            assert state_of(control, "orders")["state"] == "running"
        await control.stop()

    asyncio.run(scenario())


def test_a_start_without_a_control_plane_runs_the_last_set(control, machine, make_assignment):
    async def scenario():
        await with_control(control, machine)
        async with machine.running():
            await control.publish([make_assignment("orders"), make_assignment("stock")])
            await control.until(lambda: applied(control))
        await control.stop()
        async with machine.running():
            await machine.supervisor.until(lambda: len(machine.supervisor.running()) == 2)
            assert sorted(machine.supervisor.journal) == [("start", "orders"), ("start", "stock")]

    asyncio.run(scenario())


def test_losing_the_control_plane_touches_no_pipeline(control, machine, make_assignment):
    async def scenario():
        await with_control(control, machine)
        async with machine.running():
            await control.publish([make_assignment("orders")])
            await control.until(lambda: applied(control))
            before = list(machine.supervisor.journal)
            await control.stop()
            await machine.events.bell.until(lambda: "ControlPlaneLost" in machine.events.reasons)
            control.reports.clear()
            await control.start()
            await control.until(lambda: control.reports)
            assert machine.supervisor.journal == before
            first = control.reports[0]
            assert first["pipelines"], "a new session begins with a full report"
            assert first["inventory"]
        await control.stop()

    asyncio.run(scenario())


def tampered(signed: SignedSet) -> SignedSet:
    payload = json.loads(signed.payload)
    payload["assignments"][0]["spec"]["source"]["config"]["path"] = "/etc/shadow"
    return replace(signed, payload=json.dumps(payload))


def test_a_tampered_set_is_refused_and_reported(control, machine, make_assignment):
    async def scenario():
        await with_control(control, machine)
        async with machine.running():
            good = await control.publish([make_assignment("orders")])
            await control.until(lambda: applied(control))
            bad = control.signer.sign(
                replace(good, rev=2, assignments=(make_assignment("orders", generation=2),))
            )
            await control.publish_signed(tampered(bad), "sha256:other")
            await control.until(lambda: control.reports[-1].get("last_failed"))
            report = control.reports[-1]
            assert report["last_failed"]["code"] == "MYC-SEC-021"
            assert report["received_hash"] == good.bundle_hash()
            assert machine.supervisor.journal == [("start", "orders")]
            assert "SetRefused" in machine.events.reasons
        await control.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("rev", "store_id", "generation", "epoch", "code"),
    [
        pytest.param(1, "store-1", 1, 1, "MYC-PLAN-002", id="older-revision"),
        pytest.param(9, "store-1", 1, 5, "MYC-PLAN-004", id="lower-generation"),
        pytest.param(9, "store-1", 5, 1, "MYC-PLAN-004", id="lower-epoch"),
        pytest.param(9, "store-2", 1, 1, "MYC-PLAN-004", id="lower-in-another-store"),
    ],
)
def test_a_replayed_older_set_is_refused_also_after_a_restart(
    control, machine, make_assignment, rev, store_id, generation, epoch, code
):
    async def scenario():
        await with_control(control, machine)
        async with machine.running():
            await control.publish([make_assignment("orders", generation=3, epoch=3)], rev=5)
            await control.until(lambda: applied(control))
        control.reports.clear()
        control.store_id = store_id
        async with machine.running():
            await control.publish(
                [make_assignment("orders", generation=generation, epoch=epoch)], rev=rev
            )
            await control.until(lambda: control.reports and control.reports[-1].get("last_failed"))
            assert control.reports[-1]["last_failed"]["code"] == code
            assert machine.supervisor.running()["uid-orders"].generation == 3
        await control.stop()

    asyncio.run(scenario())


def test_the_set_is_on_disk_before_anything_acts_on_it(control, machine, make_assignment):
    seen = []

    def prepare(supervisor):
        start = supervisor.start

        async def spying(**arguments):
            seen.append(machine.local.accepted() is not None)
            await start(**arguments)

        supervisor.start = spying

    async def scenario():
        await with_control(control, machine)
        machine.prepare = prepare
        async with machine.running():
            await control.publish([make_assignment("orders")])
            await control.until(lambda: applied(control))
        await control.stop()

    asyncio.run(scenario())
    assert seen == [True]


def test_absence_ends_nothing_but_a_tombstone_does(control, machine, make_assignment):
    async def scenario():
        await with_control(control, machine)
        async with machine.running():
            await control.publish([make_assignment("orders"), make_assignment("stock")])
            await control.until(lambda: applied(control))
            await control.publish([make_assignment("orders")])
            await control.until(lambda: applied(control))
            assert ("drain", "stock") not in machine.supervisor.journal
            stone = Tombstone("uid-stock", "stock", 1, 1, DeletionPolicy.DRAIN, forget=True)
            await control.publish([make_assignment("orders")], [stone])
            await control.until(lambda: control.reports[-1]["tombstones_done"] == ["uid-stock"])
            assert machine.supervisor.journal[2:] == [("drain", "stock"), ("forget", "stock")]
        await control.stop()

    asyncio.run(scenario())


def test_files_of_a_pipeline_that_ended_before_this_start_are_removed(control, machine):
    async def scenario():
        await with_control(control, machine)
        async with machine.running():
            stone = Tombstone("uid-old", "old", 2, 2, forget=True)
            await control.publish([], [stone])
            await control.until(lambda: reported_done(control) == ["uid-old"])
            assert machine.supervisor.journal == [("forget", "old")]
        await control.stop()

    asyncio.run(scenario())


def test_many_changes_at_once_become_one_report(control, machine, make_assignment):
    async def scenario():
        await with_control(control, machine)
        async with machine.running():
            names = [f"w{index:02}" for index in range(30)]
            await control.publish([make_assignment(name) for name in names])
            await control.until(lambda: applied(control))
            count = len(control.reports)
            for name in names:
                machine.supervisor.turn(f"uid-{name}", PipelineState.WAITING)
            await control.until(lambda: state_of(control, "w29")["state"] == "waiting")
            assert len(control.reports) == count + 1
            assert {s["state"] for s in control.reports[-1]["pipelines"]} == {"waiting"}
        await control.stop()

    asyncio.run(scenario())


def test_unchanged_sections_are_left_out_until_asked_for(control, machine, make_assignment):
    async def scenario():
        await with_control(control, machine)
        control.interval_seconds = 1.0
        async with machine.running():
            await control.publish([make_assignment("orders")])
            await control.until(lambda: applied(control))
            await control.until(lambda: "pipelines" not in control.reports[-1])
            assert "inventory" not in control.reports[-1]
            control.flags = ["REPORT_FULL"]
            await control.until(lambda: control.reports[-1].get("inventory"))
            assert control.reports[-1]["pipelines"]
            seqs = [report["seq"] for report in control.reports]
            assert seqs == list(range(1, len(seqs) + 1))
            assert len({report["boot_id"] for report in control.reports}) == 1
        await control.stop()

    asyncio.run(scenario())


def test_a_hash_that_differs_makes_the_daemon_ask_for_a_snapshot(control, machine, make_assignment):
    async def scenario():
        await with_control(control, machine)
        control.interval_seconds = 1.0
        async with machine.running():
            content = await control.publish([make_assignment("orders")])
            await control.until(lambda: applied(control))
            assert control.watches[-1]["token"] == "" or len(control.watches) == 1
            control.bundle_hash = "sha256:something-else"
            await control.until(lambda: len(control.watches) > 1)
            assert control.watches[-1]["token"] == ""
            control.bundle_hash = content.bundle_hash()
        await control.stop()

    asyncio.run(scenario())


def test_a_proxy_that_buffers_gets_long_polls(control, machine, make_assignment):
    from mycelial.client.link import Link, LinkTiming

    async def scenario():
        await with_control(control, machine)
        control.is_buffering = True

        def connect(local, identity):
            from mycelial.security import tls

            context = tls.client_context(cert=local.cert_file, key=local.key_file, ca=local.ca_file)
            return Link(
                urls=identity.urls,
                daemon_id=identity.daemon_id,
                tls=context,
                clock=SystemClock(),
                timing=LinkTiming(hello_seconds=0.05),
            )

        async with machine.running(connect=connect):
            await control.publish([make_assignment("orders")])
            await control.until(lambda: applied(control))
            assert "wait" in control.watches[-1]
        await control.stop()

    asyncio.run(scenario())


def test_local_policy_refuses_and_says_so(control, machine, make_assignment):
    async def scenario():
        await with_control(control, machine)
        machine.config = replace(
            machine.config, policy=PolicyConfig(connectors=("sqlite", "postgres"))
        )
        async with machine.running():
            await control.publish(
                [make_assignment("orders"), make_assignment("evil", plugin="exec")]
            )
            await control.until(lambda: state_of(control, "evil") and state_of(control, "orders"))
            status = state_of(control, "evil")
            assert status["error"]["code"] == "MYC-DAEMON-040"
            assert status["conditions"][0]["reason"] == "PolicyRefused"
            assert machine.supervisor.journal == [("start", "orders")]
        assert not applied(control)
        await control.stop()

    asyncio.run(scenario())


def test_a_named_endpoint_is_laid_in_and_reported_under_the_given_hash(
    control, machine, make_assignment
):
    async def scenario():
        await with_control(control, machine)
        machine.config = replace(
            machine.config, sources=(EndpointConfig("till", "sqlite", {"path": "/data/till.db"}),)
        )
        assignment = make_assignment("orders", config={"table": "t"}, endpoint="shop-01/till")
        async with machine.running():
            await control.publish([assignment])
            await control.until(lambda: applied(control))
            spec = machine.supervisor.specs["uid-orders"]
            assert spec.source.config == {"path": "/data/till.db", "table": "t"}
            assert state_of(control, "orders")["spec_hash"] == assignment.spec_hash
            assert spec_hash_of(spec) != assignment.spec_hash
        await control.stop()

    asyncio.run(scenario())


def test_only_the_secrets_a_spec_names_are_resolved_and_none_is_reported(
    control, machine, make_assignment
):
    async def scenario():
        machine.environment["MYCELIAL_SECRET_OTHER"] = "canary-other"
        await with_control(control, machine)
        async with machine.running():
            await control.publish([make_assignment("orders")])
            await control.until(lambda: applied(control))
            assert machine.supervisor.secrets["uid-orders"] == {"warehouse-pw": "canary-4711"}
        await control.stop()
        assert "canary" not in json.dumps(control.reports)
        for path in machine.state_dir.rglob("*"):
            assert not path.is_file() or b"canary" not in path.read_bytes()

    asyncio.run(scenario())


def test_a_missing_secret_fails_its_pipeline_alone(control, machine, make_assignment):
    async def scenario():
        machine.environment.clear()
        await with_control(control, machine)
        async with machine.running():
            await control.publish([make_assignment("orders")])
            await control.until(lambda: (state_of(control, "orders") or {}).get("error"))
            status = state_of(control, "orders")
            assert status["error"]["code"] == "MYC-SEC-030"
            assert status["state"] == "retrying"
        await control.stop()

    asyncio.run(scenario())


def test_a_start_that_fails_is_tried_again(control, machine, make_assignment):
    async def scenario():
        await with_control(control, machine)
        machine.prepare = lambda supervisor: supervisor.fail_start.append(
            OperationFailed("MYC-RUN-099", "the disk is full", fix="free some")
        )
        async with machine.running():
            await control.publish([make_assignment("orders")])
            await control.until(lambda: (state_of(control, "orders") or {}).get("error"))
            await control.until(lambda: applied(control))
            assert state_of(control, "orders").get("error") is None
        await control.stop()

    asyncio.run(scenario())


def test_a_full_disk_stops_nothing_and_the_set_is_taken_once_there_is_space(
    control, machine, make_assignment, monkeypatch
):
    is_full = False

    def write(path, data, **options):
        if is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_durable(path, data, **options)

    monkeypatch.setattr(local, "write_durable", write)

    async def scenario():
        nonlocal is_full
        await with_control(control, machine)
        control.interval_seconds = 1.0
        async with machine.running():
            first = await control.publish([make_assignment("orders")])
            await control.until(lambda: applied(control))
            is_full = True
            await control.publish([make_assignment("orders", generation=2, config={"path": "b"})])
            await control.until(lambda: control.reports[-1].get("last_failed"))
            report = control.reports[-1]
            assert report["last_failed"]["code"] == "MYC-DAEMON-012"
            assert report["received_hash"] == first.bundle_hash()
            assert machine.supervisor.journal == [("start", "orders")]
            is_full = False
            await control.until(lambda: applied(control))
            assert control.reports[-1].get("last_failed") is None
        await control.stop()

    asyncio.run(scenario())


def test_a_stop_drains_and_says_so(control, machine, make_assignment):
    async def scenario():
        await with_control(control, machine)
        async with machine.running():
            await control.publish([make_assignment("orders")])
            await control.until(lambda: applied(control))
        assert machine.supervisor.journal[-1] == ("drain", "orders")
        assert machine.supervisor.ended
        assert control.reports[-1]["pipelines"][0]["state"] == "stopped"
        await control.stop()

    asyncio.run(scenario())


def test_the_certificate_is_renewed_when_the_server_asks(control, machine):
    async def scenario():
        await with_control(control, machine)
        before = machine.local.load("cert.pem")
        control.flags = ["ROTATE_CERT"]
        async with machine.running():
            await control.until(lambda: control.watches and len(control.reports) > 1)
            assert control.renewals == 1
        assert machine.local.load("cert.pem") != before
        assert machine.local.identity().daemon_id
        await control.stop()

    asyncio.run(scenario())


def test_a_second_daemon_on_the_same_state_is_refused(control, machine):
    async def scenario():
        await with_control(control, machine)
        async with machine.running():
            await control.until(lambda: control.reports)
            with pytest.raises(OperationFailed) as caught:
                await machine.agent().run(asyncio.Event())
        assert caught.value.code == "MYC-DAEMON-020"
        await control.stop()

    asyncio.run(scenario())


def test_a_machine_that_has_not_joined_says_how(machine):
    with pytest.raises(OperationFailed) as caught:
        asyncio.run(machine.agent().run(asyncio.Event()))
    assert caught.value.code == "MYC-DAEMON-021"
    assert "daemon join" in caught.value.problem.fix


def test_a_damaged_identity_ends_the_start_with_exit_3(control, machine):
    machine.join(urls=("https://localhost:1",))
    path = machine.state_dir / "identity.json"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(StateCorrupt) as caught:
        asyncio.run(machine.agent().run(asyncio.Event()))
    assert (caught.value.code, caught.value.exit_code) == ("MYC-DAEMON-011", 3)
    (aside,) = machine.state_dir.glob("identity.json.corrupt-*")
    with pytest.raises(OperationFailed) as again:
        asyncio.run(machine.agent().run(asyncio.Event()))
    assert again.value.code == "MYC-DAEMON-021"
    assert aside.name in again.value.problem.what


def test_a_damaged_set_is_set_aside_and_comes_back_from_the_control_plane(
    control, machine, make_assignment
):
    async def scenario():
        await with_control(control, machine)
        async with machine.running():
            await control.publish([make_assignment("orders")])
            await control.until(lambda: applied(control))
        path = machine.state_dir / "assignments.json"
        path.write_bytes(path.read_bytes().replace(b"orders", b"ORDERS"))
        control.reports.clear()
        async with machine.running():
            await control.until(lambda: applied(control))
            assert machine.supervisor.journal == [("start", "orders")]
        assert "StateQuarantined" in machine.events.reasons
        await control.stop()

    asyncio.run(scenario())


def command(kind, expires_in=60.0, **args):
    now = SystemClock().now()
    return Command(f"cmd-{kind}", kind, now + expires_in, args)


@pytest.mark.parametrize(
    ("kind", "args", "expected"),
    [
        pytest.param("logs", {"uid": "uid-orders", "lines": 5}, "lines", id="logs"),
        pytest.param("probe", {"uid": "uid-orders"}, "plan", id="probe-assigned"),
        pytest.param("retry", {"uid": "uid-orders"}, None, id="retry"),
        pytest.param("sync", {}, None, id="sync"),
        pytest.param(
            "state-set", {"uid": "uid-orders", "part": "0", "position": "7"}, None, id="state-set"
        ),
    ],
)
def test_commands_are_answered(control, machine, make_assignment, kind, args, expected):
    async def scenario():
        await with_control(control, machine)
        async with machine.running():
            await control.publish([make_assignment("orders")])
            await control.until(lambda: applied(control))
            await control.send(command(kind, **args))
            await control.until(lambda: control.results)
            result = control.results[f"cmd-{kind}"]
            assert result["ok"], result
            assert expected is None or expected in result["value"]
        await control.stop()

    asyncio.run(scenario())


def test_state_set_stops_the_pipeline_and_it_starts_again(control, machine, make_assignment):
    async def scenario():
        await with_control(control, machine)
        async with machine.running():
            await control.publish([make_assignment("orders", epoch=4)])
            await control.until(lambda: applied(control))
            await control.send(command("state-set", uid="uid-orders", part="p", position="7"))
            await control.until(lambda: control.results)
            supervisor = machine.supervisor
            await supervisor.until(lambda: len(supervisor.journal) == 3)
            assert [verb for verb, _ in supervisor.journal] == ["start", "drain", "start"]
            (job,) = supervisor.jobs
            assert (job.part, job.position, job.fence.epoch) == ("p", "7", 4)
            assert job.secrets == {"warehouse-pw": "canary-4711"}
        await control.stop()

    asyncio.run(scenario())


def test_a_command_is_done_once_although_the_server_repeats_it(control, machine, make_assignment):
    async def scenario():
        await with_control(control, machine)
        async with machine.running():
            await control.publish([make_assignment("orders")])
            await control.until(lambda: applied(control))
            await control.send(command("retry", uid="uid-orders"))
            await control.until(lambda: control.results)
            control.results.clear()  # the server never saw the answer, and says it again
            watches = len(control.watches)
            control.cut()
            await control.until(lambda: len(control.watches) > watches)
            await control.send(command("logs", uid="uid-orders"))
            await control.until(lambda: "cmd-logs" in control.results)
            retries = [verb for verb, _ in machine.supervisor.journal if verb == "retry"]
            assert retries == ["retry"]
        await control.stop()

    asyncio.run(scenario())


def test_a_command_expires_by_the_servers_time(control, machine, make_assignment):
    async def scenario():
        await with_control(control, machine)
        control.server_ahead_seconds = 3600.0
        async with machine.running():
            await control.until(lambda: control.reports)
            await control.send(command("sync", expires_in=1800.0))
            await control.until(lambda: control.results)
            assert control.results["cmd-sync"]["problem"]["code"] == "MYC-DAEMON-050"
        await control.stop()

    asyncio.run(scenario())


def test_a_probe_asks_local_policy_too(control, machine, make_assignment):
    async def scenario():
        await with_control(control, machine)
        machine.config = replace(machine.config, policy=PolicyConfig(connectors=("sqlite",)))
        async with machine.running():
            spec = encode(make_assignment("orders").spec)
            await control.send(command("probe", spec=spec))
            await control.until(lambda: control.results)
            assert control.results["cmd-probe"]["problem"]["code"] == "MYC-DAEMON-040"
            assert machine.supervisor.jobs == []
        await control.stop()

    asyncio.run(scenario())


def test_a_worker_gets_the_owners_policy(control, machine, make_assignment, tmp_path):
    from mycelial.daemon.policy import worker_policy

    config = replace(
        machine.config, policy=PolicyConfig(read_paths=("data",), memory_max_bytes=100)
    )
    assert worker_policy(config, memory_max_bytes=50) == WorkerPolicy(
        base_dir=str(tmp_path), read_paths=(str(tmp_path / "data"),), memory_max_bytes=50
    )
