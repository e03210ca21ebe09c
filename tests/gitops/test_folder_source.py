"""A folder as a source: what cannot be read is told, and deletes nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mycelial.gitops.folder import FolderSource


def tree_of(folder: Path):  # type: ignore[no-untyped-def]
    source = FolderSource(folder)
    return source.tree(source.probe(None).revision)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_regular_file_is_a_problem_and_blocks_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "a.yaml").write_text("x: 1\n")
    tree = tree_of(tmp_path)
    assert (list(tree.files), tree.complete) == (["a.yaml"], False)
    assert [(p.code, str(p.where)) for p in tree.problems] == [("MYC-GIT-014", "pipe.yaml")]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
@pytest.mark.parametrize("name", ["locked.yaml", "locked"])
def test_unreadable_file_or_folder_makes_the_tree_incomplete(tmp_path: Path, name: str) -> None:
    locked = tmp_path / name
    locked.mkdir() if name == "locked" else locked.write_text("x: 1\n")
    locked.chmod(0)
    try:
        tree = tree_of(tmp_path)
    finally:
        locked.chmod(0o700)
    assert (tree.complete, [p.code for p in tree.problems]) == (False, ["MYC-GIT-014"])


def test_a_file_that_fails_to_open_makes_the_tree_incomplete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text("x: 1\n")
    real = os.open

    def refuse(path: object, *rest: object) -> int:
        if str(path).endswith("a.yaml"):
            raise PermissionError(13, "Permission denied")
        return real(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse)
    tree = tree_of(tmp_path)
    assert (dict(tree.files), tree.complete) == ({}, False)
    assert [p.what for p in tree.problems] == ["cannot be read: Permission denied"]


def test_linked_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x.yaml").write_text("x: 1\n")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "inside").symlink_to(tmp_path / "outside")
    tree = tree_of(tmp_path / "root")
    assert (dict(tree.files), tree.complete) == ({}, False)


def test_the_same_contents_are_the_same_revision(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.yaml").write_text("x: 1\n")
    os.utime(tmp_path / "two" / "a.yaml", (1, 1))
    assert tree_of(tmp_path / "one").revision == tree_of(tmp_path / "two").revision


def test_closing_ends_the_watch(tmp_path: Path) -> None:
    source = FolderSource(tmp_path)
    source.wait(0.2)
    source.close()
    assert source._watcher is not None
    assert not source._watcher.is_alive()
