# ruff: noqa: E501 - rows of a table stay on one line
"""What the csv source reads exactly, and what it refuses with file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mycelial.sdk.envelope import Part, Position
from mycelial.sdk.errors import Permanent
from mycelial.sdk.plugin import Limits
from mycelial.sdk.registry import Registry
from mycelial.sdk.settings import Settings
from mycelial.sdk.testing import MemoryContext, Row, rows_of

LOADER = Registry.discover_only(["csv"]).loader("csv", "source")


def source(**manifest: Any) -> Any:
    config = LOADER.config().model_validate(manifest).model_dump(mode="json")
    return LOADER.build(Settings(config))


def read(root: Path, resume: Position | None = None, **manifest: Any) -> tuple[list[Row], Position]:
    made = source(**{"path": "in/*.csv"} | manifest)
    made.open(MemoryContext(root, limits=Limits(batch_rows=4)))
    try:
        found = list(made.read(Part("0"), resume))
    finally:
        made.close()
    return rows_of(e.batch for e in found if e.batch is not None), found[-1].end


def put(root: Path, data: bytes, name: str = "a.csv") -> None:
    (root / "in").mkdir(exist_ok=True)
    (root / "in" / name).write_bytes(data)


@pytest.mark.parametrize(
    ("data", "options", "expected"),
    [
        pytest.param(b'a,b\n,""\n', {}, [(None, "")], id="null-is-not-empty-text"),
        pytest.param(b'a,b\n"x ""y""","p,q"\n', {}, [('x "y"', "p,q")], id="doubled-quotes"),
        pytest.param(b'a,b\n"l1\nl2",x\r\n1,2\r\n', {}, [("l1\nl2", "x"), ("1", "2")], id="newline-crlf"),
        pytest.param(b'a,b\n"""",""""""\n', {}, [('"', '""')], id="only-quotes"),
        pytest.param(b"\xef\xbb\xbfa,b\n1,2\n", {}, [("1", "2")], id="byte-order-mark"),
        pytest.param(b"a,b\n1,2", {}, [("1", "2")], id="no-final-newline"),
        pytest.param(b"a,b\n\n1,2\n\n", {}, [("1", "2")], id="blank-lines"),
        pytest.param(b"a,b\n007,+1\n", {}, [("007", "+1")], id="undeclared-is-text"),
        pytest.param(b"a;b\n1,5;'x;y'\n", {"delimiter": ";", "quote": "'"}, [("1,5", "x;y")], id="dialect"),
        pytest.param(b"a,b\n\xe9,1\n", {"encoding": "latin-1"}, [("é", "1")], id="latin-1"),
        pytest.param(b"a,b\nNULL,\n", {"null": "NULL"}, [(None, "")], id="null-text"),
        pytest.param(b"1,2\n", {"header": False, "columns": {"x": "int64", "y": "text"}}, [(1, "2")], id="no-header"),
        pytest.param(b'a,b\n"5",x\n"",y\n', {"columns": {"a": "int64"}}, [(5, "x"), (None, "y")], id="quoted-number"),
        pytest.param(b"a\n123456789012345678901\n", {}, [("123456789012345678901",)], id="21-digits"),
    ],
)  # fmt: skip
def test_reads_exactly(data: bytes, options: Any, expected: list[Row], tmp_path: Path) -> None:
    put(tmp_path, data)
    assert read(tmp_path, **options)[0] == expected


@pytest.mark.parametrize(
    ("data", "options", "code", "line"),
    [
        pytest.param(b'a,b\n1,2\n3,"x\n4,5\n', {}, "MYC-CSV-002", 3, id="never-closed"),
        pytest.param(b'a,b\n1,2\n3,x"y\n4,z"w\n', {}, "MYC-CSV-002", 3, id="stray-quotes"),
        pytest.param(b'a,b\n1,"x"y\n', {}, "MYC-CSV-002", 2, id="text-after-quote"),
        pytest.param(b"a,b\n1,2\n3\n", {}, "MYC-CSV-004", 3, id="short-row"),
        pytest.param(b"a,b\n1,2\n3,4,5\n", {}, "MYC-CSV-004", 3, id="long-row"),
        pytest.param(b"a,b\n1,2\n\xe9,4\n", {}, "MYC-CSV-001", 3, id="not-utf8"),
        pytest.param(b"a,b\n1,2\r3,4\n", {}, "MYC-CSV-003", 2, id="bare-cr"),
        pytest.param(b'a,b\n"1\n1",2\nx,4\n', {"columns": {"b": "date32"}}, "MYC-CSV-005", 2, id="bad-date"),
        pytest.param(b"a,b\n1,2\n3,4\n5,hunter2\n", {"columns": {"b": "int64"}}, "MYC-CSV-005", 4, id="bad-int"),
        pytest.param(b"a,b\n1,1.005\n", {"columns": {"b": "decimal128(9, 2)"}}, "MYC-CSV-005", 2, id="decimal-digits"),
        pytest.param(b"a,a\n1,2\n", {}, "MYC-CSV-008", 1, id="header-twice"),
    ],
)  # fmt: skip
def test_refuses_with_file_and_line(
    data: bytes, options: Any, code: str, line: int, tmp_path: Path
) -> None:
    put(tmp_path, data)
    with pytest.raises(Permanent) as caught:
        read(tmp_path, **options)
    assert caught.value.problem.code == code
    assert f"a.csv:{line}:" in caught.value.problem.what
    assert "hunter2" not in caught.value.problem.what


def test_files_that_arrive_later_are_read_whatever_their_name(tmp_path: Path) -> None:
    put(tmp_path, b"a\n1\n", "m.csv")
    _, end = read(tmp_path)
    put(tmp_path, b"a\n2\n", "b.csv")
    put(tmp_path, b"a\n3\n", "z.csv")
    rows, end = read(tmp_path, end)
    assert rows == [("2",), ("3",)]
    assert read(tmp_path, end)[0] == []


def test_a_file_that_changed_after_it_was_read_stops_the_source(tmp_path: Path) -> None:
    put(tmp_path, b"a\n1\n")
    _, end = read(tmp_path)
    put(tmp_path, b"a\n1\n2\n")
    with pytest.raises(Permanent) as caught:
        read(tmp_path, end)
    assert caught.value.problem.code == "MYC-FILE-012"


def test_follow_reads_whole_lines_of_a_growing_file_once(tmp_path: Path) -> None:
    put(tmp_path, b"a,b\n1,x\n2,")
    rows, end = read(tmp_path, follow=True)
    assert rows == [("1", "x")]
    put(tmp_path, b"a,b\n1,x\n2,y\n3")
    rows, end = read(tmp_path, end, follow=True)
    assert rows == [("2", "y")]
    put(tmp_path, b"a,b\n1,x\n2,y\n3,z\n")
    rows, end = read(tmp_path, end, follow=True)
    assert rows == [("3", "z")]
    assert read(tmp_path, end, follow=True)[0] == []


@pytest.mark.parametrize("on_read", ["delete", "moveToDone"])
def test_files_go_only_when_their_rows_are_durable(on_read: str, tmp_path: Path) -> None:
    put(tmp_path, b"a\n1\n")
    made = source(path="in/*.csv", onRead=on_read)
    made.open(MemoryContext(tmp_path))
    found = list(made.read(Part("0"), None))
    assert (tmp_path / "in" / "a.csv").exists()
    made.durable(Part("0"), found[0].end)
    assert (tmp_path / "in" / "a.csv").exists(), "its last envelope was not committed yet"
    made.durable(Part("0"), found[-1].end)
    made.close()
    assert not (tmp_path / "in" / "a.csv").exists()
    assert (tmp_path / "in" / "done" / "a.csv").exists() == (on_read == "moveToDone")


def test_moved_files_never_overwrite_each_other(tmp_path: Path) -> None:
    end = None
    for value in (b"1", b"2"):
        put(tmp_path, b"a\n" + value + b"\n")
        rows, end = read(tmp_path, end, onRead="moveToDone")
        assert rows == [(value.decode(),)]
        read(tmp_path, end, onRead="moveToDone")  # the start of a run settles what is durable
    assert len(list((tmp_path / "in" / "done").iterdir())) == 2


def test_inferred_types_are_shown_and_held(tmp_path: Path) -> None:
    put(tmp_path, b"id,zip,at,x\n1,007,2026-01-31 10:00:00,\n2,123,2026-01-31 10:00:01,1.5\n")
    rows, end = read(tmp_path, infer=True)
    assert [row[:2] for row in rows] == [(1, "007"), (2, "123")]
    plan = source(path="in/*.csv", infer=True).plan(MemoryContext(tmp_path))
    assert "zip: utf8" in " ".join(plan.notes)
    put(tmp_path, b"id,zip,at,x\nnot-a-number,1,2026-01-31 10:00:00,\n", "b.csv")
    with pytest.raises(Permanent) as caught:
        read(tmp_path, end, infer=True)
    assert caught.value.problem.code == "MYC-CSV-005"


def test_another_header_is_refused(tmp_path: Path) -> None:
    put(tmp_path, b"a,b\n1,2\n")
    put(tmp_path, b"a,c\n1,2\n", "b.csv")
    with pytest.raises(Permanent) as caught:
        read(tmp_path)
    assert caught.value.problem.code == "MYC-CSV-007"


def test_a_misspelt_declared_column_gets_a_suggestion(tmp_path: Path) -> None:
    put(tmp_path, b"amount,b\n1,2\n")
    with pytest.raises(Permanent) as caught:
        read(tmp_path, columns={"amuont": "int64"})
    assert 'did you mean "amount"' in caught.value.problem.fix
