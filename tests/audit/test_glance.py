"""The glance: the same as the queries, whatever state the file is in."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest
from sqlalchemy import text

from reconciler.audit.database import Database
from reconciler.audit.glance import glance, names
from reconciler.audit.queries import environments, status_of
from reconciler.core.errors import LedgerError
from reconciler.core.phase import Phase
from tests.support import memory
from tests.support.world import GOOD, Stage, source
from tests.support.writers import journal, note


@pytest.fixture
def folder() -> Path:
    return memory.folder()


def test_it_says_what_the_queries_say(ledger: Database, url: str) -> None:
    with journal(ledger, "staging") as book:
        note(book)
    with journal(ledger) as book:
        note(book)
        status, holding = glance(url, "prod")
        assert status == status_of(ledger, "prod")
        assert holding is not None
        assert holding.holder.startswith("ada@laptop")
        assert holding.expires > holding.since
    assert glance(url, "prod") == (status_of(ledger, "prod"), None)
    assert names(url) == environments(ledger) == ["prod", "staging"]


def test_it_understands_the_status_of_a_whole_run() -> None:
    with Stage() as stage:
        stage.engine().converge(source(GOOD))
        assert glance(stage.url, "prod")[0] == stage.status()


def test_what_was_never_seen_is_new(ledger: Database, url: str) -> None:
    with journal(ledger) as book:
        note(book)
    status, holding = glance(url, "nobody")
    assert (status.phase, holding) == (Phase.NEW, None)


def test_a_ledger_that_is_not_there_is_not_made(folder: Path) -> None:
    status, _ = glance(f"sqlite:///{folder}/states/audit.db", "prod")
    assert status.phase is Phase.NEW
    assert names(f"sqlite:///{folder}/states/audit.db") == []
    assert not (folder / "states").exists()


def test_an_empty_file_is_a_ledger_without_entries(folder: Path) -> None:
    (folder / "audit.db").touch()
    assert names(f"sqlite:///{folder}/audit.db") == []


def _filled(folder: Path) -> str:
    url = f"sqlite:///{folder}/audit.db"
    database = Database(url)
    with journal(database) as book:
        note(book)
    database.close()
    return url


def test_what_is_only_in_the_write_ahead_log_is_seen(folder: Path) -> None:
    url = f"sqlite:///{folder}/audit.db"
    database = Database(url)
    with journal(database) as book:
        note(book)
    assert (folder / "audit.db-wal").stat().st_size > 0
    copied = memory.folder()
    for path in folder.iterdir():
        shutil.copy(path, copied)  # as a crash leaves it
    assert glance(f"sqlite:///{copied}/audit.db", "prod")[0].entries == 1
    database.close()
    assert not (folder / "audit.db-wal").exists()
    assert glance(url, "prod")[0].entries == 1


def test_a_writer_does_not_keep_it_waiting(folder: Path) -> None:
    url = _filled(folder)
    writer = sqlite3.connect(folder / "audit.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE environments SET lease_token = 77")
    assert glance(url, "prod")[0].entries == 1
    writer.execute("ROLLBACK")
    writer.close()


@pytest.mark.parametrize("harm", ["not a database", "torn pages", "cut short"])
def test_a_damaged_file_is_a_clear_error(folder: Path, harm: str) -> None:
    url = _filled(folder)
    path = folder / "audit.db"
    content = path.read_bytes()
    match harm:
        case "not a database":
            path.write_bytes(b"These are not the bytes you look for." * 100)
        case "torn pages":
            path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
        case _:
            path.write_bytes(content[: len(content) // 3])
    with pytest.raises(LedgerError, match=r"audit\.db") as raised:
        glance(url, "prod")
    assert raised.value.hint


def test_a_status_that_a_newer_version_wrote_is_a_clear_error(folder: Path) -> None:
    url = _filled(folder)
    with sqlite3.connect(folder / "audit.db") as connection:
        connection.execute(
            'UPDATE environments SET status = \'{"environment": "prod", "mood": "good"}\''
        )
    connection.close()
    with pytest.raises(LedgerError, match="prod") as raised:
        glance(url, "prod")
    assert "newer" in raised.value.hint
    database = Database(url)
    with pytest.raises(LedgerError, match="prod"):
        status_of(database, "prod")
    database.close()


def test_a_path_with_odd_characters_is_the_same_file(folder: Path) -> None:
    odd = folder / "a b#c%20dé"
    odd.mkdir()
    assert glance(_filled(odd), "prod")[0].entries == 1
    assert glance(_filled(folder / "a?b"), "prod")[0].entries == 1


def test_a_folder_that_may_only_be_read_can_be_looked_at(folder: Path) -> None:
    url = _filled(folder)
    subprocess.run(["chmod", "-R", "a-w", str(folder)], check=True)
    assert glance(url, "prod")[0].entries == 1


def test_both_databases_store_the_lease_alike(ledger: Database) -> None:
    with journal(ledger):
        query = "SELECT lease_since FROM environments WHERE name = 'prod'"
        with ledger.reading() as connection:
            since = str(connection.execute(text(query)).scalar())
    assert since.endswith("+00:00")
    assert len(since) == len("2025-11-18T03:04:05.000006+00:00")
