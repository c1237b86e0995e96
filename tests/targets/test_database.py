"""The database target on a real server: down, up, refusals, drift."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from reconciler.core.errors import (
    LeaseLostError,
    PolicyRefusedError,
    PreflightError,
    StepFailedError,
    TerminalError,
    TransientError,
)
from reconciler.core.phase import Phase
from reconciler.targets.pg.driver import ADVISORY_LOCK
from tests.support.database import Context, Project, direct, supabase
from tests.support.waiting import wait_for

pytestmark = pytest.mark.postgres

TABLES = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1"


@pytest.fixture(params=["postgres", "supabase"])
def project(request: pytest.FixtureRequest, tmp_path: Path, database: str) -> Iterator[Project]:
    if request.param == "postgres":
        yield direct(tmp_path, database)
    else:
        with supabase(tmp_path, database) as (made, _):
            yield made


@pytest.fixture
def three(project: Project) -> Project:
    project.pair("20250101000000", "CREATE TABLE a (id int PRIMARY KEY, t text);", "DROP TABLE a;")
    project.pair(
        "20250102000000",
        "ALTER TABLE a ADD COLUMN n numeric(10,2);\n-- end",
        "ALTER TABLE a DROP COLUMN n -- no semicolon",
    )
    project.pair(
        "20250103000000",
        "CREATE TABLE b (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a_id int REFERENCES a);",
        "DROP TABLE b;",
    )
    project.back("20250103000000")
    return project


def test_applies_files_and_takes_them_down_again(three: Project) -> None:
    assert three.versions() == ["20250101000000", "20250102000000", "20250103000000"]
    (row,) = three.sql(
        "SELECT name, statements FROM supabase_migrations.schema_migrations WHERE version = '20250102000000'"
    )
    assert row == ("change", ["ALTER TABLE a ADD COLUMN n numeric(10,2)", "-- end"])
    assert three.observe().get("database.drift").value == "clean"

    three.back("20250101000000")

    assert three.versions() == ["20250101000000"]
    assert three.sql(TABLES) == [("a",)]
    assert three.sql(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'a'::regclass AND attnum > 0 AND NOT attisdropped"
    ) == [("id",), ("t",)]


def test_observation_equals_what_was_wanted(three: Project) -> None:
    goal = three.resolve("20250102000000")
    three.go(goal)
    observed = three.observe()
    assert {key: want.value for key, want in goal.wanted.items()} == {
        key: observed.value(key) for key in goal.wanted
    }
    assert three.steps(goal, Phase.CAPTURE) == []
    assert three.steps(goal, Phase.RESTORE) == []
    assert observed.get("database.applied").detail == "2 applied, newest 20250102000000"


def test_none_at_all(three: Project) -> None:
    three.back(None)
    assert three.versions() == []
    assert three.observe().value("database.version") is None
    assert three.sql(TABLES) == []


def test_a_database_without_history_has_nothing_applied(project: Project) -> None:
    observed = project.observe()
    assert observed.get("database.version").known
    assert observed.value("database.version") is None
    assert observed.get("database.applied").detail == "none applied"


def test_a_history_with_nothing_but_versions_is_read(project: Project) -> None:
    project.sql(
        "CREATE SCHEMA supabase_migrations; CREATE TABLE supabase_migrations.schema_migrations"
        " (version text primary key);"
        "INSERT INTO supabase_migrations.schema_migrations VALUES ('9'), ('10'), ('seed')"
    )
    assert project.observe().value("database.version") == "10"


def test_plan_is_in_order_and_names_what_is_destroyed(three: Project) -> None:
    goal = three.resolve("20250101000000")
    capture = [(s.action, s.touches, s.once) for s in three.steps(goal, Phase.CAPTURE)]
    assert capture == [
        ("preflight", False, False),
        ("dry-run", False, False),
        ("dump", False, True),
    ]
    restore = three.steps(goal, Phase.RESTORE)
    assert [(s.action, s.subject) for s in restore] == [
        ("refresh-dump", "database"),
        ("down", "20250103000000"),
        ("down", "20250102000000"),
    ]
    assert restore[1].summary == "take down migration 20250103000000 change (DROP TABLE b)"
    assert restore[1].data_loss
    assert not restore[1].irreversible


def test_the_plan_holds_no_script_text(three: Project) -> None:
    three.write("supabase/rollbacks/20250103000000_change.sql", "DROP TABLE b; SELECT 'hunter2';")
    goal = three.resolve("20250101000000")
    steps = [*three.steps(goal, Phase.CAPTURE), *three.steps(goal, Phase.RESTORE)]
    assert "hunter2" not in goal.model_dump_json() + "".join(s.model_dump_json() for s in steps)


def test_a_failing_later_statement_is_found_by_the_dry_run_and_nothing_changes(
    three: Project,
) -> None:
    three.down("20250102000000", "ALTER TABLE a DROP COLUMN n;\nDELETE FROM nobody_made_this;")
    before = three.observe().facts
    with pytest.raises(PreflightError) as caught:
        three.go(three.resolve("20250101000000"), None, Phase.CAPTURE)
    assert "20250102000000_change.sql, line 2 would fail (42P01)" in caught.value.message
    assert "DELETE" not in caught.value.message
    assert three.observe().facts == before


def test_a_failing_statement_leaves_everything_unchanged(three: Project) -> None:
    goal = three.resolve("20250102000000")
    three.go(goal, None, Phase.CAPTURE)
    three.sql("CREATE VIEW v AS SELECT * FROM b")  # somebody else, after the dry run
    step = three.steps(goal, Phase.RESTORE)[-1]
    with pytest.raises(StepFailedError, match="2BP01") as caught:
        three.target.apply(step, three.context)
    assert "Other objects depend" in caught.value.hint
    assert three.versions()[-1] == "20250103000000"
    assert ("b",) in three.sql(TABLES)


def test_an_absent_down_file_is_named(three: Project) -> None:
    (three.root / "supabase/rollbacks/20250102000000_change.sql").unlink()
    with pytest.raises(PreflightError) as caught:
        three.back("20250101000000")
    assert "20250102000000" in caught.value.message
    assert caught.value.hint == "Write supabase/rollbacks/20250102000000_change.sql."
    assert len(three.versions()) == 3


def test_the_policy_refuses_data_loss_without_quoting_statements(three: Project) -> None:
    three.options["allow_data_loss"] = False
    three.down("20250103000000", "DELETE FROM b WHERE id = 4711; DROP TABLE b;")
    with pytest.raises(PolicyRefusedError) as caught:
        three.back("20250101000000")
    assert "DELETE b; DROP TABLE b; DROP COLUMN a.n" in caught.value.message
    assert "4711" not in caught.value.message


def test_loss_that_no_text_tells_of_is_refused_after_the_dry_run(three: Project) -> None:
    three.options["allow_data_loss"] = False
    three.down("20250103000000", "DO $$ BEGIN EXECUTE 'DROP TA' || 'BLE b'; END $$;")
    with pytest.raises(PolicyRefusedError, match=r"dry run shows .*table public.b"):
        three.back("20250102000000")
    assert ("b",) in three.sql(TABLES)


@pytest.mark.parametrize(
    ("sql", "complaint"),
    [
        ("BEGIN; DROP TABLE b; COMMIT;", "transaction control"),
        ("\\echo hello\nDROP TABLE b;", "psql command"),
        ("COPY b FROM STDIN;", "COPY FROM STDIN"),
        ("SET ROLE postgres; DROP TABLE b;", "outlives the transaction"),
        ("DROP TABLE b; VACUUM;", "cannot run in a transaction"),
    ],
)
def test_what_a_down_script_may_not_hold(three: Project, sql: str, complaint: str) -> None:
    three.down("20250103000000", sql)
    with pytest.raises(PreflightError, match=complaint):
        three.back("20250102000000")
    assert len(three.versions()) == 3


def test_an_up_file_may_be_wrapped_in_a_transaction_and_set_things(three: Project) -> None:
    three.pair(
        "20250104000000",
        "SET check_function_bodies = false;\nCREATE TABLE c (id int primary key);",
        "DROP TABLE c;",
    )
    three.pair(
        "20250105000000", "BEGIN;\nCREATE TABLE d (id int primary key);\nCOMMIT;", "DROP TABLE d;"
    )
    three.back("20250105000000")
    assert three.observe().get("database.drift").value == "clean"
    three.back("20250103000000")
    assert three.sql(TABLES) == [("a",), ("b",)]


def test_a_lock_held_by_somebody_else_is_waited_for_shortly(three: Project) -> None:
    goal = three.resolve("20250102000000")
    three.go(goal, None, Phase.CAPTURE)
    three.options["lock_timeout"] = 0.2
    step = three.steps(goal, Phase.RESTORE)[-1]
    with psycopg.connect(three.dsn) as blocker:
        blocker.execute("LOCK TABLE b IN ACCESS SHARE MODE")
        with pytest.raises(TransientError, match="55P03"):
            three.target.apply(step, three.context)
    assert len(three.versions()) == 3
    three.target.apply(step, three.context)
    assert len(three.versions()) == 2


def test_two_of_us_never_interleave(three: Project) -> None:
    goal = three.resolve("20250102000000")
    step = three.steps(goal, Phase.RESTORE)[-1]
    with psycopg.connect(three.dsn) as other:
        other.execute(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")
        with pytest.raises(TransientError, match="Another rollback or migration of ours"):
            three.target.apply(step, three.context)
    three.target.apply(step, three.context)
    assert len(three.versions()) == 2


def test_an_earlier_attempt_that_still_runs_is_waited_for(three: Project) -> None:
    goal = three.resolve("20250102000000")
    step = three.steps(goal, Phase.RESTORE)[-1]
    again = Context(three.root / "states", attempted=datetime.now(UTC))
    with psycopg.connect(three.dsn, application_name="reconciler/r1/20250103000000") as other:
        other.execute("SELECT 1")
        with pytest.raises(TransientError, match="still running"):
            three.target.apply(step, again)
    wait_for(
        lambda: (
            three.sql(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'reconciler/r1%'"
            )
            == [(0,)]
        ),
        what="the session to end",
    )
    assert three.target.apply(step, again).note == ""
    assert three.target.apply(step, again).note == "already done, found by looking"
    assert len(three.versions()) == 2


def test_somebody_else_migrating_meanwhile_stops_us(three: Project) -> None:
    goal = three.resolve("20250102000000")
    step = three.steps(goal, Phase.RESTORE)[-1]
    three.sql("INSERT INTO supabase_migrations.schema_migrations VALUES ('20250104000000')")
    with pytest.raises(StepFailedError, match="not the newest applied any more"):
        three.target.apply(step, three.context)
    assert ("b",) in three.sql(TABLES)


def test_a_lost_lease_stops_before_the_commit(three: Project) -> None:
    goal = three.resolve("20250102000000")
    step = three.steps(goal, Phase.RESTORE)[-1]

    def lost() -> None:
        raise LeaseLostError("gone")

    with pytest.raises(LeaseLostError):
        three.target.apply(step, Context(three.root / "states", on_guard=lost))
    assert len(three.versions()) == 3
    assert ("b",) in three.sql(TABLES)


def test_applying_twice_equals_once(three: Project) -> None:
    goal = three.resolve("20250102000000")
    step = three.steps(goal, Phase.RESTORE)[-1]
    assert three.target.apply(step, three.context).note == ""
    assert three.target.apply(step, three.context).note == "already done, found by looking"
    assert len(three.versions()) == 2


def test_a_script_that_changed_after_it_was_checked_is_not_run(three: Project) -> None:
    goal = three.resolve("20250102000000")
    step = three.steps(goal, Phase.RESTORE)[-1]
    three.down("20250103000000", "DROP TABLE b; DROP TABLE a;")
    with pytest.raises(StepFailedError, match="has changed since it was checked"):
        three.target.apply(step, three.context)
    assert len(three.versions()) == 3


def test_a_read_only_database_is_refused(three: Project) -> None:
    name = three.sql("SELECT current_database()")[0][0]
    three.sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(PreflightError, match="read-only mode"):
        three.back("20250101000000")


def test_drift_is_told(three: Project) -> None:
    three.up("20250101000000", "CREATE TABLE a (id int PRIMARY KEY, t text, more int);")
    (three.root / "supabase/migrations/20250103000000_change.sql").unlink()
    three.write("supabase/migrations/20250102000000_change.down.sql", "DROP TABLE a;")
    fact = three.observe().get("database.drift")
    assert fact.value == "drifted"
    assert "file changed after it was applied: 20250101000000" in fact.detail
    assert "applied without a local file: 20250103000000" in fact.detail
    assert "20250102000000_change.down.sql lies among the up files" in fact.detail


def test_an_unknown_version_lists_the_nearest(three: Project) -> None:
    with pytest.raises(
        TerminalError, match=r"20250102120000.*nearest are 20250101000000, 20250102000000, 20250103"
    ):
        three.resolve("20250102120000")


def test_a_gap_in_the_middle_is_not_filled(three: Project) -> None:
    three.up("20250102120000", "SELECT 1")
    three.up("20250104000000", "SELECT 1")
    with pytest.raises(TerminalError, match="gap in the middle"):
        three.resolve("20250102120000")
    with pytest.raises(TerminalError, match="never applied: 20250102120000"):
        three.resolve("20250104000000")


def test_an_unreachable_database_is_unknown_and_keeps_its_password(tmp_path: Path) -> None:
    for dsn in (
        "postgresql://u:hunter2@127.0.0.1:1/x",
        "postgresql://u:hunter2@hunter2@nowhere.invalid:1/x",
        "postgresql://u:hunter2:hunter2:1/x",
        "host=127.0.0.1 port=hunter2",
    ):
        facts = direct(tmp_path, dsn).target.observe()
        assert [fact.key for fact in facts] == ["database.version", "database.applied"]
        assert all(fact.unknown and "hunter2" not in fact.unknown for fact in facts), dsn


def test_the_rollback_column_serves_when_there_is_no_file(three: Project) -> None:
    three.sql(
        "ALTER TABLE supabase_migrations.schema_migrations ADD COLUMN rollback text[];"
        "UPDATE supabase_migrations.schema_migrations SET rollback = ARRAY['DROP TABLE b']"
        " WHERE version = '20250103000000'"
    )
    (three.root / "supabase/rollbacks/20250103000000_change.sql").unlink()
    three.back("20250102000000")
    assert len(three.versions()) == 2


def test_two_sources_that_differ_stop_us(three: Project) -> None:
    three.sql(
        "ALTER TABLE supabase_migrations.schema_migrations ADD COLUMN rollback text[];"
        "UPDATE supabase_migrations.schema_migrations SET rollback = ARRAY['DROP TABLE b CASCADE']"
        " WHERE version = '20250103000000'"
    )
    with pytest.raises(
        PreflightError,
        match=r"rollbacks/20250103000000_change.sql and the rollback script in the history",
    ):
        three.back("20250102000000")


def test_an_up_that_cannot_run_again_is_found_before_anything_is_touched(three: Project) -> None:
    three.pair(
        "20250104000000",
        "ALTER TABLE a ADD COLUMN must int NOT NULL;",
        "ALTER TABLE a DROP COLUMN must;",
    )
    three.back("20250104000000")
    three.sql("INSERT INTO a VALUES (1, 'x', 1, 1)")
    with pytest.raises(PreflightError, match=r"would fail on the way back \(23502\)"):
        three.go(three.resolve("20250103000000"), None, Phase.CAPTURE)
    three.options["require_undo"] = False
    three.back("20250103000000")


def test_a_concurrent_index_goes_outside_a_transaction(three: Project) -> None:
    three.pair(
        "20250104000000",
        "CREATE INDEX CONCURRENTLY a_t ON a (t);",
        "DROP INDEX CONCURRENTLY a_t;",
    )
    three.back("20250104000000")
    assert three.sql("SELECT indisvalid FROM pg_index WHERE indexrelid = 'a_t'::regclass") == [
        (True,)
    ]
    # a crash after the index went, before the history row did
    three.sql("DROP INDEX a_t")
    goal = three.resolve("20250103000000")
    (step,) = three.steps(goal, Phase.RESTORE)
    assert "not in a transaction" in step.summary
    three.target.apply(step, Context(three.root / "states", attempted=datetime.now(UTC)))
    assert len(three.versions()) == 3


def test_a_half_built_index_is_built_again(three: Project) -> None:
    three.pair(
        "20250104000000", "CREATE UNIQUE INDEX CONCURRENTLY a_t ON a (t);", "DROP INDEX a_t;"
    )
    three.sql("INSERT INTO a VALUES (1, 'same', 1), (2, 'same', 1)")
    goal = three.resolve("20250104000000")
    (step,) = three.steps(goal, Phase.RESTORE)
    with pytest.raises(StepFailedError, match="23505"):
        three.target.apply(step, three.context)
    assert three.sql("SELECT indisvalid FROM pg_index WHERE indexrelid = 'a_t'::regclass") == [
        (False,)
    ]
    three.sql("DELETE FROM a WHERE id = 2")
    three.target.apply(step, Context(three.root / "states", attempted=datetime.now(UTC)))
    assert three.sql("SELECT indisvalid FROM pg_index WHERE indexrelid = 'a_t'::regclass") == [
        (True,)
    ]
    assert len(three.versions()) == 4


def test_the_way_back_of_a_failed_run_forward_is_not_asked_about_policy(three: Project) -> None:
    three.options["allow_data_loss"] = False
    three.pair("20250104000000", "CREATE TABLE c (id int PRIMARY KEY);", "DROP TABLE c;")
    context = three.back("20250104000000")
    three.sql("INSERT INTO c VALUES (1)")
    with pytest.raises(PolicyRefusedError):
        three.back("20250103000000")
    three.back("20250103000000", context)  # the same run, compensated
    assert len(three.versions()) == 3
    assert [a.subject for a in context.artifacts if a.kind == "table-dump"] == ["public.c"]


def test_a_plan_that_somebody_elses_migration_made_stale_is_not_followed(three: Project) -> None:
    goal = three.resolve("20250101000000")
    three.sql("INSERT INTO supabase_migrations.schema_migrations VALUES ('20250102500000')")
    assert three.steps(goal, Phase.RESTORE) == []
    with pytest.raises(PreflightError, match="migrated by somebody else"):
        three.go(goal, None, Phase.CAPTURE)


def test_a_large_history_is_observed_quickly(project: Project) -> None:
    for number in range(200):
        text = (
            f"CREATE TABLE t{number} (id int PRIMARY KEY, name text NOT NULL DEFAULT 'x');\n" * 20
        )
        project.up(f"{20250101000000 + number}", text)
    project.sql(
        "CREATE SCHEMA supabase_migrations; CREATE TABLE supabase_migrations.schema_migrations"
        " (version text primary key, statements text[], name text);"
        "INSERT INTO supabase_migrations.schema_migrations SELECT (20250101000000 + i)::text,"
        " ARRAY(SELECT format('CREATE TABLE t%s (id int PRIMARY KEY, name text NOT NULL DEFAULT ''x'')', i)"
        " FROM generate_series(1, 20)),"
        " 'change' FROM generate_series(0, 199) i"
    )
    target = project.target
    facts = {fact.key: fact for fact in target.observe()}
    assert facts["database.drift"].value == "clean"
    took = []
    for _ in range(5):
        begin = time.perf_counter()
        target.observe()
        took.append(time.perf_counter() - begin)
    assert min(took) < 0.25  # about 0.02 s on an idle machine; the practice API is slower
