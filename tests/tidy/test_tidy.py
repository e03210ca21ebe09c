"""The structure of the code itself: signposts, words, error codes, leftovers."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "mycelial"
MODULES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text("utf-8")) for path in MODULES}
ROOMS = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
PACKAGES = sorted(path.parent for path in PACKAGE.rglob("__init__.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


@pytest.mark.parametrize("room", ROOMS, ids=name_of)
def test_a_room_says_what_lives_there_what_does_not_and_which_way_data_flows(room):
    doc = ast.get_docstring(TREES[room / "__init__.py"]) or ""
    signposts = ("Lives here:", "Does not live here:", "Data flow:")
    assert [sign for sign in signposts if sign not in doc] == []


@pytest.mark.parametrize("package", PACKAGES, ids=name_of)
def test_a_package_says_what_it_is(package):
    doc = ast.get_docstring(TREES[package / "__init__.py"]) or ""
    assert len(doc) > 30


# Words the glossary replaces, and the names in which they mean something else.
FORBIDDEN = {
    "sink": {"EventSink"},  # where events go, a port; not the writing half of a connector
    "processor": set(),
    "actual": set(),
    "phase": set(),
    "input": {
        "INPUT",  # the name of the table in the SQL of users
        "_apply_input",  # the file argument of a command
        "_inputs",  # a stream's parts for one reader
    },
    "record": {
        "DaemonRecord", "record",  # a line of the store's table; Chronicle.record is the verb
        "_record",
        "RecordParser", "RECORD_BYTES_MAX",  # the unit of RFC 4180, before it is a row
    },
    "offset": {
        "offset", "_offsets_of", "seen_offset",  # a place in bytes, or from UTC; no checkpoint
    },
    "util": set(),
    "helper": set(),
    "misc": set(),
}  # fmt: skip


def defined_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def words_of(name: str) -> set[str]:
    parts = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().split("_")
    return {part.removesuffix("s") for part in parts}


def test_names_are_words_of_the_glossary():
    wrong = {
        (name_of(path), name)
        for path in MODULES
        for name in {*defined_names(TREES[path]), path.stem}
        for word in words_of(name) & FORBIDDEN.keys()
        if name not in FORBIDDEN[word] and name.removesuffix("s") not in FORBIDDEN[word]
    }
    assert wrong == set()


CODE = re.compile(r"MYC-[A-Z]+-\d{3}")


def codes_in(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield (code, message) of each call that names a code before its message."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        for code, message in itertools.pairwise(given):
            if isinstance(code, ast.Constant) and CODE.fullmatch(str(code.value)):
                yield str(code.value), ast.unparse(message)


# Raised in two rooms for one and the same finding.
SHARED: set[str] = set()


def test_no_code_is_raised_in_two_rooms():
    rooms: dict[str, set[str]] = defaultdict(set)
    for path in MODULES:
        for code, _ in codes_in(TREES[path]):
            rooms[code].add(path.relative_to(PACKAGE).parts[0])
    assert {code: used for code, used in rooms.items() if len(used) > 1} == {
        code: rooms[code] for code in SHARED
    }
    assert len(rooms) > 200  # or the search does not see them


def test_no_area_of_codes_belongs_to_two_packages_of_connectors():
    owners: dict[str, set[str]] = defaultdict(set)
    for path in MODULES:
        parts = path.relative_to(PACKAGE).parts
        if parts[0] not in {"connectors", "transforms"} or len(parts) < 3:
            continue
        for code, _ in codes_in(TREES[path]):
            owners[code.split("-")[1]].add(parts[1])
    shared_by_all = {"TYPE", "FILE", "TABLE", "XFORM"}  # of the kit; of all transforms
    assert {a: o for a, o in owners.items() if len(o) > 1 and a not in shared_by_all} == {}


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{name_of(path)}:{number}: {line.strip()}"
        for path in MODULES
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]


MARKS = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|X{3})\b")


def test_nothing_is_left_for_later():
    assert lines_with(MARKS) == []


BARE = re.compile(r"#\s*(?:noqa|type:\s*ignore)\s*(?:$|[^:\[\s])")


def test_a_silenced_check_is_named():
    assert lines_with(BARE) == []


def test_catching_everything_gives_its_reason():
    pattern = re.compile(r"except Exception\b[^#]*:\s*$")
    bare = []
    for path in MODULES:
        lines = ["", *path.read_text().splitlines(), ""]
        bare += [
            f"{name_of(path)}:{number}"
            for number in range(1, len(lines) - 1)
            if pattern.search(lines[number])
            and not any(lines[n].strip().startswith("#") for n in (number - 1, number + 1))
        ]
    assert bare == []


PLACES = {
    "an absolute path of one machine": re.compile(r"(?<![\w.}/])/(?:work|home|root|Users)/\w+"),
    "the address of a package index": re.compile(
        r"--(?:extra-)?index-url|pypi\.org/simple|files\.pythonhosted|https?://[^\s\"']*/simple\b"
    ),
}


@pytest.mark.parametrize("what", PLACES)
def test_no_file_names_a_place_that_only_one_machine_has(what):
    found = []
    for path in tracked():
        if path == Path(__file__).resolve():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{name_of(path)}: {hit[0]}" for hit in PLACES[what].finditer(text)]
    assert found == []
