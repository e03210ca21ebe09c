"""A workflow for one daemon."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycelial.schemas.resolve import ResolveError, resolve
from mycelial.schemas.templates import TemplateError, bind, fill, quoted_in_sql
from mycelial.schemas.validate import Validation

Check = Callable[..., Validation]
HUB = (
    "apiVersion: mycelial/v1\nkind: Connection\nmetadata: { name: hub }\nspec:\n"
    "  postgres: { host: db, database: d }\n"
    "  overrides:\n    - { selector: site=lyon, postgres: { host: '${daemon.name}.lyon' } }\n"
    "    - { selector: site, postgres: { host: db.any } }\n"
)
TO_HUB = "  destination: { postgres: { connection: hub, table: 't_${daemon.labels.site}' } }\n"


@pytest.mark.parametrize(
    ("labels", "host"),
    [
        pytest.param({"site": "lyon"}, "till-1.lyon", id="first that matches"),
        pytest.param({"site": "nice"}, "db.any", id="second"),
    ],
)
def test_overrides_and_names_are_those_of_the_daemon(
    check: Check, make_workflow: Callable[..., str], labels: dict[str, str], host: str
) -> None:
    text = make_workflow(spec="  selector: site\n", end=TO_HUB) + "---\n" + HUB
    workflow = check(text).desired.workflows["orders"]
    spec = resolve(workflow, "till-1", "uid-1", labels, {})
    assert spec.destination.config["host"] == host
    assert spec.destination.config["table"] == f"t_{labels['site']}"
    assert spec.destination.overrides == ()


def test_a_label_that_the_daemon_lacks_is_a_located_error(
    check: Check, make_workflow: Callable[..., str]
) -> None:
    text = make_workflow(end=TO_HUB) + "---\n" + HUB
    workflow = check(text).desired.workflows["orders"]
    with pytest.raises(ResolveError) as caught:
        resolve(workflow, "till-1", "uid-1", {"sites": "x"}, {})
    problem = caught.value.problem
    assert problem.code == "MYC-REF-015"
    assert 'did you mean "sites"' in problem.fix
    assert str(problem.where) == "w.yaml:1:1"


def test_checkpoint_scope_is_per_daemon_only_for_every(
    check: Check, make_workflow: Callable[..., str]
) -> None:
    def scopes(spec: str) -> set[str]:
        workflow = check(make_workflow(spec=spec)).desired.workflows["orders"]
        return {resolve(workflow, name, f"uid-{name}", {}, {}).scope for name in ("a", "b")}

    assert len(scopes("  selector: site\n")) == 2
    assert len(scopes("  selector: site\n  placement: one\n")) == 1
    assert len(scopes("  daemon: a\n")) == 1


def test_names_in_sql_become_bound_values(check: Check, make_workflow: Callable[..., str]) -> None:
    steps = (
        "  transforms:\n    - sql:\n        query: select ${daemon.labels.site} as s, '$${x}' as d,"
        " $p_daemon_name as own from input where s = ${daemon.labels.site} and n = ${daemon.name}\n"
        "        params: { p_daemon_name: '${daemon.name}!' }\n"
    )
    workflow = check(make_workflow() + steps).desired.workflows["orders"]
    evil = "x'; drop table t; --"
    config = resolve(workflow, "till", "u", {"site": evil}, {}).transforms[0].config
    assert config["query"] == (
        "select $p_daemon_labels_site as s, '${x}' as d, $p_daemon_name as own from input"
        " where s = $p_daemon_labels_site and n = $p_daemon_name_2"
    )
    assert config["params"] == {
        "p_daemon_name": "till!",
        "p_daemon_labels_site": evil,
        "p_daemon_name_2": "till",
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param("select '${daemon.name}'", "${daemon.name}", id="string"),
        pytest.param("select 'it''s ${var.a}'", "${var.a}", id="doubled quote"),
        pytest.param('select "${var.a}"', "${var.a}", id="identifier"),
        pytest.param("select $$ ${var.a} $$", "${var.a}", id="dollar quotes"),
        pytest.param("select $q$ ${var.a} $q$", "${var.a}", id="tagged dollar quotes"),
        pytest.param("select 'open ${var.a}", "${var.a}", id="unterminated"),
        pytest.param("select ${var.a} -- '${var.b}\n", None, id="comment"),
        pytest.param("select /* ' */ ${var.a}, 'x'", None, id="block comment"),
        pytest.param("select 'a', ${var.a}, 'b'", None, id="between strings"),
        pytest.param("select '$${var.a}'", None, id="escaped"),
    ],
)
def test_names_inside_sql_quotes_are_found(text: str, found: str | None) -> None:
    assert quoted_in_sql(text) == found


def test_a_value_is_not_looked_at_again() -> None:
    assert fill("a ${var.x} $${var.y}", lambda _: "${var.z}") == "a ${var.z} ${var.y}"


@given(st.text(alphabet="${}var.n'\"-/* \n", max_size=40), st.text(max_size=5))
def test_binding_never_puts_a_value_into_the_statement(text: str, value: str) -> None:
    marked = f"<{value}>"
    try:
        statement, parameters = bind(text, lambda _: marked)
    except TemplateError:
        return
    assert marked not in statement
    assert set(parameters.values()) <= {marked}


def test_what_the_daemon_imports_loads_neither_pydantic_nor_yaml() -> None:
    modules = "wire desired plan views selectors codec resolve compile checked templates near"
    code = "; ".join(f"import mycelial.schemas.{name}" for name in modules.split())
    code += (
        "; import sys; print([m for m in ('pydantic', 'ruamel', 'jsonschema') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_lossy_columns_are_allowed_by_name(check: Check, make_workflow: Callable[..., str]) -> None:
    text = make_workflow(spec="  daemon: till\n  delivery: { allowLossy: [price] }\n")
    assert check(text).desired.workflows["orders"].template.delivery.allow_lossy == ("price",)


def test_a_timetable_needs_no_pydantic() -> None:
    """Workers with a cron schedule ask it, and have to stay small."""
    code = (
        "import sys; from mycelial.schemas.schedule import cron_schedule, next_fire; "
        "next_fire(cron_schedule('*/5 * * * *'), after=0.0, start=0.0); "
        "print('pydantic' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
