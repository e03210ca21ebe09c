"""Every way to write a manifest wrong: code, place and the way out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mycelial.kernel.errors import Location, Problem, Severity
from mycelial.schemas.catalog import Catalog
from mycelial.schemas.report import render_problem, render_problems
from mycelial.schemas.validate import Validation, validate

Check = Callable[..., Validation]
HEAD = "apiVersion: mycelial/v1\nkind: Workflow\nmetadata: { name: orders }\nspec:\n"
DAEMON = "  daemon: shop-01\n"
SOURCE = "  source: { sqlite: { path: shop.db, table: orders } }\n"
END = "  destination: { sqlite: { path: out.db, table: orders } }\n"
DAEMON_OBJECT = "apiVersion: mycelial/v1\nkind: Daemon\nmetadata: { name: d }\n"
GOOD = HEAD + DAEMON + SOURCE + END
PROJECT = "apiVersion: mycelial/v1\nkind: Project\nmetadata: { name: p }\nspec:\n"
CONNECTION = "apiVersion: mycelial/v1\nkind: Connection\nmetadata: { name: hub }\nspec:\n"
HUB = CONNECTION + "  postgres: { host: h, database: d }\n"
TO_HUB = "  destination: { postgres: { connection: hub, table: t } }\n"


def _meta(text: str) -> str:
    return GOOD.replace("{ name: orders }", text)


CASES = {
    "not a mapping": ("- 1\n", "MYC-SCHEMA-001", "1:1", "explain"),
    "apiVersion missing": ("kind: Workflow\n", "MYC-SCHEMA-002", "1:1", "mycelial/v1"),
    "apiVersion of another system": (
        "apiVersion: apps/v1\nkind: Workflow\n",
        "MYC-SCHEMA-002",
        "1:13",
        "other systems",
    ),
    "kind missing": ("apiVersion: mycelial/v1\n", "MYC-SCHEMA-003", "1:1", "Workflow"),
    "kind unknown": (
        "apiVersion: mycelial/v1\nkind: Workflw\n",
        "MYC-SCHEMA-003",
        "2:7",
        'did you mean "Workflow"',
    ),
    "kind of a later version": (
        "apiVersion: mycelial/v1\nkind: Policy\n",
        "MYC-SCHEMA-017",
        "2:7",
        "Known kinds",
    ),
    "metadata missing": (
        "apiVersion: mycelial/v1\nkind: Daemon\n",
        "MYC-SCHEMA-011",
        "1:1",
        'add "metadata"',
    ),
    "name missing": (_meta("{ labels: {} }"), "MYC-SCHEMA-011", "3:1", 'add "name"'),
    "name with capitals": (_meta("{ name: Orders }"), "MYC-SCHEMA-013", "3:19", "characters"),
    "label that is no text": (
        _meta("{ name: orders, labels: { v: 1 } }"),
        "MYC-SCHEMA-012",
        "3:40",
        "quotes",
    ),
    "unknown metadata field": (
        _meta("{ name: orders, label: {} }"),
        "MYC-SCHEMA-010",
        "3:27",
        'did you mean "labels"',
    ),
    "unknown spec field": (
        GOOD + "  shedule: once\n",
        "MYC-SCHEMA-010",
        "8:3",
        'did you mean "schedule"',
    ),
    "field of a later version": (GOOD + "  steps: []\n", "MYC-SCHEMA-010", "8:3", "Allowed: "),
    "unknown nested field": (
        GOOD + "  delivery: { unit: { row: 1 } }\n",
        "MYC-SCHEMA-010",
        "8:23",
        'did you mean "rows"',
    ),
    "source missing": (HEAD + DAEMON + END, "MYC-SCHEMA-011", "4:1", 'add "source"'),
    "wrong type": (GOOD + "  transforms: {}\n", "MYC-SCHEMA-012", "8:15", "a list"),
    "wrong choice": (
        GOOD + "  delivery: { guarantee: exactly-one }\n",
        "MYC-SCHEMA-013",
        "8:26",
        'did you mean "exactly-once"',
    ),
    "duration without unit": (
        GOOD + "  deletion: { deadline: 30 }\n",
        "MYC-SCHEMA-013",
        "8:25",
        "",
    ),
    "size without unit": (
        GOOD + "  delivery: { queue: 16 MB of RAM }\n",
        "MYC-SCHEMA-013",
        "8:22",
        "",
    ),
    "rate of zero": (GOOD + "  rate: { rows: 0 }\n", "MYC-SCHEMA-013", "8:17", ""),
    "schedule unknown": (GOOD + "  schedule: evry 3s\n", "MYC-SCHEMA-013", "8:13", ""),
    "schedule too fast": (GOOD + "  schedule: every 1ms\n", "MYC-SCHEMA-013", "8:13", ""),
    "cron wrong": (GOOD + '  schedule: { cron: "61 * * * *" }\n', "MYC-SCHEMA-013", "8:13", ""),
    "cron with an unknown field": (
        GOOD + '  schedule: { cron: "* * * * *", zone: x }\n',
        "MYC-SCHEMA-010",
        "8:34",
        "timezone",
    ),
    "cron in an unknown zone": (
        GOOD + '  schedule: { cron: "* * * * *", timezone: Mars/X }\n',
        "MYC-SCHEMA-013",
        "8:13",
        "",
    ),
    "connector unknown field": (
        GOOD.replace("path: shop.db, table", "path: shop.db, tabel"),
        "MYC-SCHEMA-010",
        "6:38",
        'did you mean "table"',
    ),
    "connector missing field": (
        GOOD.replace("path: shop.db, ", ""),
        "MYC-SCHEMA-011",
        "6:13",
        'add "path"',
    ),
    "connector wrong type": (
        GOOD.replace("path: shop.db", "path: 5"),
        "MYC-SCHEMA-012",
        "6:29",
        "quotes",
    ),
    "connector out of range": (
        GOOD.replace("path: shop.db", "path: shop.db, batchRows: 0"),
        "MYC-SCHEMA-013",
        "6:49",
        "",
    ),
    "connector without a mapping": (
        HEAD + DAEMON + "  source: { sqlite: x.db }\n" + END,
        "MYC-SCHEMA-012",
        "6:21",
        "Allowed: ",
    ),
    "no connector": (HEAD + DAEMON + "  source: {}\n" + END, "MYC-SCHEMA-015", "6:3", "exactly"),
    "two connectors": (
        HEAD + DAEMON + "  source: { sqlite: {}, postgres: {} }\n" + END,
        "MYC-SCHEMA-015",
        "6:25",
        "exactly one",
    ),
    "field beside the connector": (
        HEAD + DAEMON + "  source: { sqlite: { path: x }, table: t }\n" + END,
        "MYC-SCHEMA-015",
        "6:34",
        'indent "table" under "sqlite"',
    ),
    "a rule across fields": (
        HEAD
        + DAEMON
        + SOURCE
        + "  destination: { postgres: { host: h, database: d, table: t, mode: upsert } }\n",
        "MYC-SCHEMA-013",
        "7:18",
        "",
    ),
    "transform without its field": (
        GOOD + "  transforms:\n    - filter: {}\n",
        "MYC-SCHEMA-011",
        "9:7",
        'add "where"',
    ),
    "transform of the wrong shape": (
        GOOD + "  transforms:\n    - filter: [1]\n",
        "MYC-SCHEMA-012",
        "9:15",
        "text",
    ),
    "shorthand mapping with a wrong value": (
        GOOD + "  transforms:\n    - rename: { a: b, c: 3 }\n",
        "MYC-SCHEMA-012",
        "9:26",
        "quotes",
    ),
    "two transforms in one step": (
        GOOD + "  transforms:\n    - filter: a\n      sql: b\n",
        "MYC-SCHEMA-015",
        "10:7",
        "exactly one",
    ),
    "foreign connector": (
        HEAD + DAEMON + "  source: { crm: { url: u, levl: low } }\n" + END,
        "MYC-SCHEMA-010",
        "6:28",
        'did you mean "level"',
    ),
    "foreign connector's unit": (
        HEAD + DAEMON + "  source: { crm: { url: u, pollEvery: soon } }\n" + END,
        "MYC-SCHEMA-013",
        "6:39",
        "",
    ),
    "foreign connector's choice": (
        HEAD + DAEMON + "  source: { crm: { url: u, level: lw } }\n" + END,
        "MYC-SCHEMA-013",
        "6:35",
        'did you mean "low"',
    ),
    "source that cannot read": (
        GOOD.replace("  destination: { sqlite", "  destination: { tail"),
        "MYC-REF-002",
        "7:18",
        "sqlite",
    ),
    "another daemon": (
        HEAD
        + DAEMON
        + SOURCE
        + "  destination: { daemon: hub-1, sqlite: { path: o, table: t } }\n",
        "MYC-SCHEMA-017",
        "7:18",
        "remove destination.daemon",
    ),
    "placement missing": (HEAD + SOURCE + END, "MYC-REF-006", "4:1", "selector"),
    "daemon and selector": (GOOD + "  selector: a=b\n", "MYC-REF-007", "8:3", "keep"),
    "placement without selector": (GOOD + "  placement: one\n", "MYC-REF-007", "8:3", "selector"),
    "endpoint elsewhere": (
        GOOD.replace("path: shop.db", "endpoint: shop-02/db"),
        "MYC-REF-007",
        "6:23",
        "one daemon",
    ),
    "endpoint of a wrong form": (
        GOOD.replace("path: shop.db", "endpoint: db"),
        "MYC-SCHEMA-013",
        "6:33",
        "shop-01",
    ),
    "selector syntax": (
        HEAD + "  selector: role==\n" + SOURCE + END,
        "MYC-REF-008",
        "5:13",
        "commas",
    ),
    "template syntax": (GOOD.replace("shop.db", '"${daemon.name"'), "MYC-REF-010", "6:29", "$${"),
    "template unknown name": (
        GOOD.replace("shop.db", '"${hostname}"'),
        "MYC-REF-011",
        "6:29",
        "daemon.name",
    ),
    "template unknown variable": (
        GOOD.replace("shop.db", '"${var.dir}"'),
        "MYC-REF-011",
        "6:29",
        "spec.variables",
    ),
    "template inside quotes of SQL": (
        GOOD + "  transforms:\n    - sql: select '${daemon.name}' from input\n",
        "MYC-REF-016",
        "9:12",
        "without quotes",
    ),
    "declared twice": (GOOD + "---\n" + GOOD, "MYC-REF-003", "3:13", "rename"),
    "connection missing": (
        HEAD + DAEMON + SOURCE + TO_HUB.replace("hub", "hb") + "---\n" + HUB,
        "MYC-REF-004",
        "7:30",
        'did you mean "hub"',
    ),
    "connection with errors": (
        HEAD + DAEMON + SOURCE + TO_HUB + "---\n" + HUB + "  overides: []\n",
        "MYC-REF-004",
        "7:30",
        "w.yaml:11:13",
    ),
    "connection of another connector": (
        HEAD + DAEMON + SOURCE.replace("path: shop.db", "connection: hub") + END + "---\n" + HUB,
        "MYC-REF-005",
        "6:23",
        "sqlite",
    ),
    "connection that leaves a field open": (
        HEAD + DAEMON + SOURCE + TO_HUB + "---\n" + HUB.replace("host: h, ", ""),
        "MYC-SCHEMA-011",
        "7:30",
        "host",
    ),
    "connection with a private field": (
        HUB.replace("host: h", "host: h, table: t"),
        "MYC-SCHEMA-010",
        "5:24",
        "Allowed: ",
    ),
    "connection field of a wrong type": (
        HUB.replace("host: h", "host: 1"),
        "MYC-SCHEMA-012",
        "5:21",
        "quotes",
    ),
    "connection without a connector": (
        CONNECTION + "  overrides: []\n",
        "MYC-SCHEMA-015",
        "4:1",
        "exactly one",
    ),
    "override without a selector": (
        HUB + "  overrides:\n    - postgres: { host: i }\n",
        "MYC-SCHEMA-011",
        "7:7",
        "selector",
    ),
    "override of another connector": (
        HUB + "  overrides:\n    - { selector: a, sqlite: {} }\n",
        "MYC-SCHEMA-015",
        "7:22",
        "postgres",
    ),
    "moved from itself": (
        _meta("{ name: orders, moved: { from: orders } }"),
        "MYC-REF-013",
        "3:27",
        "once",
    ),
    "moved from what still exists": (
        GOOD.replace("orders }", "sales, moved: { from: orders } }", 1) + "---\n" + GOOD,
        "MYC-REF-012",
        "3:26",
        "remove Workflow/orders",
    ),
    "Project elsewhere": (PROJECT, "MYC-REF-014", "1:1", "mycelial.yaml"),
    "unknown limit": (
        DAEMON_OBJECT + "spec: { limits: { cpu: 1 } }\n",
        "MYC-SCHEMA-010",
        "4:19",
        "memory",
    ),
}


@pytest.mark.parametrize(
    ("text", "code", "at", "fix"), [pytest.param(*row, id=name) for name, row in CASES.items()]
)
def test_a_mistake_is_named_located_and_fixable(
    check: Check, text: str, code: str, at: str, fix: str
) -> None:
    found = {p.code: p for p in reversed(check(text).problems) if p.severity is Severity.ERROR}
    assert code in found, found
    problem = found[code]
    assert str(problem.where) == f"w.yaml:{at}"
    assert fix in problem.fix
    assert problem.frame


def test_every_mistake_of_a_file_reads_well(
    check: Check, golden: Callable[[str, str], None]
) -> None:
    blocks = []
    for name, (text, *_) in CASES.items():
        shown = render_problems(check(text).problems)
        blocks.append(f"# {name}\n{shown}")
    golden("schemas/problems.txt", "\n".join(blocks))


@pytest.mark.parametrize("text", [GOOD, HUB, GOOD + "---\n" + HUB], ids=["workflow", "hub", "both"])
def test_good_manifests_have_no_problems(check: Check, text: str) -> None:
    assert check(text).problems == ()


def test_free_keys_are_allowed_where_fields_are_closed_and_kept_where_they_are_data(
    check: Check,
) -> None:
    text = (
        "x-top: 1\n"
        + GOOD.replace("path: shop.db", "x-note: [1], path: shop.db")
        + "  x-owner: me\n  delivery: { x-why: 1 }\n"
        + "  transforms:\n    - rename: { x-a: b }\n      x-c: d\n"
    )
    result = check(text)
    assert result.problems == ()
    template = result.desired.workflows["orders"].template
    assert template.transforms[0].config["columns"] == {"x-a": "b"}
    assert "x-note" not in template.source.config


def test_unknown_plugin_is_a_warning_and_strictly_an_error(check: Check) -> None:
    text = GOOD.replace("{ sqlite: { path: shop", "{ sqlit: { path: shop")
    (problem,) = check(text).problems
    assert (problem.code, problem.severity) == ("MYC-REF-001", Severity.WARNING)
    assert 'did you mean "sqlite"' in problem.fix
    workflow = check(text).desired.workflows["orders"]
    assert "connector/sqlit" in workflow.requires
    assert not check(text, strict=True).ok


SECRETS = {
    "a literal": "password: hunter2",
    "a quoted literal": 'password: "hunter2 # x"',
    "a literal in a reference": "password: { secret: 'hunter2 has spaces' }",
    "a mapping": "password: { value: hunter2 }",
    "a list": "password: [hunter2]",
    "under a misspelt name": "pasword: hunter2",
    "an alias": "user: &p hunter2, password: *p",
}


@pytest.mark.parametrize("field", SECRETS.values(), ids=SECRETS.keys())
def test_a_secret_value_is_refused_and_never_shown(check: Check, field: str) -> None:
    for text in (
        HEAD
        + DAEMON
        + SOURCE
        + f"  destination: {{ postgres: {{ host: h, database: d, table: 3, {field} }} }}\n",
        HUB.replace("host: h", f"host: 3, {field}"),
        HUB + f"  overrides:\n    - {{ selector: a, postgres: {{ {field}, host: 3 }} }}\n",
    ):
        result = check(text)
        assert not result.ok
        shown = render_problems(result.problems) + repr([p.to_json() for p in result.problems])
        assert "hunter2" not in shown
        assert "hunter2" not in repr([c.to_json() for c in result.checked])


def test_a_block_literal_and_its_neighbours_hide_the_secret(check: Check) -> None:
    text = (
        HEAD + DAEMON + SOURCE + "  destination:\n    postgres:\n      host: h\n      database: 3\n"
        "      password: |\n        hunter2\n        hunter3\n      table: 4\n"
    )
    result = check(text)
    assert {p.code for p in result.problems} == {"MYC-SCHEMA-012", "MYC-SCHEMA-014"}
    shown = render_problems(result.problems)
    assert "hunter" not in shown
    assert "(secret)" in shown


def test_a_broken_document_hides_what_is_called_like_a_secret(check: Check) -> None:
    text = "apiToken: hunter2\nb: [\npassword: 'hunter3'\nurl: https://me:hunter4@host/x\n"
    shown = render_problems(check(text).problems)
    assert "MYC-YAML-001" in shown
    assert "hunter" not in shown


def test_a_problem_is_rendered_with_frame_caret_and_fix(
    golden: Callable[[str, str], None],
) -> None:
    problem = Problem(
        "MYC-SCHEMA-010",
        'unknown field "tabel" in spec.source.sqlite',
        fix='did you mean "table"?',
        where=Location("workflows/tills.yaml", 9, 7),
        frame=((8, "    sqlite:"), (9, "\t\t    tabel: sales \x1b[2J"), (10, "      path: x")),
    )
    bare = Problem("MYC-GIT-001", "no file", where=Location("a.yaml"), severity=Severity.WARNING)
    nowhere = Problem("MYC-GIT-002", "no daemon", subject="Workflow/a", fix="add one")
    text = "\n".join(
        [
            render_problem(problem),
            render_problem(bare),
            render_problem(nowhere),
            render_problem(problem, color=True).replace("\x1b", "ESC"),
        ]
    )
    golden("schemas/rendering.txt", text + "\n")


_WORDS = st.sampled_from(
    [
        "apiVersion: mycelial/v1\n",
        "kind: Workflow\n",
        "kind: Connection\n",
        "kind: Project\n",
        "kind: Daemon\n",
        "metadata: ",
        "spec: ",
        "name: a",
        "{",
        "}",
        "[",
        "]",
        ", ",
        "\n",
        "  ",
        "- ",
        "source: ",
        "destination: ",
        "sqlite: ",
        "postgres: ",
        "transforms: ",
        "sql: ",
        "overrides: ",
        "selector: ",
        "schedule: ",
        "cron: ",
        "continuous: ",
        "moved: ",
        "from: ",
        "variables: ",
        "${var.a}",
        "${",
        "null",
        "1",
        "x",
        "connection: ",
        "endpoint: ",
        "a/b",
        "password: ",
        "secret: ",
        "---\n",
        "limits: ",
        "labels: ",
        "delivery: ",
        "x-y: ",
        '"',
        "rate: ",
    ]
)
_SHREDS = st.lists(_WORDS, max_size=40).map("".join)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["sqlite", "name", "cron", "selector", "from", "x-a", "${", "filter", "1"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(text=_SHREDS)
@settings(max_examples=300, deadline=None)
def test_validating_shreds_of_manifests_never_raises(catalog: Catalog, text: str) -> None:
    validate({"mycelial.yaml": text.encode()}, catalog)


@given(
    kind=st.sampled_from(["Workflow", "Connection", "Daemon", "Project"]),
    spec=st.dictionaries(
        st.sampled_from(
            [
                "source",
                "destination",
                "transforms",
                "daemon",
                "selector",
                "schedule",
                "overrides",
                "postgres",
                "limits",
                "variables",
                "delivery",
                "placement",
                "incarnations",
                "uid",
            ]
        ),
        _JSON,
    ),
    metadata=_JSON,
)
@settings(max_examples=400, deadline=None)
def test_validating_any_shape_never_raises(
    catalog: Catalog, kind: str, spec: object, metadata: object
) -> None:
    import json

    meta = metadata if isinstance(metadata, dict) else {"name": "a", "labels": metadata}
    document = {"apiVersion": "mycelial/v1", "kind": kind, "metadata": meta, "spec": spec}
    result = validate({"mycelial.yaml": json.dumps(document).encode()}, catalog)
    for checked in result.checked:
        json.dumps(checked.to_json(), allow_nan=False)
