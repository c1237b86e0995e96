"""Killed clients, ended backends, a standby: the outcome of a migration is always found by looking."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from reconciler.core.crashpoints import CrashPoint
from reconciler.core.errors import PreflightError, TargetUnavailableError
from reconciler.core.phase import Phase
from reconciler.sandbox.postgres import PostgresServer, free_port
from tests.support.database import Context, Project, direct
from tests.support.waiting import wait_for

pytestmark = pytest.mark.postgres

OURS = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'reconciler/%'"
#: Applies the one restore step of a rollback and kills itself at a point.
CHILD = """
import os, signal, sys
from pathlib import Path
from reconciler.core.phase import Phase
from tests.support.database import Context, direct
root, dsn, point = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
project = direct(root, dsn)
goal = project.resolve("1")
step = project.steps(goal, Phase.RESTORE)[-1]
def die(at):
    if at == point:
        os.kill(os.getpid(), signal.SIGKILL)
project.target.apply(step, Context(root / "states", on_point=die))
"""


@pytest.fixture
def project(tmp_path: Path, database: str) -> Project:
    made = direct(tmp_path, database)
    made.pair("1", "CREATE TABLE t (id int PRIMARY KEY);", "DROP TABLE t;")
    made.pair("2", "CREATE TABLE counts (n int);", "INSERT INTO t VALUES (1); DROP TABLE counts;")
    made.back("2")
    return made


@pytest.mark.crash
@pytest.mark.parametrize("point", [CrashPoint.MID_EFFECT, CrashPoint.APPLIED_UNREAD])
def test_killed_in_the_middle_and_applied_once(project: Project, point: CrashPoint) -> None:
    command = [sys.executable, "-c", CHILD, str(project.root), project.dsn, point]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    wait_for(lambda: project.sql(OURS) == [(0,)], what="the server to notice")
    committed = point is CrashPoint.APPLIED_UNREAD
    assert project.versions() == (["1"] if committed else ["1", "2"])

    goal = project.resolve("1")
    again = Context(project.root / "states", attempted=datetime.now(UTC))
    for step in project.steps(goal, Phase.RESTORE):
        if step.action == "down":
            project.target.apply(step, again)

    assert project.versions() == ["1"]
    assert project.sql("SELECT count(*) FROM t") == [(1,)]


def test_a_backend_that_is_ended_in_the_middle(project: Project) -> None:
    goal = project.resolve("1")
    step = project.steps(goal, Phase.RESTORE)[-1]

    def end(point: CrashPoint) -> None:
        if point is CrashPoint.MID_EFFECT:
            project.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'reconciler/r1/%'"
            )
            wait_for(lambda: project.sql(OURS) == [(0,)], what="the backend to end")

    with pytest.raises(TargetUnavailableError, match="nothing was changed"):
        project.target.apply(step, Context(project.root / "states", on_point=end))
    assert project.versions() == ["1", "2"]
    again = Context(project.root / "states", attempted=datetime.now(UTC))
    assert project.target.apply(step, again).note == ""
    assert project.sql("SELECT count(*) FROM t") == [(1,)]


def test_a_backend_that_is_ended_while_it_runs_a_script(project: Project) -> None:
    project.down("2", "SELECT pg_sleep(30);")
    goal = project.resolve("1")
    step = project.steps(goal, Phase.RESTORE)[-1]
    caught: list[BaseException] = []

    def work() -> None:
        try:
            project.target.apply(step, project.context)
        except TargetUnavailableError as exc:
            caught.append(exc)

    worker = threading.Thread(target=work)
    worker.start()
    sleeping = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE application_name LIKE 'reconciler/r1/%' AND query LIKE '%pg_sleep%'"
    )
    wait_for(lambda: project.sql(sleeping) == [(1,)], what="the script to run")
    project.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'reconciler/r1/%'"
    )
    worker.join(20)
    assert len(caught) == 1
    assert project.versions() == ["1", "2"]


def test_a_killed_client_leaves_a_dump_that_nobody_mistakes_for_a_whole_one(
    project: Project,
) -> None:
    project.sql("INSERT INTO counts SELECT generate_series(1, 1000)")
    context, goal = project.context, project.resolve("1")
    context.captures.joinpath("public.counts-torn.copy.part").write_bytes(b"1\n2\n")
    project.go(goal, context, Phase.CAPTURE)
    dumps = [a for a in context.artifacts if a.kind == "table-dump"]
    assert [a.subject for a in dumps] == ["public.counts"]
    assert (context.states / dumps[0].path).read_bytes().count(b"\n") == 1000


@pytest.fixture
def standby(tmp_path: Path) -> Iterator[tuple[PostgresServer, str]]:
    """A server in standby mode, made of a cold copy: it answers reads and refuses writes."""
    folder = tmp_path / "server"
    server = PostgresServer(folder, durable=False)
    server.start()
    project = direct(tmp_path, server.dsn())
    project.pair("1", "CREATE TABLE t (id int PRIMARY KEY);", "DROP TABLE t;")
    project.back("1")
    server.stop()
    server.data.joinpath("standby.signal").touch()
    port = free_port()
    account = server.account
    if account is not None:
        account.own(server.data / "standby.signal")
    command = [
        server.tool("postgres"),
        "-D",
        server.data,
        "-p",
        str(port),
        "-c",
        "unix_socket_directories=",
    ]
    options = {} if account is None else account.spawn_options
    with (folder / "standby.log").open("wb") as log:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=log,
            stderr=log,
            cwd="/",
            env={"PATH": os.defpath},
            **options,
        )
    yield server, server.dsn().replace(f":{server.port}/", f":{port}/")
    process.send_signal(signal.SIGINT)
    process.wait(20)
    server.destroy()


def test_a_standby_is_refused(tmp_path: Path, standby: tuple[PostgresServer, str]) -> None:
    project = direct(tmp_path, standby[1])
    wait_for(lambda: project.observe().get("database.version").known, what="the standby")
    with pytest.raises(PreflightError, match="standby"):
        project.go(project.resolve(None), None, Phase.CAPTURE)
