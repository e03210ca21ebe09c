"""Fixtures every suite shares: golden files, and a private PostgreSQL."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import postgres_server

GOLDEN = Path(__file__).parent / "golden"


_seconds: defaultdict[str, float] = defaultdict(float)
_tests: Counter[str] = Counter()
_skips: Counter[str] = Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    part = "/".join(report.nodeid.split("::")[0].split("/")[:2])
    _seconds[part] += report.duration
    _tests[part] += report.when == "call"
    if report.skipped and isinstance(report.longrepr, tuple):
        _skips[f"{part}: {report.longrepr[2]}"] += 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print where the time went, and by name what was not run."""
    terminalreporter.section("time per part")
    for part, seconds in sorted(_seconds.items(), key=lambda item: -item[1]):
        terminalreporter.write_line(f"{seconds:8.1f} s  {_tests[part]:5d} tests  {part}")
    for reason, count in sorted(_skips.items()):
        terminalreporter.write_line(f"NOT RUN  {count:5d} tests  {reason}", yellow=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare text with tests/golden/<name>; rewrite it under --update-golden."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"no golden file {name}; run pytest with --update-golden"
        assert text == path.read_text(encoding="utf-8")

    return check


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgres_server.Server]:
    """A private PostgreSQL, or a skip that says why (a failure under CI=true)."""
    try:
        server = postgres_server.start()
    except postgres_server.Unavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"PostgreSQL is required under CI: {error}")
        pytest.skip(f"no PostgreSQL: {error}")
    yield server
    server.stop()


@pytest.fixture
def pg(postgres: postgres_server.Server) -> Iterator[postgres_server.Database]:
    """A fresh database on the private server."""
    database = postgres.create_database()
    yield database
    database.drop()
