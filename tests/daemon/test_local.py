"""The state directory: durable, checked, quarantined, and honest about a full disk."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mycelial.daemon.local import Accepted, CommandMemory, Identity, LocalState
from mycelial.daemon.lock import exclusive
from mycelial.kernel.clock import ManualClock
from mycelial.kernel.errors import OperationFailed, StateCorrupt
from mycelial.schemas.wire import SignedSet

ACCEPTED = Accepted(SignedSet('{"a": 1}', "sig", "key"), {"uid-1": (3, 7)})
IDENTITY = Identity("id-1", "shop-01", ("https://a",), "sha256:x", {"k": "v"}, {"a": "b"}, 5.0)


@pytest.fixture
def local(tmp_path, events):
    return LocalState(tmp_path / "state", clock=ManualClock(), events=events)


def joined(local):
    local.save("key.pem", b"key")
    local.save_identity(IDENTITY, certificate="cert", ca_bundle="ca")


def test_what_was_saved_comes_back(local):
    joined(local)
    local.save_accepted(ACCEPTED)
    local.save_commands(CommandMemory({"c1": 9.0}))
    assert local.identity() == IDENTITY
    assert local.accepted() == ACCEPTED
    assert local.commands() == CommandMemory({"c1": 9.0})


def test_nothing_there_is_no_error(local):
    assert local.identity() is None
    assert local.accepted() is None
    assert local.commands() == CommandMemory()


def test_private_files_are_private(local):
    joined(local)
    assert local.key_file.stat().st_mode & 0o077 == 0
    assert local.state_dir.stat().st_mode & 0o077 == 0


def flip(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGE = [
    pytest.param(flip, id="bit-flip"),
    pytest.param(lambda data: data[:-1], id="cut"),
    pytest.param(lambda data: b"", id="empty"),
    pytest.param(lambda data: data + b"x", id="longer"),
    pytest.param(lambda data: b"\x00" * len(data), id="zeros"),
    pytest.param(lambda data: data.partition(b"\n")[2], id="no-checksum-line"),
]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["assignments.json", "commands.json", "boot.json"])
def test_damaged_state_that_comes_back_elsewhere_is_set_aside(local, events, name, damage):
    local.save_accepted(ACCEPTED)
    local.save_commands(CommandMemory({"c1": 9.0}))
    local.begin_boot("b1")
    path = local.state_dir / name
    path.write_bytes(damage(path.read_bytes()))
    readers = {
        "assignments.json": local.accepted,
        "commands.json": lambda: local.commands().begun or None,
        "boot.json": lambda: None if local.begin_boot("b2").was_clean else "unclean",
    }
    assert readers[name]() is None
    assert [p.name for p in local.state_dir.glob("*.corrupt-*")] == [f"{name}.corrupt-1700000000"]
    assert events.reasons == ["StateQuarantined"]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["identity.json", "key.pem", "cert.pem", "ca.pem"])
def test_a_damaged_identity_is_a_clear_error(local, name, damage):
    joined(local)
    path = local.state_dir / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StateCorrupt) as caught:
        local.identity()
    assert caught.value.code == "MYC-DAEMON-011"
    assert "join" in caught.value.problem.fix
    (aside,) = local.state_dir.glob(f"{name}.corrupt-*")
    assert local.set_aside(name) == aside.name


@pytest.mark.parametrize("name", ["key.pem", "cert.pem", "ca.pem"])
def test_a_missing_part_of_the_identity_is_a_clear_error(local, name):
    joined(local)
    (local.state_dir / name).unlink()
    with pytest.raises(StateCorrupt) as caught:
        local.identity()
    assert name in caught.value.problem.what


def test_valid_checksum_over_the_wrong_shape_is_set_aside_too(local, events):
    local.save("assignments.json", b'{"signed": 5}')
    assert local.accepted() is None
    assert events.reasons == ["StateQuarantined"]


def test_two_quarantines_in_one_second_keep_both_files(local):
    for _ in range(2):
        (local.state_dir / "assignments.json").write_bytes(b"junk")
        assert local.accepted() is None
    assert len(list(local.state_dir.glob("*.corrupt-*"))) == 2


def test_a_kill_shows_at_the_next_start_and_an_orderly_end_does_not(local):
    first = local.begin_boot("b1")
    assert first.was_clean
    second = local.begin_boot("b2")
    assert not second.was_clean
    local.end_boot(second)
    assert local.begin_boot("b3").was_clean


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE")
def test_a_full_disk_is_named_and_leaves_the_old_state_whole(local):
    local.save_accepted(ACCEPTED)
    code = f"""
import resource, sys
from pathlib import Path
from mycelial.daemon.local import LocalState
from mycelial.kernel.clock import ManualClock
from mycelial.kernel.errors import OperationFailed
from mycelial.kernel.ports import NullEvents
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
local = LocalState(Path({str(local.state_dir)!r}), clock=ManualClock(), events=NullEvents())
try:
    local.save("assignments.json", b"x" * 100000)
except OperationFailed as error:
    print(error.code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "MYC-DAEMON-012\n", done.stderr
    assert local.accepted() == ACCEPTED
    assert not list(local.state_dir.glob(".*.tmp"))


def test_a_lock_held_by_another_process_is_refused_with_its_pid(tmp_path):
    code = f"""
import sys
from pathlib import Path
from mycelial.daemon.lock import exclusive
with exclusive(Path({str(tmp_path)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OperationFailed) as caught, exclusive(tmp_path):
            pass
        assert caught.value.code == "MYC-DAEMON-020"
        assert str(holder.pid) in caught.value.problem.what
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()
    with exclusive(tmp_path):
        pass  # a killed holder holds nothing
