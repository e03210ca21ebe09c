"""The JSON Schema agrees with the validator, and `explain` with both."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from jsonschema import Draft202012Validator
from pydantic import Field, create_model

from mycelial.kernel.errors import UsageError
from mycelial.schemas.base import PluginConfig
from mycelial.schemas.catalog import Catalog, entry_for, foreign_entry
from mycelial.schemas.export import explain, json_schema
from mycelial.schemas.validate import Validation
from mycelial.schemas.yaml import read_yaml

HEAD = "apiVersion: mycelial/v1\nkind: Workflow\nmetadata: { name: a }\nspec:\n  daemon: d\n"
SOURCE = "  source: { sqlite: { path: a, table: t } }\n"
END = "  destination: { postgres: { host: h, database: d, table: t } }\n"
HUB = "apiVersion: mycelial/v1\nkind: Connection\nmetadata: { name: hub }\nspec:\n"
FIRM = {
    "plain": (HEAD + SOURCE + END, True),
    "shorthands": (
        HEAD + SOURCE + END + "  transforms: [{ filter: a > 0 }, { name: n, rename: { a: b } }]\n",
        True,
    ),
    "full transform": (HEAD + SOURCE + END + "  transforms: [{ sql: { query: x } }]\n", True),
    "connection": (
        HEAD
        + SOURCE
        + "  destination: { postgres: { connection: hub, table: t } }\n---\n"
        + HUB
        + "  postgres: { host: h, database: d }\n",
        True,
    ),
    "connection with overrides": (
        HUB + "  postgres: { host: h }\n  overrides: [{ selector: a, postgres: { host: i } }]\n",
        True,
    ),
    "free keys": (HEAD + SOURCE + END + "  x-a: 1\n", True),
    "cron": (HEAD + SOURCE + END + "  schedule: { cron: '@daily' }\n", True),
    "daemon": (
        HUB.replace("Connection", "Daemon") + "  limits: { memory: 1GiB }\n",
        True,
    ),
    "unknown field": (HEAD + SOURCE + END + "  shedule: once\n", False),
    "two connectors": (HEAD + "  source: { sqlite: {}, postgres: {} }\n" + END, False),
    "connector field": (HEAD + SOURCE.replace("table", "tabel") + END, False),
    "literal secret": (HEAD + SOURCE + END.replace("table: t", "table: t, password: x"), False),
    "unknown kind": ("apiVersion: mycelial/v1\nkind: Workflw\nmetadata: { name: a }\n", False),
    "other version": (HEAD.replace("v1", "v9") + SOURCE + END, False),
    "bad name": (HEAD.replace("name: a", "name: A") + SOURCE + END, False),
    "private field in a connection": (HUB + "  postgres: { table: t }\n", False),
}


@pytest.mark.parametrize(("text", "good"), FIRM.values(), ids=FIRM.keys())
def test_editor_schema_and_validator_agree(
    catalog: Catalog, check: Callable[..., Validation], text: str, good: bool
) -> None:
    validator = Draft202012Validator(json_schema(catalog))
    documents = [d.value for d in read_yaml("f", text.encode()).documents]
    assert all(validator.is_valid(document) for document in documents) is good
    assert check(text).ok is good


def test_exported_schema_is_a_schema_and_does_not_change_unseen(
    catalog: Catalog, golden: Callable[[str, str], None]
) -> None:
    schema = json_schema(catalog)
    Draft202012Validator.check_schema(schema)
    golden("schemas/manifest.schema.json", json.dumps(schema, indent=1, sort_keys=True) + "\n")


PATHS = [
    "workflow",
    "workflow.spec.schedule",
    "workflow.spec.delivery.unit",
    "connection.spec",
    "project.spec.deleteGuard",
    "connector/postgres",
    "connector/crm",
    "transform/filter",
    "transform/rename",
]


def test_explain_tells_what_the_schema_says(
    catalog: Catalog, golden: Callable[[str, str], None]
) -> None:
    golden("schemas/explain.txt", "\n".join(f"$ {p}\n{explain(p, catalog)}" for p in PATHS))


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        pytest.param("workflw", 'did you mean "workflow"', id="kind"),
        pytest.param("workflow.spec.shedule", 'did you mean "schedule"', id="field"),
        pytest.param("connector/sqlit", 'did you mean "connector/sqlite"', id="plugin"),
        pytest.param("connector/filter", "transform/filter", id="wrong group"),
    ],
)
def test_explaining_nothing_says_what_there_is(catalog: Catalog, path: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        explain(path, catalog)
    assert hint in caught.value.problem.fix


def test_an_example_of_every_plugin_is_valid(
    catalog: Catalog, check: Callable[..., Validation]
) -> None:
    for entry in catalog:
        group = "transform" if entry.role == "transform" else "connector"
        text = explain(f"{group}/{entry.plugin}", catalog)
        example = text.split("Example:\n")[1].split("\n\n")[0].rstrip() + "\n"
        if entry.role == "transform":
            manifest = HEAD + SOURCE + END + example
        else:
            manifest = HEAD + example + (END if "source:" in example else SOURCE)
        assert check(manifest).problems == (), manifest


@pytest.mark.parametrize("text", ["NULL", "true", "1e3", "2026", "-", ""])
def test_text_that_yaml_reads_otherwise_is_quoted_in_examples(text: str) -> None:
    model = create_model(
        "Model", __base__=PluginConfig, null=(str, Field(json_schema_extra={"examples": [text]}))
    )
    shown = explain("connector/odd", Catalog([entry_for("odd", "source", model)]))
    assert f'null: "{text}"' in shown


def test_a_foreign_schema_fills_defaults_units_and_names(catalog: Catalog) -> None:
    entry = catalog.get("crm", "source")
    assert entry is not None
    checked = entry.check({"url": "u", "pollEvery": "2m", "x-free": 1})
    assert checked.config == {"url": "u", "poll_every": 120.0}
    assert entry.check({"url": "u"}).config == {"url": "u", "poll_every": 60.0}
    assert entry.check({}, partial=True).config == {}
    errors = entry.check({"url": "u", "apiToken": "hunter2"}).errors
    assert [e.kind for e in errors] == ["secret"]
    assert "hunter2" not in repr(errors)


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param({"type": "objekt"}, id="no schema"),
        pytest.param({"properties": []}, id="properties of a wrong type"),
    ],
)
def test_a_foreign_schema_must_be_one(schema: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a JSON Schema"):
        foreign_entry("x", "source", schema)


def test_catalog_digest_follows_what_is_checked(catalog: Catalog) -> None:
    entries = list(catalog)
    assert Catalog(reversed(entries)).digest == catalog.digest
    assert Catalog(entries[1:]).digest != catalog.digest
