"""Bytes to plain values that know where they stand. The only importer of ruamel.

The events of ruamel's C parser are composed here rather than by its loader: that is five times
faster, keeps every mark, bounds depth and aliases while reading, and lets YAML 1.2 core scalars
and duplicate keys be judged where they are met.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from mycelial.kernel.errors import Location, Problem

try:
    from ruamel.yaml.cyaml import CParser  # type: ignore[attr-defined]
except ImportError:  # a platform without the C part: slower, same marks
    CParser = None

FILE_BYTES_MAX = 1024 * 1024
NODES_MAX = 100_000
ALIASES_MAX = 100
DEPTH_MAX = 64
_BROKEN_DOCUMENTS_MAX = 20

_SEPARATOR = re.compile(r"^---(?=[ \t\r\n]|\Z)", re.MULTILINE)
_FORBIDDEN = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_MAYBE_TYPED = frozenset("-+.0123456789nNtTfF~")
_CONSTANTS: dict[str, Any] = {
    **dict.fromkeys(("~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
# Stricter than the core schema in one point: a leading zero makes a string, because whoever
# writes 0777 or 00123 means the digits.
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_BASED = re.compile(r"0(?:o[0-7]+|x[0-9a-fA-F]+)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_DIGITS_MAX = 19
_TAG = "tag:yaml.org,2002:"
_TAGGED: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "null": (type(None),),
}


class Node:
    """Where a value stands. Marks count from 0; `children` follow the value's shape.

    A mapping's children are key -> (mark of the key, node of the value). The value of an alias
    has the node of its anchor.
    """

    __slots__ = ("children", "end", "start")

    def __init__(self, start: Any, end: Any, children: Any = None) -> None:
        self.start = start
        self.end = end
        self.children: dict[str, tuple[Any, Node]] | list[Node] | None = children


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document. `line` counts from 1; `broken` documents have lost part of their value
    and their text is only good for guessing which object they were."""

    value: Any
    node: Node | None
    line: int
    broken: bool = False
    text: str = ""  # of a broken document only


@dataclass(frozen=True, slots=True)
class Stream:
    """All documents of one file, empty ones left out, and everything wrong with them."""

    text: str
    documents: tuple[Document, ...]
    problems: tuple[Problem, ...]


class _Broken(Exception):
    """The rest of the document cannot be used; `final` means the rest of the file."""

    def __init__(self, problem: Problem, *, final: bool = False) -> None:
        super().__init__(problem.code)
        self.problem = problem
        self.final = final


def read_yaml(file: str, data: bytes) -> Stream:
    """Read every document of a file. Never raises: what is wrong is in `problems`."""
    if len(data) > FILE_BYTES_MAX:
        problem = Problem(
            "MYC-YAML-008",
            f"the file has {len(data)} bytes, more than {FILE_BYTES_MAX}",
            fix="split it into several files",
            where=Location(file),
        )
        return Stream("", (), (problem,))
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        is_utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        why = "it is UTF-16" if is_utf16 else f"{error.reason} (byte {error.start})"
        problem = Problem(
            "MYC-YAML-002",
            f"the file is not UTF-8: {why}",
            fix="save the file as UTF-8",
            where=_location_at(file, before, len(before)),
        )
        return Stream(data.decode("utf-8", "replace"), (), (problem,))
    if problems := tuple(_control_characters(file, text)):
        return Stream(text, (), problems)
    return _Reader(file, text).read()


def decode_text(data: bytes) -> str:
    """Return the text of a file as `read_yaml` sees it, whatever its bytes."""
    return data.decode("utf-8", "replace").removeprefix("\ufeff")


def split_lines(text: str) -> list[str]:
    """Split at what YAML counts as a line break, so that marks and lines agree."""
    return _LINE_BREAK.split(text)


def _control_characters(file: str, text: str) -> Iterator[Problem]:
    for count, found in enumerate(_FORBIDDEN.finditer(text)):
        if count == _BROKEN_DOCUMENTS_MAX:
            return
        yield Problem(
            "MYC-YAML-003",
            f"control character U+{ord(found[0]):04X}",
            fix=f'remove it, or write "\\u{ord(found[0]):04x}" inside double quotes',
            where=_location_at(file, text, found.start()),
        )


def _location_at(file: str, text: str, index: int) -> Location:
    lines = split_lines(text[:index])
    return Location(file, len(lines), len(lines[-1]) + 1)


def _events(text: str) -> Iterator[Any]:
    if CParser is None:
        yield from YAML(typ="safe", pure=True).parse(text)
        return
    parser = CParser(text)
    while (event := parser.get_event()) is not None:
        yield event


class _Reader:
    """Composes one file; bounds are per file, so many small documents do not evade them."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.text = text
        self.problems: list[Problem] = []
        self.documents: list[Document] = []
        self.nodes = 0
        self.aliases = 0

    def read(self) -> Stream:
        """Read all documents; after a broken one go on at the next `---`."""
        start = 0
        for _ in range(_BROKEN_DOCUMENTS_MAX):
            resume = self._read_from(start)
            if resume is None:
                break
            start = resume
        return Stream(self.text, tuple(self.documents), tuple(self.problems))

    def _read_from(self, start: int) -> int | None:
        """Read documents from an index on; return where to go on after a broken one."""
        lines_before = len(split_lines(self.text[:start])) - 1 if start else 0
        # Line feeds in place of what was read keep lines and columns right without arithmetic.
        text = "\n" * lines_before + self.text[start:] if start else self.text
        line = lines_before
        events = _events(text)
        try:
            for event in events:
                if type(event) is DocumentStartEvent:
                    line = event.end_mark.line
                    self._read_document(events)
        except YAMLError as error:
            self.problems.append(self._syntax_problem(error, line))
        except _Broken as error:
            self.problems.append(error.problem)
            if error.final:
                return None
        except RecursionError:  # only the parser without its C part recurses
            where = Location(self.file, line + 1, 1)
            self.problems.append(_too_deep(where))
        else:
            return None
        begin, end = self._broken_span(start, line)
        self.documents.append(Document(None, None, line + 1, True, self.text[begin:end]))
        return end if end < len(self.text) else None

    def _broken_span(self, start: int, line: int) -> tuple[int, int]:
        """Return where the document of a line begins and where the next one does."""
        begin = start
        for index, at in self._separators:
            if index > start and at > line:
                return begin, index
            if index >= start:
                begin = index
        return begin, len(self.text)

    @cached_property
    def _separators(self) -> list[tuple[int, int]]:
        """Index and line of every `---`."""
        found, line, last = [], 0, 0
        for match in _SEPARATOR.finditer(self.text):
            line += len(_LINE_BREAK.findall(self.text, last, match.start()))
            last = match.start()
            found.append((last, line))
        return found

    def _character(self, mark: Any) -> str:
        lines = split_lines(self.text)
        row = lines[mark.line] if mark.line < len(lines) else ""
        return row[mark.column : mark.column + 1]

    def _syntax_problem(self, error: Any, line: int) -> Problem:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = self._at(mark) if mark else Location(self.file, line + 1, 1)
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
        context = getattr(error, "context", None)
        if "cannot start any token" in what and mark and self._character(mark) == "\t":
            what, context = "a tab character: YAML is indented with spaces only", None
        return Problem(
            "MYC-YAML-001",
            f"{what} ({context})" if context else str(what),
            fix=_syntax_fix(str(what)),
            where=where,
        )

    def _at(self, mark: Any) -> Location:
        return Location(self.file, mark.line + 1, mark.column + 1)

    def _problem(self, number: int, what: str, fix: str, mark: Any) -> Problem:
        return Problem(f"MYC-YAML-{number:03}", what, fix=fix, where=self._at(mark))

    def _read_document(self, events: Iterator[Any]) -> None:
        value, node = self._compose(events)
        if node is not None and (value is not None or node.end.index > node.start.index):
            self.documents.append(Document(value, node, node.start.line + 1))

    def _compose(self, events: Iterator[Any]) -> tuple[Any, Node | None]:
        """Build one document without recursion: a stack of open collections."""
        stack: list[tuple[Any, Node, str | None, int]] = []
        anchors: dict[str, tuple[Any, Node, int] | None] = {}
        key: Any = None  # the event of the key that waits for its value
        pending: list[Any] = []  # keys of the open mappings further out
        root: tuple[Any, Node | None] = (None, None)
        for event in events:
            kind = type(event)
            if kind is ScalarEvent:
                self.nodes += 1
                if stack and key is None and type(stack[-1][0]) is dict:
                    key = self._key(event)
                    continue
                value: Any = self._scalar(event)
                node = Node(event.start_mark, event.end_mark)
                if event.anchor:
                    anchors[event.anchor] = (value, node, 1)
            elif kind is MappingStartEvent or kind is SequenceStartEvent:
                self.nodes += 1
                self._check_collection(event, stack, key)
                node = Node(
                    event.start_mark, event.end_mark, {} if kind is MappingStartEvent else []
                )
                if event.anchor:
                    anchors[event.anchor] = None  # until it is closed
                opened: Any = (
                    ({} if kind is MappingStartEvent else []),
                    node,
                    event.anchor,
                    self.nodes,
                )
                stack.append(opened)
                pending.append(key)
                key = None
                continue
            elif kind is MappingEndEvent or kind is SequenceEndEvent:
                value, node, anchor, first = stack.pop()
                node.end = event.end_mark
                key = pending.pop()
                if anchor:
                    anchors[anchor] = (value, node, self.nodes - first + 1)
            elif kind is AliasEvent:
                value, node = self._alias(event, anchors, stack, key)
            elif kind is DocumentEndEvent:
                return root
            else:
                continue
            if self.nodes > NODES_MAX:
                raise _Broken(self._too_many_nodes(event), final=True)
            if not stack:
                root = (value, node)
            elif type(stack[-1][0]) is list:
                stack[-1][0].append(value)
                stack[-1][1].children.append(node)  # type: ignore[union-attr]
            else:
                self._put(stack[-1], key, value, node)
                key = None
        return root

    def _put(self, opened: Any, key: Any, value: Any, node: Node) -> None:
        mapping, children = opened[0], opened[1].children
        name = key.value
        if name in mapping:
            first = self._at(children[name][0])
            self.problems.append(
                self._problem(
                    4,
                    f'duplicate key "{name}", first given in line {first.line}',
                    "keep one of the two",
                    key.start_mark,
                )
            )
            return
        mapping[name] = value
        children[name] = (key.start_mark, node)

    def _key(self, event: Any) -> Any:
        if event.tag not in (None, "!", f"{_TAG}str"):
            self.problems.append(self._tag_problem(event))
        if event.value == "<<" and not event.style:
            self.problems.append(
                self._problem(
                    9,
                    'merge keys ("<<") are not YAML 1.2',
                    "write the fields out, or use an alias for the whole value",
                    event.start_mark,
                )
            )
        return event

    def _check_collection(self, event: Any, stack: list[Any], key: Any) -> None:
        if len(stack) >= DEPTH_MAX:
            raise _Broken(_too_deep(self._at(event.start_mark)))
        if stack and key is None and type(stack[-1][0]) is dict:
            fix = "write the key as plain text"
            if type(event) is MappingStartEvent:
                fix = "if this is meant to be text such as {{...}} or ${...}, put it in quotes"
            what = "a key must be text, not a list or a mapping"
            raise _Broken(self._problem(9, what, fix, event.start_mark))
        if event.tag not in (None, "!", f"{_TAG}map", f"{_TAG}seq"):
            self.problems.append(self._tag_problem(event))

    def _alias(
        self, event: Any, anchors: dict[str, Any], stack: list[Any], key: Any
    ) -> tuple[Any, Node]:
        self.aliases += 1
        if stack and key is None and type(stack[-1][0]) is dict:
            what = "an alias cannot be a key"
            raise _Broken(self._problem(9, what, "write the key as plain text", event.start_mark))
        if self.aliases > ALIASES_MAX:
            what = f"more than {ALIASES_MAX} aliases in one file"
            fix = "write the values out, or share them through a Connection"
            raise _Broken(self._problem(6, what, fix, event.start_mark), final=True)
        found = anchors.get(event.anchor)
        if found is None:
            what = (
                f'alias "*{event.anchor}" stands inside its own anchor'
                if event.anchor in anchors
                else f'alias "*{event.anchor}" has no anchor before it in this document'
            )
            fix = "put it in quotes if text is meant, or define the anchor first"
            raise _Broken(self._problem(11, what, fix, event.start_mark))
        value, node, size = found
        self.nodes += size
        return value, node

    def _too_many_nodes(self, event: Any) -> Problem:
        what = f"more than {NODES_MAX} values once aliases are expanded"
        return self._problem(6, what, "split the file, or drop the aliases", event.start_mark)

    def _tag_problem(self, event: Any) -> Problem:
        shown = str(event.tag).replace(_TAG, "!!")
        fix = "remove the tag; manifests hold plain values only"
        return self._problem(5, f'tag "{shown}" is not allowed', fix, event.start_mark)

    def _scalar(self, event: Any) -> Any:
        text, tag = event.value, event.tag
        if tag is None:
            if event.style:
                return text
            if text and text[0] not in _MAYBE_TYPED:
                return text
            return self._typed(text, event)
        name = tag.removeprefix(_TAG)
        if tag == "!" or name == "str":
            return text
        if name in _TAGGED:
            value = self._typed(text, event)
            kinds = _TAGGED[name]
            if isinstance(value, kinds) and (name == "bool" or not isinstance(value, bool)):
                return float(text) if name == "float" else value
        self.problems.append(self._tag_problem(event))
        return text

    def _typed(self, text: str, event: Any) -> Any:
        """Resolve a plain scalar by the core schema of YAML 1.2."""
        if not text:
            return None
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if _INT.fullmatch(text):
            return int(text) if len(text) <= _DIGITS_MAX else self._unusable(text, event)
        if _BASED.fullmatch(text):
            return int(text, 0) if len(text) <= _DIGITS_MAX else self._unusable(text, event)
        if _FLOAT.fullmatch(text):
            value = float(text)
            return value if abs(value) != float("inf") else self._unusable(text, event)
        return self._unusable(text, event) if _NOT_FINITE.fullmatch(text) else text

    def _unusable(self, text: str, event: Any) -> str:
        what = "a number that JSON cannot hold exactly"
        fix = "put it in quotes if text is meant"
        self.problems.append(self._problem(10, what, fix, event.start_mark))
        return str(text)


def _too_deep(where: Location) -> Problem:
    what = f"nested deeper than {DEPTH_MAX} levels"
    return Problem("MYC-YAML-007", what, fix="flatten the document", where=where)


def _syntax_fix(what: str) -> str:
    if "tab character" in what:
        return "replace the tabs at the start of the line by spaces"
    if "cannot start any token" in what:
        return "indent with spaces, and put text that starts with a special character in quotes"
    if "mapping values are not allowed" in what:
        return 'put the value in quotes: it contains ": "; or check the indentation'
    return "check indentation, quotes and brackets on this line and the one above"
