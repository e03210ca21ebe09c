"""Reading and committing without a worktree: exact, atomic, bounded, and leaving nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mycelial.gitops.bare import BareRepo, NewCommit
from mycelial.gitops.base import Commit
from mycelial.gitops.embedded import EmbeddedSource
from mycelial.gitops.git import GitCommand, Limits
from mycelial.kernel.clock import ManualClock
from mycelial.kernel.errors import Conflict, OperationFailed, StateCorrupt

AUTHOR = "Ada <ada@example.org>"


@pytest.fixture
def repo(tmp_path: Path) -> BareRepo:
    return BareRepo.init(tmp_path / "r.git", clock=ManualClock(1_700_000_000))


def commit(repo: BareRepo, files: dict[str, bytes | None], message: str = "m") -> str:
    change = NewCommit(files, AUTHOR, message)
    return repo.commit("main", parent=repo.head("main"), change=change)


def contents(repo: BareRepo, sha: str) -> dict[str, bytes]:
    entries = list(repo.list_tree(sha))
    blobs = repo.read(entry.blob for entry in entries)
    return {entry.path: blobs[entry.blob] for entry in entries}


def test_commit_changes_only_the_files_it_names(repo: BareRepo) -> None:
    commit(repo, {"a.yaml": b"1", "b/c.yaml": b"2", "d.yaml": b"3"})
    sha = commit(repo, {"a.yaml": b"9", "d.yaml": None, "e.yaml": b""})
    assert contents(repo, sha) == {"a.yaml": b"9", "b/c.yaml": b"2", "e.yaml": b""}


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        pytest.param(
            {"a": b"1"}, {"a": None, "a/b.yaml": b"2"}, {"a/b.yaml": b"2"}, id="file to folder"
        ),
        pytest.param(
            {"a/b.yaml": b"1"}, {"a/b.yaml": None, "a": b"2"}, {"a": b"2"}, id="folder to file"
        ),
        pytest.param({"a": b"1"}, {"b": None}, {"a": b"1"}, id="removing what is not there"),
        pytest.param(
            {"a": b"1\r\n"}, {"b": b"\x00\xff"}, {"a": b"1\r\n", "b": b"\x00\xff"}, id="bytes"
        ),
    ],
)
def test_odd_changes(
    repo: BareRepo,
    before: dict[str, bytes],
    change: dict[str, bytes | None],
    after: dict[str, bytes],
) -> None:
    commit(repo, {**before})
    assert contents(repo, commit(repo, change)) == after


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.dictionaries(
        st.sampled_from(["a.yaml", "b/c.yaml", "b/d.yml", "é.yaml"]),
        st.binary(max_size=200),
        min_size=1,
    )
)
def test_what_is_committed_is_read_back(repo: BareRepo, files: dict[str, bytes]) -> None:
    before = contents(repo, head) if (head := repo.head("main")) else {}
    assert contents(repo, commit(repo, {**files})) == {**before, **files}


def test_a_change_that_changes_nothing_makes_no_commit(repo: BareRepo) -> None:
    first = commit(repo, {"a.yaml": b"1"})
    assert commit(repo, {"a.yaml": b"1"}) == first
    assert len(repo.log(first, limit=10)) == 1


def test_commit_on_an_old_head_is_a_conflict(repo: BareRepo) -> None:
    old = commit(repo, {"a.yaml": b"1"})
    new = commit(repo, {"a.yaml": b"2"})
    with pytest.raises(Conflict):
        repo.commit("main", parent=old, change=NewCommit({"a.yaml": b"3"}, AUTHOR, "m"))
    assert repo.head("main") == new


def test_a_branch_that_moved_since_it_was_looked_at_is_not_moved_again(repo: BareRepo) -> None:
    old = commit(repo, {"a.yaml": b"1"})
    mine = repo.build(parent=old, change=NewCommit({"b.yaml": b"1"}, AUTHOR, "mine"))
    theirs = commit(repo, {"a.yaml": b"2"})
    for expected in (old, None):
        with pytest.raises(Conflict):
            repo.move("main", new=mine, old=expected)
    assert repo.head("main") == theirs


def test_of_concurrent_commits_on_one_head_exactly_one_wins(repo: BareRepo) -> None:
    parent = commit(repo, {"a.yaml": b"1"})
    start = threading.Barrier(4)
    outcomes: list[str] = []

    def run(number: int) -> None:
        change = NewCommit({f"{number}.yaml": b"x"}, AUTHOR, "m")
        start.wait()
        try:
            outcomes.append(repo.commit("main", parent=parent, change=change))
        except Conflict:
            outcomes.append("conflict")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [outcome for outcome in outcomes if outcome != "conflict"]
    assert (len(outcomes), winners) == (4, [repo.head("main")])
    repo.verify()


def test_history_tells_author_message_and_paths_newest_first(repo: BareRepo) -> None:
    first = commit(repo, {"a.yaml": b"1"}, "one")
    second = commit(repo, {"a.yaml": None, "b.yaml": b"1"}, "two\n\n:100644 body\x01")
    third = commit(repo, {"c.yaml": b"1"}, "")
    history = repo.log(third, limit=9)
    assert [(i.revision, i.parents, i.message, i.paths) for i in history] == [
        (third, (second,), "", ("c.yaml",)),
        (second, (first,), "two\n\n:100644 body\x01", ("a.yaml", "b.yaml")),
        (first, (), "one", ("a.yaml",)),
    ]
    assert {(i.author, i.committed_at) for i in history} == {(AUTHOR, 1_700_000_000.0)}
    assert [i.revision for i in repo.log(third, limit=9, path="a.yaml")] == [second, first]
    assert [i.revision for i in repo.log(third, limit=1)] == [third]


def test_ancestry(repo: BareRepo) -> None:
    first = commit(repo, {"a.yaml": b"1"})
    second = commit(repo, {"a.yaml": b"2"})
    assert [
        repo.is_ancestor(first, second),
        repo.is_ancestor(second, first),
        repo.is_ancestor("1" * 40, second),
    ] == [True, False, False]


def test_damaged_object_is_an_error_and_no_empty_result(repo: BareRepo) -> None:
    sha = commit(repo, {"a.yaml": b"some text", "b.yaml": b"other"})
    entry = next(entry for entry in repo.list_tree(sha) if entry.path == "a.yaml")
    path = repo.directory / "objects" / entry.blob[:2] / entry.blob[2:]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(OperationFailed) as caught:
        repo.read([entry.blob])
    assert caught.value.code == "MYC-GIT-009"
    with pytest.raises(StateCorrupt):
        repo.verify()


def test_missing_tree_is_an_error_and_no_empty_tree(repo: BareRepo) -> None:
    sha = commit(repo, {"a.yaml": b"some text"})
    tree = subprocess.check_output(
        ["git", "--git-dir", str(repo.directory), "rev-parse", f"{sha}^{{tree}}"], text=True
    ).strip()
    (repo.directory / "objects" / tree[:2] / tree[2:]).unlink()
    with pytest.raises(OperationFailed) as caught:
        list(repo.list_tree(sha))
    assert caught.value.code == "MYC-GIT-009"


def test_truncated_pack_is_an_error(repo: BareRepo) -> None:
    sha = commit(repo, {f"{n}.yaml": os.urandom(200) for n in range(200)})
    pack = next((repo.directory / "objects" / "pack").glob("*.pack"))
    pack.chmod(0o644)
    pack.write_bytes(pack.read_bytes()[: pack.stat().st_size // 2])
    with pytest.raises(OperationFailed) as caught:
        contents(repo, sha)
    assert caught.value.code == "MYC-GIT-009"


def test_embedded_repository_whose_branch_is_lost_is_not_made_anew(tmp_path: Path) -> None:
    source = EmbeddedSource(tmp_path / "e.git")
    assert source.seed({"a.yaml": b"x: 1\n"}) is not None
    (tmp_path / "e.git" / "refs" / "heads" / "main").unlink()
    with pytest.raises(OperationFailed) as caught:
        EmbeddedSource(tmp_path / "e.git").probe(None)
    assert caught.value.code == "MYC-GIT-008"


def test_embedded_repository_that_is_damaged_is_not_made_anew(tmp_path: Path) -> None:
    EmbeddedSource(tmp_path / "e.git")
    (tmp_path / "e.git" / "HEAD").unlink()
    with pytest.raises(StateCorrupt):
        EmbeddedSource(tmp_path / "e.git")


def test_seed_imports_once(tmp_path: Path) -> None:
    source = EmbeddedSource(tmp_path / "e.git")
    first = source.seed({"a.yaml": b"x: 1\n"})
    assert first is not None
    assert EmbeddedSource(tmp_path / "e.git").seed({"b.yaml": b"x: 1\n"}) is None
    assert list(source.tree(first).files) == ["a.yaml"]


_KILLED = """
import sys
from pathlib import Path
from mycelial.gitops.embedded import EmbeddedSource
from mycelial.gitops.base import Commit
source = EmbeddedSource(Path(sys.argv[1]))
head = source.probe(None).revision
print("ready", flush=True)
for n in range(10_000):
    head = source.commit(Commit(head, "m", files={f"{n % 7}.yaml": b"%d" % n}))
    print(head, flush=True)
"""


@pytest.mark.parametrize("after", [1, 2, 3])
def test_killed_in_the_middle_of_commits_the_repository_is_whole(
    tmp_path: Path, after: int
) -> None:
    path = tmp_path / "e.git"
    child = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    lines = [child.stdout.readline().strip() for _ in range(after + 1)]
    child.send_signal(signal.SIGKILL)
    lines += child.stdout.read().split()
    child.wait()
    child.stdout.close()
    source = EmbeddedSource(path)
    head = source.probe(None).revision
    BareRepo.open(path).verify()
    # What was answered is there; one more commit may have landed without its answer.
    assert lines[-1] in [info.revision for info in source.history(limit=2)]
    assert source.commit(Commit(head, "on", files={"z.yaml": b"1"})) != head


@pytest.mark.slow
def test_two_hundred_commits_leave_no_process_and_no_descriptor(tmp_path: Path) -> None:
    source = EmbeddedSource(tmp_path / "e.git")
    me = psutil.Process()

    def step(number: int) -> None:
        head = source.probe(None).revision
        source.commit(Commit(head, "m", files={"a.yaml": b"%d" % number}))
        tree = source.tree(source.probe(head).revision)
        source.read(tree.files.values())

    step(0)
    before = (me.num_fds(), me.children(), threading.active_count())
    for number in range(1, 201):
        step(number)
    assert (me.num_fds(), me.children(), threading.active_count()) == before
    assert [
        path.name for path in (tmp_path / "e.git").iterdir() if path.name.startswith("index")
    ] == []


def test_ten_thousand_blobs_are_read_in_two_seconds(repo: BareRepo) -> None:
    sha = commit(repo, {f"m/{n}.yaml": b"x" * 800 + b"%d" % n for n in range(10_000)})
    begin = time.perf_counter()
    assert len(contents(repo, sha)) == 10_000
    assert time.perf_counter() - begin < 2


def test_output_beyond_the_limit_ends_the_command(repo: BareRepo) -> None:
    sha = commit(repo, {f"{n}.yaml": b"x" for n in range(100)})
    command = GitCommand(repo.directory)
    with pytest.raises(OperationFailed) as caught:
        command.run("ls-tree", "-r", sha, output_max=100)
    assert caught.value.code == "MYC-GIT-007"


def test_blob_beyond_the_limit_is_not_read(tmp_path: Path, repo: BareRepo) -> None:
    sha = commit(repo, {"a.yaml": b"x" * 101})
    small = BareRepo.open(repo.directory, limits=Limits(file_bytes=100))
    with pytest.raises(OperationFailed) as caught:
        contents(small, sha)
    assert caught.value.code == "MYC-GIT-007"


def test_packing_keeps_everything_readable(tmp_path: Path) -> None:
    source = EmbeddedSource(tmp_path / "e.git")
    revision = source.seed({f"{n}.yaml": b"%d" % n for n in range(20)})
    assert revision is not None
    source.maintain()
    assert len(source.read(source.tree(revision).files.values())) == 20


def test_what_a_power_cut_left_does_not_block_the_next_commit(tmp_path: Path) -> None:
    path = tmp_path / "e.git"
    source = EmbeddedSource(path)
    left = [
        path / "refs" / "heads" / "main.lock",
        path / "packed-refs.lock",
        path / "index-dead" / "index",
        path / "objects" / "pack" / "tmp_pack_dead",
    ]
    for file in left:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"")
    head = source.probe(None).revision
    with pytest.raises(Conflict):  # the lock may still be somebody's
        source.commit(Commit(head, "m", files={"a.yaml": b"1"}))
    for file in (*left, path / "index-dead"):
        os.utime(file, (1, 1))
    source.commit(Commit(head, "m", files={"a.yaml": b"1"}))
    assert [file for file in left if file.exists()] == []
