"""Edits touch one document; every other byte stays."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mycelial.kernel.errors import InvalidManifest
from mycelial.schemas.edit import find_object, remove_object, replace_object
from mycelial.schemas.yaml import read_yaml

_NEW = "# new\nkind: K\nmetadata: { name: %s }\nspec: 2\n"
_BODIES = (
    "# about {n}\nkind: K\nmetadata: {{ name: {n} }}   # odd   spacing\nspec: 'quoted'\n",
    "kind:   K\nmetadata:\n    name: {n}\ntext: |\n  # no comment\n  --- no marker\n\n# tail\n",
    "kind: K\nmetadata: {{name: '{n}'}}\nlist:\n- 1\n- 2\n",
)


@pytest.mark.parametrize(
    ("before", "name", "after"),
    [
        pytest.param(
            b"", "a", b"# new\nkind: K\nmetadata: { name: a }\nspec: 2\n", id="into nothing"
        ),
        pytest.param(
            b"kind: K\nmetadata: {name: b}",
            "a",
            b"kind: K\nmetadata: {name: b}\n---\n# new\nkind: K\nmetadata: { name: a }\nspec: 2\n",
            id="appended",
        ),
        pytest.param(
            b"---\r\nkind: K\r\nmetadata: {name: a}\r\n---\r\nx: 1\r\n",
            "a",
            b"---\r\n# new\r\nkind: K\r\nmetadata: { name: a }\r\nspec: 2\r\n---\r\nx: 1\r\n",
            id="windows line ends",
        ),
        pytest.param(
            b"x: 1\n--- {kind: K, metadata: {name: a}} # c\n...\n# end\n",
            "a",
            b"x: 1\n---\n# new\nkind: K\nmetadata: { name: a }\nspec: 2\n...\n# end\n",
            id="inline document",
        ),
        pytest.param(
            "\ufeffkind: K\nmetadata: {name: a}\n---\nx: 1\n".encode(),
            "a",
            ("\ufeff" + _NEW % "a" + "---\nx: 1\n").encode(),
            id="byte order mark",
        ),
    ],
)
def test_replacing_an_object(before: bytes, name: str, after: bytes) -> None:
    assert replace_object(before, "K", name, _NEW % name) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(b"kind: K\nmetadata: {name: a}\n# c\n", b"", id="the only one"),
        pytest.param(b"kind: K\nmetadata: {name: a}\n---\nx: 1\n", b"x: 1\n", id="the first"),
        pytest.param(b"x: 1\n---\nkind: K\nmetadata: {name: a}\n", b"x: 1\n", id="the last"),
        pytest.param(
            b"x: 1\n--- # c\nkind: K\nmetadata: {name: a}\n---\ny: 1\n",
            b"x: 1\n---\ny: 1\n",
            id="in the middle",
        ),
        pytest.param(
            b"kind: K\nmetadata: {name: a}\n...\n%YAML 1.2\n---\ny: 1\n",
            b"%YAML 1.2\n---\ny: 1\n",
            id="before a directive",
        ),
    ],
)
def test_removing_an_object(before: bytes, after: bytes) -> None:
    assert remove_object(before, "K", "a") == after


@pytest.mark.parametrize(
    "new",
    [
        pytest.param("kind: K\nmetadata: {name: other}\n", id="another name"),
        pytest.param("kind: K\nmetadata: {name: a}\n---\nx: 1\n", id="two documents"),
        pytest.param("kind: [\n", id="no yaml"),
        pytest.param("", id="nothing"),
    ],
)
def test_a_new_text_must_be_exactly_the_object(new: str) -> None:
    with pytest.raises(InvalidManifest):
        replace_object(b"x: 1\n", "K", "a", new)


def test_a_broken_file_is_not_edited() -> None:
    with pytest.raises(InvalidManifest):
        replace_object(b"x: [\n---\nkind: K\nmetadata: {name: a}\n", "K", "a", _NEW % "a")


def test_found_text_is_the_document_with_its_comments() -> None:
    found = find_object(b"x: 1\n---\n# about\nkind: K\nmetadata: {name: a}\n---\n", "K", "a")
    assert found is not None
    assert (found.text, found.line) == ("# about\nkind: K\nmetadata: {name: a}\n", 4)
    assert find_object(b"x: 1\n", "K", "a") is None


@given(
    bodies=st.lists(st.sampled_from(_BODIES), min_size=1, max_size=5),
    pick=st.integers(0, 4),
    ends=st.sampled_from(["\n", "\r\n"]),
    first=st.booleans(),
)
@settings(max_examples=200)
def test_edits_keep_every_other_document_byte_identical(
    bodies: list[str], pick: int, ends: str, first: bool
) -> None:
    pick %= len(bodies)
    parts = [body.format(n=f"o{i}").replace("\n", ends) for i, body in enumerate(bodies)]
    marker = f"---{ends}"
    head = marker if first else ""
    data = (head + marker.join(parts)).encode()
    new = (_NEW % f"o{pick}").replace("\n", ends)

    replaced = [new if i == pick else part for i, part in enumerate(parts)]
    assert replace_object(data, "K", f"o{pick}", _NEW % f"o{pick}").decode() == head + marker.join(
        replaced
    )
    removed = remove_object(data, "K", f"o{pick}").decode()
    for i, part in enumerate(parts):
        assert (part in removed) == (i != pick)
    names = [d.value["metadata"]["name"] for d in read_yaml("f", removed.encode()).documents]
    assert names == [f"o{i}" for i in range(len(parts)) if i != pick]
