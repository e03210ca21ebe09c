"""Files to desired state: identity, digests, references, and what is blocked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mycelial.kernel.errors import Severity
from mycelial.schemas.catalog import Catalog
from mycelial.schemas.check import check_file
from mycelial.schemas.checked import CheckedFile
from mycelial.schemas.compile import compile_tree
from mycelial.schemas.desired import DesiredState, PlacementMode, Schedule
from mycelial.schemas.parse import parse_file
from mycelial.schemas.validate import Validation, validate

Check = Callable[..., Validation]
PROJECT = "apiVersion: mycelial/v1\nkind: Project\nmetadata: { name: p }\nspec:\n  uid: u-1\n"
HUB = (
    "apiVersion: mycelial/v1\nkind: Connection\nmetadata: { name: hub }\nspec:\n"
    "  postgres: { host: db, database: '${var.db}', password: { secret: hub-pw } }\n"
    "  overrides:\n    - { selector: site=lyon, postgres: { host: db.lyon } }\n"
)
TO_HUB = (
    "  destination: { postgres: { connection: hub, table: orders, mode: upsert, key: [id] } }\n"
)
VARIABLES = "  variables: { db: 'dw_${var.stage}', stage: test }\n"


@pytest.mark.parametrize(
    ("change", "schedule"),
    [
        pytest.param(("", ""), Schedule("once"), id="no cursor"),
        pytest.param(
            ("table: orders", "table: orders, cursor: id"), Schedule("continuous"), id="cursor"
        ),
        pytest.param(
            ("table: orders", "table: orders, cursor: null"), Schedule("once"), id="null cursor"
        ),
        pytest.param(
            ("table: orders", 'table: orders, cursor: ""'), Schedule("once"), id="empty cursor"
        ),
        pytest.param(
            ("sqlite: { path: shop.db, table: orders }", "tail: { path: l }"),
            Schedule("continuous"),
            id="follows by nature",
        ),
        pytest.param(
            ("  source", "  schedule: every 1m30s\n  source"),
            Schedule("every", every_seconds=90.0),
            id="every",
        ),
        pytest.param(
            ("  source", "  schedule: { continuous: { poll: 200ms } }\n  source"),
            Schedule("continuous", poll_seconds=0.2),
            id="poll",
        ),
        pytest.param(
            ("  source", "  schedule: { cron: '5 4 * * 0', timezone: Europe/Lisbon }\n  source"),
            Schedule("cron", cron="5 4 * * 0", timezone="Europe/Lisbon"),
            id="cron",
        ),
    ],
)
def test_schedule_is_what_is_written_or_what_the_source_suggests(
    check: Check, make_workflow: Callable[..., str], change: tuple[str, str], schedule: Schedule
) -> None:
    text = make_workflow()
    if change[0]:
        text = text.replace(*change, 1)
    result = check(text)
    assert result.problems == ()
    assert result.desired.workflows["orders"].template.schedule == schedule


def test_everything_a_workflow_says_arrives(
    check: Check, make_workflow: Callable[..., str]
) -> None:
    text = make_workflow(
        meta=", labels: { team: retail }, annotations: { a: b }",
        spec="  selector: site, role=till\n  placement: one\n",
    ) + (
        "  transforms:\n    - { name: big, filter: qty > 0 }\n    - rename: { columns: { a: b } }\n"
        "    - sql: { query: select 1, memory: 1MiB }\n"
        "  delivery: { guarantee: exactly-once, queue: 1MB,"
        " unit: { rows: 5, bytes: 1KiB, period: 2s } }\n"
        "  onError: { retry: { upTo: 1h } }\n  rate: { rows: 100 }\n"
        "  deletion: { policy: orphan, deadline: 5m }\n"
    )
    result = check(text, revision="main@abc")
    assert result.problems == ()
    assert result.desired.complete
    workflow = result.desired.workflows["orders"]
    assert workflow.placement.mode is PlacementMode.ONE
    assert workflow.placement.selector == "site, role=till"
    assert workflow.labels == {"team": "retail"}
    assert workflow.requires == (
        "connector/sqlite",
        "transform/filter",
        "transform/rename",
        "transform/sql",
    )
    template = workflow.template
    assert [(t.name, t.plugin) for t in template.transforms] == [
        ("big", "filter"),
        ("", "rename"),
        ("", "sql"),
    ]
    assert template.transforms[1].config == {"columns": {"a": "b"}, "strict": True}
    assert template.transforms[2].config["memory"] == 1024 * 1024
    assert template.source.config == {
        "path": "shop.db",
        "table": "orders",
        "cursor": None,
        "batch_rows": 1000,
    }
    delivery = template.delivery
    assert (delivery.unit_rows, delivery.unit_bytes, delivery.unit_seconds) == (5, 1024, 2.0)
    assert (template.retry.up_to_seconds, template.rate_rows_per_second) == (3600.0, 100.0)
    assert (str(workflow.on_delete), workflow.drain_deadline_seconds) == ("orphan", 300.0)


def test_a_connection_is_merged_under_the_workflow_with_its_overrides(
    check: Check, make_workflow: Callable[..., str]
) -> None:
    files = {
        "mycelial.yaml": PROJECT + VARIABLES,
        "c.yaml": HUB,
        "w.yaml": make_workflow(end=TO_HUB.replace("connection: hub", "connection: hub, user: me")),
    }
    result = check(files)
    assert result.problems == ()
    use = result.desired.workflows["orders"].template.destination
    assert use.config["host"] == "db"
    assert use.config["user"] == "me"
    assert use.config["password"] == {"secret": "hub-pw"}
    assert use.config["key"] == ["id"]
    assert [(o.selector, o.config["host"], o.config["user"]) for o in use.overrides] == [
        ("site=lyon", "db.lyon", "me")
    ]
    assert result.desired.project.variables == {"db": "dw_test", "stage": "test"}


def test_an_endpoint_implies_its_daemon_and_leaves_fields_to_it(
    check: Check, make_workflow: Callable[..., str]
) -> None:
    text = make_workflow(spec="\n").replace("path: shop.db", "endpoint: shop-07/orders-db")
    result = check(text)
    assert result.problems == ()
    workflow = result.desired.workflows["orders"]
    assert (workflow.placement.mode, workflow.placement.daemon) == (PlacementMode.NAMED, "shop-07")
    source = workflow.template.source
    assert (source.endpoint, source.config) == ("orders-db", {"table": "orders"})


# ---- identity and digests ----


def _one(state: DesiredState) -> tuple[str, str]:
    (workflow,) = state.workflows.values()
    return workflow.uid, workflow.digest


def test_uid_survives_a_rename_a_chain_and_a_move_but_not_a_new_incarnation(
    check: Check, make_workflow: Callable[..., str]
) -> None:
    def uid(text: str, project: str = PROJECT, path: str = "w.yaml") -> str:
        result = check({"mycelial.yaml": project, path: text})
        assert result.problems == ()
        return _one(result.desired)[0]

    first = uid(make_workflow("a"))
    assert len(first) == 32
    assert uid(make_workflow("b", meta=", moved: { from: a }")) == first
    assert uid(make_workflow("c", meta=", moved: { from: [b, a] }")) == first
    assert uid(make_workflow("a"), path="deep/er.yaml") == first
    others = {
        uid(make_workflow("b")),
        uid(make_workflow("a"), PROJECT.replace("u-1", "u-2")),
        uid(make_workflow("a"), PROJECT + "  incarnations: { Workflow/a: 1 }\n"),
        first,
    }
    assert len(others) == 4


_FIELDS = {
    "daemon": ("shop-01", "'shop-01'", '"shop-01"'),
    "schedule": ("every 60s", "'every 1m'", "every 1m"),
    "source": (
        "{ sqlite: { path: a.db, table: t } }",
        '\n    sqlite:\n      table: "t"\n      # c\n      path: a.db',
        "{ sqlite: { table: t, path: a.db, batchRows: 1000 } }",
    ),
    "destination": (
        "{ sqlite: { path: b.db, table: t } }",
        "{sqlite: {table: t, path: b.db, cursor: null}}",
        "\n    sqlite: { path: 'b.db', table: t }",
    ),
    "delivery": ("{}", "{ guarantee: auto }", "{ queue: 8MiB }"),
}


@given(
    order=st.permutations(sorted(_FIELDS)),
    picks=st.lists(st.integers(0, 2), min_size=5, max_size=5),
    noise=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_digest_ignores_order_formatting_comments_labels_and_place(
    catalog: Catalog, order: list[str], picks: list[int], noise: bool
) -> None:
    def state(fields: list[str], choice: Mapping[str, int], head: str) -> DesiredState:
        lines = [f"  {name}: {_FIELDS[name][choice[name]]}\n" for name in fields]
        text = head + "".join(lines)
        checked = check_file(parse_file("w.yaml", text.encode()), catalog)
        return compile_tree([checked], revision="r", complete=True)

    plain = "apiVersion: mycelial/v1\nkind: Workflow\nmetadata: { name: a }\nspec:\n"
    noisy = (
        "# c\n\n---\nmetadata: {name: a, labels: {x: y}}\nkind: Workflow\n"
        "apiVersion: mycelial/v1\nspec:\n"
    )
    expected = _one(state(sorted(_FIELDS), dict.fromkeys(_FIELDS, 0), plain))
    chosen = dict(zip(sorted(_FIELDS), picks, strict=True))
    assert _one(state(order, chosen, noisy if noise else plain)) == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("table: orders, mode", "table: orders2, mode", id="own field"),
        pytest.param("host: db,", "host: db2,", id="connection"),
        pytest.param("host: db.lyon", "host: db.nice", id="override"),
        pytest.param("stage: test", "stage: live", id="variable behind a variable"),
        pytest.param("daemon: shop-01", "daemon: shop-02", id="placement"),
    ],
)
def test_digest_follows_the_spec_and_all_it_references(
    check: Check, make_workflow: Callable[..., str], old: str, new: str
) -> None:
    files = {
        "mycelial.yaml": PROJECT + VARIABLES,
        "c.yaml": HUB,
        "w.yaml": make_workflow(end=TO_HUB),
    }
    changed = {path: text.replace(old, new) for path, text in files.items()}
    assert changed != files
    before, after = _one(check(files).desired), _one(check(changed).desired)
    assert before[0] == after[0]
    assert before[1] != after[1]


# ---- what is blocked ----


def test_a_broken_object_blocks_itself_and_all_deletion_but_no_sibling(
    check: Check, make_workflow: Callable[..., str]
) -> None:
    files = {
        "a.yaml": make_workflow("a") + "  rats: 1\n---\n" + make_workflow("b"),
        "b.yaml": make_workflow("c") + "---\n" + make_workflow("d").replace("spec:", "spec: ["),
        "c.yaml": make_workflow("e").replace("path: shop.db", "path: s, path: t")
        + "---\n"
        + make_workflow("f"),
    }
    state = check(files).desired
    assert set(state.workflows) == {"b", "c", "f"}
    assert state.blocked == {"Workflow/a", "Workflow/d", "Workflow/e"}
    assert not state.complete


def test_a_reference_that_fails_blocks_only_who_uses_it(
    check: Check, make_workflow: Callable[..., str]
) -> None:
    files = {"w.yaml": make_workflow("a", end=TO_HUB) + "---\n" + make_workflow("b")}
    state = check(files).desired
    assert (set(state.workflows), state.blocked) == ({"b"}, {"Workflow/a"})
    assert state.complete


def test_objects_declared_twice_are_both_named_and_neither_runs(
    check: Check, make_workflow: Callable[..., str]
) -> None:
    result = check({"a.yaml": make_workflow(), "b.yaml": "\n" + make_workflow()})
    assert [(str(p.where), p.what) for p in result.problems] == [
        ("a.yaml:3:13", "Workflow/orders is declared twice, also in b.yaml:4:13"),
        ("b.yaml:4:13", "Workflow/orders is declared twice, also in a.yaml:3:13"),
    ]
    assert result.desired.workflows == {}
    assert result.desired.blocked == {"Workflow/orders"}


@pytest.mark.parametrize(
    "project",
    [
        pytest.param(PROJECT + "  uid: u-2\n", id="duplicate key"),
        pytest.param(PROJECT.replace("uid", "uuid"), id="unknown field"),
        pytest.param("apiVersion: mycelial/v1\nkind: Proj\n", id="unrecognisable"),
        pytest.param(PROJECT + "---\n" + PROJECT.replace("name: p", "name: q"), id="two"),
        pytest.param(PROJECT + "---\n" + PROJECT, id="twice"),
        pytest.param("{", id="broken"),
    ],
)
def test_without_a_readable_project_no_identity_is_invented(
    check: Check, make_workflow: Callable[..., str], project: str
) -> None:
    state = check({"mycelial.yaml": project, "w.yaml": make_workflow()}).desired
    assert state.workflows == {}
    assert "Workflow/orders" in state.blocked


def test_two_heirs_of_one_name_are_refused(check: Check, make_workflow: Callable[..., str]) -> None:
    moved = ", moved: { from: old }"
    result = check(make_workflow("a", meta=moved) + "---\n" + make_workflow("b", meta=moved))
    assert [p.code for p in result.problems] == ["MYC-REF-012"] * 2
    assert result.desired.blocked == {"Workflow/a", "Workflow/b"}


def test_variables_in_a_circle_are_named_and_block_their_users(
    check: Check, make_workflow: Callable[..., str]
) -> None:
    files = {
        "mycelial.yaml": PROJECT
        + "  variables:\n    a: ${var.b}\n    b: x${var.a}\n    c: ok\n    d: ${var.e}\n",
        "w.yaml": make_workflow("x").replace("shop.db", "'${var.a}'")
        + "---\n"
        + make_workflow("y").replace("shop.db", "'${var.c}'"),
    }
    result = check(files)
    whats = {(str(p.where), p.code): p.what for p in result.problems}
    assert whats["mycelial.yaml:7:8", "MYC-REF-013"].endswith("circle: a -> b -> a")
    assert whats["mycelial.yaml:10:8", "MYC-REF-011"] == "unknown variable e"
    assert whats["w.yaml:6:29", "MYC-REF-011"] == "the variable ${var.a} has errors"
    assert set(result.desired.workflows) == {"y"}


def test_placements_that_match_no_daemon_are_warned_about(
    check: Check, make_workflow: Callable[..., str]
) -> None:
    daemon = (
        "apiVersion: mycelial/v1\nkind: Daemon\n"
        "metadata: { name: shop-01, labels: { role: till } }\n"
    )
    files = {
        "d.yaml": daemon,
        "w.yaml": "---\n".join(
            [
                make_workflow("a", spec="  selector: role=till\n"),
                make_workflow("b", spec="  selector: role=tills\n"),
                make_workflow("c", spec="  daemon: shop-1\n"),
            ]
        ),
    }
    result = check(files, daemons={"shop-01": {"role": "old", "site": "lyon"}})
    assert [(p.code, p.severity, p.subject) for p in result.problems] == [
        ("MYC-REF-009", Severity.WARNING, "Workflow/b"),
        ("MYC-REF-017", Severity.WARNING, "Workflow/c"),
    ]
    assert "role=till, site=lyon" in result.problems[0].fix
    assert 'did you mean "shop-01"' in result.problems[1].fix
    assert set(result.desired.workflows) == {"a", "b", "c"}


def test_daemon_and_guard_settings_arrive(check: Check) -> None:
    project = PROJECT + "  deleteGuard: { objects: 3, fraction: 50% }\n"
    daemon = (
        "apiVersion: mycelial/v1\nkind: Daemon\nmetadata: { name: d }\n"
        "spec: { limits: { memory: 2GiB, pipelines: 4 } }\n"
    )
    state = check({"mycelial.yaml": project, "d.yaml": daemon}).desired
    assert (state.project.guard.objects_max, state.project.guard.fraction_max) == (3, 0.5)
    assert (state.daemons["d"].memory_max_bytes, state.daemons["d"].pipelines_max) == (2**31, 4)


# ---- the cache ----

_TEXTS = st.lists(
    st.sampled_from(
        [
            HUB,
            PROJECT + VARIABLES,
            "kind: [\n",
            "a: 1\na: 2\n",
            "apiVersion: mycelial/v1\nkind: Workflow\nmetadata: { name: w }\nspec:\n  daemon: d\n"
            "  source: { sqlite: { path: '${var.db}', table: t } }\n" + TO_HUB,
            "apiVersion: mycelial/v1\nkind: Daemon\nmetadata: { name: d, labels: { a: b } }\n",
        ]
    ),
    max_size=4,
)


@given(texts=_TEXTS)
@settings(max_examples=60, deadline=None)
def test_checked_files_round_trip_through_json_and_compile_alike(
    catalog: Catalog, texts: list[str]
) -> None:
    checked = check_file(parse_file("mycelial.yaml", "---\n".join(texts).encode()), catalog)
    again = CheckedFile.from_json(json.loads(json.dumps(checked.to_json())))
    assert json.dumps(again.to_json()) == json.dumps(checked.to_json())
    fresh = compile_tree([checked], revision="r", complete=True, catalog=catalog)
    assert compile_tree([again], revision="r", complete=True, catalog=catalog) == fresh


def test_a_cached_file_of_another_format_is_refused() -> None:
    data = CheckedFile("a.yaml").to_json()
    with pytest.raises(ValueError, match="format"):
        CheckedFile.from_json({**data, "format": 0})
    assert CheckedFile.from_json(data, path="b.yaml") == replace(
        CheckedFile("a.yaml"), path="b.yaml"
    )


def test_a_project_file_is_at_the_root_when_all_manifests_lie_below_it(catalog):
    project = b"apiVersion: mycelial/v1\nkind: Project\nmetadata: { name: p }\nspec: { uid: u1 }\n"
    workflow = b"apiVersion: mycelial/v1\nkind: Workflow\nmetadata: { name: w }\nspec: {}\n"
    below = {"deploy/mycelial.yaml": project, "deploy/flows/w.yaml": workflow}
    beside = {"deploy/mycelial.yaml": project, "flows/w.yaml": workflow}
    codes = [[p.code for p in validate(files, catalog).problems] for files in (below, beside)]
    assert ["MYC-REF-014" in found for found in codes] == [False, True]
