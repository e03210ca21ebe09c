"""Apply is a commit, and rollback a revert of one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycelial.gitops.apply import Editor, ObjectKey, commit_with_retry, new_path, plan_edits, revert
from mycelial.gitops.base import Commit
from mycelial.gitops.embedded import EmbeddedSource
from mycelial.kernel.errors import CheckSaysNo, Conflict, MycelialError, NotAllowed, UsageError

AUTHOR = "Ada <ada@example.org>"


def _documents(data: bytes) -> list[str]:
    return [part.strip("\n") for part in data.decode().split("---\n")]


def _join(documents: list[str]) -> bytes:
    return "\n---\n".join(documents).encode() + b"\n" if documents else b""


def _is(document: str, kind: str, name: str) -> bool:
    return document.split()[:2] == [kind, name]


def _replace(data: bytes, kind: str, name: str, new: str) -> bytes:
    return _join([new.strip() if _is(d, kind, name) else d for d in _documents(data)])


def _remove(data: bytes, kind: str, name: str) -> bytes:
    return _join([d for d in _documents(data) if not _is(d, kind, name)])


EDITOR = Editor(_replace, _remove)  # of a toy language: `Kind name text`, split by ---
FILES = {"all.yaml": b"Workflow a 1\n---\nWorkflow b 1\n", "c.yaml": b"Workflow c 1\n"}
WHERE: dict[ObjectKey, str] = {
    ("Workflow", "a"): "all.yaml",
    ("Workflow", "b"): "all.yaml",
    ("Workflow", "c"): "c.yaml",
}


@pytest.mark.parametrize(
    ("to_set", "to_delete", "expected"),
    [
        pytest.param([], [], {}, id="nothing"),
        pytest.param([("Workflow", "c", "Workflow c 1")], [], {}, id="the same again"),
        pytest.param(
            [("Workflow", "a", "Workflow a 2\n")],
            [],
            {"all.yaml": b"Workflow a 2\n---\nWorkflow b 1\n"},
            id="an object is edited in its file",
        ),
        pytest.param(
            [("Workflow", "a", "Workflow a 2"), ("Workflow", "b", "Workflow b 2")],
            [],
            {"all.yaml": b"Workflow a 2\n---\nWorkflow b 2\n"},
            id="two of one file",
        ),
        pytest.param(
            [("Policy", "p", "Policy p 1")],
            [],
            {"policies/p.yaml": b"Policy p 1\n"},
            id="a new one gets a file",
        ),
        pytest.param(
            [],
            [("Workflow", "a")],
            {"all.yaml": b"Workflow b 1\n"},
            id="deleting one of two",
        ),
        pytest.param([], [("Workflow", "c")], {"c.yaml": None}, id="deleting the last removes"),
        pytest.param(
            [("Workflow", "a", "Workflow a 2")],
            [("Workflow", "b")],
            {"all.yaml": b"Workflow a 2\n"},
            id="set and delete in one file",
        ),
        pytest.param(
            [],
            [("Workflow", "a"), ("Workflow", "b")],
            {"all.yaml": None},
            id="deleting all of a file",
        ),
    ],
)
def test_edits(
    to_set: list[tuple[str, str, str]],
    to_delete: list[ObjectKey],
    expected: dict[str, bytes | None],
) -> None:
    assert plan_edits(FILES, WHERE, to_set=to_set, to_delete=to_delete, editor=EDITOR) == expected


def test_a_new_object_joins_a_file_that_already_has_its_name() -> None:
    files = {"workflows/d.yaml": b"Workflow other 1\n"}
    where = {("Workflow", "other"): "workflows/d.yaml"}
    edits = plan_edits(files, where, to_set=[("Workflow", "d", "Workflow d 1")], editor=EDITOR)
    assert edits == {"workflows/d.yaml": b"Workflow other 1\n---\nWorkflow d 1\n"}


def test_deleting_what_is_nowhere_says_no() -> None:
    with pytest.raises(CheckSaysNo):
        plan_edits(FILES, WHERE, to_set=[], to_delete=[("Workflow", "x")], editor=EDITOR)


def test_naming_an_object_twice_is_a_mistake() -> None:
    named = [("Workflow", "a", "Workflow a 2")]
    with pytest.raises(UsageError):
        plan_edits(FILES, WHERE, to_set=named, to_delete=[("Workflow", "a")], editor=EDITOR)


def test_a_name_cannot_lead_out_of_the_repository() -> None:
    with pytest.raises(NotAllowed):
        new_path("Workflow", "../../x")


@given(st.lists(st.sampled_from("abcd"), unique=True), st.integers(2, 9))
def test_applying_again_changes_nothing(names: list[str], value: int) -> None:
    to_set = [("Workflow", name, f"Workflow {name} {value}") for name in names]
    edits = plan_edits(FILES, WHERE, to_set=to_set, editor=EDITOR)
    files = {**FILES, **{path: data for path, data in edits.items() if data is not None}}
    where = {**WHERE, **{("Workflow", n): new_path("Workflow", n) for n in names if n == "d"}}
    assert plan_edits(files, where, to_set=to_set, editor=EDITOR) == {}


@pytest.fixture
def source(tmp_path: Path) -> EmbeddedSource:
    made = EmbeddedSource(tmp_path / "e.git")
    made.seed({"a.yaml": b"1", "b.yaml": b"1"})
    return made


def put(source: EmbeddedSource, **files: bytes | None) -> str:
    head = source.probe(None).revision
    change = {f"{name}.yaml": data for name, data in files.items()}
    return source.commit(Commit(head, "Change\n\nmore", AUTHOR, change))


def contents(source: EmbeddedSource) -> dict[str, bytes]:
    tree = source.tree(source.probe(None).revision)
    blobs = source.read(tree.files.values())
    return {path: blobs[blob] for path, blob in tree.files.items()}


def test_a_commit_whose_head_moved_is_planned_again_once(source: EmbeddedSource) -> None:
    heads: list[str] = []

    def make(head: str) -> Commit:
        heads.append(head)
        if len(heads) == 1:
            put(source, other=b"x")
        return Commit(head, "mine", AUTHOR, {"mine.yaml": b"1"})

    revision = commit_with_retry(source, make)
    assert (len(set(heads)), source.probe(None).revision) == (2, revision)
    assert {"mine.yaml", "other.yaml"} <= set(contents(source))


def test_a_head_that_keeps_moving_is_a_conflict(source: EmbeddedSource) -> None:
    def make(head: str) -> Commit:
        put(source, other=head.encode())
        return Commit(head, "mine", AUTHOR, {"mine.yaml": b"1"})

    with pytest.raises(Conflict):
        commit_with_retry(source, make)
    assert "mine.yaml" not in contents(source)


def test_nothing_to_change_commits_nothing(source: EmbeddedSource) -> None:
    head = source.probe(None).revision
    assert commit_with_retry(source, lambda _head: None) == head


def test_revert_restores_what_was_before_and_keeps_what_came_after(source: EmbeddedSource) -> None:
    bad = put(source, a=b"bad", b=None, new=b"bad")
    put(source, later=b"good")
    source.commit(revert(source, bad, author=AUTHOR))
    assert contents(source) == {"a.yaml": b"1", "b.yaml": b"1", "later.yaml": b"good"}
    newest = source.history(limit=1)[0]
    assert newest.message == f'Revert "Change"\n\nThis reverts {bad}.'


def test_a_revert_can_be_reverted(source: EmbeddedSource) -> None:
    put(source, a=b"2")
    wanted = contents(source)
    undone = source.commit(revert(source, source.probe(None).revision, author=AUTHOR))
    source.commit(revert(source, undone, author=AUTHOR))
    assert contents(source) == wanted


def test_revert_of_a_file_that_changed_again_is_a_conflict(source: EmbeddedSource) -> None:
    bad = put(source, a=b"bad")
    put(source, a=b"better")
    with pytest.raises(Conflict) as caught:
        revert(source, bad, author=AUTHOR)
    assert (caught.value.code, "a.yaml" in caught.value.problem.what) == ("MYC-GIT-016", True)


@pytest.mark.parametrize("which", ["first", "unknown"])
def test_what_cannot_be_reverted_is_said(source: EmbeddedSource, which: str) -> None:
    first = source.history(limit=99)[-1].revision
    with pytest.raises(MycelialError) as caught:
        revert(source, first if which == "first" else "main@" + "1" * 40, author=AUTHOR)
    assert caught.value.code == {"first": "MYC-GIT-016", "unknown": "MYC-GIT-015"}[which]
