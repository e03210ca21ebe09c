"""The schemas as the control plane uses them: text to checked files to desired state."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from mycelial.controlplane.compiling import Checked, ObjectKey
from mycelial.gitops.base import Tree
from mycelial.kernel.errors import Problem
from mycelial.schemas.catalog import Catalog
from mycelial.schemas.check import check_file
from mycelial.schemas.checked import PROJECT_FILE, CheckedFile
from mycelial.schemas.compile import compile_tree
from mycelial.schemas.desired import DesiredState
from mycelial.schemas.parse import parse_file
from mycelial.schemas.views import ObjectView
from mycelial.schemas.yaml import Document, decode_text, read_yaml

_NEW_PROJECT = "apiVersion: mycelial/v1\nkind: Project\nmetadata: {name: default}\n"
# A line of three dashes ends a document wherever it stands, block scalars included.
_SEPARATOR = re.compile(r"^---(?=[ \t\r\n]|\Z).*(?:\r?\n|\Z)", re.MULTILINE)


class SchemasFrontEnd:
    """Implements `compiling.FrontEnd` with one catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.digest = catalog.digest
        self.project_file = PROJECT_FILE

    def check(self, path: str, data: bytes) -> CheckedFile:
        """Parse and check one file."""
        return check_file(parse_file(path, data), self._catalog)

    def compile(
        self, tree: Tree, checked: Mapping[str, Checked], *, is_edited: bool
    ) -> DesiredState:
        """Put all files of a revision together."""
        return compile_tree(
            checked.values(),
            revision=tree.revision + ("+edited" if is_edited else ""),
            complete=tree.complete,
            catalog=self._catalog,
        )

    def objects(self, path: str, checked: Checked) -> Iterable[ObjectView]:
        """Return the objects of a file, also those with errors."""
        file: CheckedFile = checked
        return [
            ObjectView(
                kind=found.kind,
                name=found.name,
                file=path,
                line=found.line,
                revision="",
                manifest="",
                labels=found.labels,
            )
            for found in file.objects
        ]

    def split(
        self, path: str, data: bytes
    ) -> tuple[list[tuple[str, str, str]], tuple[Problem, ...]]:
        """Return each object of a file with its text; nothing when the file has errors."""
        checked = self.check(path, data)
        if checked.has_errors:
            return [], checked.problems
        texts = _Texts(data)
        objects = [(o.kind, o.name, texts.at(o.line)) for o in checked.objects]
        return objects, checked.problems

    def text_of(self, data: bytes, key: ObjectKey) -> str:
        """Return one object's document, comments included."""
        checked = self.check("manifest.yaml", data)
        found = (o for o in checked.objects if (o.kind, o.name) == key)
        line = next((o.line for o in found), 0)
        return _Texts(data).at(line) if line else ""

    def forgetting(self, data: bytes | None, gone: Iterable[ObjectKey]) -> bytes:
        """Return the project's file with the incarnations of these names raised."""
        names = [f"{kind}/{name}" for kind, name in gone]
        if data is None:
            raised = json.dumps(dict.fromkeys(names, 1))
            return f"{_NEW_PROJECT}spec:\n  incarnations: {raised}\n".encode()
        text = decode_text(data)
        document = next(
            d
            for d in read_yaml(PROJECT_FILE, data).documents
            if isinstance(d.value, dict) and d.value.get("kind") == "Project"
        )
        spec = document.value.get("spec") or {}
        known = spec.get("incarnations") or {}
        raised = json.dumps({**known, **{name: known.get(name, 0) + 1 for name in names}})
        return _with_incarnations(text, document, raised).encode()

    def freeze(self, checked: Checked) -> bytes:
        """Return a checked file as JSON."""
        file: CheckedFile = checked
        return json.dumps(file.to_json(), separators=(",", ":")).encode()

    def thaw(self, data: bytes) -> CheckedFile | None:
        """Return a checked file, or None when another version wrote it."""
        try:
            return CheckedFile.from_json(json.loads(data))
        except (ValueError, KeyError, TypeError, IndexError):
            return None


def _with_incarnations(text: str, document: Document, raised: str) -> str:
    """Put the mapping in its place; everything else stays byte for byte."""
    root = document.node.children if document.node is not None else None
    assert isinstance(root, dict), "a Project is a mapping"
    if "spec" not in root:
        mark, _ = next(iter(root.values()))
        indent = " " * mark.column
        added = f"spec:\n{indent}  incarnations: {raised}\n{indent}"
        return f"{text[: mark.index]}{added}{text[mark.index :]}"
    _, spec = root["spec"]
    if not isinstance(spec.children, dict) or not spec.children:
        start, end = spec.start.index, spec.end.index
        return f"{text[:start]}{{incarnations: {raised}}}{text[end:]}"
    if "incarnations" in spec.children:
        _, old = spec.children["incarnations"]
        start, end = old.start.index, old.end.index
        # A block mapping ends where the next key begins: what is between is not its own.
        tail = text[start + len(text[start:end].rstrip()) : end]
        return f"{text[:start]}{raised}{tail}{text[end:]}"
    first, _ = next(iter(spec.children.values()))
    is_flow = text[spec.start.index] == "{"
    between = ", " if is_flow else "\n" + " " * first.column
    return f"{text[: first.index]}incarnations: {raised}{between}{text[first.index :]}"


class _Texts:
    """The documents of a file by line."""

    def __init__(self, data: bytes) -> None:
        text = data.decode("utf-8", "replace").removeprefix("\ufeff")
        self._spans: list[tuple[int, int, str]] = []  # first line, last line, text
        start, line = 0, 1
        for found in (*_SEPARATOR.finditer(text), None):
            end = found.start() if found else len(text)
            document = text[start:end]
            last = line + document.count("\n")
            self._spans.append((line, last, document))
            if found is not None:
                start, line = found.end(), last + found[0].count("\n")

    def at(self, line: int) -> str:
        """Return the document that this line, counted from 1, is in."""
        found = (
            text for first, last, text in self._spans if first <= line <= last and text.strip()
        )
        return next(found, "").strip("\n") + "\n"
