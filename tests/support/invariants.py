"""The invariants O1 to O10 of the design, as questions to the world's own records and to the ledger."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import psycopg

from reconciler.audit.database import Database
from reconciler.audit.queries import entries, status_of
from reconciler.core.entry import Entry, EntryKind, Outcome
from reconciler.core.phase import Phase
from reconciler.core.projection import fold
from reconciler.core.status import EnvironmentStatus
from reconciler.core.table import TABLE
from tests.support.production import Practice, World

_DROPS = """
CREATE SCHEMA IF NOT EXISTS watched;
CREATE TABLE IF NOT EXISTS watched.drops (what text NOT NULL);
CREATE OR REPLACE FUNCTION watched.note() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO watched.drops SELECT object_identity FROM pg_event_trigger_dropped_objects()
  WHERE original AND object_type IN ('table', 'table column') AND NOT is_temporary;
END $$;
DROP EVENT TRIGGER IF EXISTS watched_drops;
CREATE EVENT TRIGGER watched_drops ON sql_drop EXECUTE FUNCTION watched.note();
"""


def watch_drops(practice: Practice) -> None:
    """Lets PostgreSQL itself keep count of what is dropped. A rolled-back rehearsal leaves no trace."""
    with psycopg.connect(practice.production.dsn) as connection:
        connection.execute(_DROPS)


def drops(practice: Practice) -> Counter[str]:
    """How often each object was really dropped."""
    with psycopg.connect(practice.production.dsn) as connection:
        return Counter(row[0] for row in connection.execute("SELECT what FROM watched.drops"))


def no_mixture(world: World, old: World, wanted: World) -> None:
    """O10: what runs is all of the old release, or all of the wanted one; the rest is down."""
    changed = [name for name in old.services if old.services[name][0] != wanted.services[name][0]]
    running = {
        name: world.services[name][0]
        for name in changed
        if name in world.services and world.services[name][1].startswith("running")
    }
    olds = {name for name, image in running.items() if image == old.services[name][0]}
    news = {name for name, image in running.items() if image == wanted.services[name][0]}
    assert not (olds and news), f"a mixture runs: old {olds}, wanted {news}"
    assert olds | news == set(running), f"something else runs: {running}"
    if world.production == wanted.production != old.production:
        assert set(news) == set(changed), "front-end traffic moved before the containers were up"


def ledger_holds(folder: Path, environment: str = "prod") -> EnvironmentStatus:
    """O4, O5 and O7, and that the stored status is what the entries say."""
    database = Database(f"sqlite:///{folder / 'audit.db'}")
    found = [entry for _, entry in entries(database, environment)]
    status = status_of(database, environment)
    database.close()
    _moves_are_legal(found)
    _intents_are_resolved(found)
    _captured_before_destroyed(found)
    assert fold(found, environment) == status
    return status


def _moves_are_legal(found: list[Entry]) -> None:
    legal = {(move.source, move.trigger, move.dest) for move in TABLE}
    phase = Phase.NEW
    for entry in found:
        if entry.kind is EntryKind.TRANSITION:
            assert entry.from_state is phase
            assert (entry.from_state, entry.trigger, entry.to_state) in legal
            phase = entry.to_state or phase


def _intents_are_resolved(found: list[Entry]) -> None:
    opened: set[tuple[str | None, str | None]] = set()
    for entry in found:
        key = (entry.run, entry.effect)
        if entry.kind is EntryKind.INTENT:
            assert key not in opened, f"{key} was begun twice without a result"
            opened.add(key)
        elif entry.kind is EntryKind.RESULT:
            assert key in opened, f"{key} has a result and no intent"
            opened.discard(key)
    assert not opened, f"unresolved: {opened}"


def _captured_before_destroyed(found: list[Entry]) -> None:
    saved: set[str | None] = set()
    for entry in found:
        done = entry.kind is EntryKind.RESULT and entry.body.get("outcome") == Outcome.DONE
        if done and entry.body.get("artifacts") and "/capture/" in (entry.effect or ""):
            saved.add(entry.run)
        if entry.kind is EntryKind.INTENT:
            step = entry.body["step"]
            assert isinstance(step, dict)
            if step["data_loss"]:
                assert entry.run in saved, f"{entry.effect} began before anything was saved"
