"""Edits of one object in a file's text; every byte outside its document stays as it is.

Text surgery rather than a round trip: comments, order, quoting and line ends of the other
documents survive because nobody writes them anew. These edits serve apply-as-commit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mycelial.kernel.errors import InvalidManifest, Location, Problem
from mycelial.schemas.yaml import Document, read_yaml

_MARKER = re.compile(r"^(?:---|\.\.\.)(?=[ \t\r\n]|\Z)[^\r\n]*(?:\r\n|\n|\r|\Z)", re.MULTILINE)
_BOM = "\ufeff"


@dataclass(frozen=True, slots=True)
class FoundObject:
    """An object's document: its text without `---`, and the line where its value begins."""

    text: str
    line: int
    start: int  # index into the decoded text
    end: int


def find_object(data: bytes, kind: str, name: str) -> FoundObject | None:
    """Return the document of an object; None when the file does not hold it.

    Raises: InvalidManifest when the file is no YAML, or holds the object twice.
    """
    text = _decode(data)
    found = [d for d in _documents(text) if _identity(d) == (kind, name)]
    if len(found) > 1:
        what = f"{kind}/{name} is declared twice in the file"
        raise _invalid("MYC-YAML-012", what, "remove one of them", found[1].line)
    if not found:
        return None
    start, end = _body(text, found[0])
    return FoundObject(text[start:end], found[0].line, start, end)


def replace_object(data: bytes, kind: str, name: str, new_document: str) -> bytes:
    """Put a document in the place of an object's; add it at the end when the file lacks it.

    Line ends follow the file. Raises: InvalidManifest when `new_document` is not exactly this
    object, or the file is no YAML.
    """
    text = _decode(data)
    new = _one_document(kind, name, new_document)
    if "\r\n" in text:
        new = new.replace("\n", "\r\n")
    found = find_object(data, kind, name)
    if found is not None:
        changed = text[: found.start] + _after(text, found.start) + new + text[found.end :]
    else:
        changed = _appended(text, new)
    _expect_same_others(text, changed, kind, name)
    return changed.encode()


def remove_object(data: bytes, kind: str, name: str) -> bytes:
    """Take an object's document out; `b""` when no document is left.

    Raises: InvalidManifest when the file does not hold the object, or is no YAML.
    """
    text = _decode(data)
    found = find_object(data, kind, name)
    if found is None:
        what = f"{kind}/{name} is not in the file"
        raise _invalid("MYC-YAML-012", what, "check kind and name", 0)
    if len(_documents(text)) == 1:
        return b""
    start, end = found.start, found.end
    before = [m for m in _MARKER.finditer(text) if m.end() == start or m.start() <= start < m.end()]
    after = _MARKER.match(text, end)
    if before and before[-1][0].startswith("---"):
        start = before[-1].start()
    elif after is not None and not after[0][3:].strip():
        # At the head of a file neither marker has anything to separate.
        end = after.end()
    changed = text[:start] + text[end:]
    _expect_same_others(text, changed, kind, name)
    return changed.encode()


def _decode(data: bytes) -> str:
    """Keep a byte order mark, so that it is written back."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _invalid("MYC-YAML-002", "the file is not UTF-8", "save it as UTF-8", 0) from error


def _documents(text: str) -> tuple[Document, ...]:
    stream = read_yaml("", text.encode())
    if stream.problems:
        raise InvalidManifest(stream.problems)
    return stream.documents


def _identity(document: Document) -> tuple[object, object]:
    value = document.value
    metadata = value.get("metadata") if isinstance(value, dict) else None
    return (value.get("kind"), metadata.get("name")) if isinstance(metadata, dict) else ("", "")


def _body(text: str, document: Document) -> tuple[int, int]:
    """Return the span between the markers around a document."""
    assert document.node is not None
    # Marks do not count a byte order mark.
    index = document.node.start.index + text.startswith(_BOM)
    start, end = int(text.startswith(_BOM)), len(text)
    for marker in _markers(text):
        if marker.start() > index:
            end = marker.start()
            break
        # `--- {inline: document}`: the body begins within the marker's line.
        start = marker.start() + 3 if index < marker.end() else marker.end()
    return start, end


def _markers(text: str) -> Iterator[re.Match[str]]:
    first = int(text.startswith(_BOM))
    found = _MARKER.match(text, first) if first else None
    if found:
        yield found
    yield from _MARKER.finditer(text)


def _after(text: str, start: int) -> str:
    """Return the line break that a body needs when it began on its marker's line."""
    begins_line = start == 0 or text[start - 1] in "\r\n" or text[:start] == _BOM
    return "" if begins_line else "\r\n" if "\r\n" in text else "\n"


def _one_document(kind: str, name: str, text: str) -> str:
    body = text.removeprefix(_BOM).replace("\r\n", "\n")
    documents = _documents(body)
    if len(documents) != 1 or _identity(documents[0]) != (kind, name):
        what = f"the new text is not one document that declares {kind}/{name}"
        raise _invalid("MYC-YAML-012", what, "edit one object at a time", 0)
    start, end = _body(body, documents[0])
    body = body[start:end].lstrip("\n") if start else body[:end]
    if body[:1] == " ":  # `--- {inline: document}`
        body = body.lstrip(" ")
    return body if body.endswith("\n") else body + "\n"


def _appended(text: str, new: str) -> str:
    if not _documents(text):
        return text + ("" if not text or text == _BOM or text.endswith("\n") else "\n") + new
    line_end = "\r\n" if "\r\n" in text else "\n"
    return text + ("" if text.endswith("\n") else line_end) + "---" + line_end + new


def _expect_same_others(before: str, after: str, kind: str, name: str) -> None:
    """Refuse an edit that would change a sibling, whatever the reason (I8)."""
    kept = [d.value for d in _documents(before) if _identity(d) != (kind, name)]
    if kept != [d.value for d in _documents(after) if _identity(d) != (kind, name)]:
        what = f"editing {kind}/{name} would change other documents of the file"
        raise _invalid("MYC-YAML-012", what, "edit the file by hand", 0)


def _invalid(code: str, what: str, fix: str, line: int) -> InvalidManifest:
    where = Location("", line, 1) if line else None
    return InvalidManifest([Problem(code, what, fix=fix, where=where)])
