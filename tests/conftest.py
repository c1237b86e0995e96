"""Fixtures that bring real parts, and the rule that a test which could not run has failed."""

from __future__ import annotations

import os
import secrets
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support import engine as engines
from tests.support import postgres as postgreses
from tests.support import programs
from tests.support.production import practice, practice_session

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from reconciler.sandbox.postgres import PostgresServer

__all__ = [
    "practice",
    "practice_session",
]  # one for all: each costs what its containers' health checks cost

# Tests that may be skipped, and why. Empty: on the machines we care about everything can run.
MAY_SKIP: dict[str, str] = {}

# What must not leak from the developer's shell into a test.
_FOREIGN = ("VERCEL_", "SUPABASE_", "PG", "RECONCILER_SPEC", "RECONCILER_STATE", "COMPOSE_")


# A shell that starts us in the background has SIGINT ignored; what we start would inherit that, Ctrl-C tests included.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure, so that a missing part is never mistaken for a passed test."""
    report = yield
    expected = hasattr(report, "wasxfail") or item.nodeid in MAY_SKIP
    if report.skipped and not expected:
        report.outcome = "failed"
        reason = call.excinfo.value if call.excinfo else "no reason"
        report.longrepr = f"skipped, which counts as failed: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole file that skips itself while it is read."""
    report = yield
    if report.skipped and collector.nodeid not in MAY_SKIP:
        report.outcome = "failed"
        report.longrepr = f"skipped, which counts as failed: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(_FOREIGN):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def engine() -> Iterator[engines.Engine]:
    """A Docker engine with Compose v2 and a base image; mark the test `engine`."""
    found = engines.connect()
    yield found
    found.client.close()


@pytest.fixture
def compose_project(engine: engines.Engine) -> Iterator[str]:
    """A Compose project's name of this test's own; what it makes is removed afterwards."""
    name = f"rrtest-{secrets.token_hex(4)}"
    yield name
    engines.remove_project(engine, name)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL server for the whole run (one a worker); mark the test `postgres`."""
    server = postgreses.start_server()
    yield server
    server.destroy()


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty database of this test's own."""
    name = f"test_{secrets.token_hex(6)}"
    yield postgres_server.create_database(name)
    postgres_server.drop_database(name)


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[str]:
    """The URL of a real, empty Redis."""
    with programs.redis_server(tmp_path) as url:
        yield url


@pytest.fixture
def vercel_cli(tmp_path: Path) -> programs.VercelCli:
    """The real Vercel CLI with a scratch home; mark the test `node`."""
    home = tmp_path / "vercel-home"
    home.mkdir()
    return programs.vercel_cli(home)
