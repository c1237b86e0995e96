"""What a down migration destroys comes back row by row."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.errors import CaptureCorruptError, PreflightError, StepFailedError
from reconciler.core.phase import Phase
from reconciler.core.pins import DatabasePins
from tests.support.database import Context, Project, direct, supabase

pytestmark = pytest.mark.postgres

V1, V2, V3 = "20250101000000", "20250102000000", "20250103000000"
EDGE = """
CREATE TYPE mood AS ENUM ('sad', 'so so', 'happy');
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE TYPE pair AS (x int, y text);
CREATE TABLE kinds (name text PRIMARY KEY);
CREATE TABLE "Odd ""Name" (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  serial serial,
  parent bigint REFERENCES "Odd ""Name",
  kind text REFERENCES kinds,
  "select" text DEFAULT 'x' NOT NULL,
  amount numeric, exact numeric(30, 10), f float8, r real, flag bool, raw bytea, doc json, docb jsonb,
  words text[], grid int[][], at timestamptz, local timestamp, day date, span interval, clock timetz,
  address inet, mac macaddr, bits bit varying(9), id2 uuid, range int4range, mood mood, moods mood[], positive positive,
  pair pair, point point, x xml, fixed char(5), money money, tsv tsvector,
  twice bigint GENERATED ALWAYS AS (id * 2) STORED
);
INSERT INTO kinds VALUES ('seed'), ('gone');
"""
ROWS = r"""
DELETE FROM kinds WHERE name = 'gone';
INSERT INTO kinds VALUES (E'a\tb\nc\\d\re\\N'), ('\N'), (''), ('NULL'), ('ünïcödé 🐘 ''quoted'' "double"');
INSERT INTO "Odd ""Name" OVERRIDING SYSTEM VALUE VALUES
 (5, 7, NULL, 'seed', '\.', 'NaN', -0.0000000001, 'Infinity', 1.1e-38, true, '\x00ff5c0a09'::bytea, '{"a" : 1, "a":2}',
  '{"a": null}', '{NULL,"NULL","",",","a\"b\\c"}', '{{1,2},{3,NULL}}', '2025-03-30 01:59:59.999999+00', 'infinity',
  '0044-03-15 BC', '1 year -2 mons 3 days 04:05:06.789', '23:59:60+05:30', '::1/64', '08:00:2b:01:02:03', B'10101',
  'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '(1,5]', 'so so', '{happy,"so so"}', 3, ROW(1, 'a,"b')::pair, '(1.5,-2)',
  NULL, 'ab', '12.34', 'a:1 b:2A'),
 (9, 8, 5, NULL, '', NULL, NULL, '-0', NULL, NULL, NULL, NULL, NULL, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL,
  NULL, NULL, NULL, 'empty', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
UPDATE "Odd ""Name" SET parent = 9 WHERE id = 5;
SELECT setval(pg_get_serial_sequence('"Odd ""Name"', 'id'), 40);
"""
CONTENT = 'SELECT o::text FROM "Odd ""Name" o ORDER BY id'


@pytest.fixture(params=["postgres", "supabase"])
def project(request: pytest.FixtureRequest, tmp_path: Path, database: str) -> Iterator[Project]:
    if request.param == "postgres":
        yield direct(tmp_path, database)
    else:
        with supabase(tmp_path, database) as (made, _):
            yield made


def test_whole_tables_come_back_with_all_kinds_of_values(project: Project) -> None:
    project.pair(V1, "SELECT 1", "SELECT 1")
    project.pair(V2, EDGE, 'DROP TABLE "Odd ""Name", kinds; DROP TYPE mood, positive, pair;')
    project.back(V2)
    project.sql(ROWS)
    before = project.sql(CONTENT), project.sql("SELECT name FROM kinds ORDER BY 1")
    assert len(before[0]) == 2

    context = project.back(V1)
    assert project.sql("SELECT to_regclass('kinds')") == [(None,)]
    files = [context.states / a.path for a in context.artifacts]
    assert all(oct(file.stat().st_mode & 0o777) == "0o600" for file in files)

    notes = project.compensate(V2, [V2], context)

    after = project.sql(CONTENT), project.sql("SELECT name FROM kinds ORDER BY 1")
    assert after == before
    assert '2 rows of public.Odd "Name are back' in [made.note for made in notes]
    project.sql('INSERT INTO "Odd ""Name" DEFAULT VALUES')
    assert project.sql('SELECT max(id) FROM "Odd ""Name"') == [(41,)]


def test_putting_back_twice_equals_once(project: Project) -> None:
    project.pair(V1, "SELECT 1", "SELECT 1")
    project.pair(V2, "CREATE TABLE log (line text);", "DROP TABLE log;")  # no key at all
    project.back(V2)
    project.sql("INSERT INTO log VALUES ('a'), ('a'), (NULL), ('b')")
    context = project.back(V1)
    project.compensate(V2, [V2], context)
    project.compensate(V2, [V2], context)
    assert project.sql("SELECT line FROM log ORDER BY 1 NULLS LAST") == [
        ("a",),
        ("a",),
        ("b",),
        (None,),
    ]


def test_lost_columns_come_back_and_later_rows_stay(project: Project) -> None:
    project.pair(
        V1,
        "CREATE TABLE users (id int, org int, PRIMARY KEY (org, id), name text);",
        "DROP TABLE users;",
    )
    project.pair(
        V2,
        "ALTER TABLE users ADD COLUMN plan text DEFAULT 'free', ADD COLUMN born date,"
        " ADD COLUMN n bigint GENERATED ALWAYS AS IDENTITY,"
        " ADD COLUMN loud text GENERATED ALWAYS AS (upper(name)) STORED;",
        "ALTER TABLE users DROP COLUMN plan, DROP COLUMN born, DROP COLUMN n, DROP COLUMN loud;",
    )
    project.back(V2)
    project.sql(
        "INSERT INTO users (id, org, name, plan, born) VALUES (1, 1, 'a', 'pro', '2000-01-01'),"
        " (2, 1, 'b', NULL, NULL),"
        " (1, 2, 'c', E'tab\\there', 'infinity'); UPDATE users SET name = name || '!'"
    )
    lost = "SELECT org, id, plan, born, n, loud FROM users ORDER BY 1, 2"
    before = project.sql(lost.replace("born", "born::text"))
    context = project.back(V1)
    project.sql(
        "INSERT INTO users VALUES (9, 9, 'new'); DELETE FROM users WHERE (org, id) = (2, 1)"
    )
    project.compensate(V2, [V2], context)
    after = project.sql(lost.replace("born", "born::text"))
    assert after[:2] == before[:2]
    assert [row[:3] for row in after[2:]] == [(9, 9, "free")]
    assert project.sql(
        "SELECT attidentity FROM pg_attribute WHERE attrelid = 'users'::regclass AND attname = 'n'"
    )[0][0] in ("a", b"a")


def test_a_converted_column_and_deleted_rows_come_back(project: Project) -> None:
    project.pair(
        V1,
        "CREATE TABLE t (id int PRIMARY KEY, amount numeric); CREATE TABLE u (id int PRIMARY KEY, s text);",
        "DROP TABLE t, u;",
    )
    project.pair(
        V2,
        "ALTER TABLE t ALTER COLUMN amount TYPE numeric;",
        "ALTER TABLE t ALTER COLUMN amount TYPE int; DELETE FROM u WHERE id > 1;",
    )
    project.back(V2)
    project.sql(
        "INSERT INTO t VALUES (1, 1.25), (2, 2.5); INSERT INTO u VALUES (1, 'a'), (2, 'b'), (3, 'c')"
    )
    context = project.back(V1)
    assert project.sql("SELECT * FROM t, u ORDER BY 1") == [(1, 1, 1, "a"), (2, 3, 1, "a")]
    project.compensate(V2, [V2], context)
    assert [(str(a), b) for b, a in project.sql("SELECT * FROM t ORDER BY 1")] == [
        ("1.25", 1),
        ("2.5", 2),
    ]
    assert project.sql("SELECT * FROM u ORDER BY 1") == [(1, "a"), (2, "b"), (3, "c")]


def test_truncated_tables_partitions_and_sequences_come_back(project: Project) -> None:
    project.pair(V1, "CREATE TABLE t (id int PRIMARY KEY);", "DROP TABLE t;")
    project.pair(
        V2,
        "CREATE SEQUENCE tickets; CREATE TABLE m (day date, n int, PRIMARY KEY (day, n)) PARTITION BY RANGE (day);"
        "CREATE TABLE m1 PARTITION OF m FOR VALUES FROM ('2025-01-01') TO ('2025-02-01');"
        "CREATE TABLE m2 PARTITION OF m FOR VALUES FROM ('2025-02-01') TO ('2025-03-01');",
        "TRUNCATE t; DROP TABLE m; DROP SEQUENCE tickets;",
    )
    project.back(V2)
    project.sql(
        "INSERT INTO t VALUES (1), (2); SELECT setval('tickets', 77);"
        "INSERT INTO m VALUES ('2025-01-05', 1), ('2025-02-05', 2)"
    )
    context = project.back(V1)
    dumps = {a.subject: a.meta["mode"] for a in context.artifacts if a.kind == "table-dump"}
    assert dumps == {"public.t": "rows", "public.m": "table", "public.tickets": "sequence"}
    project.compensate(V2, [V2], context)
    assert project.sql("SELECT id FROM t ORDER BY 1") == [(1,), (2,)]
    assert project.sql("SELECT n, tableoid::regclass::text FROM m ORDER BY 1") == [
        (1, "m1"),
        (2, "m2"),
    ]
    assert project.sql("SELECT nextval('tickets')") == [(78,)]


def test_user_triggers_do_not_fire_and_stay_as_they_were(project: Project) -> None:
    project.pair(V1, "CREATE TABLE audit (line text);", "DROP TABLE audit;")
    project.pair(
        V2,
        """CREATE TABLE t (id int PRIMARY KEY);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql
          AS $$ BEGIN INSERT INTO audit VALUES (TG_OP); RETURN NEW; END $$;
        CREATE TRIGGER on_t AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note();
        CREATE TRIGGER always_t AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note();
        ALTER TABLE t ENABLE ALWAYS TRIGGER always_t;
        CREATE TRIGGER off_t AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note();
        ALTER TABLE t DISABLE TRIGGER off_t;""",
        "DROP TABLE t; DROP FUNCTION note;",
    )
    project.back(V2)
    project.sql("INSERT INTO t VALUES (1)")
    assert project.sql("SELECT count(*) FROM audit") == [(2,)]
    context = project.back(V1)
    project.compensate(V2, [V2], context)
    assert project.sql("SELECT count(*) FROM audit") == [(2,)]
    state = project.sql(
        "SELECT tgname, tgenabled::text FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1"
    )
    assert state == [("always_t", "A"), ("off_t", "D"), ("on_t", "O")]


def test_what_changed_after_capture_is_dumped_again(project: Project) -> None:
    project.pair(V1, "SELECT 1", "SELECT 1")
    project.pair(
        V2,
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY);",
        "DROP TABLE t, u;",
    )
    project.back(V2)
    project.sql("INSERT INTO t VALUES (1)")
    context, goal = project.context, project.resolve(V1)
    project.go(goal, context, Phase.CAPTURE)
    project.sql("INSERT INTO t VALUES (2)")
    project.go(goal, context, Phase.RESTORE)
    subjects = [a.subject for a in context.artifacts if a.kind == "table-dump"]
    assert subjects == ["public.t", "public.u", "public.t"]
    project.compensate(V2, [V2], context)
    assert project.sql("SELECT id FROM t ORDER BY 1") == [(1,), (2,)]


def test_three_versions_down_and_all_back(project: Project) -> None:
    project.pair(V1, "CREATE TABLE a (id int PRIMARY KEY, t text);", "DROP TABLE a;")
    project.pair(V2, "ALTER TABLE a ADD COLUMN extra jsonb;", "ALTER TABLE a DROP COLUMN extra;")
    project.pair(V3, "CREATE TABLE b (a_id int REFERENCES a, n int);", "DROP TABLE b;")
    project.back(V3)
    project.sql(
        "INSERT INTO a VALUES (1, 'x', '{}'), (2, NULL, NULL); INSERT INTO b VALUES (1, 1), (2, 2), (NULL, 3)"
    )
    before = project.sql("SELECT a.*, b.* FROM a FULL JOIN b ON a_id = id ORDER BY n")
    context = project.back(None)
    assert project.versions() == []
    project.compensate(V3, [V1, V2, V3], context)
    assert project.versions() == [V1, V2, V3]
    assert project.sql("SELECT a.*, b.* FROM a FULL JOIN b ON a_id = id ORDER BY n") == before


def test_only_what_was_taken_down_comes_back(project: Project) -> None:
    test = "SELECT a.*, b.* FROM a FULL JOIN b ON a_id = id ORDER BY n"
    project.pair(V1, "CREATE TABLE a (id int PRIMARY KEY, t text);", "DROP TABLE a;")
    project.pair(V2, "CREATE TABLE b (a_id int REFERENCES a, n int);", "DROP TABLE b;")
    project.back(V2)
    project.sql("INSERT INTO a VALUES (1, 'x'); INSERT INTO b VALUES (1, 1)")
    before = project.sql(test)
    context, goal = project.context, project.resolve(None)
    project.go(goal, context, Phase.CAPTURE)
    refresh, first, second = project.steps(goal, Phase.RESTORE)
    project.target.apply(refresh, context)
    project.target.apply(first, context)
    project.sql("CREATE VIEW v AS SELECT * FROM a")
    with pytest.raises(StepFailedError, match="2BP01"):
        project.target.apply(second, context)
    project.sql("DROP VIEW v")
    project.compensate(V2, [V1, V2], context)  # both were begun
    assert project.sql(test) == before


def _two_legs(project: Project, first: str, second: str, meanwhile: str = "SELECT 1") -> Context:
    """Two versions are taken down, the older one in a second leg; the run gave up half way in between."""
    context = project.context
    goal = project.resolve(V1)
    project.go(goal, context, Phase.CAPTURE)
    for step in project.steps(goal, Phase.RESTORE):
        if step.action != "down" or step.subject == V3:
            context.artifacts.extend(project.target.apply(step, context).artifacts)
    assert project.versions() == [V1, V2]
    assert project.sql(first) == [(None,)]
    project.sql(meanwhile)
    context.leg = 2
    project.back(V1, context)
    assert project.sql(second) == [(None,)]
    return context


def test_what_the_way_back_itself_overwrites_does_not_hide_what_was_lost(project: Project) -> None:
    """The up script changes rows, so the way back dumps them too, at a time when the column was gone already."""
    project.pair(V1, TABLE, "DROP TABLE orders")
    up = "ALTER TABLE orders ADD discount int; UPDATE orders SET discount = 0, note = note || '!'"
    project.pair(V2, up, "ALTER TABLE orders DROP discount")
    project.back(V1)
    project.back(V2)
    project.sql("UPDATE orders SET discount = id * 5")

    context = project.back(V1)
    context.leg = 2
    pins = DatabasePins(version=V2, reapply=(V2,), rows=tuple(context.artifacts))
    project.go(project.goal(pins), context, Phase.CAPTURE)  # and there it stalls
    assert [a.subject for a in context.artifacts if a.kind == "table-dump"] == ["public.orders"] * 2
    context.leg = 3
    project.compensate(V2, [V2], context)

    assert project.sql("SELECT id, discount FROM orders ORDER BY id") == [(1, 5), (2, 10)]


TABLE = """CREATE TABLE orders (id int PRIMARY KEY, total int, note text);
INSERT INTO orders VALUES (1, 10, 'a'), (2, 20, 'b')"""
COLUMN = "SELECT (SELECT attname::text FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = '{}')"


def test_columns_lost_in_two_legs_come_back_from_two_dumps(project: Project) -> None:
    project.pair(V1, TABLE, "DROP TABLE orders")
    project.pair(V2, "ALTER TABLE orders ADD code text", "ALTER TABLE orders DROP code")
    project.pair(V3, "ALTER TABLE orders ADD discount int", "ALTER TABLE orders DROP discount")
    project.back(V3)
    project.sql("UPDATE orders SET code = 'c' || id, discount = id * 5")
    before = project.sql("SELECT id, total, note, code, discount FROM orders ORDER BY id")

    context = _two_legs(project, COLUMN.format("discount"), COLUMN.format("code"))
    project.compensate(V3, [V2, V3], context)

    assert project.sql("SELECT id, total, note, code, discount FROM orders ORDER BY id") == before


def test_a_table_dropped_in_the_second_leg_gets_the_column_lost_in_the_first(
    project: Project,
) -> None:
    project.pair(V1, "SELECT 1", "SELECT 1")
    project.pair(V2, TABLE, "DROP TABLE orders")
    project.pair(V3, "ALTER TABLE orders ADD discount int", "ALTER TABLE orders DROP discount")
    project.back(V3)
    project.sql("UPDATE orders SET discount = id * 5")

    context = _two_legs(
        project,
        COLUMN.format("discount"),
        "SELECT to_regclass('orders')",
        meanwhile="UPDATE orders SET total = 21 WHERE id = 2; INSERT INTO orders VALUES (3, 30, 'c')",
    )
    project.compensate(V3, [V2, V3], context)

    assert project.sql("SELECT id, total, note, discount FROM orders ORDER BY id") == [
        (1, 10, "a", 5),
        (2, 21, "b", 10),
        (3, 30, "c", None),
    ], "the rows are those of the last moment, the lost column is from before it was lost"


def test_a_dump_for_what_never_ran_does_not_hide_an_older_one(project: Project) -> None:
    project.pair(V1, TABLE, "DROP TABLE orders")
    project.pair(V2, "ALTER TABLE orders ADD code text", "ALTER TABLE orders DROP code")
    project.pair(V3, "ALTER TABLE orders ADD discount int", "ALTER TABLE orders DROP discount")
    project.back(V3)
    project.sql("UPDATE orders SET code = 'c' || id, discount = id * 5")
    before = project.sql("SELECT id, code, discount FROM orders ORDER BY id")

    context = project.back(V2)
    context.leg = 2
    project.go(project.resolve(V1), context, Phase.CAPTURE)
    project.compensate(V3, [V3], context)

    assert project.sql("SELECT id, code, discount FROM orders ORDER BY id") == before


def test_seeds_of_the_up_script_do_not_come_back_with_it(project: Project) -> None:
    project.pair(V1, "SELECT 1", "SELECT 1")
    project.pair(
        V2,
        "CREATE TABLE t (id int PRIMARY KEY, s text); INSERT INTO t VALUES (1, 'seed'), (2, 'seed');",
        "DROP TABLE t;",
    )
    project.back(V2)
    project.sql("DELETE FROM t WHERE id = 1; UPDATE t SET s = 'mine' WHERE id = 2")
    context = project.back(V1)
    project.compensate(V2, [V2], context)
    assert project.sql("SELECT * FROM t") == [(2, "mine")]


def test_a_column_without_any_key_is_refused_in_capture(project: Project) -> None:
    project.pair(V1, "CREATE TABLE t (a int);", "DROP TABLE t;")
    project.pair(V2, "ALTER TABLE t ADD COLUMN b int;", "ALTER TABLE t DROP COLUMN b;")
    project.back(V2)
    with pytest.raises(PreflightError, match=r"public.t has no primary key"):
        project.back(V1)
    assert project.versions() == [V1, V2]


def test_a_way_back_that_makes_something_else_is_refused_in_capture(project: Project) -> None:
    project.pair(V1, "CREATE TABLE t (id int PRIMARY KEY, b int);", "DROP TABLE t;")
    project.pair(V2, "SELECT 1", "ALTER TABLE t DROP COLUMN b;")
    project.back(V2)
    with pytest.raises(PreflightError, match=r"b of public.t could not be brought back"):
        project.back(V1)


def test_a_damaged_dump_is_not_used(project: Project) -> None:
    project.pair(V1, "SELECT 1", "SELECT 1")
    project.pair(V2, "CREATE TABLE t (id int PRIMARY KEY);", "DROP TABLE t;")
    project.back(V2)
    context = project.back(V1)
    (dump,) = [a for a in context.artifacts if a.kind == "table-dump"]
    (context.states / dump.path).write_text("1\n")
    with pytest.raises(CaptureCorruptError):
        project.compensate(V2, [V2], context)


def test_very_many_rows_in_constant_memory(project: Project) -> None:
    """A hundred thousand, 28 MB; a quarter of it through the API, whose practice server is in this process too."""
    rows = 100_000 if project.driver.direct else 25_000
    project.pair(V1, "SELECT 1", "SELECT 1")
    project.pair(V2, "CREATE TABLE big (id int PRIMARY KEY, s text, n numeric);", "DROP TABLE big;")
    project.back(V2)
    project.sql(
        f"INSERT INTO big SELECT i, repeat(md5(i::text), 8), i / 7.0 FROM generate_series(1, {rows}) i"
    )
    content = "SELECT count(*), sum(hashtextextended(b::text, 0)::numeric) FROM big b"
    before = project.sql(content)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    context = project.back(V1)
    project.compensate(V2, [V2], context)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    assert project.sql(content) == before
    assert grown < (16 if project.driver.direct else 40) * 1024, f"{grown} KiB"


def test_newer_values_stay_where_nothing_was_taken_away(project: Project) -> None:
    """A down script that failed has undone nothing; the dump made for it must not overwrite anything then."""
    project.pair(V1, "CREATE TABLE t (id int PRIMARY KEY, s text);", "DROP TABLE t;")
    project.pair(V2, "ALTER TABLE t ADD COLUMN n int;", "ALTER TABLE t DROP COLUMN n;")
    project.back(V2)
    project.sql("INSERT INTO t VALUES (1, 'dumped', 1), (2, 'dumped', 2)")
    context, goal = project.context, project.resolve(None)
    project.go(goal, context, Phase.CAPTURE)
    project.sql("UPDATE t SET s = 'newer', n = 10 WHERE id = 1")
    project.compensate(V2, [V1, V2], context)  # both were begun, neither was done
    assert project.sql("SELECT * FROM t ORDER BY 1") == [(1, "newer", 10), (2, "dumped", 2)]
