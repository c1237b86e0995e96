"""Queries on a large ledger: each finds its place by an index."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from reconciler.audit.database import Database
from reconciler.audit.glance import glance
from reconciler.audit.queries import certificate_of, entries, run_of, spec_text, status_of
from reconciler.core.entry import EntryKind
from tests.support import memory
from tests.support.records import START
from tests.support.world import GOOD, Stage, source
from tests.support.writers import journal, note

ROWS, RUN = 20_000, 20


@pytest.fixture(scope="module")
def big() -> Iterator[Database]:
    """A thousand runs, over four environments."""
    path = memory.folder() / "audit.db"
    database = Database(f"sqlite:///{path}")
    body = json.dumps({"message": "x" * 200})
    spec = json.dumps({"decision": "spec-accepted", "digest": "d", "path": "p", "text": "t"})
    with database.writing() as connection:
        connection.exec_driver_sql(
            "INSERT INTO ledger (seq, at, environment, run, kind, actor, origin, reason, generation, body, leaf_hash) "
            f"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS - 1}) "
            "SELECT i + 1, strftime('%Y-%m-%dT%H:%M:%S.000000+00:00', '2025-01-01', '+' || i || ' seconds'), "
            f"'env' || ((i / {RUN}) % 4), 'run' || (i / {RUN}), 'decision', 'a', 'cli', 'Drift', i / {RUN}, "
            f"CASE WHEN i % {RUN} = 0 THEN '{spec}' ELSE '{body}' END, 'h' FROM n"
        )
    with journal(database, "env0") as book:
        note(book)
    yield database
    database.close()


@contextmanager
def _asked(database: Database) -> Iterator[list[tuple[str, Any]]]:
    seen: list[tuple[str, Any]] = []

    def remember(_conn: object, _cursor: object, statement: str, values: Any, *_: object) -> None:
        seen.append((statement, values))

    event.listen(database.engine, "before_cursor_execute", remember)
    try:
        yield seen
    finally:
        event.remove(database.engine, "before_cursor_execute", remember)


def _plans(database: Database, asked: list[tuple[str, Any]]) -> list[str]:
    found: list[str] = []
    with database.reading() as connection:
        for statement, values in asked:
            if statement.lstrip().upper().startswith("SELECT"):
                rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
                found.extend(str(row[3]) for row in rows)
    return found


@pytest.mark.parametrize(
    "question",
    [
        pytest.param(lambda db: status_of(db, "env0"), id="status"),
        pytest.param(lambda db: certificate_of(db, "run77"), id="certificate"),
        pytest.param(lambda db: spec_text(db, "env1", 501), id="spec"),
        pytest.param(lambda db: run_of(db, "run500"), id="run"),
        pytest.param(lambda db: len(list(entries(db, "env0", run="run500"))), id="history --run"),
        pytest.param(lambda db: len(list(entries(db, run="run500"))), id="history of a run alone"),
        pytest.param(lambda db: len(list(entries(db, "env0", since=START))), id="history --since"),
        pytest.param(lambda db: next(entries(db, "env3", after=15_000)), id="a page"),
    ],
)
def test_no_question_reads_the_whole_ledger(big: Database, question: Any) -> None:
    with _asked(big) as asked:
        question(big)
    plans = _plans(big, asked)
    assert plans
    for plan in plans:
        assert plan.startswith("SEARCH"), plan
        assert "TEMP B-TREE" not in plan


def test_they_find_what_there_is(big: Database) -> None:
    assert spec_text(big, "env1", 501) == ("p", "t")
    assert run_of(big, "run500") == "env0"
    found = list(entries(big, run="run500"))
    assert [seq for seq, _ in found] == list(range(10_001, 10_021))
    late = [entry for _, entry in entries(big, "env0", since=START)]
    assert [entry.kind for entry in late] == [EntryKind.NOTIFICATION]
    assert next(entries(big, "env3", after=15_000))[0] > 15_000
    with pytest.raises(LookupError):
        spec_text(big, "env1", 500)


def test_since_keeps_the_order_of_the_ledger_when_a_clock_was_set_back() -> None:
    with Stage() as stage:
        stage.engine().converge(source(GOOD))
        middle = stage.clock.time
        stage.clock.time -= timedelta(minutes=10)
        stage.world.commit = "drifted"
        stage.engine().converge(source(GOOD))
        stage.clock.time = middle + timedelta(minutes=1)
        stage.world.commit = "drifted"
        stage.engine().converge(source(GOOD))
        found = [seq for seq, _ in entries(stage.database, "prod", since=middle)]
        assert found == sorted(found)
        assert found == [
            seq for seq, entry in entries(stage.database, "prod") if entry.at >= middle
        ]


def test_the_glance_is_quick_however_long_the_ledger(big: Database) -> None:
    path = Path(str(big.engine.url.database))
    assert glance(f"sqlite:///{path}", "env0")[0].entries == 1


def test_pages_come_in_order_and_without_gaps(big: Database) -> None:
    found = [seq for seq, _ in entries(big, "env2", kinds=["decision"])]
    assert len(found) == ROWS // 4
    assert found == sorted(set(found))


def test_a_run_has_one_certificate_and_one_that_stalled_has_none() -> None:
    with Stage() as stage:
        status = stage.engine().converge(source(GOOD))
        assert status.run is not None
        certificate = certificate_of(stage.database, status.run.id)
        assert certificate is not None
        assert certificate.run == status.run.id
        assert run_of(stage.database, status.run.id) == "prod"
        assert certificate_of(stage.database, "no-such-run") is None
