"""Compare two specs field by field, and say what the difference does to a running pipeline.

Pure. In: the spec a daemon was given and the one it shall get. Out: field changes and an effect.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mycelial.schemas.codec import encode
from mycelial.schemas.desired import PipelineSpec
from mycelial.schemas.identity import DESTINATION_IDENTITY, SOURCE_IDENTITY
from mycelial.schemas.plan import Effect, FieldChange

_SEVERITY = {effect: rank for rank, effect in enumerate(Effect)}  # Effect lists the mildest first
_MASK = "(secret)"


@dataclass(frozen=True, slots=True)
class Rule:
    """What a change of the fields matching `path` does. `*` is one segment, `**` any rest."""

    path: str
    effect: Effect
    reason: str


# First match wins. Whatever no rule names restarts the pipeline from its checkpoint: that is
# always correct, while "in place" has to be earned by needing no new worker at all.
RULES: tuple[Rule, ...] = (
    Rule("workflow", Effect.IN_PLACE, "only the name changes"),
    Rule("uid", Effect.RESNAPSHOT, "it is another workflow"),
    Rule("scope", Effect.RESNAPSHOT, "its checkpoint belongs to another placement"),
    Rule("source.plugin", Effect.RESNAPSHOT, "the source is of another kind"),
    Rule("source.endpoint", Effect.RESNAPSHOT, "the source is another endpoint"),
    *(
        Rule(f"source.config.{key}{rest}", Effect.RESNAPSHOT, f"the source's {key} changes")
        for key in SOURCE_IDENTITY
        for rest in ("", ".**")
    ),
    Rule("destination.plugin", Effect.RESNAPSHOT, "the destination is of another kind"),
    Rule("destination.endpoint", Effect.RESNAPSHOT, "the destination is another endpoint"),
    *(
        Rule(
            f"destination.config.{key}{rest}",
            Effect.RESNAPSHOT,
            f"the destination's {key} changes, and what it names holds none of the rows",
        )
        for key in DESTINATION_IDENTITY
        for rest in ("", ".**")
    ),
    Rule("transforms**", Effect.RESTART, "transforms change; rows already delivered keep theirs"),
    Rule("**", Effect.RESTART, "settings change"),
)


def diff_specs(before: PipelineSpec, after: PipelineSpec) -> tuple[FieldChange, ...]:
    """Return the leaves that differ, ordered by path; empty for equal specs.

    The scope follows the identity of both ends: it is named only where it changes alone.
    """
    changes = diff_values(encode(before), encode(after))
    rest = tuple(change for change in changes if change.path != "scope")
    is_told = classify(rest).effect is Effect.RESNAPSHOT
    return rest if is_told else changes


def diff_values(before: Any, after: Any, path: str = "") -> tuple[FieldChange, ...]:
    """Return the differing leaves of two JSON values, ordered by path."""
    return tuple(sorted(_walk(before, after, path), key=lambda change: change.path))


def _walk(before: Any, after: Any, path: str) -> Iterator[FieldChange]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted(before.keys() | after.keys()):
            here = f"{path}.{key}" if path else str(key)
            if key == "secret":  # a reference stays a leaf; whatever else stands there is masked
                yield from _secret(before.get(key), after.get(key), here)
            else:
                yield from _walk(before.get(key), after.get(key), here)
    elif _is_list(before) and _is_list(after):
        old, new = _by_label(before), _by_label(after)
        for label in sorted(old.keys() | new.keys()):
            yield from _walk(old.get(label), new.get(label), f"{path}[{_index(label)}]")
        if list(old) != list(new) and old.keys() == new.keys():
            yield FieldChange(f"{path}[order]", list(old), list(new))
    elif before != after or type(before) is not type(after):
        yield FieldChange(path, _shown(before), _shown(after))


def _secret(before: Any, after: Any, path: str) -> Iterator[FieldChange]:
    if before != after:
        yield FieldChange(path, _reference(before), _reference(after))


def _reference(value: Any) -> Any:
    return value if value is None or isinstance(value, str) else _MASK


def _shown(value: Any) -> Any:
    """Return a whole value that appeared or went, with whatever is under `secret` masked."""
    if isinstance(value, Mapping):
        return {k: _reference(v) if k == "secret" else _shown(v) for k, v in value.items()}
    return [_shown(item) for item in value] if _is_list(value) else value


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _by_label(items: Sequence[Any]) -> dict[str, Any]:
    """Key a list by its items' unique names, so that an insertion is one change; else by index."""
    names = [item.get("name") if isinstance(item, Mapping) else None for item in items]
    if names and all(isinstance(n, str) and n for n in names) and len(set(names)) == len(names):
        return {str(name): item for name, item in zip(names, items, strict=True)}
    return {f"{index:03d}": item for index, item in enumerate(items)}


def _index(label: str) -> str:
    """Return a label as people write it; an index is padded only to sort well."""
    return str(int(label)) if label.isdigit() else label


@lru_cache(maxsize=4096)
def _pattern(path: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*|\*)", path)
    regex = {"**": ".*", "*": r"[^.\[]+"}
    return re.compile("".join(regex.get(part, re.escape(part)) for part in parts))


def rule_for(path: str) -> Rule:
    """Return the first rule that names the field. A list index counts with its field."""
    return next(rule for rule in RULES if _pattern(rule.path).fullmatch(_without_index(path)))


@lru_cache(maxsize=4096)
def _without_index(path: str) -> str:
    return path if path.startswith("transforms") else re.sub(r"\[[^\]]*\]", "", path)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The effect of a set of field changes: the strongest one, with its reason."""

    effect: Effect
    reason: str = ""


def classify(changes: Sequence[FieldChange]) -> Verdict:
    """Return what the changes do to a running pipeline: unchanged, in_place, restart, resnapshot.

    In place means that the pipeline goes on untouched: the spec is the same but for the name.
    Labels, annotations, revision and deletion policy are no part of a spec, so they are in place
    by construction. A schedule, a limit or a transform needs a new worker: restart.
    """
    found = Verdict(Effect.UNCHANGED)
    for change in changes:
        rule = rule_for(change.path)
        if _SEVERITY[rule.effect] > _SEVERITY[found.effect]:
            found = Verdict(rule.effect, rule.reason)
    return found
