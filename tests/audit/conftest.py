"""Ledgers on real databases: every test that takes `url` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reconciler.audit.database import Database
from tests.support import memory


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty database of the test's own."""
    if request.param == "sqlite":
        return f"sqlite:///{memory.folder() / 'audit.db'}"
    return str(request.getfixturevalue("database"))


@pytest.fixture
def ledger(url: str) -> Iterator[Database]:
    """An open ledger."""
    database = Database(url)
    yield database
    database.close()
