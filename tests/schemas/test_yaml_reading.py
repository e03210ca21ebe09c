"""Bytes to values and places: YAML 1.2 core, bounded, never raising."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mycelial.schemas.yaml as reader
from mycelial.schemas.locate import place
from mycelial.schemas.parse import guess_object, parse_file
from mycelial.schemas.yaml import read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("on", "on", id="on"),
        pytest.param("no", "no", id="no"),
        pytest.param("yes", "yes", id="yes"),
        pytest.param("12:30", "12:30", id="sexagesimal"),
        pytest.param("0777", "0777", id="leading zero"),
        pytest.param("2026-01-31", "2026-01-31", id="date"),
        pytest.param("1_000", "1_000", id="underscore"),
        pytest.param("true", True, id="true"),
        pytest.param("FALSE", False, id="FALSE"),
        pytest.param("tRUE", "tRUE", id="odd case"),
        pytest.param("~", None, id="tilde"),
        pytest.param("", None, id="nothing"),
        pytest.param("-12", -12, id="int"),
        pytest.param("0o17", 15, id="octal"),
        pytest.param("0x1F", 31, id="hex"),
        pytest.param("1e3", 1000.0, id="exponent"),
        pytest.param(".5", 0.5, id="bare fraction"),
        pytest.param("'1'", "1", id="quoted"),
        pytest.param("!!str 1", "1", id="core tag str"),
        pytest.param("!!float 1", 1.0, id="core tag float"),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    stream = read_yaml("f", f"a: {text}\n".encode())
    assert stream.problems == ()
    assert stream.documents[0].value == {"a": value}
    assert type(stream.documents[0].value["a"]) is type(value)


_LOL = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    ("data", "code", "line", "column"),
    [
        pytest.param(b"a: [1,\n", "MYC-YAML-001", 2, 1, id="syntax"),
        pytest.param(b"a: b: c", "MYC-YAML-001", 1, 5, id="colon in a value"),
        pytest.param(b"a:\n\tb: 1", "MYC-YAML-001", 2, 1, id="tab"),
        pytest.param(b"ab: \xff\xfe", "MYC-YAML-002", 1, 5, id="not utf-8"),
        pytest.param(b"\xff\xfea\x00", "MYC-YAML-002", 1, 1, id="utf-16"),
        pytest.param(b"a: 1\nb: \x07", "MYC-YAML-003", 2, 4, id="control character"),
        pytest.param(b"a: 1\nb: 2\na: 3\n", "MYC-YAML-004", 3, 1, id="duplicate key"),
        pytest.param(b"x: {a: 1, a: 2}", "MYC-YAML-004", 1, 11, id="duplicate in flow"),
        pytest.param(b"a: !!python/object:os.system x", "MYC-YAML-005", 1, 4, id="python tag"),
        pytest.param(b"a: !mine {b: 1}", "MYC-YAML-005", 1, 4, id="own tag"),
        pytest.param(b"a: !!int x", "MYC-YAML-005", 1, 4, id="tag that does not fit"),
        pytest.param(_LOL.encode(), "MYC-YAML-006", 6, 8, id="alias bomb"),
        pytest.param(b"[" * 500, "MYC-YAML-007", 1, 65, id="depth 500 in flow"),
        pytest.param(
            "".join(" " * i + "a:\n" for i in range(500)).encode(),
            "MYC-YAML-007",
            65,
            65,
            id="depth 500 in block",
        ),
        pytest.param(b"#" * 1_100_000, "MYC-YAML-008", 0, 0, id="file too large"),
        pytest.param(b"- a\n" * 150_000, "MYC-YAML-006", 100_000, 3, id="too many values"),
        pytest.param(b"? [a]\n: 1", "MYC-YAML-009", 1, 3, id="complex key"),
        pytest.param(b"{{ x }}: 1", "MYC-YAML-009", 1, 1, id="text template"),
        pytest.param(b"<<: {a: 1}", "MYC-YAML-009", 1, 1, id="merge key"),
        pytest.param(b"a: .inf", "MYC-YAML-010", 1, 4, id="infinity"),
        pytest.param(b"a: 99999999999999999999", "MYC-YAML-010", 1, 4, id="huge integer"),
        pytest.param(b"a: 1e999", "MYC-YAML-010", 1, 4, id="huge float"),
        pytest.param(b"a: *x", "MYC-YAML-011", 1, 4, id="alias without anchor"),
        pytest.param(b"&a [*a]", "MYC-YAML-011", 1, 5, id="alias in itself"),
    ],
)
def test_bad_yaml_is_located_and_says_what_to_do(
    data: bytes, code: str, line: int, column: int
) -> None:
    (problem,) = read_yaml("f", data).problems
    assert problem.where is not None
    assert (problem.code, problem.where.line, problem.where.column) == (code, line, column)
    assert problem.fix


def test_more_than_100_aliases_are_refused() -> None:
    text = "a: &a 1\nb: [" + ", ".join(["*a"] * 101) + "]\n"
    assert [p.code for p in read_yaml("f", text.encode()).problems] == ["MYC-YAML-006"]


def test_all_problems_of_a_file_are_collected_and_healthy_documents_survive() -> None:
    text = "a: [1,\n---\nb: 2\n---\nc: {\n---\nd: 1\nd: 2\n"
    stream = read_yaml("f", text.encode())
    assert [(p.code, p.where.line if p.where else 0) for p in stream.problems] == [
        ("MYC-YAML-001", 2),
        ("MYC-YAML-001", 6),
        ("MYC-YAML-004", 8),
    ]
    assert [(d.value, d.broken) for d in stream.documents] == [
        (None, True),
        ({"b": 2}, False),
        (None, True),
        ({"d": 1}, False),
    ]
    assert stream.documents[2].text == "---\nc: {\n"


def test_byte_order_mark_is_tolerated_and_does_not_shift_columns() -> None:
    stream = read_yaml("f", "\ufeffa: 1\n".encode())
    assert stream.problems == ()
    node = stream.documents[0].node
    assert node is not None
    assert str(place("f", node, ("a",), at="value")) == "f:1:4"


def test_positions_count_characters_not_bytes() -> None:
    node = read_yaml("f", "é: {ü: [1, 22]}\n".encode()).documents[0].node
    assert node is not None
    assert str(place("f", node, ("é", "ü", 1))) == "f:1:12"


def test_many_broken_documents_end_in_bounded_time() -> None:
    assert len(read_yaml("f", b"--- [\n" * 150_000).problems) == 20


def test_directives_and_document_ends_are_read() -> None:
    stream = read_yaml("f", b"%YAML 1.1\n---\na: no\n...\n%YAML 1.2\n---\nb: 1\n")
    assert [d.value for d in stream.documents] == [{"a": "no"}, {"b": 1}]


def test_without_the_c_part_values_and_places_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = b"# c\na: {b: [1, two, *x]}\n---\nx: &x [1]\ny: *x\nx: 3\n"
    fast = read_yaml("f", text)
    monkeypatch.setattr(reader, "CParser", None)
    slow = read_yaml("f", text)
    assert [(d.value, d.line, d.broken) for d in slow.documents] == [
        (d.value, d.line, d.broken) for d in fast.documents
    ]
    assert [(p.code, p.where) for p in slow.problems] == [(p.code, p.where) for p in fast.problems]
    deep = read_yaml("f", b"[" * 500 + b"]" * 500)
    assert [p.code for p in deep.problems] == ["MYC-YAML-007"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param(
            "kind: Workflow\nmetadata: {labels: {}, name: a-b}\n", ("Workflow", "a-b"), id="flow"
        ),
        pytest.param(
            "kind: Daemon\nmetadata:\n  labels:\n    x: y\n  name: d\nspec: [",
            ("Daemon", "d"),
            id="block",
        ),
        pytest.param("kind: Workflow\nspec: {name: x}\n", None, id="no metadata"),
        pytest.param("  kind: Workflow\n", None, id="indented"),
    ],
)
def test_identity_of_a_broken_document_is_guessed(text: str, found: tuple[str, str] | None) -> None:
    assert guess_object(text) == found


@given(st.binary(max_size=400))
@settings(max_examples=300)
def test_reading_arbitrary_bytes_never_raises(data: bytes) -> None:
    parsed = parse_file("f", data)
    json.dumps([d.value for d in parsed.documents], allow_nan=False)


_NOISE = st.lists(
    st.sampled_from(
        [
            "---\n",
            "...\n",
            "a",
            ": ",
            "- ",
            "\n",
            "  ",
            "{",
            "}",
            "[",
            "]",
            ", ",
            "&x ",
            "*x",
            "!t ",
            "'",
            '"',
            "|\n",
            ">-\n",
            "? ",
            "# c\n",
            "%YAML 1.2\n",
            "\t",
            "é",
            "<<",
            "1",
            "~",
            "\u2028",
            "\r\n",
            "\r",
            "\x85",
            "\\x",
            "@",
            "`",
            "kind: Workflow\n",
            "0x",
            "!!int ",
        ]
    ),
    max_size=60,
).map("".join)


@given(_NOISE)
@settings(max_examples=500)
def test_reading_arbitrary_yaml_like_text_never_raises_and_locates_everything(text: str) -> None:
    parsed = parse_file("f", text.encode())
    lines = len(reader.split_lines(text))
    for problem in parsed.problems:
        assert problem.where is not None
        assert 1 <= problem.where.line <= lines + 1
    json.dumps([d.value for d in parsed.documents], allow_nan=False)
