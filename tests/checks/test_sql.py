"""The sql check against a real PostgreSQL."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from reconciler.checks import sql
from reconciler.core.errors import TargetUnavailableError
from reconciler.core.spec_verify import SqlCheck
from tests.checks.support import attempt, context

if TYPE_CHECKING:
    from reconciler.checks.base import Outcome
    from reconciler.core.section import SecretRef

pytestmark = pytest.mark.postgres


def ask(database: str, query: str, seconds: float = 5.0, **spec: Any) -> Outcome:
    def connect(_: SecretRef | None, seconds: float) -> psycopg.Connection[Any]:
        return psycopg.connect(database, connect_timeout=max(2, int(seconds)))

    made = SqlCheck.model_validate({"query": query, **spec})
    return sql.probe(made, context(connect=connect), attempt(seconds))


@pytest.mark.parametrize(
    ("query", "spec"),
    [
        ("select 3", {"min": 3}),
        ("select 3::numeric", {"min": 1, "max": 3.5}),
        ("select count(*) from pg_class", {"min": 1}),
        ("select 3.0::float8", {"equals": 3}),
        ("select 'up'::text", {"equals": "up"}),
        ("select true", {"equals": True}),
        ("select '2025-11-17'::date", {"equals": "2025-11-17"}),
        ("select 5 % 3", {"equals": 2}),
    ],
)
def test_what_is_as_wanted_passes(database: str, query: str, spec: dict[str, Any]) -> None:
    outcome = ask(database, query, **spec)
    assert outcome.passed, outcome.detail


@pytest.mark.parametrize(
    ("query", "spec", "words"),
    [
        ("select 0", {"min": 1}, "expected at least 1, got 0"),
        ("select 9", {"min": 1, "max": 3}, "expected at least 1 and at most 3, got 9"),
        ("select null", {"min": 1}, "got null"),
        ("select null", {"equals": "None"}, "got null"),
        ("select 'NaN'::float8", {"min": 1}, "got NaN"),
        ("select '1'::text", {"equals": 1}, 'expected 1, got "1"'),
        ("select 1", {"equals": "1"}, 'expected "1", got 1'),
        ("select 1", {"equals": True}, "expected true, got 1"),
        ("select 1 where false", {"min": 1}, "got no row"),
        ("select * from missing", {"min": 1}, "(42P01)"),
        ("select syntax error here", {"min": 1}, "(42601)"),
    ],
)
def test_a_failure_says_what_was_expected_and_what_came(
    database: str, query: str, spec: dict[str, Any], words: str
) -> None:
    outcome = ask(database, query, **spec)
    assert not outcome.passed
    assert words in outcome.detail


@pytest.mark.parametrize(
    "query",
    [
        "create table made (a int)",
        "with x as (insert into kept values (2) returning a) select a from x",
        "commit; insert into kept values (2); select 2",
        "select 1; rollback; insert into kept values (2)",
        "commit",
    ],
)
def test_nothing_can_be_written(database: str, query: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("create table kept (a int)")
    assert not ask(database, query, min=1).passed
    with psycopg.connect(database) as connection:
        assert connection.execute("select count(*) from kept").fetchone() == (0,)
        assert connection.execute("select to_regclass('made')").fetchone() == (None,)


def test_a_slow_query_is_ended_by_the_server(database: str) -> None:
    began = time.monotonic()
    outcome = ask(database, "select count(*) from (select pg_sleep(30)) s", seconds=0.3, min=1)
    assert "(57014)" in outcome.detail
    assert not outcome.final
    assert time.monotonic() - began < 5


def test_an_error_never_repeats_the_query(database: str) -> None:
    outcome = ask(database, "select hidden_word from pg_class where", min=1)
    assert "hidden_word" not in outcome.detail


def test_a_wrong_query_is_not_tried_again(database: str) -> None:
    assert ask(database, "select nothing from where", min=1).final
    assert ask(database, "create table made (a int)", min=1).final


def test_a_table_that_the_application_makes_at_its_start_is_waited_for(database: str) -> None:
    assert not ask(database, "select * from missing", min=1).final


def test_a_database_that_is_away_is_tried_again() -> None:
    outcome = ask("host=127.0.0.1 port=1 user=me password=hunter22", "select 1", min=1)
    assert not outcome.final
    assert "cannot be reached" in outcome.detail
    assert "hunter22" not in outcome.detail


def test_without_a_database_there_is_nothing_to_ask() -> None:
    spec = SqlCheck(query="select 1", min=1)
    assert "no database is declared" in sql.probe(spec, context(), attempt()).detail


def test_errors_of_ours_are_left_to_the_runner() -> None:
    def connect(_: SecretRef | None, __: float) -> psycopg.Connection[Any]:
        raise TargetUnavailableError("The database is away.")

    with pytest.raises(TargetUnavailableError):
        sql.probe(SqlCheck(query="select 1", min=1), context(connect=connect), attempt())
