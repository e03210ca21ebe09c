"""A repository elsewhere: rewritten, emptied, away, or pushed to by others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mycelial.gitops.base import Commit
from mycelial.gitops.remote import Access, RemoteSource
from mycelial.kernel.clock import ManualClock
from mycelial.kernel.errors import Conflict, NotAllowed, OperationFailed

LOCAL = Access(allow_local=True)


@pytest.fixture
def work(tmp_path: Path, git: Any, upstream: Path) -> Path:
    path = tmp_path / "work"
    git(tmp_path, "clone", "--quiet", str(upstream), str(path))
    return path


def push(git: Any, work: Path, text: str, *options: str) -> str:
    (work / "a.yaml").write_text(text)
    git(work, "add", "a.yaml")
    git(work, "commit", "--quiet", "--message", text, *options)
    git(work, "push", "--quiet", "--force", "origin", "HEAD:main")
    return str(git(work, "rev-parse", "HEAD"))


@pytest.fixture
def source(tmp_path: Path, upstream: Path) -> RemoteSource:
    return RemoteSource(str(upstream), cache=tmp_path / "cache", access=LOCAL, can_push=True)


def test_rewritten_history_is_told(git: Any, work: Path, source: RemoteSource) -> None:
    push(git, work, "x: 1")
    old = source.probe(None).revision
    new = push(git, work, "x: 2", "--amend")
    change = source.probe(old)
    assert (change.revision, change.changed, change.rewritten) == (f"main@{new}", True, True)
    assert list(source.read(source.tree(old).files.values()).values()) == [b"x: 1"]


def test_lost_cache_is_fetched_anew_and_history_is_not_taken_for_rewritten(
    tmp_path: Path, git: Any, work: Path, source: RemoteSource, upstream: Path
) -> None:
    push(git, work, "x: 1")
    old = source.probe(None).revision
    push(git, work, "x: 2")
    fresh = RemoteSource(str(upstream), cache=tmp_path / "other", access=LOCAL)
    change = fresh.probe(old)
    assert (change.changed, change.rewritten) == (True, False)


def test_deleted_branch_is_an_error_and_the_last_state_stays(
    git: Any, work: Path, source: RemoteSource, upstream: Path
) -> None:
    push(git, work, "x: 1")
    revision = source.probe(None).revision
    git(upstream, "update-ref", "-d", "refs/heads/main")
    with pytest.raises(OperationFailed) as caught:
        source.probe(revision)
    assert caught.value.code == "MYC-GIT-008"
    assert list(source.tree(revision).files) == ["a.yaml"]


def test_emptied_repository_is_an_error(
    tmp_path: Path, git: Any, work: Path, source: RemoteSource, upstream: Path
) -> None:
    push(git, work, "x: 1")
    revision = source.probe(None).revision
    upstream.rename(tmp_path / "old.git")
    git(tmp_path, "init", "--quiet", "--bare", str(upstream))
    with pytest.raises(OperationFailed) as caught:
        source.probe(revision)
    assert caught.value.code == "MYC-GIT-008"


def test_outage_is_an_error_and_passes(
    tmp_path: Path, git: Any, work: Path, source: RemoteSource, upstream: Path
) -> None:
    push(git, work, "x: 1")
    revision = source.probe(None).revision
    upstream.rename(tmp_path / "away.git")
    with pytest.raises(OperationFailed) as caught:
        source.probe(revision)
    assert (caught.value.code, str(upstream) in caught.value.problem.what) == ("MYC-GIT-005", True)
    (tmp_path / "away.git").rename(upstream)
    assert source.probe(revision).changed is False


def test_damaged_upstream_is_an_error(
    git: Any, work: Path, source: RemoteSource, upstream: Path
) -> None:
    push(git, work, "x: 1")
    blob = git(work, "rev-parse", "HEAD:a.yaml")
    path = upstream / "objects" / blob[:2] / blob[2:]
    path.chmod(0o644)
    path.write_bytes(b"")
    with pytest.raises(OperationFailed):
        source.probe(None)


def test_commit_meets_a_push_by_somebody_else(git: Any, work: Path, source: RemoteSource) -> None:
    push(git, work, "x: 1")
    head = source.probe(None).revision
    theirs = push(git, work, "x: 2")
    with pytest.raises(Conflict) as caught:
        source.commit(Commit(head, "mine", files={"b.yaml": b"y: 1"}))
    assert caught.value.code == "MYC-GIT-010"
    assert source.probe(None).revision == f"main@{theirs}"


def test_commit_arrives_upstream(git: Any, source: RemoteSource, upstream: Path) -> None:
    head = source.probe(None).revision
    revision = source.commit(Commit(head, "mine", files={"b.yaml": b"y: 1"}))
    assert f"main@{git(upstream, 'rev-parse', 'main')}" == revision
    assert git(upstream, "show", "main:b.yaml") == "y: 1"


def test_a_push_that_the_remote_refuses_is_not_allowed(
    source: RemoteSource, upstream: Path
) -> None:
    hook = upstream / "hooks" / "update"
    hook.write_text("#!/bin/sh\necho main is protected >&2\nexit 1\n")
    hook.chmod(0o755)
    head = source.probe(None).revision
    with pytest.raises(NotAllowed) as caught:
        source.commit(Commit(head, "mine", files={"b.yaml": b"y: 1"}))
    assert "main is protected" in caught.value.problem.what
    assert source.probe(None).revision == head


def test_without_the_right_to_push_the_commands_are_told(tmp_path: Path, upstream: Path) -> None:
    source = RemoteSource(str(upstream), cache=tmp_path / "c", access=LOCAL)
    head = source.probe(None).revision
    change = Commit(head, "Add it's file", files={"b c.yaml": b"y: 1"})
    with pytest.raises(NotAllowed) as caught:
        source.commit(change)
    fix = caught.value.problem.fix
    assert caught.value.code == "MYC-GIT-011"
    assert f"git clone --branch main {upstream} manifests" in fix
    assert "git add --all -- 'b c.yaml'" in fix
    assert "git push origin HEAD:main" in fix


def test_wait_returns_when_the_next_poll_is_due(tmp_path: Path, upstream: Path) -> None:
    clock = ManualClock()
    source = RemoteSource(
        str(upstream), cache=tmp_path / "c", access=LOCAL, poll_seconds=30, clock=clock
    )
    source.probe(None)
    assert source.wait(0.01) is False
    clock.advance(30)
    assert source.wait(0.01) is True
