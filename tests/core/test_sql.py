"""What the classifier says of SQL: destructive, unclear, refused, outside a transaction."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.sql import judge


@pytest.mark.parametrize(
    ("sql", "destructive"),
    [
        ("DROP TABLE a", ["DROP TABLE a"]),
        ('drop table if exists public.a, "B c" cascade', ['DROP TABLE public.a, "B c"']),
        ("DROP MATERIALIZED VIEW IF EXISTS m", ["DROP MATERIALIZED VIEW m"]),
        ("DROP SCHEMA s CASCADE", ["DROP SCHEMA s"]),
        (
            "DROP TYPE t; DROP DOMAIN d; DROP SEQUENCE s",
            ["DROP TYPE t", "DROP DOMAIN d", "DROP SEQUENCE s"],
        ),
        ("DROP OWNED BY somebody", ["DROP OWNED somebody"]),
        ("DROP EXTENSION hstore", ["DROP EXTENSION hstore"]),
        ("TRUNCATE TABLE ONLY a, b", ["TRUNCATE a, b"]),
        ("DELETE FROM ONLY a WHERE x = 'secret'", ["DELETE a"]),
        ("UPDATE a SET x = 'secret'", ["UPDATE a"]),
        ("WITH gone AS (DELETE FROM a RETURNING *) SELECT * FROM gone", ["DELETE a"]),
        ("WITH x AS (SELECT 1) UPDATE a SET b = 1", ["UPDATE a"]),
        (
            "INSERT INTO a VALUES (1) ON CONFLICT (id) DO UPDATE SET b = 1",
            ["ON CONFLICT DO UPDATE"],
        ),
        ("MERGE INTO a USING b ON true WHEN MATCHED THEN DELETE", ["MERGE ... DELETE"]),
        ("EXPLAIN ANALYZE DELETE FROM a", ["DELETE a"]),
        (
            "ALTER TABLE a DROP b, DROP COLUMN IF EXISTS c CASCADE",
            ["DROP COLUMN a.b", "DROP COLUMN a.c"],
        ),
        ("ALTER TABLE IF EXISTS ONLY a ALTER b TYPE int USING b::int", ["ALTER COLUMN TYPE a.b"]),
        ("ALTER TABLE a ALTER COLUMN b SET DATA TYPE numeric(3, 1)", ["ALTER COLUMN TYPE a.b"]),
        ("ALTER TABLE a DETACH PARTITION b", ["DETACH PARTITION a"]),
        ("ALTER TYPE t DROP ATTRIBUTE x", ["ALTER TYPE DROP ATTRIBUTE t"]),
        ("ALTER TABLE a DROP CONSTRAINT k, ALTER c DROP DEFAULT, ALTER d SET NOT NULL", []),
        ("ALTER TABLE a RENAME COLUMN b TO c", []),
        ("DROP INDEX i; DROP VIEW v; DROP FUNCTION f(); DROP TRIGGER t ON a", []),
        ("SELECT * FROM a FOR UPDATE", []),
        ("CREATE TABLE a (b int REFERENCES c ON DELETE CASCADE ON UPDATE SET NULL)", []),
        ("CREATE FUNCTION f() RETURNS void LANGUAGE sql AS $$ DELETE FROM a $$", []),
        ("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC DELETE FROM a; SELECT 1; END", []),
        ("CREATE TRIGGER t BEFORE DELETE ON a FOR EACH ROW EXECUTE FUNCTION f()", []),
        ("SELECT 'DROP TABLE a; DELETE FROM b' /* DROP TABLE c */ -- DROP TABLE d", []),
        ("COMMENT ON TABLE a IS 'DELETE FROM a'", []),
    ],
)
def test_destructive(sql: str, destructive: list[str]) -> None:
    found = [str(finding) for finding in judge(sql).destructive]
    assert found == destructive
    assert "secret" not in str(judge(sql))


@pytest.mark.parametrize(
    ("sql", "unclear"),
    [
        ("DO $$ BEGIN EXECUTE 'DROP TABLE a'; END $$", ["DO"]),
        ("CALL cleanup()", ["CALL cleanup"]),
        ("SELECT cleanup(), count(*), lower('x'), now() FROM a", ["call of cleanup"]),
        ("SELECT pg_catalog.set_config('search_path', '', false)", ["call of set_config"]),
        ("INSERT INTO a (b) SELECT f(b) FROM c", ["call of f"]),
        ("CREATE TABLE x AS SELECT g() FROM t", ["call of g"]),
        ("DROP VIEW v CASCADE", ["CASCADE of DROP VIEW"]),
        ("FROBNICATE everything", ["statement FROBNICATE"]),
        ("COPY a FROM '/tmp/x'", ["COPY"]),
        ("CREATE TABLE a (b int CHECK (f(b) > 0))", []),
        ("COMMENT ON TABLE a IS 'x'; GRANT SELECT ON a TO b; ANALYZE a", []),
    ],
)
def test_unclear(sql: str, unclear: list[str]) -> None:
    assert [str(finding) for finding in judge(sql).unclear] == unclear


@pytest.mark.parametrize(
    "sql",
    [
        *(
            "BEGIN",
            "START TRANSACTION",
            "COMMIT",
            "END",
            "ROLLBACK",
            "ABORT",
            "SAVEPOINT a",
            "RELEASE a",
        ),
        *("PREPARE TRANSACTION 'x'", "COMMIT PREPARED 'x'", "ROLLBACK TO SAVEPOINT a"),
        *("\\d a", "\\restrict abc", "COPY a FROM STDIN", "SET TRANSACTION READ ONLY"),
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    ],
)
def test_refused(sql: str) -> None:
    assert judge(sql).refused
    assert judge(f"SELECT 1; {sql};").refused


@pytest.mark.parametrize(
    ("sql", "outlasting"),
    [
        ("SET search_path = public", True),
        ("SET ROLE postgres", True),
        ("SET SESSION AUTHORIZATION x", True),
        ("RESET ALL", True),
        ("SET LOCAL search_path = public", False),
        ("SET CONSTRAINTS ALL DEFERRED", False),
        ("UPDATE a SET b = 1", False),
    ],
)
def test_settings_that_outlast_the_transaction(sql: str, *, outlasting: bool) -> None:
    assert bool(judge(sql).outlasting) is outlasting


@pytest.mark.parametrize(
    ("sql", "outside"),
    [
        ("CREATE INDEX CONCURRENTLY i ON a (b)", True),
        ("CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON a (b)", True),
        ("DROP INDEX CONCURRENTLY IF EXISTS i", True),
        ("REINDEX TABLE CONCURRENTLY a", True),
        ("REINDEX DATABASE x", True),
        ("VACUUM", True),
        ("VACUUM (FULL) a", True),
        ("CLUSTER", True),
        ("CREATE DATABASE x", True),
        ("DROP TABLESPACE x", True),
        ("ALTER SYSTEM SET x = 1", True),
        ("ALTER TABLE a DETACH PARTITION b CONCURRENTLY", True),
        ("REFRESH MATERIALIZED VIEW CONCURRENTLY m", False),
        ("CREATE INDEX i ON a (b)", False),
        ("CLUSTER a USING i", False),
        ("ALTER DATABASE x SET search_path = public", False),
    ],
)
def test_outside_a_transaction(sql: str, *, outside: bool) -> None:
    assert judge(sql).transactional is not outside


def test_access_is_told_apart() -> None:
    sql = "DROP POLICY p ON a; ALTER TABLE a DISABLE ROW LEVEL SECURITY; REVOKE ALL ON a FROM b"
    found = [finding.kind for finding in judge(sql).access]
    assert found == ["DROP POLICY", "DISABLE ROW LEVEL SECURITY", "REVOKE"]


def test_statements_are_counted_without_blanks() -> None:
    assert judge("-- nothing\n;; SELECT 1;\n/* x */").statements == 1


WORDS = st.sampled_from(
    [
        *[
            "DROP",
            "TABLE",
            "ALTER",
            "COLUMN",
            "TYPE",
            "SET",
            "DO",
            "$$",
            "(",
            ")",
            ",",
            ".",
            ";",
            "'",
            '"',
            "--",
            "/*",
            "\\",
            "DELETE",
            "FROM",
            "UPDATE",
            "a",
            "b",
            "IF",
            "EXISTS",
        ],
        "\n",
    ]
)


@given(st.lists(WORDS | st.text(max_size=5)).map(" ".join))
def test_never_raises(sql: str) -> None:
    judge(sql)
