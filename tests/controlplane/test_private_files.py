"""What the control plane keeps is its owner's alone, however open the files of its starter are."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no file modes")


@pytest.fixture(autouse=True)
def everything_open() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def modes(root: Path, *names: str) -> dict[str, int]:
    return {name: stat.S_IMODE((root / name).stat().st_mode) for name in names}


async def test_the_data_directory_is_closed_and_each_secret_in_it_too(world, manifest) -> None:
    folders = (".", "ca", "keys")
    async with world.running():
        await world.join()
        await world.apply(manifest())
        root = world.data.root
        keys = [
            path.relative_to(root).as_posix()
            for path in root.rglob("*")
            if path.is_file() and (path.parent.name in ("ca", "keys") or path.suffix == ".token")
        ]
        assert len(keys) >= 5
        assert modes(root, *folders) == dict.fromkeys(folders, 0o700)
        assert modes(root, *keys, "store.db") == dict.fromkeys([*keys, "store.db"], 0o600)
