"""What a joined, idle daemon holds in memory: no validators, no parsers, no Arrow."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

FORBIDDEN = (
    "pydantic",
    "ruamel",
    "arro3",
    "adbc_driver",
    "pyarrow",
    "duckdb",
    "git",
    "apscheduler",
)
PSS_MIB_MAX = 45.0

# The real agent, supervisor and link; only the launcher, which forks workers, is left out.
DAEMON = """
import asyncio, gc, json, sys
from pathlib import Path
# Developers have rich, and httpx would load its command line with it; machines do not.
for name in ("rich", "click", "pygments"):
    sys.modules[name] = None
from mycelial.daemon.agent import Agent, Surroundings
from mycelial.daemon.config import load
from mycelial.daemon.inventory import Abilities
from mycelial.kernel.clock import SystemClock
from mycelial.kernel.entropy import system_rng
from mycelial.observability.events import EventHistory
from mycelial.observability.logs import Level, log_to_stderr
from mycelial.observability.metrics import Registry
from mycelial.runtime.supervisor import Supervisor

state_dir, config = Path(sys.argv[1]), load(Path(sys.argv[2]))
clock, rng, meter = SystemClock(), system_rng(), Registry()
log = log_to_stderr(clock, level=Level.INFO)

class NoLauncher:
    def close(self): pass

def supervisor(on_change):
    return Supervisor(launcher=NoLauncher(), state_dir=state_dir, clock=clock, rng=rng, log=log,
                      on_change=on_change)

async def main():
    stop = asyncio.Event()
    around = Surroundings(clock=clock, rng=rng, log=log, meter=meter,
                          events=EventHistory(clock, log, meter=meter), environment={},
                          version="1", abilities=lambda: Abilities(("connector/sqlite",)),
                          supervisor=supervisor)
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, tell)
    loop.call_later(60, stop.set)
    globals()["stop"] = stop
    await Agent(config, state_dir, around).run(stop)

def tell():
    if sys.stdin.readline().strip() == "stop":
        stop.set()
        return
    gc.collect()
    pss = 0
    if sys.platform == "linux":
        rollup = Path("/proc/self/smaps_rollup").read_text()
        pss = int(rollup.split("Pss:")[1].split()[0]) / 1024
    tops = sorted({name.split(".")[0] for name in sys.modules if sys.modules[name] is not None})
    print(json.dumps({"pss": pss, "modules": sorted(sys.modules), "tops": tops}), flush=True)

asyncio.run(main())
"""


@pytest.fixture
def idle(control, machine, make_assignment, tmp_path):
    """Join, take one signed set whose pipeline local policy refuses to start, and look inside."""

    async def scenario():
        await control.start()
        machine.join()
        config = tmp_path / "config.toml"
        config.write_text('[policy]\nconnectors = ["csv"]\n')
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", DAEMON, str(machine.state_dir), str(config),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            await control.publish([make_assignment("orders")])
            await control.until(
                lambda: (
                    control.reports and control.reports[-1]["received_hash"] == control.bundle_hash
                )
            )
            process.stdin.write(b"look\n")
            return json.loads(await process.stdout.readline())
        finally:
            process.stdin.write(b"stop\n")
            await process.wait()
            process.stdin.close()
            await control.stop()

    return asyncio.run(scenario())


def test_an_idle_daemon_loads_no_validator_parser_or_arrow(idle):
    loaded = [name for name in idle["modules"] if name.startswith(FORBIDDEN)]
    assert loaded == []
    assert "cryptography.x509" not in idle["modules"]
    assert "mycelial.client.link" in idle["modules"]


@pytest.mark.skipif(sys.platform != "linux", reason="PSS is Linux's")
def test_an_idle_daemon_fits_its_memory_budget(idle):
    assert 10.0 < idle["pss"] <= PSS_MIB_MAX
