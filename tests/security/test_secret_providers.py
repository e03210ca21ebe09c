"""Secrets are found on the machine, and their values appear in nothing we print."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import pytest

from mycelial.kernel.errors import MycelialError, NotAllowed, OperationFailed
from mycelial.security.secrets import (
    EnvSecrets,
    FileSecrets,
    FolderSecrets,
    SecretProvider,
    resolve,
)

CANARY = "canary-3f9c"


def private(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    return path


def shown(error: BaseException) -> str:
    problem = error.problem if isinstance(error, MycelialError) else None
    return "".join(traceback.format_exception(error)) + repr(error) + repr(problem)


@pytest.fixture(params=["env", "folder", "toml", "dotenv"])
def provider(request: pytest.FixtureRequest, tmp_path: Path) -> SecretProvider:
    match request.param:
        case "env":
            return EnvSecrets({"MYCELIAL_SECRET_WAREHOUSE_PW": CANARY, "WAREHOUSE_PW": "wrong"})
        case "folder":
            private(tmp_path / "s" / "warehouse-pw", f"{CANARY}\n".encode())
            return FolderSecrets(tmp_path / "s")
        case "toml":
            return FileSecrets(private(tmp_path / "s.toml", f'warehouse-pw = "{CANARY}"'.encode()))
        case _:
            text = f"# ours\n\nexport warehouse-pw='{CANARY}'\nother = x=y \n"
            return FileSecrets(private(tmp_path / "s.env", text.encode()))


def test_value_is_found(provider: SecretProvider) -> None:
    found = resolve("warehouse-pw", [provider])
    assert found.reveal() == CANARY
    assert CANARY not in repr(found) + str(found) + f"{found}"


def test_missing_secret_names_itself_and_the_places(provider: SecretProvider) -> None:
    with pytest.raises(OperationFailed) as caught:
        resolve("other-pw", [provider])
    assert caught.value.code == "MYC-SEC-030"
    assert "'other-pw'" in caught.value.problem.what
    assert provider.describe("other-pw") in caught.value.problem.what
    assert CANARY not in shown(caught.value)


def test_the_first_provider_wins(tmp_path: Path) -> None:
    private(tmp_path / "pw", b"second")
    providers = [EnvSecrets({"MYCELIAL_SECRET_PW": "first"}), FolderSecrets(tmp_path)]
    assert resolve("pw", providers).reveal() == "first"
    assert resolve("pw", providers[1:]).reveal() == "second"


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX")
@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o666])
def test_what_everybody_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    private(tmp_path / "d" / "pw", CANARY.encode(), mode)
    private(tmp_path / "s.toml", f'pw = "{CANARY}"'.encode(), mode)
    for provider in (FolderSecrets(tmp_path / "d"), FileSecrets(tmp_path / "s.toml")):
        with pytest.raises(NotAllowed) as caught:
            resolve("pw", [provider])
        assert caught.value.code == "MYC-SEC-031"
        assert "chmod 600" in caught.value.problem.fix
        assert CANARY not in shown(caught.value)


@pytest.mark.parametrize(
    "ref", ["../pw", "a/../../pw", "/etc/passwd", "", ".pw", "a//b", "a\n", "a/."]
)
def test_a_name_cannot_leave_the_folder(tmp_path: Path, ref: str) -> None:
    private(tmp_path / "pw", CANARY.encode())
    (tmp_path / "d").mkdir()
    with pytest.raises(NotAllowed):
        resolve(ref, [FolderSecrets(tmp_path / "d")])


def test_a_link_cannot_leave_the_folder(tmp_path: Path) -> None:
    outside = private(tmp_path / "outside", CANARY.encode())
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "pw").symlink_to(outside)
    with pytest.raises(OperationFailed):
        resolve("pw", [FolderSecrets(tmp_path / "d")])


def test_links_inside_the_folder_are_how_orchestrators_mount(tmp_path: Path) -> None:
    private(tmp_path / "..data" / "pw", CANARY.encode())
    (tmp_path / "pw").symlink_to(tmp_path / "..data" / "pw")
    assert resolve("pw", [FolderSecrets(tmp_path)]).reveal() == CANARY


@pytest.mark.parametrize(
    ("name", "data"),
    [
        pytest.param("s.toml", f'pw = "{CANARY}'.encode(), id="cut TOML"),
        pytest.param("s.toml", f'[pw]\nx = "{CANARY}"'.encode(), id="table"),
        pytest.param("s.toml", f'pw = "{CANARY}"\nn = 1'.encode(), id="number"),
        pytest.param("s.env", f"pw {CANARY}".encode(), id="no equals sign"),
        pytest.param("s.env", f"pw={CANARY}\xff".encode("latin-1"), id="no UTF-8"),
        pytest.param("s.env", f"pw={CANARY}".encode() + b"x" * 2**20, id="too large"),
    ],
)
def test_an_unreadable_file_is_an_error_that_shows_no_value(
    tmp_path: Path, name: str, data: bytes
) -> None:
    provider = FileSecrets(private(tmp_path / name, data))
    with pytest.raises(OperationFailed) as caught:
        resolve("pw", [provider])
    assert caught.value.code == "MYC-SEC-032"
    assert CANARY not in shown(caught.value)


def test_rotated_value_is_found_without_a_restart(tmp_path: Path) -> None:
    path = private(tmp_path / "s.env", b"pw=old")
    provider = FileSecrets(path)
    assert resolve("pw", [provider]).reveal() == "old"
    path.write_bytes(b"pw=new")
    assert resolve("pw", [provider]).reveal() == "new"


def test_no_provider_says_so() -> None:
    with pytest.raises(OperationFailed) as caught:
        resolve("pw", [])
    assert "no provider" in caught.value.problem.what
