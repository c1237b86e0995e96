"""Cutting SQL: nothing is lost, nothing is cut inside quotes, and nothing raises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.sqlsplit import split, stored, tokens, unwrapped


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 'a;b'",
        "SELECT 'it''s; fine'",
        r"SELECT E'a\';b', e'\\'",
        "SELECT E'a'\n'b\\';c'",
        r"SELECT 'c:\', 1",
        "SELECT U&'\\0061;', B'1', X'f', N'x;'",
        'SELECT "a;""b", U&"d;"',
        "SELECT $$;$$, $a$ $$;$$ ; $b$ $a$",
        "SELECT a$b$c, 1",
        "SELECT $1, $2",
        "SELECT 1 -- a; b",
        "SELECT /* ; /* nested ; */ still ; */ 1",
        "CREATE RULE r AS ON INSERT TO t DO (DELETE FROM a; DELETE FROM b)",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 2 END; END",
        "CREATE OR REPLACE PROCEDURE p() BEGIN ATOMIC DELETE FROM a; INSERT INTO b VALUES (1); END",
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $body$ BEGIN RETURN 1; END; $body$",
        "DO $$ DECLARE a int; BEGIN a := 1; END $$",
        "SELECT ünïcödé$tag, 'ß;'",
    ],
)
def test_one_statement_stays_whole(statement: str) -> None:
    sql = f"{statement}\n; SELECT 2"
    assert [part.text for part in split(sql)] == [f"{statement}\n;", " SELECT 2"]


@pytest.mark.parametrize(
    ("sql", "count"),
    [
        ("", 0),
        (";", 1),
        ("BEGIN; SELECT 1; END;", 3),
        ("SELECT 1; -- the end", 2),
        ("CREATE TABLE begin (a int); SELECT 1", 2),
        ("SELECT ')'; SELECT ')';", 2),
        ("SELECT ); SELECT 1", 2),
    ],
)
def test_counts(sql: str, count: int) -> None:
    assert len(split(sql)) == count


def test_stored_is_what_the_cli_keeps() -> None:
    assert stored("\nCREATE TABLE a (id int);\n\n-- why\nSELECT ';' ;\n") == [
        "CREATE TABLE a (id int)",
        "-- why\nSELECT ';'",
    ]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("BEGIN;\nSELECT 1;\nCOMMIT;\n", "      \nSELECT 1;\n       \n"),
        ("-- note\nstart transaction; SELECT 1; end", None),
        ("BEGIN; SELECT 1;", "same"),
        ("SELECT 1; COMMIT;", "same"),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1; COMMIT", "same"),
        ("", "same"),
    ],
)
def test_a_transaction_around_everything_is_taken_off(sql: str, expected: str | None) -> None:
    found = unwrapped(sql)
    assert len(found) == len(sql)
    assert found.count("\n") == sql.count("\n")
    if expected is not None:
        assert found == (sql if expected == "same" else expected)


PIECES = st.sampled_from(
    [
        "'",
        '"',
        "$$",
        "$a$",
        "--",
        "/*",
        "*/",
        "\\",
        "\n",
        ";",
        "(",
        ")",
        "E'",
        "BEGIN",
        " CREATE FUNCTION ",
        " ATOMIC ",
    ]
)


@given(st.lists(PIECES | st.text(max_size=4)).map("".join))
def test_parts_joined_are_the_original(sql: str) -> None:
    assert "".join(part.text for part in split(sql)) == sql
    assert "".join(token.text for token in tokens(sql)) == sql
    unwrapped(sql)
    stored(sql)
