"""Apply is a commit: edits of objects become edits of files, and a rollback a commit too.

`plan_edits` and `plan_revert` are pure; `commit_with_retry` is the one effect.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from mycelial.gitops.base import Commit, ManifestSource, PathChange, VersionedSource
from mycelial.gitops.grammar import check_path
from mycelial.kernel.errors import CheckSaysNo, Conflict, NotAllowed, UsageError
from mycelial.schemas.checked import PROJECT_FILE

ObjectKey = tuple[str, str]  # kind, name


@dataclass(frozen=True, slots=True)
class Editor:
    """The text edits of YAML, which belong to the schemas. Both keep all around the object.

    `replace(data, kind, name, new_document)` and `remove(data, kind, name)` return new bytes.
    """

    replace: Callable[[bytes, str, str, str], bytes]
    remove: Callable[[bytes, str, str], bytes]


def plan_edits(
    files: Mapping[str, bytes],
    where: Mapping[ObjectKey, str],
    *,
    to_set: Sequence[tuple[str, str, str]],
    to_delete: Collection[ObjectKey] = (),
    editor: Editor,
) -> dict[str, bytes | None]:
    """Return path -> new bytes, or None to remove the file; only what really changes.

    `where` tells the file of every object there is; `to_set` holds (kind, name, document). An
    object that exists is edited in its file, a new one goes to `<kind>s/<name>.yaml`; objects
    not named stay byte for byte. A file that loses its last object goes.
    Raises: UsageError (MYC-GIT-017): one object named twice. CheckSaysNo (-018): nothing to delete.
    """
    _check_named_once(to_set, to_delete)
    edited: dict[str, bytes] = {}
    for kind, name, document in to_set:
        path = where.get((kind, name))
        if path is not None:
            current = edited.get(path, files[path])
            edited[path] = editor.replace(current, kind, name, document)
            continue
        path = new_path(kind, name)
        edited[path] = _append(edited.get(path, files.get(path, b"")), document)
    for kind, name in to_delete:
        path = _path_of(where, kind, name)
        edited[path] = editor.remove(edited.get(path, files[path]), kind, name)
    emptied = _emptied(where, to_set, to_delete)
    result: dict[str, bytes | None] = {
        path: data for path, data in edited.items() if data != files.get(path)
    }
    return result | dict.fromkeys(emptied)


def new_path(kind: str, name: str) -> str:
    """Return where a new object goes: `workflows/orders.yaml`; the Project is the root's."""
    if kind == "Project":
        return PROJECT_FILE
    stem = kind.lower()
    plural = f"{stem[:-1]}ies" if stem.endswith("y") else f"{stem}s"
    return check_path(f"{plural}/{name}.yaml")


def _check_named_once(
    to_set: Sequence[tuple[str, str, str]], to_delete: Collection[ObjectKey]
) -> None:
    seen: set[ObjectKey] = set()
    for key in [*((kind, name) for kind, name, _ in to_set), *to_delete]:
        if key in seen:
            raise UsageError(
                "MYC-GIT-017",
                f"{key[0]}/{key[1]} is named more than once",
                fix="name each object once, either to set or to delete",
            )
        seen.add(key)


def _path_of(where: Mapping[ObjectKey, str], kind: str, name: str) -> str:
    path = where.get((kind, name))
    if path is None:
        raise CheckSaysNo(
            "MYC-GIT-018",
            f"{kind}/{name} is in no file, so it cannot be deleted",
            fix="see which objects there are with `mycelial get`",
        )
    return path


def _append(data: bytes, document: str) -> bytes:
    text = document.strip("\n").encode() + b"\n"
    if not data.strip():
        return text
    return data.rstrip(b"\n") + b"\n---\n" + text.removeprefix(b"---\n")


def _emptied(
    where: Mapping[ObjectKey, str],
    to_set: Sequence[tuple[str, str, str]],
    to_delete: Collection[ObjectKey],
) -> list[str]:
    touched = {where[key] for key in to_delete}
    kept = {path for key, path in where.items() if key not in to_delete}
    kept |= {new_path(kind, name) for kind, name, _ in to_set if (kind, name) not in where}
    return sorted(touched - kept)


def commit_with_retry(
    source: ManifestSource, make_change: Callable[[str], Commit | None], *, attempts: int = 2
) -> str:
    """Commit what `make_change(head)` returns; made again when the head moved in between.

    Returns the new revision, or the head when there is nothing to change.
    Raises: Conflict when it moved under every attempt; whatever `make_change` raises.
    """
    for left in range(attempts - 1, -1, -1):
        head = source.probe(None).revision
        change = make_change(head)
        if change is None:
            return head
        try:
            return source.commit(change)
        except Conflict:
            if not left:
                raise
    raise AssertionError("attempts is at least 1")


def revert(
    source: VersionedSource, revision: str, *, author: str, head: str | None = None
) -> Commit:
    """Return the commit that undoes `revision` on top of the head.

    Raises: Conflict (MYC-GIT-016) when a later commit changed the same files; NotAllowed (-016)
    when the commit cannot be undone this way.
    """
    head = head or source.probe(None).revision
    info = source.describe(revision)
    if not info.parents:
        raise NotAllowed(
            "MYC-GIT-016",
            f"{revision} is the first commit: nothing comes before it",
            fix="delete objects by name instead",
        )
    undone = source.changes(info.parents[0], info.revision)
    since = {change.path for change in source.changes(info.revision, head)}
    restore = plan_revert(revision, undone, since)
    contents = source.read(blob for blob in restore.values() if blob is not None)
    files = {path: None if blob is None else contents[blob] for path, blob in restore.items()}
    subject = info.message.partition("\n")[0]
    message = f'Revert "{subject}"\n\nThis reverts {info.revision}.\n'
    return Commit(head, message, author, files)


def plan_revert(
    revision: str, undone: Sequence[PathChange], changed_since: Collection[str]
) -> dict[str, str | None]:
    """Return path -> blob to restore, or None to remove. Pure; raises as `revert` does."""
    if not undone:
        raise NotAllowed("MYC-GIT-016", f"{revision} changes nothing", fix="name another commit")
    again = sorted(change.path for change in undone if change.path in changed_since)
    if again:
        shown = ", ".join(again[:5]) + (", ..." if len(again) > 5 else "")
        raise Conflict(
            "MYC-GIT-016",
            f"{revision} cannot be undone alone: later commits changed {shown}",
            fix="revert the later commits first, or edit the files",
        )
    odd = sorted(c.path for c in undone if c.before is not None and not c.is_regular)
    if odd:
        raise NotAllowed(
            "MYC-GIT-016",
            f"{revision} replaced links or submodules, which are not written: {odd[0]}",
            fix="undo it with `git revert` in a clone, and push",
        )
    return {change.path: change.before for change in undone}
