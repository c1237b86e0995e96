"""The journal: entry and status in one transaction, told after the commit, clean of secrets."""

from __future__ import annotations

import math

import pytest
from sqlalchemy import text

from reconciler.audit.database import Database
from reconciler.audit.queries import entries, status_of
from reconciler.core.conditions import Reason
from reconciler.core.entry import Entry, EntryKind
from reconciler.core.errors import LeaseLostError
from reconciler.core.machine import IllegalMoveError
from reconciler.core.phase import Phase, Trigger
from reconciler.core.redact import MASK, Redactor
from reconciler.core.status import EnvironmentStatus
from tests.support.records import run
from tests.support.writers import journal, note

_RUN = {"run": run().model_dump(mode="json"), "message": "begins"}


def test_a_move_changes_phase_and_ledger_together(ledger: Database) -> None:
    with journal(ledger) as book:
        assert book.move(Trigger.DRIFTED, Reason.DRIFT, _RUN, run="r1") is Phase.CAPTURE
        assert book.status.phase is Phase.CAPTURE
    ((_, entry),) = entries(ledger)
    assert (entry.from_state, entry.trigger, entry.to_state) == (
        Phase.NEW,
        Trigger.DRIFTED,
        Phase.CAPTURE,
    )
    assert (entry.actor, entry.run, entry.environment) == ("ada@laptop", "r1", "prod")
    assert status_of(ledger, "prod").phase is Phase.CAPTURE


def test_a_move_outside_of_the_table_writes_nothing(ledger: Database) -> None:
    with journal(ledger) as book, pytest.raises(IllegalMoveError):
        book.move(Trigger.VERIFIED, Reason.VERIFIED, {})
    assert not list(entries(ledger))
    assert status_of(ledger, "prod").phase is Phase.NEW


def test_a_phase_that_is_not_what_was_believed_writes_nothing(ledger: Database) -> None:
    with journal(ledger) as book:
        with ledger.writing() as connection:
            connection.execute(text("UPDATE environments SET phase = 'stalled'"))
        with pytest.raises(LeaseLostError, match="not in phase new"):
            note(book)
    assert not list(entries(ledger))


def test_listeners_are_told_after_the_commit_and_only_then(ledger: Database) -> None:
    seen: list[tuple[int, EnvironmentStatus]] = []

    class Listening:
        def recorded(self, entry: Entry, status: EnvironmentStatus) -> None:
            seen.append((len(list(entries(ledger))), status))
            assert status_of(ledger, "prod") == status

    with journal(ledger, listeners=(Listening(),)) as book:
        note(book)
        note(book)
        with pytest.raises(IllegalMoveError):
            book.move(Trigger.VERIFIED, Reason.VERIFIED, {})
        with ledger.writing() as connection:
            connection.execute(text("UPDATE environments SET lease_token = 99"))
        with pytest.raises(LeaseLostError):
            note(book)
    assert [count for count, _ in seen] == [1, 2]


def test_a_listener_whose_stream_is_gone_is_told_nothing_more_and_others_are(
    ledger: Database,
) -> None:
    told: list[Entry] = []

    class Broken:
        def recorded(self, entry: Entry, status: EnvironmentStatus) -> None:
            raise BrokenPipeError

    class Listening:
        def recorded(self, entry: Entry, status: EnvironmentStatus) -> None:
            told.append(entry)

    with journal(ledger, listeners=(Broken(), Listening())) as book:
        note(book)
        note(book)
    assert len(told) == len(list(entries(ledger))) == 2


def test_secrets_are_taken_out_before_anything_is_stored(ledger: Database) -> None:
    with journal(ledger, redactor=Redactor(["hunter2hunter2"])) as book:
        body = {
            "message": "refused: hunter2hunter2",
            "password": "short",
            "list": ["x hunter2hunter2"],
        }
        book.write(EntryKind.NOTIFICATION, Reason.DRIFT, body)
    ((_, entry),) = entries(ledger)
    assert entry.body == {"message": f"refused: {MASK}", "password": MASK, "list": [f"x {MASK}"]}


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("caf\udcff", "caf\\udcff"),
        ("a\x00b", "a\\x00b"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        ("é\U0001f600", "é\U0001f600"),
    ],
)
def test_nothing_a_message_may_hold_keeps_it_from_being_written(
    ledger: Database, value: object, stored: str
) -> None:
    with journal(ledger) as book:
        book.write(EntryKind.NOTIFICATION, Reason.DRIFT, {"message": value})
    ((_, entry),) = entries(ledger)
    assert entry.body["message"] == stored


def test_an_entry_belongs_to_the_run_only_while_it_lasts(ledger: Database) -> None:
    with journal(ledger) as book:
        note(book)
        book.move(Trigger.DRIFTED, Reason.DRIFT, _RUN, run="r1")
        note(book)
        book.move(Trigger.STALL, Reason.PREFLIGHT_FAILED, {"message": "no"})
        note(book)
    assert [entry.run for _, entry in entries(ledger)] == [None, "r1", "r1", "r1", None]
