"""Plugins that read and write files, held to the paths that the machine's owner allows (I12)."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from mycelial.kernel.clock import ManualClock
from mycelial.kernel.ports import NullLog
from mycelial.runtime.context import SecretBox, WorkerContext
from mycelial.runtime.ports import WorkerPolicy
from mycelial.sdk.envelope import Column, Part, StreamSchema
from mycelial.sdk.errors import PluginError
from mycelial.sdk.plugin import Limits
from mycelial.sdk.registry import Registry
from mycelial.sdk.settings import Settings

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
CANARY = "canary"
ROWS = StreamSchema("t", (Column("id", "int64", False), Column("v", "utf8")), key=("id",))


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """`in` may be read, `out` written, `kept` neither."""
    for folder in ("in", "out", "kept"):
        (tmp_path / folder).mkdir()
    (tmp_path / "kept" / "k.csv").write_text(f"id,v\n9,{CANARY}\n", "utf-8")
    for name, text in (("in/a.db", "open"), ("kept/k.db", CANARY)):
        with sqlite3.connect(tmp_path / name) as file:
            file.execute("create table t (id integer primary key, v text)")
            file.execute("insert into t values (1, ?)", (text,))
        file.close()
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "kept")
    (tmp_path / "in" / "file.csv").symlink_to(tmp_path / "kept" / "k.csv")
    (tmp_path / "in" / "file.db").symlink_to(tmp_path / "kept" / "k.db")
    (tmp_path / "out" / "folder").symlink_to(tmp_path / "kept")
    (tmp_path / "out" / "file.db").symlink_to(tmp_path / "kept" / "k.db")
    return tmp_path


def context(machine: Path) -> WorkerContext:
    policy = WorkerPolicy(
        base_dir=str(machine),
        read_paths=(str(machine / "in"),),
        write_paths=(str(machine / "out"),),
    )
    return WorkerContext(
        policy=policy,
        secrets=SecretBox({}),
        log=NullLog(),
        clock=ManualClock(),
        state_dir=machine,
        limits=Limits(),
    )


def made(plugin: str, role: Any, machine: Path, manifest: dict[str, str]) -> Any:
    loader = Registry.discover_only([plugin]).loader(plugin, role)
    texts = {key: text.format(at=machine.as_posix()) for key, text in manifest.items()}
    return loader.build(Settings(loader.config().model_validate(texts).model_dump(mode="json")))


def read_all(source: Any, ctx: WorkerContext) -> list[Any]:
    source.plan(ctx)
    source.open(ctx)
    try:
        found = [e.batch for e in source.read(Part("0"), None) if e.batch is not None]
        return [value for b in found for i in range(b.num_columns) for value in b[i].to_pylist()]
    finally:
        source.close()


@pytest.mark.parametrize(
    ("plugin", "manifest"),
    [
        pytest.param("csv", {"path": "kept/k.csv"}, id="csv-elsewhere"),
        pytest.param("csv", {"path": "{at}/kept/k.csv"}, id="csv-absolute"),
        pytest.param("csv", {"path": "in/../kept/k.csv"}, id="csv-dots"),
        pytest.param("csv", {"path": "in/*/../../kept/*.csv"}, id="csv-dots-in-a-pattern"),
        pytest.param("csv", {"path": "*/k.csv"}, id="csv-pattern-above"),
        pytest.param("csv", {"path": "in/*.csv"}, id="csv-link-that-matches"),
        pytest.param("csv", {"path": "in/folder/*.csv"}, id="csv-linked-folder"),
        pytest.param("csv", {"path": "in/*/*.csv"}, id="csv-linked-folder-that-matches"),
        pytest.param("csv", {"path": "in/[f]older/k.csv"}, id="csv-pattern-of-one"),
        pytest.param("sqlite", {"path": "kept/k.db", "table": "t"}, id="sqlite-elsewhere"),
        pytest.param("sqlite", {"path": "in/file.db", "table": "t"}, id="sqlite-link"),
        pytest.param("sqlite", {"path": "file:kept/k.db", "table": "t"}, id="sqlite-uri"),
        pytest.param(
            "sqlite", {"path": "file://{at}/kept/k.db?mode=ro", "table": "t"}, id="sqlite-full-uri"
        ),
        pytest.param(
            "sqlite",
            {"path": "in/a.db", "query": "attach '{at}/kept/k.db' as k"},
            id="sqlite-attach",
        ),
        pytest.param(
            "sqlite",
            {"path": "in/a.db", "query": "select * from t; attach '{at}/kept/k.db' as k"},
            id="sqlite-attach-after",
        ),
        pytest.param(
            "sqlite",
            {"path": "in/a.db", "query": "select 1) ; attach '{at}/kept/k.db' as k; select (1"},
            id="sqlite-attach-inside",
        ),
        pytest.param(
            "sqlite",
            {"path": "in/a.db", "query": "vacuum into '{at}/kept/new'"},
            id="sqlite-vacuum",
        ),
        pytest.param(
            "sqlite",
            {"path": "in/a.db", "query": "select load_extension('{at}/kept/k.so') as v"},
            id="sqlite-extension",
        ),
    ],
)
def test_what_may_not_be_read_is_refused(
    plugin: str, manifest: dict[str, str], machine: Path
) -> None:
    with pytest.raises(PluginError) as caught:
        read_all(made(plugin, "source", machine, manifest), context(machine))
    assert CANARY not in str(caught.value)
    assert sorted(p.name for p in (machine / "kept").iterdir()) == ["k.csv", "k.db"]


def test_what_may_be_read_is_read(machine: Path) -> None:
    source = made("sqlite", "source", machine, {"path": "in/a.db", "table": "t"})
    assert read_all(source, context(machine)) == [1, "open"]


@pytest.mark.parametrize(
    ("plugin", "manifest"),
    [
        pytest.param("csv", {"path": "out/folder/new.csv"}, id="csv-linked-folder"),
        pytest.param("csv", {"path": "out/../kept/new.csv"}, id="csv-dots"),
        pytest.param("csv", {"path": "in/new.csv"}, id="csv-where-one-may-read"),
        pytest.param("parquet", {"path": "out/folder"}, id="parquet-linked-folder"),
        pytest.param("parquet", {"path": "{at}/kept/new"}, id="parquet-absolute"),
        pytest.param("sqlite", {"path": "out/file.db", "table": "t"}, id="sqlite-link"),
        pytest.param("sqlite", {"path": "kept/new.db", "table": "t"}, id="sqlite-elsewhere"),
    ],
)
def test_what_may_not_be_written_is_refused(
    plugin: str, manifest: dict[str, str], machine: Path
) -> None:
    destination = made(plugin, "destination", machine, manifest)
    with pytest.raises(PluginError, match="MYC-RUN-041"):
        destination.plan(context(machine), (ROWS,))
    assert sorted(p.name for p in (machine / "kept").iterdir()) == ["k.csv", "k.db"]
