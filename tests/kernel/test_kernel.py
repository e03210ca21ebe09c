"""The words every room speaks keep their promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycelial.kernel.canonical import canonical_json, digest
from mycelial.kernel.clock import ManualClock, rfc3339
from mycelial.kernel.entropy import new_uuid7
from mycelial.kernel.errors import InvalidManifest, Location, Problem, Severity
from mycelial.kernel.files import write_durable
from mycelial.kernel.secret import Secret

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON)
def test_canonical_json_reads_back_as_the_same_value(value: object) -> None:
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text(), st.integers(-9, 9)))
def test_a_digest_does_not_depend_on_the_order_of_keys(value: dict[str, int]) -> None:
    assert digest(dict(reversed(value.items()))) == digest(value)


def test_nan_has_no_canonical_form() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


@pytest.mark.parametrize(
    "show", [repr, str, "{}".format, "{!r:>40}".format], ids=["repr", "str", "format", "padded"]
)
def test_a_secret_never_shows_its_value(show: object) -> None:
    assert "hunter2" not in show(Secret("hunter2"))  # type: ignore[operator]


def test_a_secret_masks_itself_in_a_drivers_message() -> None:
    assert Secret("hunter2").scrub("auth failed for hunter2") == "auth failed for (secret)"


def test_an_invalid_manifest_carries_every_problem_and_prints_the_first_error() -> None:
    warning = Problem("MYC-X-001", "odd", severity=Severity.WARNING)
    error = Problem("MYC-X-002", "wrong", where=Location("a.yaml", 3, 7))
    raised = InvalidManifest([warning, error])
    assert (raised.code, raised.problems) == ("MYC-X-002", (warning, error))


def test_a_problem_survives_the_wire() -> None:
    problem = Problem(
        "MYC-X-001",
        "wrong",
        "mend",
        Location("a.yaml", 3, 7),
        path="spec.x",
        subject="Workflow/a",
        frame=((2, "a"), (3, "b")),
    )
    assert Problem.from_json(json.loads(json.dumps(problem.to_json()))) == problem


def test_a_durable_write_replaces_the_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "state"
    write_durable(target, b"old old old")
    write_durable(target, b"new")
    assert target.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


@pytest.mark.skipif(os.name == "nt", reason="no RLIMIT_FSIZE on Windows")
def test_a_durable_write_that_fails_leaves_the_old_content_and_no_litter(tmp_path: Path) -> None:
    write_durable(tmp_path / "state", b"old")
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from mycelial.kernel.files import write_durable\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_durable(Path(sys.argv[1]), b'x' * 5000)\n"
        "except OSError as error: print(error.errno)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "state")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "27"  # EFBIG
    assert [p.name for p in tmp_path.iterdir()] == ["state"]
    assert (tmp_path / "state").read_bytes() == b"old"


def test_what_a_killed_writer_left_is_removed_by_the_next_and_a_living_ones_is_not(
    tmp_path: Path,
) -> None:
    script = (
        "import os, sys; from pathlib import Path\n"
        "from mycelial.kernel.files import write_durable\n"
        "os.fsync = lambda _fd: os._exit(9)\n"
        "write_durable(Path(sys.argv[1]), b'half')\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "state")], check=False)
    assert killed.returncode == 9
    assert [p.suffix for p in tmp_path.iterdir()] == [".tmp"]
    held = (tmp_path / f".state.{os.getppid()}.tmp").open("wb")
    (tmp_path / ".state.backup.tmp").touch()

    with held:
        write_durable(tmp_path / "state", b"new")
        names = sorted(p.name for p in tmp_path.iterdir())

    assert names == [f".state.{os.getppid()}.tmp", ".state.backup.tmp", "state"]
    assert (tmp_path / "state").read_bytes() == b"new"


def test_uuids_sort_by_time_and_carry_their_version() -> None:
    early, late = new_uuid7(1_000.0), new_uuid7(2_000.0)
    assert early < late
    assert (early[14], late[19] in "89ab") == ("7", True)


def test_a_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(0.0)
    clock.sleep(2.5)
    assert (clock.monotonic(), rfc3339(clock.now())) == (2.5, "1970-01-01T00:00:02.500Z")
