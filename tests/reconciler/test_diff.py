"""What differs between two specs, and what that does to the pipeline."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycelial.kernel.canonical import canonical_json
from mycelial.reconciler.diff import classify, diff_specs, diff_values
from mycelial.schemas.desired import Delivery, PipelineSpec, PluginUse, Schedule
from mycelial.schemas.plan import Effect, FieldChange

SPEC = PipelineSpec(
    workflow="orders",
    uid="u",
    scope="s",
    source=PluginUse("sqlite", {"path": "shop.db", "table": "orders", "cursor": "id"}),
    destination=PluginUse(
        "postgres", {"table": "orders", "mode": "upsert", "password": {"secret": "pw"}}
    ),
    transforms=(PluginUse("sql", {"sql": "select 1"}, name="clean"),),
)


def source(**config):
    return replace(SPEC, source=replace(SPEC.source, config={**SPEC.source.config, **config}))


def destination(**config):
    use = SPEC.destination
    return replace(SPEC, destination=replace(use, config={**use.config, **config}))


@pytest.mark.parametrize(
    ("after", "effect", "paths"),
    [
        pytest.param(SPEC, Effect.UNCHANGED, [], id="same"),
        pytest.param(replace(SPEC, workflow="o2"), Effect.IN_PLACE, ["workflow"], id="renamed"),
        pytest.param(
            replace(SPEC, schedule=Schedule("continuous")),
            Effect.RESTART,
            ["schedule.kind"],
            id="schedule",
        ),
        pytest.param(
            replace(SPEC, delivery=Delivery(unit_rows=5)),
            Effect.RESTART,
            ["delivery.unit_rows"],
            id="limit-appears",
        ),
        pytest.param(
            replace(SPEC, transforms=()), Effect.RESTART, ["transforms[clean]"], id="transform-gone"
        ),
        pytest.param(source(batch=5), Effect.RESTART, ["source.config.batch"], id="source-setting"),
        pytest.param(
            source(table="t2"), Effect.RESNAPSHOT, ["source.config.table"], id="source-table"
        ),
        pytest.param(
            source(cursor="ts"), Effect.RESNAPSHOT, ["source.config.cursor"], id="source-cursor"
        ),
        pytest.param(
            source(tables=["a"]), Effect.RESNAPSHOT, ["source.config.tables"], id="source-tables"
        ),
        pytest.param(
            replace(SPEC, source=replace(SPEC.source, plugin="csv")),
            Effect.RESNAPSHOT,
            ["source.plugin"],
            id="source-plugin",
        ),
        pytest.param(
            destination(mode="append"),
            Effect.RESNAPSHOT,
            ["destination.config.mode"],
            id="destination-mode",
        ),
        pytest.param(
            destination(password={"secret": "pw2"}),
            Effect.RESTART,
            ["destination.config.password.secret"],
            id="another-secret",
        ),
        pytest.param(replace(SPEC, scope="s2"), Effect.RESNAPSHOT, ["scope"], id="scope"),
        pytest.param(
            replace(source(table="t2"), schedule=Schedule("continuous")),
            Effect.RESNAPSHOT,
            ["schedule.kind", "source.config.table"],
            id="the-strongest-wins",
        ),
    ],
)
def test_effect_of_a_change(after, effect, paths):
    changes = diff_specs(SPEC, after)
    verdict = classify(changes)
    assert [change.path for change in changes] == paths
    assert verdict.effect is effect
    assert bool(verdict.reason) == (effect is not Effect.UNCHANGED)


def test_an_inserted_named_step_is_one_change():
    more = (PluginUse("filter", {"where": "x"}, name="first"), *SPEC.transforms)
    found = diff_specs(SPEC, replace(SPEC, transforms=more))
    assert [change.path for change in found] == ["transforms[first]"]


def test_reordered_steps_are_a_change():
    two = replace(SPEC, transforms=(*SPEC.transforms, PluginUse("filter", {}, name="first")))
    found = diff_specs(two, replace(two, transforms=two.transforms[::-1]))
    assert found == (FieldChange("transforms[order]", ["clean", "first"], ["first", "clean"]),)


def test_a_value_under_secret_never_shows():
    literal = diff_values({"secret": {"v": "hunter2"}}, {"secret": {"v": "hunter3"}})
    removed = diff_values({"a": {"secret": ["hunter2"]}}, {})
    assert "hunter" not in repr((literal, removed))
    assert len(literal) == len(removed) == 1


def test_true_and_one_differ():
    assert diff_values({"a": True}, {"a": 1}) != ()


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


objects = st.dictionaries(
    st.sampled_from("abc"),
    st.integers(0, 1) | st.booleans() | st.none() | st.lists(st.integers(0, 2), max_size=2),
    max_size=3,
)


@given(value=json)
def test_nothing_differs_from_itself(value):
    assert diff_values(value, value) == ()


def without_nulls(value):
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return [without_nulls(v) for v in value] if isinstance(value, list) else value


@given(before=json, after=json)
def test_a_difference_is_seen_from_both_sides(before, after):
    there, back = diff_values(before, after), diff_values(after, before)
    assert [(c.path, c.before, c.after) for c in there] == [
        (c.path, c.after, c.before) for c in back
    ]


@given(before=objects, after=objects)
def test_exactly_the_values_that_differ_have_a_change(before, after):
    # A field that is absent and one that is null say the same.
    same = canonical_json(without_nulls(before)) == canonical_json(without_nulls(after))
    assert (diff_values(before, after) == ()) == same
