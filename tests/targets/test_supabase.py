"""What only a Supabase project has: its state, lost answers, rate limits, recovery in time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from reconciler.core.crashpoints import CrashPoint
from reconciler.core.errors import (
    OutcomeUnknownError,
    PolicyRefusedError,
    PreflightError,
    RateLimitedError,
    StepFailedError,
    TargetUnavailableError,
    TerminalError,
    UsageError,
)
from reconciler.core.phase import Phase
from reconciler.core.plan import Step
from reconciler.sandbox.faults import Fault, FaultKind
from reconciler.sandbox.store import now_ms
from reconciler.sandbox.supabase_api import SupabaseApi
from reconciler.targets.pg.management import ManagementApi, SqlFailedError
from reconciler.targets.supabase import SupabaseDriver
from tests.support.database import REF, TOKEN, Context, Project, supabase

QUERY = "*/database/query"


@dataclass
class Practice:
    project: Project
    api: SupabaseApi
    went_back_to: list[int] = field(default_factory=list)
    fails: bool = False

    def fault(self, kind: FaultKind, path: str = QUERY, **options: int) -> None:
        self.api.faults.add(Fault.model_validate({"kind": kind, "path": path, **options}))

    def settings(self, **changes: object) -> None:
        with self.api.file.change() as draft:
            draft.settings = draft.settings.model_copy(update=changes)

    def down(self) -> Step:
        goal = self.project.resolve("1")
        return self.project.steps(goal, Phase.RESTORE)[-1]

    def context(self, *, again: bool = False) -> Context:
        attempted = datetime.now(UTC) if again else None
        return Context(self.project.root / "states", attempted=attempted)

    @property
    def client(self) -> httpx.Client:
        assert isinstance(self.project.driver, SupabaseDriver)
        return self.project.driver._api._client

    def driver(self, token: str = TOKEN, dsn: str | None = None) -> SupabaseDriver:
        return SupabaseDriver(REF, token, str(self.client.base_url), dsn)


@pytest.fixture
def practice(tmp_path: Path, database: str) -> Iterator[Practice]:
    made: list[Practice] = []

    def restore(unix_time: int) -> None:
        made[0].went_back_to.append(unix_time)
        assert not made[0].fails
        project.sql(
            "DELETE FROM supabase_migrations.schema_migrations WHERE version = '2'; DROP TABLE u"
        )

    with supabase(tmp_path, database, on_restore=restore) as (project, api):
        project.pair("1", "CREATE TABLE t (id int PRIMARY KEY);", "DROP TABLE t;")
        project.pair("2", "CREATE TABLE u (id int);", "INSERT INTO t VALUES (1); DROP TABLE u;")
        project.back("2")
        made.append(Practice(project, api))
        yield made[0]


@pytest.mark.postgres
class TestLostAnswers:
    @pytest.mark.parametrize(
        "fault",
        [
            {"kind": FaultKind.LOST_ANSWER},
            {"kind": FaultKind.ERROR_AFTER, "status": 544},
            {"kind": FaultKind.ERROR_AFTER, "status": 502},
        ],
    )
    def test_after_the_commit_the_history_tells(
        self, practice: Practice, fault: dict[str, int]
    ) -> None:
        step = practice.down()
        practice.api.faults.add(Fault.model_validate({"path": QUERY, **fault}))
        with pytest.raises(OutcomeUnknownError):
            practice.project.target.apply(step, practice.context())
        made = practice.project.target.apply(step, practice.context(again=True))
        assert made.note == "already done, found by looking"
        assert practice.project.versions() == ["1"]
        assert practice.project.sql("SELECT count(*) FROM t") == [(1,)]

    def test_before_the_statement_it_is_done_at_the_second_attempt(
        self, practice: Practice
    ) -> None:
        step = practice.down()
        practice.fault(FaultKind.ERROR_BEFORE, status=503)
        with pytest.raises(OutcomeUnknownError):
            practice.project.target.apply(step, practice.context())
        assert practice.project.target.apply(step, practice.context(again=True)).note == ""
        assert practice.project.sql("SELECT count(*) FROM t") == [(1,)]

    def test_of_the_look_afterwards(self, practice: Practice) -> None:
        step = practice.down()
        practice.fault(FaultKind.LOST_ANSWER, skip=1)
        with pytest.raises(OutcomeUnknownError):
            practice.project.target.apply(step, practice.context())
        assert practice.project.target.apply(step, practice.context(again=True)).note.startswith(
            "already"
        )

    def test_nothing_is_sent_when_the_lease_is_gone(self, practice: Practice) -> None:
        step, context = practice.down(), practice.context()

        def gone() -> None:
            raise TerminalError("gone")

        context.on_guard = gone
        with pytest.raises(TerminalError, match="gone"):
            practice.project.target.apply(step, context)
        assert practice.project.versions() == ["1", "2"]
        assert context.points == [CrashPoint.MID_EFFECT]

    def test_crash_points_lie_around_the_request(self, practice: Practice) -> None:
        step, context = practice.down(), practice.context()
        seen: list[list[str]] = []
        context.on_point = lambda _point: seen.append(practice.project.versions())
        practice.project.target.apply(step, context)
        assert context.points == [CrashPoint.MID_EFFECT, CrashPoint.APPLIED_UNREAD]
        assert seen == [["1", "2"], ["1"]]


@pytest.mark.postgres
class TestProject:
    def test_a_project_that_is_not_healthy_is_refused(self, practice: Practice) -> None:
        goal = practice.project.resolve("1")
        practice.settings(status="ACTIVE_UNHEALTHY")
        with pytest.raises(PreflightError, match="ACTIVE_UNHEALTHY"):
            practice.project.target.apply(
                practice.project.steps(goal, Phase.CAPTURE)[0], practice.context()
            )

    def test_read_only_mode_is_refused(self, practice: Practice) -> None:
        practice.settings(read_only=True)
        with pytest.raises(PreflightError, match="read-only"):
            practice.project.back("1")

    def test_a_wrong_token_is_told_without_showing_it(self, practice: Practice) -> None:
        with closing(practice.driver("sbp_hunter2hunter2")) as driver:
            practice.project.driver = driver
            fact = practice.project.observe().get("database.version")
        assert fact.unknown
        assert "token is not accepted" in fact.unknown
        assert "hunter2" not in fact.unknown

    def test_a_rate_limit_is_waited_out_where_one_can_wait(self, practice: Practice) -> None:
        step, context = practice.down(), practice.context()
        practice.fault(FaultKind.RATE_LIMITED, delay_ms=7000)
        practice.project.target.apply(step, context)
        assert [round(pause - 0.5) for pause in context.slept] == [7]
        assert practice.project.versions() == ["1"]

    def test_a_rate_limit_is_passed_on_elsewhere(self, practice: Practice) -> None:
        practice.fault(FaultKind.RATE_LIMITED, delay_ms=7000)
        with pytest.raises(RateLimitedError) as caught:
            practice.project.driver.history()
        assert caught.value.retry_after is not None
        assert 7 < caught.value.retry_after <= 8

    def test_a_database_that_cannot_be_reached(self, practice: Practice) -> None:
        practice.api.dsn = "postgresql://postgres:hunter2@127.0.0.1:1/postgres"
        fact = practice.project.observe().get("database.version")
        assert (
            fact.unknown
            == "Supabase POST /database/query: Supabase cannot reach the database (400)."
        )

    def test_a_rollback_takes_a_handful_of_requests(self, practice: Practice) -> None:
        """The platform's limit is 120 a minute for all tools of a user."""
        sent: list[str] = []
        practice.client.event_hooks = {"request": [lambda request: sent.append(request.url.path)]}
        practice.project.target.observe()
        assert len(sent) == 1
        practice.project.back("1")
        assert len(sent) <= 30

    def test_a_large_table_without_a_key_needs_a_direct_connection(
        self, practice: Practice
    ) -> None:
        practice.project.sql("INSERT INTO u SELECT generate_series(1, 50000)")
        with pytest.raises(PreflightError, match=r"public.u has no primary key and is too large"):
            practice.project.back("1")
        assert practice.project.versions() == ["1", "2"]

    def test_a_direct_connection_is_used_for_sql_when_there_is_one(
        self, practice: Practice
    ) -> None:
        with closing(practice.driver(dsn=practice.project.dsn)) as driver:
            practice.project.driver = driver
            practice.fault(FaultKind.ERROR_BEFORE, times=100)
            practice.project.back("1")
        assert practice.project.versions() == ["1"]


@pytest.mark.postgres
class TestRecoveryInTime:
    @pytest.fixture
    def past(self, practice: Practice) -> int:
        """A moment that can be gone back to; going back is played by a statement."""
        moment = now_ms() // 1000
        practice.settings(pitr_enabled=True, pitr_earliest=moment - 10, restore_lag_ms=20)
        practice.project.options = {"pitr": moment}
        return moment

    def test_takes_the_whole_database_back(self, practice: Practice, past: int) -> None:
        made = practice.project.go(practice.project.resolve("1"), practice.context())
        assert practice.went_back_to == [past]
        assert made[-1].note == "restored; the whole database went back in time"
        assert practice.project.versions() == ["1"]

    def test_is_never_asked_for_twice(self, practice: Practice, past: int) -> None:
        goal, context = practice.project.resolve("1"), practice.context()
        (step,) = practice.project.steps(goal, Phase.RESTORE)
        assert step.irreversible
        assert step.data_loss
        practice.fault(FaultKind.LOST_ANSWER, path="*/restore-pitr")
        practice.project.target.apply(step, context)
        practice.settings(status="ACTIVE_HEALTHY")
        assert practice.went_back_to == [past]

    def test_needs_the_add_on_the_window_and_the_policy(
        self, practice: Practice, past: int
    ) -> None:
        goal = practice.project.resolve("1")
        (preflight,) = practice.project.steps(goal, Phase.CAPTURE)
        practice.settings(pitr_earliest=past + 5, pitr_latest=past + 9)
        with pytest.raises(PreflightError, match="reaches from"):
            practice.project.target.apply(preflight, practice.context())
        practice.settings(pitr_enabled=False)
        with pytest.raises(PreflightError, match="not available"):
            practice.project.target.apply(preflight, practice.context())
        practice.project.options["allow_data_loss"] = False
        with pytest.raises(PolicyRefusedError, match="everything written since"):
            practice.project.target.apply(preflight, practice.context())

    def test_a_recovery_that_fails_is_told(self, practice: Practice, past: int) -> None:
        goal = practice.project.resolve("1")
        (step,) = practice.project.steps(goal, Phase.RESTORE)
        practice.fails = True
        with pytest.raises(StepFailedError, match="RESTORE_FAILED"):
            practice.project.target.apply(step, practice.context())


class TestAnswers:
    @pytest.mark.parametrize(
        ("status", "message", "writes", "error"),
        [
            (
                400,
                "Failed to run sql query: connect ECONNREFUSED 10.0.0.1:5432",
                True,
                TargetUnavailableError,
            ),
            (
                400,
                "Failed to run sql query: Connection terminated unexpectedly",
                True,
                OutcomeUnknownError,
            ),
            (544, "Connection terminated due to connection timeout", True, OutcomeUnknownError),
            (
                500,
                "Failed to run sql query: ERROR:  55P03: canceling statement due to lock timeout",
                True,
                SqlFailedError,
            ),
            (500, "nonsense", False, TargetUnavailableError),
            (500, "nonsense", True, OutcomeUnknownError),
            (400, "PITR is not enabled for this project.", True, StepFailedError),
            (402, "upgrade", True, TerminalError),
            (403, "no", True, TerminalError),
            (404, "no", True, TerminalError),
            (302, "elsewhere", True, TerminalError),
        ],
    )
    def test_text_decides_before_status(
        self, status: int, message: str, *, writes: bool, error: type[Exception]
    ) -> None:
        def answer(_request: httpx.Request) -> httpx.Response:
            return httpx.Response(status, json={"message": message})

        api = ManagementApi(REF, TOKEN, "https://api.example.test", httpx.MockTransport(answer))
        with closing(api), pytest.raises(error) as caught:
            api.post("/database/query", {"query": "select 'hunter2'"}, writes=writes)
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize(
        "body", [b"<html>", b"[]", b'{"error": {"name": "x", "message": "y"}}', b""]
    )
    def test_bodies_of_any_shape(self, body: bytes) -> None:
        api = ManagementApi(
            REF,
            TOKEN,
            "https://api.example.test",
            httpx.MockTransport(lambda _: httpx.Response(403, content=body)),
        )
        with closing(api), pytest.raises(TerminalError, match="may not do this"):
            api.get("")

    @pytest.mark.parametrize(
        ("ref", "token", "url"),
        [
            ("short", TOKEN, "https://x.test"),
            (f"{REF[:-1]}/", TOKEN, "https://x.test"),
            (REF, "with blank", "https://x.test"),
            (REF, "", "https://x.test"),
            (REF, TOKEN, "http://x.test"),
        ],
    )
    def test_what_cannot_be_used(self, ref: str, token: str, url: str) -> None:
        with pytest.raises(UsageError):
            SupabaseDriver(ref, token, url)
