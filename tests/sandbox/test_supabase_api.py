"""The practice Supabase over a real PostgreSQL, asked over HTTP."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.errors import UsageError
from reconciler.sandbox.pg_values import parse_array, to_json, to_text
from reconciler.sandbox.server import ApiServer
from reconciler.sandbox.store import now_ms
from reconciler.sandbox.supabase_api import SupabaseApi
from reconciler.sandbox.supabase_history import create_history
from reconciler.sandbox.supabase_state import Restore, Settings, new_state
from tests.sandbox.practice import TOKEN, Caller, Served, caller
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.process

REF = "abcdefghijklmnopqrst"
PROJECT = f"/v1/projects/{REF}"
MIGRATIONS = f"{PROJECT}/database/migrations"


class Restorer:
    """Stands for the machinery that swaps a data folder; the walk around it is what is tested."""

    def __init__(self) -> None:
        self.targets: list[int] = []
        self.go = threading.Event()
        self.fails = False

    def __call__(self, unix_time: int) -> None:
        self.targets.append(unix_time)
        assert self.go.wait(20)
        if self.fails:
            raise RuntimeError("no such backup")


@dataclass
class Practice:
    """A practice project and a caller of it."""

    api: SupabaseApi
    ask: Caller
    dsn: str
    restorer: Restorer

    def query(self, text: str, **body: Any) -> Any:
        return self.ask.call("POST", f"{PROJECT}/database/query", {"query": text, **body})

    def rows(self, text: str, **body: Any) -> Any:
        response = self.query(text, **body)
        assert response.status_code == 201, response.text
        return response.json()

    def refused(self, text: str, **body: Any) -> str:
        response = self.query(text, **body)
        assert response.status_code == 400
        message: str = response.json()["message"]
        assert message.startswith("Failed to run sql query: ")
        return message.removeprefix("Failed to run sql query: ")

    def settings(self, **changes: Any) -> None:
        self.ask.ask_control("PATCH", "/__settings", changes)

    def direct(self, text: str) -> list[Any]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(text.encode())
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def practice(tmp_path: Path, database: str) -> Iterator[Practice]:
    restorer = Restorer()
    settings = Settings(restore_lag_ms=150, restoring_ms=150, coming_up_ms=150, rate_limit=10_000)
    api = SupabaseApi(
        token=TOKEN,
        path=tmp_path / "supabase.json",
        initial=new_state(ref=REF, now=now_ms(), settings=settings),
        dsn=database,
        on_restore=restorer,
    )
    with ApiServer(api) as server, caller(server, "supabase") as ask:
        yield Practice(api, ask, database, restorer)
    restorer.go.set()


@pytest.mark.postgres
class TestProject:
    def test_shows_the_project_and_its_server(self, practice: Practice) -> None:
        shown = practice.ask.get(PROJECT)
        assert shown["status"] == "ACTIVE_HEALTHY"
        (version,) = practice.direct("show server_version")[0]
        assert version.startswith(shown["database"]["version"])
        assert practice.ask.get("/v1/projects") == [shown]

    @pytest.mark.parametrize(
        ("path", "status"),
        [
            ("/v1/projects/tsrqponmlkjihgfedcba", 404),
            ("/v1/projects/SHORT", 400),
            ("/v1/nothing", 404),
            (f"{PROJECT}/nothing", 404),
            (f"{PROJECT}/health", 400),
            (f"{PROJECT}/health?services=mail", 400),
        ],
    )
    def test_errors_have_the_vendors_shape(
        self, practice: Practice, path: str, status: int
    ) -> None:
        assert practice.ask.call("GET", path).status_code == status

    def test_refuses_a_wrong_token(self, practice: Practice) -> None:
        with Caller(practice.ask.base, "supabase", token="sbp_other") as stranger:
            response = stranger.call("GET", PROJECT)
        assert response.status_code == 401
        assert response.json() == {"message": "Unauthorized"}

    def test_a_removed_project(self, practice: Practice) -> None:
        practice.settings(status="REMOVED")
        response = practice.ask.call("GET", PROJECT)
        assert (response.status_code, response.json()["message"]) == (
            400,
            "Resource has been removed",
        )

    def test_health_asks_the_database(self, practice: Practice) -> None:
        found = practice.ask.get(f"{PROJECT}/health", services=["db", "auth"])
        assert [item["status"] for item in found] == ["ACTIVE_HEALTHY", "ACTIVE_HEALTHY"]
        practice.settings(status="COMING_UP")
        (row,) = practice.ask.get(f"{PROJECT}/health", services="db")
        assert row["status"] == "COMING_UP"

    def test_read_only_mode_and_its_fifteen_minutes(self, practice: Practice) -> None:
        practice.rows("create table t (a int)")
        practice.settings(read_only=True)
        assert practice.ask.get(f"{PROJECT}/readonly")["enabled"] is True
        assert practice.refused("insert into t values (1)").startswith("ERROR:  25006: ")
        lift = practice.ask.call("POST", f"{PROJECT}/readonly/temporary-disable")
        assert lift.status_code == 201
        shown = practice.ask.get(f"{PROJECT}/readonly")
        assert (shown["enabled"], shown["override_enabled"]) == (False, True)
        practice.rows("insert into t values (1)")

    def test_counts_requests(self, practice: Practice) -> None:
        first = practice.ask.call("GET", PROJECT).headers
        second = practice.ask.call("GET", PROJECT).headers
        left = [int(headers["x-ratelimit-remaining"]) for headers in (first, second)]
        assert left[0] - left[1] == 1
        assert int(second["x-ratelimit-reset"]) <= 60
        practice.settings(rate_limit=1, rate_window_s=1)
        refused = practice.ask.call("GET", PROJECT)
        assert refused.status_code == 429
        assert refused.headers["x-ratelimit-remaining"] == "0"
        assert refused.json()["message"] == "ThrottlerException: Too Many Requests"

    def test_the_window_ends(self, practice: Practice) -> None:
        practice.settings(rate_limit=1, rate_window_s=1)
        wait_for(
            lambda: practice.ask.call("GET", PROJECT).status_code == 200, seconds=90, what="window"
        )
        refused = practice.ask.call("GET", PROJECT)
        assert refused.status_code == 429
        seconds = int(refused.headers["x-ratelimit-reset"])
        assert seconds == 1
        wait_for(lambda: practice.ask.call("GET", PROJECT).status_code == 200, seconds=5)

    def test_pooler_hides_the_password(self, practice: Practice) -> None:
        (pooler,) = practice.ask.get(f"{PROJECT}/config/database/pooler")
        assert pooler["db_user"] == f"postgres.{REF}"
        assert "[YOUR-PASSWORD]" in pooler["connection_string"]

    def test_login_roles_work_and_go_away(self, practice: Practice) -> None:
        path = f"{PROJECT}/cli/login-role"
        login = practice.ask.call("POST", path, {"read_only": False}).json()
        with psycopg.connect(
            practice.dsn, user=login["role"], password=login["password"]
        ) as connection:
            connection.execute("set session role postgres")
        assert login["password"] not in str(practice.api.effects())
        assert practice.ask.call("DELETE", path).json() == {"message": "ok"}
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(practice.dsn, user=login["role"], password=login["password"])
        assert practice.ask.call("POST", path, {}).status_code == 400


@pytest.mark.postgres
class TestQuery:
    def test_answers_the_last_statement_that_has_rows(self, practice: Practice) -> None:
        assert practice.rows("select 1 as a; select 2 as b; select 3 as c where false") == [
            {"b": 2}
        ]
        assert practice.rows("create table t (a int)") == []

    def test_one_implicit_transaction(self, practice: Practice) -> None:
        message = practice.refused("create table t (a int); select * from nope")
        assert message.startswith('ERROR:  42P01: relation "nope" does not exist\n')
        assert practice.rows("select to_regclass('public.t')::text as t") == [{"t": None}]

    def test_a_commit_inside_ends_it(self, practice: Practice) -> None:
        practice.refused("create table t (a int); commit; select 1/0")
        assert practice.rows("select to_regclass('public.t')::text as t") == [{"t": "t"}]

    def test_set_local_does_not_leak(self, practice: Practice) -> None:
        shown = practice.rows("set local lock_timeout = '4s'; show lock_timeout")
        assert shown == [{"lock_timeout": "4s"}]
        assert practice.rows("show lock_timeout") == [{"lock_timeout": "0"}]

    def test_parameters_allow_one_statement(self, practice: Practice) -> None:
        values = [7, "a'b", None, [1, 2], {"k": [1]}, True, 1.5]
        shown = practice.rows(
            "select $1::int a, $2::text b, $3::text c, $4::int[] d, $5::jsonb e, $6::bool f,"
            " $7::float8 g",
            parameters=values,
        )
        assert list(shown[0].values()) == values
        refused = practice.refused("select $1::int; select 2", parameters=[1])
        assert refused.startswith("ERROR:  42601: cannot insert multiple commands")

    @pytest.mark.parametrize(
        ("expression", "expected"),
        [
            ("1::int8", 1),
            ("9007199254740993::int8", "9007199254740993"),
            ("1.10::numeric", "1.10"),
            ("1.5::float4", 1.5),
            ("'NaN'::float8", None),
            ("'Infinity'::float8", None),
            ("true", True),
            ("null", None),
            ("'{\"a\": [1]}'::jsonb", {"a": [1]}),
            ("'null'::json", None),
            ("'\\x00ff'::bytea", {"type": "Buffer", "data": [0, 255]}),
            ("date '2026-01-02'", "2026-01-02"),
            ("timestamptz '2026-01-02 03:04:05+00'", "2026-01-02 03:04:05+00"),
            ("interval '1 day'", "1 day"),
            ("inet '10.0.0.1'", "10.0.0.1"),
            ("int4range(1,3)", "[1,3)"),
            ("point(1,2)", "(1,2)"),
            ("array[[1,2],[3,4]]", [[1, 2], [3, 4]]),
            ("""array['a', 'b c', null, '"x"', '']""", ["a", "b c", None, '"x"', ""]),
            ("array[1::int8]", ["1"]),
            ("array[1.5::numeric]", [1.5]),
            ("array[timestamptz '2026-01-02 03:04:05+00']", ["2026-01-02 03:04:05+00"]),
            ("'[0:1]={5,6}'::int[]", [5, 6]),
            ("'{}'::text[]", []),
        ],
    )
    def test_shapes_values(self, practice: Practice, expression: str, expected: Any) -> None:
        text = f"set timezone = 'UTC'; select {expression} as value"
        assert practice.rows(text) == [{"value": expected}]

    def test_equal_column_names_collapse_to_the_last(self, practice: Practice) -> None:
        assert practice.rows("select 1 as a, 2 as b, 3 as a") == [{"a": 3, "b": 2}]

    def test_the_text_of_an_error(self, practice: Practice) -> None:
        assert practice.refused("select 1;\nselect * from nope") == (
            'ERROR:  42P01: relation "nope" does not exist\n'
            "LINE 2: select * from nope\n"
            "                      ^\n"
        )
        raised = practice.refused(
            "do $$ begin raise exception 'stop' using detail = 'why', hint = 'how'; end $$"
        )
        assert raised.startswith("ERROR:  P0001: stop\nDETAIL:  why\nHINT:  how\nCONTEXT:  PL/pg")

    @pytest.mark.parametrize("body", [{}, {"query": ""}, {"query": 1}])
    def test_a_query_is_a_text(self, practice: Practice, body: object) -> None:
        path = f"{PROJECT}/database/query"
        assert practice.ask.call("POST", path, body).status_code == 400

    @pytest.mark.parametrize("route", ["query", "query/read-only"])
    def test_read_only_reads_everything_and_writes_nothing(
        self, practice: Practice, route: str
    ) -> None:
        practice.rows("create table public.t (a int); alter table t enable row level security")
        practice.rows("insert into t values (1)")

        def ask(text: str) -> httpx.Response:
            flag = {"read_only": True} if route == "query" else {}
            path = f"{PROJECT}/database/{route}"
            return practice.ask.call("POST", path, {"query": text, **flag})

        assert ask("select a, current_user::text as u from public.t").json() == [
            {"a": 1, "u": "supabase_read_only_user"}
        ]
        assert "42P01" in ask("select * from t").json()["message"]
        assert "25006" in ask("delete from public.t").json()["message"]
        assert practice.direct("select count(*) from t") == [(1,)]

    def test_an_unreachable_database_hides_in_a_400(self, tmp_path: Path) -> None:
        api = SupabaseApi(
            token=TOKEN,
            path=tmp_path / "state.json",
            initial=new_state(ref=REF, now=now_ms()),
            dsn="postgresql://postgres:hunter2@127.0.0.1:1/postgres",
        )
        with ApiServer(api) as server, caller(server, "supabase") as ask:
            body = {"query": "select 1"}
            response = ask.call("POST", f"{PROJECT}/database/query", body)
            assert response.status_code == 400
            message = response.json()["message"]
            assert message == "Failed to run sql query: connect ECONNREFUSED 127.0.0.1:1"
            (row,) = ask.get(f"{PROJECT}/health", services="db")
            assert row["status"] == "UNHEALTHY"

    def test_changes_are_logged_and_reads_are_not(self, practice: Practice) -> None:
        practice.rows("select 1")
        practice.rows("create table t (secret text); insert into t values ('hunter2')")
        practice.refused("drop table nope")
        (effect,) = practice.ask.effects()
        assert effect["ids"]["commands"] == "CREATE TABLE, INSERT 0 1"
        assert "hunter2" not in str(effect)

    def test_a_timeout_after_the_commit(self, practice: Practice) -> None:
        practice.rows("create table t (a int)")
        practice.ask.fault("error-after", path=f"{PROJECT}/database/query", status=544)
        response = practice.query("insert into t values (1)")
        assert response.status_code == 544
        assert response.json()["message"] == "Connection terminated due to connection timeout"
        assert practice.direct("select a from t") == [(1,)]

    def test_an_answer_lost_after_the_commit(self, practice: Practice) -> None:
        practice.rows("create table t (a int)")
        practice.ask.fault("lost-answer", method="POST", path=f"{PROJECT}/database/query")
        with pytest.raises(httpx.RemoteProtocolError):
            practice.query("insert into t values (1)")
        assert practice.direct("select a from t") == [(1,)]

    def test_a_429_that_says_nothing_about_time(self, practice: Practice) -> None:
        practice.ask.fault("rate-limited", delay_ms=9000)
        told = practice.ask.client.get(PROJECT, headers={"authorization": f"Bearer {TOKEN}"})
        assert (told.status_code, told.headers["x-ratelimit-reset"]) == (429, "9")
        practice.ask.fault("rate-limited", reset_headers=False)
        untold = practice.ask.client.get(PROJECT, headers={"authorization": f"Bearer {TOKEN}"})
        assert untold.status_code == 429
        assert "x-ratelimit-reset" not in untold.headers


@pytest.mark.postgres
class TestMigrations:
    def apply(self, practice: Practice, method: str = "POST", **body: Any) -> Any:
        headers = {"idempotency-key": body.pop("key")} if "key" in body else {}
        return practice.ask.call(method, MIGRATIONS, body, headers=headers)

    def test_nothing_is_applied_before_there_is_a_history(self, practice: Practice) -> None:
        assert practice.ask.get(MIGRATIONS) == []
        assert practice.ask.call("GET", f"{MIGRATIONS}/1").status_code == 404
        assert practice.ask.call("DELETE", MIGRATIONS, params={"gte": "1"}).status_code == 200

    def test_applies_records_and_rolls_back(self, practice: Practice) -> None:
        shapes = {"one": "a int", "two": "a int primary key", "three": "a int references two"}
        for name, columns in shapes.items():
            body = {"query": f"create table {name} ({columns}); select 1", "name": name}
            response = self.apply(practice, **body, rollback=f"drop table {name}")
            assert response.status_code == 200
        listed = practice.ask.get(MIGRATIONS)
        assert [row["name"] for row in listed] == ["one", "two", "three"]
        versions = [row["version"] for row in listed]
        assert len(set(versions)) == 3
        assert all(len(version) == 14 for version in versions)
        shown = practice.ask.get(f"{MIGRATIONS}/{versions[2]}")
        assert shown["rollback"] == ["drop table three"]
        assert shown["statements"] == ["create table three (a int references two); select 1"]
        undone = practice.ask.call("DELETE", MIGRATIONS, params={"gte": versions[1]})
        assert undone.status_code == 200
        assert [row["version"] for row in practice.ask.get(MIGRATIONS)] == versions[:1]
        tables = practice.direct("select tablename from pg_tables where schemaname = 'public'")
        assert tables == [("one",)]
        assert practice.ask.effects()[-1]["ids"]["versions"] == f"{versions[2]}, {versions[1]}"

    def test_a_failing_migration_leaves_nothing(self, practice: Practice) -> None:
        refused = self.apply(practice, query="create table one (a int); select 1/0")
        assert refused.status_code == 400
        assert "22012" in refused.json()["message"]
        assert practice.ask.get(MIGRATIONS) == []
        assert practice.direct("select to_regclass('one')") == [(None,)]

    def test_an_idempotency_key_is_tracked_once(self, practice: Practice) -> None:
        for _ in range(2):
            done = self.apply(practice, query="create table one (a int)", key="k1")
            assert done.status_code == 200
        assert len(practice.ask.get(MIGRATIONS)) == 1
        assert len(practice.ask.effects()) == 1

    def test_put_records_without_running(self, practice: Practice) -> None:
        assert self.apply(practice, "PUT", query="select * from nope").status_code == 200
        assert len(practice.ask.get(MIGRATIONS)) == 1

    @pytest.mark.parametrize("columns", [3, 6])
    def test_both_shapes_of_history(self, practice: Practice, columns: Any) -> None:
        with psycopg.connect(practice.dsn, autocommit=True) as connection:
            create_history(connection, columns)
            create_history(connection, columns)
            connection.execute(
                "insert into supabase_migrations.schema_migrations (version, statements, name)"
                " values ('9', '{}', 'nine'), ('20250101000000', '{}', null)"
            )
        names = practice.direct(
            "select attname from pg_attribute where attnum > 0"
            " and attrelid = 'supabase_migrations.schema_migrations'::regclass"
        )
        assert len(names) == columns
        assert [row["version"] for row in practice.ask.get(MIGRATIONS)] == ["9", "20250101000000"]
        refused = practice.ask.call("DELETE", MIGRATIONS, params={"gte": "10"})
        assert refused.status_code == 400
        assert "no rollback script for migration 20250101000000" in refused.text
        patched = practice.ask.call(
            "PATCH", f"{MIGRATIONS}/20250101000000", {"rollback": "select 1", "name": "later"}
        )
        assert patched.status_code == 200
        shown = practice.ask.get(f"{MIGRATIONS}/20250101000000")
        assert (shown["name"], shown["rollback"]) == ("later", ["select 1"])
        done = practice.ask.call("DELETE", MIGRATIONS, params={"gte": "10"})
        assert done.status_code == 200
        assert [row["version"] for row in practice.ask.get(MIGRATIONS)] == ["9"]

    def test_a_bad_rollback_undoes_nothing_at_all(self, practice: Practice) -> None:
        bodies = [("one", "drop table nope"), ("two", "drop table two")]
        for name, down in bodies:
            self.apply(practice, query=f"create table {name} (a int)", rollback=down)
        refused = practice.ask.call("DELETE", MIGRATIONS, params={"gte": "0"})
        assert refused.status_code == 400
        assert "42P01" in refused.json()["message"]
        assert len(practice.ask.get(MIGRATIONS)) == 2
        assert practice.direct("select to_regclass('two')::text") == [("two",)]

    def test_not_generally_available(self, practice: Practice) -> None:
        practice.settings(migrations_available=False)
        for method, path in (("GET", MIGRATIONS), ("GET", f"{MIGRATIONS}/1")):
            response = practice.ask.call(method, path)
            assert response.status_code == 401
            assert "not generally available yet" in response.json()["message"]
        assert practice.rows("select 1 as a") == [{"a": 1}]

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("POST", MIGRATIONS, {}),
            ("POST", MIGRATIONS, {"query": "select 1", "name": 1}),
            ("DELETE", MIGRATIONS, None),
            ("DELETE", f"{MIGRATIONS}?gte=x", None),
            ("GET", f"{MIGRATIONS}/x", None),
        ],
    )
    def test_wrong_requests(self, practice: Practice, method: str, path: str, body: Any) -> None:
        assert practice.ask.call(method, path, body).status_code == 400

    def test_patching_what_is_not_there(self, practice: Practice) -> None:
        self.apply(practice, query="select 1")
        path = f"{MIGRATIONS}/1"
        assert practice.ask.call("PATCH", path, {"name": "x"}).status_code == 404


@pytest.mark.postgres
class TestRestore:
    PATH = f"{PROJECT}/database/backups/restore-pitr"

    def restore(self, practice: Practice, target: object) -> httpx.Response:
        return practice.ask.call("POST", self.PATH, {"recovery_time_target_unix": target})

    def test_is_not_enabled_by_default(self, practice: Practice) -> None:
        backups = practice.ask.get(f"{PROJECT}/database/backups")
        assert (backups["pitr_enabled"], backups["physical_backup_data"]) == (False, {})
        response = self.restore(practice, 1)
        assert response.status_code == 400
        assert response.json()["message"] == "PITR is not enabled for this project."

    def test_walks_through_restoring(self, practice: Practice) -> None:
        practice.settings(pitr_enabled=True, coming_up_ms=1500)
        window = practice.ask.get(f"{PROJECT}/database/backups")["physical_backup_data"]
        target = window["earliest_physical_backup_date_unix"]
        assert self.restore(practice, target).status_code == 201
        seen = [practice.ask.get(PROJECT)["status"]]

        def look(status: str) -> bool:
            now: str = practice.ask.get(PROJECT)["status"]
            if now != seen[-1]:
                seen.append(now)
            return now == status

        wait_for(lambda: look("RESTORING"))
        offline = practice.query("select 1")
        assert offline.status_code == 544
        assert self.restore(practice, target).status_code == 544
        practice.restorer.go.set()
        wait_for(lambda: look("ACTIVE_HEALTHY"))
        assert seen == ["ACTIVE_HEALTHY", "RESTORING", "COMING_UP", "ACTIVE_HEALTHY"]
        assert practice.restorer.targets == [target]
        assert practice.rows("select 1 as a") == [{"a": 1}]

    def test_a_failed_restore_stays_failed(self, practice: Practice) -> None:
        practice.settings(pitr_enabled=True)
        practice.restorer.fails = True
        practice.restorer.go.set()
        self.restore(practice, int(time.time()))
        wait_for(lambda: practice.ask.get(PROJECT)["status"] == "RESTORE_FAILED")

    def test_one_restore_at_a_time(self, practice: Practice) -> None:
        practice.settings(pitr_enabled=True, restore_lag_ms=5000)
        assert self.restore(practice, int(time.time())).status_code == 201
        assert self.restore(practice, int(time.time())).status_code == 400

    @pytest.mark.parametrize(("target", "status"), [(-1, 400), ("1", 400), (1, 422), (2**33, 422)])
    def test_the_time_must_be_in_the_window(
        self, practice: Practice, target: object, status: int
    ) -> None:
        practice.settings(pitr_enabled=True)
        assert self.restore(practice, target).status_code == status
        assert practice.restorer.targets == []


@pytest.mark.postgres
@pytest.mark.crash
def test_a_killed_server_keeps_its_log_and_fails_an_open_restore(
    tmp_path: Path, database: str
) -> None:
    options = ("--ref", REF, "--dsn-env", "PRACTICE_DSN", "--restore-command", "true")
    served = Served("supabase", tmp_path, options, {"PRACTICE_DSN": database})
    ask = served.start()
    try:
        ask.ask_control("PATCH", "/__settings", {"pitr_enabled": True, "restore_lag_ms": 60_000})
        body: dict[str, object] = {"query": "create table t (a int)"}
        assert ask.call("POST", f"{PROJECT}/database/query", body).status_code == 201
        body = {"recovery_time_target_unix": int(time.time())}
        assert ask.call("POST", TestRestore.PATH, body).status_code == 201
        served.kill()
        again = served.start()
        assert [effect["seq"] for effect in again.effects()] == [1, 2]
        again.ask_control("PATCH", "/__settings", {"restore_lag_ms": 0})
        assert again.get(PROJECT)["status"] == "RESTORE_FAILED"
        assert served.stop() == 0
    finally:
        served.kill()
    assert database not in (tmp_path / "state.json").read_text()


@pytest.mark.parametrize(
    ("finished", "walk"),
    [
        (None, {99: "ACTIVE_HEALTHY", 100: "RESTORING", 9999: "RESTORING"}),
        (50, {50: "ACTIVE_HEALTHY", 100: "RESTORING", 299: "RESTORING", 300: "COMING_UP"}),
        (900, {899: "RESTORING", 900: "COMING_UP", 1299: "COMING_UP", 1300: "ACTIVE_HEALTHY"}),
    ],
)
def test_the_status_walks_with_time(finished: int | None, walk: dict[int, str]) -> None:
    settings = Settings(restore_lag_ms=100, restoring_ms=200, coming_up_ms=400)
    state = new_state(ref=REF, now=0, settings=settings)
    state.restore = Restore(target=0, requested_at=0, finished_at=finished)
    assert {now: state.status(now) for now in walk} == walk
    state.restore.failed = True
    assert state.status(10_000) == "RESTORE_FAILED"


def test_a_ref_is_twenty_letters() -> None:
    with pytest.raises(UsageError, match="20 lower-case letters"):
        new_state(ref="short", now=1)


TEXTS = st.recursive(
    st.one_of(st.none(), st.text(st.characters(exclude_characters="\0"))),
    lambda inner: st.lists(inner, min_size=1, max_size=4),
    max_leaves=12,
)


@given(st.lists(TEXTS, max_size=4))
def test_array_texts_come_back_as_they_were(value: list[Any]) -> None:
    text = to_text(value)
    assert text is not None
    assert parse_array(text) == value


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_bigint_is_exact(number: int) -> None:
    assert int(str(to_json(str(number), 20))) == number
