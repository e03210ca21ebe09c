"""config.toml: what is understood, and where each mistake is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycelial.daemon.config import DaemonConfig, EndpointConfig, load, parse
from mycelial.daemon.toml import positions
from mycelial.kernel.errors import InvalidManifest

FULL = b"""
[node]
name = "shop-01"
state_dir = "/var/lib/mycelial"
labels = { site = "lyon", role = "till" }

[server]
urls = ["https://a.example:8443", "https://b.example:8443/"]
ca_pin = "sha256:%s"

[secrets]
env = { prefix = "MYC_" }
file = { path = "secrets.toml" }

[policy]
read_paths = ["data"]
hosts = ["db.example"]
connectors = ["sqlite", "postgres"]
memory_max = "512MiB"
pipelines_max = 20

[[sources]]
name = "till"
connector = "sqlite"
[sources.settings]
path = "/data/till.db"
password = { secret = "till-pw" }

[[destinations]]
name = "warehouse"
connector = "postgres"
settings = { host = "db.example" }
""" % (b"ab" * 32)


def test_every_option_is_read():
    config = parse(FULL, base_dir="/etc/mycelial")
    assert config.node.labels == {"site": "lyon", "role": "till"}
    assert config.server.urls == ("https://a.example:8443", "https://b.example:8443")
    assert config.server.ca_pin == "sha256:" + "ab" * 32
    assert (config.secrets.env_prefix, config.secrets.file_path) == ("MYC_", "secrets.toml")
    assert config.policy.memory_max_bytes == 512 * 1024 * 1024
    assert config.policy.pipelines_max == 20
    assert config.policy.write_paths is None
    assert config.sources == (
        EndpointConfig(
            "till", "sqlite", {"path": "/data/till.db", "password": {"secret": "till-pw"}}
        ),
    )
    assert config.destinations[0].settings == {"host": "db.example"}
    assert config.base_dir == "/etc/mycelial"


def test_an_empty_file_is_all_defaults():
    assert parse(b"") == DaemonConfig()


MISTAKES = [
    pytest.param('[node]\nnmae = "x"', "MYC-DAEMON-003", 2, 1, 'did you mean "name"', id="unknown"),
    pytest.param('[nodes]\nname = "x"', "MYC-DAEMON-003", 1, 1, 'did you mean "node"', id="table"),
    pytest.param("[node]\n\n  name = 3", "MYC-DAEMON-004", 3, 3, "", id="wrong-type"),
    pytest.param('[node]\nname = "Shop 1"', "MYC-DAEMON-005", 2, 1, "lower-case", id="bad-name"),
    pytest.param("node = 1", "MYC-DAEMON-004", 1, 1, "", id="not-a-table"),
    pytest.param("[node]\nlabels = { a = 1 }", "MYC-DAEMON-004", 2, 1, "", id="label-number"),
    pytest.param('[server]\nurl = "http://x"', "MYC-DAEMON-005", 2, 1, "https://", id="no-tls"),
    pytest.param('[server]\nca_pin = "abc"', "MYC-DAEMON-005", 2, 1, "64 hex", id="pin"),
    pytest.param(
        '[server]\nurl = "https://a"\nurls = ["https://b"]',
        "MYC-DAEMON-007",
        3,
        1,
        "keep urls",
        id="url-and-urls",
    ),
    pytest.param("[policy]\nmemory_max = 512", "MYC-DAEMON-004", 2, 1, "", id="size-number"),
    pytest.param("[policy]\npipelines_max = true", "MYC-DAEMON-004", 2, 1, "", id="count-bool"),
    pytest.param('[policy]\nhosts = "db"', "MYC-DAEMON-004", 2, 1, "", id="not-a-list"),
    pytest.param(
        '[secrets]\nenv = { prefx = "A" }', "MYC-DAEMON-003", 2, 1, "prefix", id="inline-table"
    ),
    pytest.param(
        '[[sources]]\nname = "a"\nconnector = "x"\n\n[[sources]]\nname = "b"',
        "MYC-DAEMON-006",
        5,
        1,
        "connector",
        id="second-source-lacks-connector",
    ),
    pytest.param(
        '[[sources]]\nname = "a"\nconnector = "x"\n[[sources]]\nname = "a"\nconnector = "x"',
        "MYC-DAEMON-007",
        5,
        1,
        "own name",
        id="two-of-a-name",
    ),
    pytest.param(
        '[[sources]]\nname = "a"\nconnector = "x"\n[sources.settings]\nat = 2026-01-01',
        "MYC-DAEMON-004",
        5,
        1,
        "",
        id="date-in-settings",
    ),
    pytest.param("[node]\nname = x\n", "MYC-DAEMON-002", 2, 8, "written like", id="syntax"),
    pytest.param('[node]\nname = "x', "MYC-DAEMON-002", 2, 1, "", id="open-string"),
    pytest.param('[node]\nname = "x"\nname = "y"\n', "MYC-DAEMON-002", 3, 11, "", id="twice"),
    pytest.param(
        'x = """\n[node]\nfalse = 1\n"""', "MYC-DAEMON-003", 1, 1, "Allowed", id="inside-a-string"
    ),
    pytest.param(
        '[policy]\nhosts = [ # [x\n "a",\n]\nzz = 1', "MYC-DAEMON-003", 5, 1, "", id="after-array"
    ),
    pytest.param(
        '[node]\nname = "Shop"\r\n', "MYC-DAEMON-005", 2, 1, "lower-case", id="windows-lines"
    ),
]


@pytest.mark.parametrize(("text", "code", "line", "column", "hint"), MISTAKES)
def test_a_mistake_is_shown_where_it_is(text, code, line, column, hint):
    with pytest.raises(InvalidManifest) as caught:
        parse(text.encode())
    (problem,) = caught.value.problems
    assert (problem.code, str(problem.where)) == (code, f"config.toml:{line}:{column}")
    assert hint in problem.fix
    assert caught.value.exit_code == 65


def test_all_mistakes_are_shown_at_once_in_file_order():
    text = b'[node]\nnmae = "x"\n[policy]\nhosts = 1\n[[sources]]\n'
    with pytest.raises(InvalidManifest) as caught:
        parse(text)
    assert [problem.where.line for problem in caught.value.problems] == [2, 4, 5, 5]


def test_a_value_of_the_wrong_type_is_not_repeated():
    with pytest.raises(InvalidManifest) as caught:
        parse(b'[node]\nname = ["canary-4711"]\n[server]\nurl = "https://u:canary-4711@h:1"')
    shown = " ".join(f"{p.what} {p.fix}" for p in caught.value.problems)
    assert "canary" not in shown


def test_text_that_is_not_utf8_names_its_line():
    with pytest.raises(InvalidManifest) as caught:
        parse(b"[node]\n\nname = '\xff'")
    assert caught.value.problem.where.line == 3


def test_a_missing_file_is_a_located_problem(tmp_path):
    with pytest.raises(InvalidManifest) as caught:
        load(tmp_path / "none.toml")
    assert caught.value.code == "MYC-DAEMON-001"


def test_relative_paths_start_at_the_file(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('[policy]\nread_paths = ["data"]\n')
    assert load(path).base_dir == str(tmp_path)


def test_positions_of_nested_tables_and_dotted_keys():
    text = "[a.b]\nc = 1\n[[s]]\nx.y = 2\n  [s.t]\n  z = 3\n[[s]]\nx = 1"
    found = positions(text)
    assert found["a", "b", "c"] == (2, 1)
    assert found["s", 0, "x", "y"] == (4, 1)
    assert found["s", 0, "t", "z"] == (6, 3)
    assert found["s", 1, "x"] == (8, 1)


@given(st.text(max_size=200))
def test_any_text_is_a_config_or_problems(text):
    try:
        parse(text.encode("utf-8", "surrogatepass"))
    except InvalidManifest as error:
        places = [problem.where for problem in error.problems]
    else:
        places = []
    assert None not in places
