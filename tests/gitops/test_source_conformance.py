"""What every source of manifests promises, whatever stands behind it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mycelial.gitops.base import Commit, ManifestSource
from mycelial.gitops.embedded import EmbeddedSource
from mycelial.gitops.folder import FolderSource
from mycelial.gitops.git import Limits
from mycelial.gitops.remote import Access, RemoteSource
from mycelial.kernel.errors import NotAllowed, OperationFailed

LIMITS = Limits(file_bytes=1000, files=50)


@dataclass
class World:
    source: ManifestSource
    folder: Path  # a worktree to write in
    publish: Any  # makes what is in `folder` the head
    vanish: Any  # makes the source unreachable

    def write(self, files: Mapping[str, str | None]) -> None:
        for name, text in files.items():
            path = self.folder / name
            if text is None:
                path.unlink()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        self.publish()

    def snapshot(self) -> dict[str, str]:
        tree = self.source.tree(self.source.probe(None).revision)
        blobs = self.source.read(tree.files.values())
        return {path: blobs[blob].decode() for path, blob in tree.files.items()}


def _publisher(git: Any, folder: Path) -> Any:
    def publish() -> None:
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--allow-empty", "--message", "change")
        git(folder, "push", "--quiet", "--force", "origin", "HEAD:main")

    return publish


@pytest.fixture(params=["embedded", "remote", "folder"])
def world(request: pytest.FixtureRequest, tmp_path: Path, git: Any) -> Iterator[World]:
    folder = tmp_path / "work"
    if request.param == "folder":
        folder.mkdir()
        source: ManifestSource = FolderSource(folder, limits=LIMITS)
        made = World(source, folder, lambda: None, lambda: folder.rename(tmp_path / "gone"))
    elif request.param == "embedded":
        bare = tmp_path / "embedded.git"
        source = EmbeddedSource(bare, limits=LIMITS)
        git(tmp_path, "clone", "--quiet", str(bare), str(folder))
        made = World(
            source, folder, _publisher(git, folder), lambda: bare.rename(tmp_path / "gone")
        )
    else:
        bare = request.getfixturevalue("upstream")
        git(tmp_path, "clone", "--quiet", str(bare), str(folder))
        source = RemoteSource(
            str(bare),
            cache=tmp_path / "cache",
            access=Access(allow_local=True),
            can_push=True,
            poll_seconds=0.05,
            limits=LIMITS,
        )
        made = World(
            source, folder, _publisher(git, folder), lambda: bare.rename(tmp_path / "gone")
        )
    yield made
    source.close()


def test_manifests_are_read_as_they_are_published(world: World) -> None:
    world.write({"a.yaml": "one: 1\n", "deep/er/b.yml": "two: 2\n", "läden/ö.yaml": "x: é\n"})
    assert world.snapshot() == {
        "a.yaml": "one: 1\n",
        "deep/er/b.yml": "two: 2\n",
        "läden/ö.yaml": "x: é\n",
    }


def test_hidden_folders_and_other_files_are_no_manifests(world: World) -> None:
    world.write(
        {
            "a.yaml": "x: 1\n",
            ".github/workflows/ci.yaml": "on: push\n",
            ".hidden.yaml": "x: 2\n",
            "README.md": "text",
            "a.yaml~": "x: 3\n",
            "sub/#b.yaml#": "x: 4\n",
        }
    )
    assert list(world.snapshot()) == ["a.yaml"]


def test_equal_contents_have_equal_blob_ids_in_every_source(world: World) -> None:
    world.write({"a.yaml": "x: 1\n"})
    tree = world.source.tree(world.source.probe(None).revision)
    blob = hashlib.sha1(b"blob 5\0x: 1\n").hexdigest()
    assert tree.files == {"a.yaml": blob}


def test_probe_tells_whether_something_changed(world: World) -> None:
    world.write({"a.yaml": "x: 1\n"})
    first = world.source.probe(None)
    assert first.changed
    again = world.source.probe(first.revision)
    assert (again.changed, again.rewritten, again.revision) == (False, False, first.revision)
    world.write({"a.yaml": "x: 2\n"})
    later = world.source.probe(first.revision)
    assert (later.changed, later.rewritten) == (True, False)
    assert later.revision != first.revision


def test_a_revision_stays_readable_after_the_next_one(world: World) -> None:
    world.write({"a.yaml": "x: 1\n"})
    old = world.source.probe(None).revision
    world.write({"a.yaml": "x: 2\n"})
    new = world.source.probe(old).revision
    contents = [
        world.source.read(world.source.tree(revision).files.values()) for revision in (old, new)
    ]
    assert [list(found.values()) for found in contents] == [[b"x: 1\n"], [b"x: 2\n"]]


def test_symbolic_link_is_refused_and_makes_the_tree_incomplete(
    world: World, tmp_path: Path
) -> None:
    (tmp_path / "secret.yaml").write_text("password: canary\n")
    (world.folder / "link.yaml").symlink_to(tmp_path / "secret.yaml")
    world.write({"a.yaml": "x: 1\n"})
    tree = world.source.tree(world.source.probe(None).revision)
    assert (tree.complete, list(tree.files)) == (False, ["a.yaml"])
    assert [(p.code, str(p.where)) for p in tree.problems] == [("MYC-GIT-012", "link.yaml")]


def test_too_large_a_manifest_is_a_problem_of_that_file_alone(world: World) -> None:
    world.write({"a.yaml": "x: 1\n", "big.yaml": "#" * 1001})
    tree = world.source.tree(world.source.probe(None).revision)
    assert (tree.complete, list(tree.files)) == (False, ["a.yaml"])
    assert [(p.code, str(p.where)) for p in tree.problems] == [("MYC-GIT-013", "big.yaml")]


def test_too_many_manifests_are_an_error_and_no_tree(world: World) -> None:
    world.write({f"{n}.yaml": f"x: {n}\n" for n in range(LIMITS.files + 1)})
    with pytest.raises(OperationFailed) as caught:
        world.source.tree(world.source.probe(None).revision)
    assert caught.value.code == "MYC-GIT-007"


def test_a_source_that_is_gone_is_an_error_and_no_empty_tree(world: World) -> None:
    world.write({"a.yaml": "x: 1\n"})
    world.source.probe(None)
    world.vanish()
    with pytest.raises(OperationFailed):
        world.source.probe(None)


@pytest.mark.parametrize(
    "revision", ["", "main", "main@HEAD", "main@--all", "folder@0", "x@" + "0" * 40]
)
def test_unknown_revision_is_an_error(world: World, revision: str) -> None:
    with pytest.raises(OperationFailed):
        world.source.tree(revision)


def test_unknown_blob_is_an_error(world: World) -> None:
    with pytest.raises(OperationFailed) as caught:
        world.source.read(["0" * 40])
    assert caught.value.code == "MYC-GIT-009"


def test_a_wake_before_the_wait_is_not_lost(world: World) -> None:
    world.source.probe(None)
    world.source.wake()
    assert world.source.wait(30) is True


def test_wake_from_another_thread_ends_a_wait(world: World) -> None:
    world.source.probe(None)
    results: list[bool] = []
    waiter = threading.Thread(target=lambda: results.append(world.source.wait(30)))
    waiter.start()
    world.source.wake()
    waiter.join(20)
    assert results == [True]


def test_a_change_by_others_ends_a_wait(world: World) -> None:
    world.write({"a.yaml": "x: 1\n"})
    seen = world.source.probe(None).revision
    world.source.wait(0.3)  # a folder starts its watcher with the first wait
    world.write({"a.yaml": "x: 2\n"})
    for _ in range(40):
        if world.source.wait(0.5) and world.source.probe(seen).changed:
            return
    pytest.fail("the change was not noticed")


def test_a_push_into_the_embedded_repository_ends_a_long_wait(tmp_path: Path) -> None:
    source = EmbeddedSource(tmp_path / "repo.git")
    seen = source.probe(None).revision
    pushed = EmbeddedSource(tmp_path / "repo.git")
    pushed.commit(Commit(seen, "Push", "Ada <ada@example.org>", {"a.yaml": b"x: 1\n"}))
    waiter = threading.Thread(target=source.wait, args=(300,), daemon=True)
    waiter.start()
    waiter.join(20)
    assert not waiter.is_alive()


def test_commit_is_written_or_refused(world: World) -> None:
    world.write({"a.yaml": "x: 1\n", "b.yaml": "y: 1\n"})
    head = world.source.probe(None).revision
    change = Commit(head, "Change a\n\nbecause", "Ada <ada@example.org>", {"a.yaml": b"x: 2\n"})
    if not world.source.can_write:
        with pytest.raises(NotAllowed) as caught:
            world.source.commit(change)
        assert caught.value.code == "MYC-GIT-011"
        assert "a.yaml" in caught.value.problem.fix
        return
    revision = world.source.commit(change)
    assert world.source.probe(None).revision == revision
    assert world.snapshot() == {"a.yaml": "x: 2\n", "b.yaml": "y: 1\n"}
    newest = world.source.history(limit=1)[0]
    assert (newest.revision, newest.parents, newest.author, newest.message, newest.paths) == (
        revision,
        (head,),
        "Ada <ada@example.org>",
        "Change a\n\nbecause",
        ("a.yaml",),
    )
