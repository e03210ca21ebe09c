"""The owner's word against git's: pure decisions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mycelial.daemon.config import DaemonConfig, EndpointConfig, NodeConfig, PolicyConfig
from mycelial.daemon.inventory import Abilities, take_inventory
from mycelial.daemon.policy import decide, secret_names
from mycelial.schemas.desired import PluginUse

CONFIG = DaemonConfig(
    node=NodeConfig(name="shop-01", labels={"site": "lyon"}),
    sources=(EndpointConfig("till", "sqlite", {"path": "/t.db", "tls": {"ca": "x"}}),),
)


@pytest.mark.parametrize(
    ("plugin", "endpoint", "policy", "code"),
    [
        pytest.param("exec", "", PolicyConfig(connectors=("sqlite",)), "040", id="connector"),
        pytest.param("sqlite", "", PolicyConfig(connectors=()), "040", id="nothing-allowed"),
        pytest.param("sqlite", "", PolicyConfig(pipelines_max=0), "041", id="pipelines-max"),
        pytest.param("sqlite", "shop-01/nope", PolicyConfig(), "042", id="no-such-endpoint"),
        pytest.param("sqlite", "shop-02/till", PolicyConfig(), "042", id="other-daemons-endpoint"),
        pytest.param("csv", "shop-01/till", PolicyConfig(), "042", id="endpoint-of-other-kind"),
    ],
)
def test_refusals(make_assignment, plugin, endpoint, policy, code):
    config = replace(CONFIG, policy=policy)
    verdict = decide(
        [make_assignment(plugin=plugin, endpoint=endpoint)], config, running=frozenset()
    )
    assert [item.problem.code for item in verdict.refused] == [f"MYC-DAEMON-{code}"]
    assert verdict.refused[0].problem.fix
    assert verdict.duties == ()


def test_running_pipelines_keep_their_place_when_places_are_short(make_assignment):
    config = replace(CONFIG, policy=PolicyConfig(pipelines_max=2))
    items = [make_assignment(name) for name in ("a", "b", "c")]
    verdict = decide(items, config, running=frozenset({"uid-c"}))
    assert [duty.assignment.name for duty in verdict.duties] == ["c", "a"]
    assert [item.assignment.name for item in verdict.refused] == ["b"]


def test_the_order_of_a_set_changes_no_decision(make_assignment):
    config = replace(CONFIG, policy=PolicyConfig(pipelines_max=2))
    items = [make_assignment(name) for name in ("a", "b", "c")]
    one = decide(items, config, running=frozenset())
    assert one == decide(reversed(items), config, running=frozenset())


def test_the_manifest_lies_over_the_endpoint(make_assignment):
    item = make_assignment(config={"tls": {"mode": "on"}, "table": "t"}, endpoint="till")
    (duty,) = decide([item], CONFIG, running=frozenset()).duties
    assert duty.assignment.spec.source.config == {
        "path": "/t.db",
        "tls": {"ca": "x", "mode": "on"},
        "table": "t",
    }
    assert duty.given_hash == item.spec_hash != duty.assignment.spec_hash


def test_without_endpoints_a_spec_stays_the_same_object(make_assignment):
    item = make_assignment()
    (duty,) = decide([item], CONFIG, running=frozenset()).duties
    assert duty.assignment.spec is item.spec
    assert duty.given_hash == duty.assignment.spec_hash == item.spec_hash


def test_secret_references_are_found_at_any_depth(make_assignment):
    spec = replace(
        make_assignment().spec,
        transforms=(PluginUse("x", {"list": [{"a": {"secret": "deep"}}], "secret": 5}),),
    )
    assert secret_names(spec) == {"warehouse-pw", "deep"}


def test_the_inventory_offers_only_what_policy_allows():
    config = replace(CONFIG, policy=PolicyConfig(connectors=("sqlite",)))
    found = take_inventory(
        config,
        version="1",
        abilities=lambda: Abilities(("connector/sqlite", "connector/exec", "transform/sql")),
        labels={"site": "paris", "role": "till"},
    )
    assert found.capabilities == ("connector/sqlite", "transform/sql")
    assert found.labels == {"site": "lyon", "role": "till"}
    assert [(e.name, e.role, e.connector) for e in found.endpoints] == [
        ("till", "source", "sqlite")
    ]
    assert "/t.db" not in str(found)
