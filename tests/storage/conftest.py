"""Every store, one suite."""

from __future__ import annotations

import pytest

from mycelial.storage.memory import MemoryStore
from mycelial.storage.sqlite import SqliteStore


@pytest.fixture(params=["memory", "sqlite"])
def open_store(request, tmp_path):
    """A function that makes the store; options as the constructor's."""
    opened = []

    def make(**options):
        kind = MemoryStore if request.param == "memory" else SqliteStore
        where = () if kind is MemoryStore else (tmp_path / "store.db",)
        opened.append(kind(*where, **options))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store):
    return open_store()
