"""Makes the helper modules beside these tests importable, by them and by worker processes."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from runtime_fakes import Harness, World, worker_argv, zygote_argv

from mycelial.runtime import zygote
from mycelial.runtime.spawn import SpawnLauncher


@pytest.fixture
def world(tmp_path):
    """A source with 50 rows, an empty destination."""
    return World(tmp_path)


@pytest.fixture(scope="session")
def shared_harness(tmp_path_factory):
    harness = Harness(tmp_path_factory.mktemp("faults") / "sock")
    yield harness
    harness.close()


@pytest.fixture
def harness(shared_harness):
    """Kills or holds the workers of `launcher` at a named step."""
    shared_harness.reset()
    return shared_harness


def _launcher(environment=None):
    if zygote.is_supported():  # a fork takes milliseconds, a fresh interpreter half a second
        return zygote.ZygoteLauncher(zygote_argv(), environment=environment)
    return SpawnLauncher(worker_argv(), environment=environment)


@pytest.fixture(scope="session")
def launcher():
    """Starts workers that know the fakes."""
    made = _launcher()
    yield made
    made.close()


@pytest.fixture(scope="session")
def held_launcher(shared_harness):
    """The same, and each asks the harness at every step."""
    made = _launcher(shared_harness.environment)
    yield made
    made.close()
