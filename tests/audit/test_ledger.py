"""The ledger on real databases: nothing changes or goes, nothing is missing, whoever writes at the same time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from reconciler.audit.database import Database
from reconciler.audit.hashes import leaf_hash
from reconciler.audit.journal import entry_columns
from reconciler.audit.queries import entries, rebuilt_status, status_of
from reconciler.audit.tables import utc_text
from reconciler.core.errors import LedgerError
from tests.support.writers import Writer, journal, note

_COLUMNS = "seq, at, environment, kind, actor, origin, reason, generation, body, leaf_hash"
_VALUES = "1, 'now', 'prod', 'decision', 'eve', 'cli', 'Drift', 1, '{}', 'x'"


def _refused(ledger: Database, statement: str) -> None:
    before = list(entries(ledger))
    with pytest.raises(LedgerError, match="append-only"), ledger.writing() as connection:
        connection.execute(text(statement))
    assert list(entries(ledger)) == before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger SET actor = 'eve'",
        "UPDATE ledger SET body = '{}' WHERE seq = 1",
        "DELETE FROM ledger",
        "DELETE FROM ledger WHERE seq = 2",
    ],
)
def test_the_database_refuses_to_change_or_delete_an_entry(
    ledger: Database, statement: str
) -> None:
    with journal(ledger) as book:
        note(book)
        note(book)
    _refused(ledger, statement)


def test_the_database_refuses_what_only_it_knows(ledger: Database) -> None:
    with journal(ledger) as book:
        note(book)
    if ledger.engine.dialect.name == "sqlite":
        _refused(ledger, f"INSERT OR REPLACE INTO ledger ({_COLUMNS}) VALUES ({_VALUES})")
        _refused(ledger, "UPDATE OR REPLACE ledger SET seq = 1")
        upsert = "ON CONFLICT (seq) DO UPDATE SET actor = 'eve'"
        _refused(ledger, f"INSERT INTO ledger ({_COLUMNS}) VALUES ({_VALUES}) {upsert}")
    else:
        _refused(ledger, "TRUNCATE ledger")
        _refused(ledger, "SET session_replication_role = replica; DELETE FROM ledger")
        upsert = "ON CONFLICT (seq) DO UPDATE SET actor = 'eve'"
        _refused(ledger, f"INSERT INTO ledger ({_COLUMNS}) VALUES ({_VALUES}) {upsert}")


def test_the_refusal_lies_in_the_database_and_not_in_this_program(ledger: Database) -> None:
    with journal(ledger) as book:
        note(book)
    with pytest.raises(DBAPIError, match="append-only"), ledger.engine.begin() as connection:
        connection.execute(text("DELETE FROM ledger"))


@pytest.mark.crash
def test_writers_of_several_processes_leave_no_gap_and_lose_nothing(url: str) -> None:
    each, names = 25, ("prod", "staging", "preview")
    writers = [Writer("append", url, name, str(each)) for name in names]
    for writer in writers:
        assert writer.says() == "ready"
    for writer in writers:
        writer.go()
    assert [writer.end() for writer in writers] == [0, 0, 0]
    database = Database(url)
    found = list(entries(database))
    assert [seq for seq, _ in found] == list(range(1, each * len(names) + 1))
    for name in names:
        mine = [entry.body["message"] for _, entry in found if entry.environment == name]
        assert mine == [f"{name} {number}" for number in range(each)]
        assert rebuilt_status(database, name) == status_of(database, name)
    database.close()


@pytest.mark.crash
def test_two_processes_may_make_the_schema_at_the_same_time(url: str) -> None:
    writers = [Writer("create", url) for _ in range(3)]
    for writer in writers:
        assert writer.says() == "ready"
    for writer in writers:
        writer.go()
    assert [writer.says() for writer in writers] == ["created"] * 3
    assert [writer.end() for writer in writers] == [0, 0, 0]


def test_a_schema_newer_than_the_program_is_a_clear_error(ledger: Database, url: str) -> None:
    with ledger.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    newer = Database(url)
    with pytest.raises(LedgerError, match="revision 9999") as raised, newer.reading():
        pass
    assert "newer reconciler" in raised.value.hint
    newer.close()


def test_hashes_can_be_computed_again_from_what_is_stored(ledger: Database) -> None:
    odd = 'é \x00 \udcff \U0001f600 "quoted" \\ </script>'
    with journal(ledger) as book:
        note(book, odd)
        note(book, "12345678901234567890 1e-320")
    with ledger.reading() as connection:
        stored = {
            row.seq: row.leaf_hash
            for row in connection.execute(text("SELECT seq, leaf_hash FROM ledger"))
        }
    for seq, entry in entries(ledger):
        columns = {**entry_columns(seq, entry), "at": utc_text(entry.at)}
        assert leaf_hash(columns) == stored[seq]
        json.dumps(entry.body, allow_nan=False).encode()


def test_a_database_that_cannot_be_reached_is_an_error_without_its_password() -> None:
    database = Database("postgresql://ada:hunter2hunter2@127.0.0.1:1/nowhere")
    with pytest.raises(LedgerError) as raised, database.reading():
        pass
    assert "hunter2" not in raised.value.message
    assert raised.value.hint
    database.close()


@pytest.mark.parametrize("url", ["mysql://x/y", "not a url", "oracle://x"])
def test_an_unusable_url_is_an_error_that_says_what_to_give(url: str) -> None:
    with pytest.raises(LedgerError):
        Database(url).writing().__enter__()


@pytest.mark.crash
def test_on_a_full_disk_nothing_is_half_written_and_the_next_try_works(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'audit.db'}"
    writer = Writer("full", url, "1000000")
    assert writer.says() == "ready"
    writer.go()
    assert writer.says().startswith("The ledger")
    assert writer.says() == "1", "the status in memory is the one on record"
    assert writer.end() == 0
    database = Database(url)
    assert [entry.body["message"] for _, entry in entries(database)] == ["before", "after"]
    assert rebuilt_status(database, "prod") == status_of(database, "prod")
    database.close()
