"""The plan says re-snapshot exactly when the checkpoint scope is another one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycelial.kernel.errors import Location
from mycelial.reconciler.diff import RULES, classify, diff_specs
from mycelial.schemas.desired import (
    Delivery,
    DesiredWorkflow,
    Override,
    PipelineSpec,
    Placement,
    PlacementMode,
    PluginUse,
    Retry,
    Schedule,
)
from mycelial.schemas.identity import DESTINATION_IDENTITY, SOURCE_IDENTITY
from mycelial.schemas.plan import Effect
from mycelial.schemas.resolve import resolve

SOURCE = PluginUse("sqlite", {"path": "${daemon.labels.site}.db", "table": "orders", "batch": 9})
DESTINATION = PluginUse("postgres", {"table": "orders", "mode": "upsert", "key": ["id"]})
WORKFLOW = DesiredWorkflow(
    name="orders",
    uid="u",
    digest="d",
    placement=Placement(PlacementMode.NAMED, daemon="till"),
    template=PipelineSpec("orders", "u", "", SOURCE, DESTINATION),
    location=Location("w.yaml", 1, 1),
)
LABELS = {"site": "lyon"}


def at(workflow, daemon="till", labels=LABELS):
    return resolve(workflow, daemon, f"uid-{daemon}", labels, {})


def using(source=None, destination=None, **fields):
    template = replace(WORKFLOW.template, **fields)
    if source is not None:
        template = replace(template, source=source)
    if destination is not None:
        template = replace(template, destination=destination)
    return replace(WORKFLOW, template=template)


def with_source(**config):
    return using(source=replace(SOURCE, config={**SOURCE.config, **config}))


def with_destination(**config):
    return using(destination=replace(DESTINATION, config={**DESTINATION.config, **config}))


def verdict(before, after):
    return classify(diff_specs(before, after))


RENAMED = replace(
    using(workflow="sales"), name="sales", moved_from=("orders",), labels={"team": "x"}
)


@pytest.mark.parametrize(
    ("after", "effect"),
    [
        pytest.param(WORKFLOW, Effect.UNCHANGED, id="same"),
        pytest.param(RENAMED, Effect.IN_PLACE, id="renamed by moved"),
        pytest.param(using(schedule=Schedule("continuous")), Effect.RESTART, id="schedule"),
        pytest.param(using(delivery=Delivery(unit_rows=5)), Effect.RESTART, id="delivery"),
        pytest.param(using(retry=Retry(1.0)), Effect.RESTART, id="retry"),
        pytest.param(using(rate_rows_per_second=1.0), Effect.RESTART, id="rate"),
        pytest.param(using(transforms=(PluginUse("sql", {}),)), Effect.RESTART, id="transform"),
        pytest.param(with_source(batch=10), Effect.RESTART, id="source setting"),
        pytest.param(with_source(query=None), Effect.UNCHANGED, id="a null is no key"),
        pytest.param(with_source(path="lyon.db"), Effect.UNCHANGED, id="filled in by hand"),
        pytest.param(with_source(path="nice.db"), Effect.RESNAPSHOT, id="path"),
        pytest.param(with_source(table="o2"), Effect.RESNAPSHOT, id="table"),
        pytest.param(with_source(cursor="ts"), Effect.RESNAPSHOT, id="cursor"),
        pytest.param(with_destination(table="o2"), Effect.RESNAPSHOT, id="destination table"),
        pytest.param(with_destination(key=["id", "x"]), Effect.RESNAPSHOT, id="destination key"),
        pytest.param(using(source=replace(SOURCE, plugin="csv")), Effect.RESNAPSHOT, id="plugin"),
        pytest.param(
            using(source=replace(SOURCE, endpoint="till/db")), Effect.RESNAPSHOT, id="endpoint"
        ),
        pytest.param(
            using(source=replace(SOURCE, overrides=(Override("site", {"path": "x"}),))),
            Effect.RESNAPSHOT,
            id="an override that matches",
        ),
    ],
)
def test_another_identity_is_another_scope(after, effect):
    before = at(WORKFLOW)
    assert verdict(before, at(after)).effect is effect
    assert (at(after).scope != before.scope) == (effect is Effect.RESNAPSHOT)


def test_the_reason_names_the_field_and_not_the_scope():
    assert verdict(at(WORKFLOW), at(with_source(table="o2"))).reason == "the source's table changes"


def test_a_label_that_names_other_data_is_another_scope():
    before, after = at(WORKFLOW), at(WORKFLOW, labels={"site": "nice"})
    assert verdict(before, after).effect is Effect.RESNAPSHOT
    assert before.scope != after.scope


def test_a_workflow_that_moves_to_another_daemon_keeps_its_scope():
    assert at(WORKFLOW, "a").scope == at(WORKFLOW, "b").scope
    every = replace(WORKFLOW, placement=Placement(PlacementMode.EVERY, selector="site"))
    assert at(every, "a").scope != at(every, "b").scope


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from(["", "a", "b"]),
    lambda inner: (
        st.lists(inner.filter(lambda value: value is not None), max_size=2)
        | st.dictionaries(st.sampled_from(["secret", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)
KEYS = st.sampled_from([*SOURCE_IDENTITY, *DESTINATION_IDENTITY, "batch", "timeout", "password"])
CONFIGS = st.dictionaries(KEYS, VALUES, max_size=4)


@given(CONFIGS, CONFIGS, CONFIGS, CONFIGS)
def test_resnapshot_if_and_only_if_the_scope_changes(source, other, destination, another):
    one = at(using(PluginUse("p", source), PluginUse("q", destination)))
    two = at(using(PluginUse("p", {**source, **other}), PluginUse("q", {**destination, **another})))
    assert (verdict(one, two).effect is Effect.RESNAPSHOT) == (one.scope != two.scope)


def test_every_rule_that_resnapshots_is_of_the_identity():
    fixed = {"uid", "scope", "source.plugin", "source.endpoint"}
    fixed |= {"destination.plugin", "destination.endpoint"}
    of_keys = {f"source.config.{key}" for key in SOURCE_IDENTITY}
    of_keys |= {f"destination.config.{key}" for key in DESTINATION_IDENTITY}
    found = {r.path.removesuffix(".**") for r in RULES if r.effect is Effect.RESNAPSHOT}
    assert found == fixed | of_keys
