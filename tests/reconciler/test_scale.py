"""What a reconcile of a large fleet costs."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from fleetmodel import daemon, desired, resolve, workflow
from mycelial.reconciler.observed import Fleet, Ledger
from mycelial.reconciler.plan import plan_fleet


@pytest.mark.slow
def test_ten_thousand_unchanged_workflows_cost_less_than_a_second():
    daemons = {d.id: d for d in (daemon(f"d{n}", labels={"role": "till"}) for n in range(1000))}
    needs = ("connector/sqlite", "transform/sql")
    named = [workflow(f"w{n}", daemon=f"d{n % 1000}", requires=needs) for n in range(9_000)]
    every = [workflow("every", every="role=till", requires=needs)]
    state = desired(*named, *every)
    first = plan_fleet(state, Fleet(Ledger(), daemons), 0.0, resolve)
    assert len(first.write.duties) == 10_000
    fleet = Fleet(Ledger().after(first.write), daemons)
    costs = []
    for _ in range(3):
        start = time.process_time()
        again = plan_fleet(state, fleet, 1.0, resolve)
        costs.append(time.process_time() - start)
    assert again.write.is_empty
    assert again.plan.unchanged == 9_001
    assert min(costs) < 1.0


def test_the_reconciler_loads_no_pydantic():
    code = (
        "import sys, mycelial.reconciler.plan, mycelial.reconciler.converge, "
        "mycelial.reconciler.loop, mycelial.reconciler.lease; "
        "sys.exit('pydantic' in sys.modules or 'ruamel' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
