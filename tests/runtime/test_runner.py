"""The runner on a manual clock: schedules, patience, failures, idle commits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from runner_rig import Rig

from mycelial.runtime.ports import WorkerExit
from mycelial.schemas.desired import Delivery
from mycelial.sdk.errors import Transient


def test_what_does_not_exist_yet_is_waited_for_and_then_read(world):
    table = world.directory / "table"
    spec = world.spec(source={"appears": str(table)})
    rig = Rig(world, spec, actions=[None, None, table.touch])
    assert rig.run() is WorkerExit.DONE
    assert rig.voice.states[:3] == ["retrying"] * 3
    assert rig.voice.statuses[0].error.code == "MYC-TEST-005"
    assert rig.voice.states[-1] == "finished"
    assert world.arrived() == world.made


def test_in_the_foreground_what_does_not_exist_fails_at_once(world):
    spec = world.spec(source={"appears": str(world.directory / "table")})
    rig = Rig(world, spec, is_patient=False)
    rig.run()
    assert rig.voice.states[0] == "failed"
    assert rig.voice.statuses[0].error.code == "MYC-TEST-005"
    assert rig.voice.statuses[0].error.fix == "create it"


def test_another_scope_starts_anew_and_going_back_resumes(world):
    """The journal and the destination keep each identity's own position."""
    spec = world.spec(target={"exactly_once": False})
    for number, scope in enumerate(["a", "b", "a"]):
        Rig(world, replace(spec, scope=scope), attempt=number + 1).run()
    assert world.arrived() == world.made + world.made


@pytest.mark.parametrize(
    ("allowed", "fix"),
    [
        pytest.param((), 'allowLossy: ["value"]', id="named nowhere"),
        pytest.param(("id",), 'allowLossy: ["id", "value"]', id="another is named"),
        pytest.param(("value",), "", id="allowed by name"),
    ],
)
def test_a_lossy_column_passes_only_by_name(world, allowed, fix):
    spec = world.spec(target={"lossy": "value"}, delivery=Delivery(allow_lossy=allowed))
    rig = Rig(world, spec)
    rig.run()
    if not fix:
        assert world.arrived() == world.made
        return
    error = rig.voice.statuses[0].error
    assert error.code == "MYC-RUN-012"
    assert "value: utf8 to float64 (digits)" in error.what
    assert fix in error.fix
    assert not world.target.exists()


class FailsAt:
    """Faults that fail once, at the n-th write."""

    def __init__(self, n):
        self.left = n

    def step(self, name):
        self.left -= name == "write"
        if name == "write" and self.left == 0:
            raise Transient("MYC-TEST-006", "lost")


@pytest.mark.parametrize("n", range(1, 9))
def test_a_failure_between_the_outputs_of_one_batch_loses_none_of_its_rows(world, n):
    """Two outputs of 2 and 3 rows from each batch of 5: a unit of 7 rows would end between."""
    spec = world.spec(transforms=("upper",), delivery=Delivery(unit_rows=7, unit_seconds=60.0))
    Rig(world, spec, actions=[None], faults=FailsAt(n)).run()
    assert world.arrived() == {(i, f"V{i}"): 1 for i in range(1, 51)}
