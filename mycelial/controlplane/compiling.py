"""From a revision to desired state, one changed file at a time. Blocking.

What checking a file gave is kept by (path, blob, catalog), in memory and on disk: a one-file
commit in a repository of ten thousand costs one file, and so does a restart.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from mycelial.gitops.base import BlobId, ManifestSource, Tree
from mycelial.kernel.errors import Problem
from mycelial.schemas.desired import DesiredState
from mycelial.schemas.views import ObjectView

CHECKED_MAX = 20_000
READ_AT_ONCE = 500

ObjectKey = tuple[str, str]  # kind, name
Checked = Any  # one checked file; only the front end looks inside


class FrontEnd(Protocol):
    """What the schemas do, as far as the control plane needs it."""

    digest: str  # of the catalog: another catalog may judge the same bytes differently
    project_file: str

    def check(self, path: str, data: bytes) -> Checked:
        """Parse and check one file. Never raises for its content."""

    def compile(
        self, tree: Tree, checked: Mapping[str, Checked], *, is_edited: bool
    ) -> DesiredState:
        """Put all files of a revision together."""

    def objects(self, path: str, checked: Checked) -> Iterable[ObjectView]:
        """Return the objects of a file, without revision and text."""

    def split(
        self, path: str, data: bytes
    ) -> tuple[list[tuple[str, str, str]], tuple[Problem, ...]]:
        """Return (kind, name, document text) of each object, and what is wrong with the file."""

    def text_of(self, data: bytes, key: ObjectKey) -> str:
        """Return one object's document, comments included; empty when it is not there."""

    def forgetting(self, data: bytes | None, gone: Iterable[ObjectKey]) -> bytes:
        """Return the project's file with these names' incarnations raised, so that the same name
        is another object if it returns. `data` is None where there is no project yet."""

    def freeze(self, checked: Checked) -> bytes:
        """Return a checked file as bytes for the disk."""

    def thaw(self, data: bytes) -> Checked | None:
        """Return what `freeze` got, or None when it cannot be read (another version)."""


class ParseStore(Protocol):
    """Checked files on disk. A cache: everything in it may be lost."""

    def get(self, keys: Iterable[str]) -> Mapping[str, bytes]: ...  # noqa: D102
    def put(self, values: Mapping[str, bytes]) -> None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Compiled:
    """A revision, compiled. `where` tells the file of every object."""

    desired: DesiredState
    files: Mapping[str, BlobId] = field(default_factory=dict)
    objects: tuple[ObjectView, ...] = ()
    where: Mapping[ObjectKey, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


class Compiler:
    """Compiles trees with a cache. Use from one thread."""

    def __init__(
        self, front: FrontEnd, *, disk: ParseStore | None = None, checked_max: int = CHECKED_MAX
    ) -> None:
        self.front = front
        self._disk = disk
        self._checked_max = checked_max
        self._checked: OrderedDict[str, Checked] = OrderedDict()
        self.files_checked = 0  # by parsing, since the start; the cache's misses

    def compile(self, source: ManifestSource, tree: Tree) -> Compiled:
        """Compile a revision, reading only files that are not known."""
        return self._put_together(tree, self._gather(source, tree.files), is_edited=False)

    def compile_edited(
        self, source: ManifestSource, tree: Tree, edits: Mapping[str, bytes | None]
    ) -> Compiled:
        """Compile a revision as it would be with these files changed."""
        checked = self._gather(source, {p: b for p, b in tree.files.items() if p not in edits})
        for path, data in edits.items():
            if data is not None:
                checked[path] = self.front.check(path, data)
        return self._put_together(tree, checked, is_edited=bool(edits))

    def manifest(self, source: ManifestSource, compiled: Compiled, key: ObjectKey) -> str:
        """Return the text of one object of a compiled revision; empty when it has none."""
        blob = compiled.files.get(compiled.where.get(key, ""))
        return self.front.text_of(source.read([blob])[blob], key) if blob else ""

    def _put_together(
        self, tree: Tree, checked: Mapping[str, Checked], *, is_edited: bool
    ) -> Compiled:
        desired = self.front.compile(tree, checked, is_edited=is_edited)
        objects = tuple(view for path in sorted(checked)
                        for view in self.front.objects(path, checked[path]))  # fmt: skip
        return Compiled(
            desired=desired,
            files=tree.files,
            objects=objects,
            where={(view.kind, view.name): view.file for view in objects},
            problems=tuple(dict.fromkeys((*tree.problems, *desired.problems))),
        )

    def _gather(self, source: ManifestSource, files: Mapping[str, BlobId]) -> dict[str, Checked]:
        keys = {path: f"{self.front.digest}:{blob}:{path}" for path, blob in files.items()}
        self._thaw(key for key in keys.values() if key not in self._checked)
        unknown = [path for path, key in keys.items() if key not in self._checked]
        fresh: dict[str, Checked] = {}
        for start in range(0, len(unknown), READ_AT_ONCE):
            paths = unknown[start : start + READ_AT_ONCE]
            contents = source.read([files[path] for path in paths])
            for path in paths:
                fresh[keys[path]] = self.front.check(path, contents[files[path]])
        self.files_checked += len(fresh)
        if fresh and self._disk is not None:
            self._disk.put({key: self.front.freeze(value) for key, value in fresh.items()})
        self._checked.update(fresh)
        gathered = {path: self._checked[key] for path, key in keys.items()}
        for key in keys.values():
            self._checked.move_to_end(key)
        # Never smaller than the revision at hand: evicting it would parse it all each time.
        while len(self._checked) > max(self._checked_max, len(keys)):
            self._checked.popitem(last=False)
        return gathered

    def _thaw(self, keys: Iterable[str]) -> None:
        wanted = list(keys)
        if not wanted or self._disk is None:
            return
        for key, data in self._disk.get(wanted).items():
            checked = self.front.thaw(data)
            if checked is not None:
                self._checked[key] = checked
