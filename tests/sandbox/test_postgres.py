"""The private PostgreSQL server: real, found again, stopped by anybody who has its folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psycopg
import pytest

from reconciler.core.errors import PreflightError, StepFailedError, TargetUnavailableError
from reconciler.sandbox import accounts, postgres
from reconciler.sandbox.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.postgres


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PostgresServer]:
    made = PostgresServer(tmp_path / "pg", durable=False)
    yield made
    made.destroy()


def value(dsn: str, query: str) -> object:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize("major", [16, 18])
def test_is_the_version_that_was_asked_for(tmp_path: Path, major: Literal[16, 18]) -> None:
    server = PostgresServer(tmp_path / "pg", durable=False, major=major)
    try:
        server.start()
        assert str(value(server.dsn(), "show server_version")).startswith(f"{major}.")
    finally:
        server.destroy()


def test_keeps_its_data_and_its_port_when_stopped_and_started(server: PostgresServer) -> None:
    server.start()
    dsn = server.create_database("shop")
    with psycopg.connect(dsn) as connection:
        connection.execute("create table t as select 7 as n")
    server.stop()
    assert not server.running
    server.start()
    assert value(dsn, "select n from t") == 7


def test_another_process_finds_uses_and_stops_it(server: PostgresServer) -> None:
    server.start()
    script = (
        "import pathlib, sys; from reconciler.sandbox.postgres import PostgresServer\n"
        "server = PostgresServer(pathlib.Path(sys.argv[1]))\n"
        "assert server.running; server.create_database('other'); server.stop()\n"
        "assert not server.running\n"
    )
    subprocess.run([sys.executable, "-c", script, str(server.folder)], check=True)
    assert server.pid is None
    server.start()
    assert value(server.dsn("other"), "select current_database()") == "other"


def test_comes_back_after_being_killed(server: PostgresServer) -> None:
    server.start()
    pid = server.pid
    assert pid is not None
    os.kill(pid, 9)
    server.stop()  # reaps the child, waits until the number is free
    assert not server.running
    server.start()
    assert value(server.dsn(), "select 1") == 1


def test_a_template_is_copied(server: PostgresServer) -> None:
    server.start()
    with psycopg.connect(server.create_database("one")) as connection:
        connection.execute("create table t as select 3 as n")
    assert value(server.create_database("two", template="one"), "select n from t") == 3


def test_refuses_a_wrong_password(server: PostgresServer) -> None:
    server.start()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.dsn().replace(server.password, "guess"))


def test_a_name_that_is_taken_is_refused_without_the_statement(server: PostgresServer) -> None:
    server.start()
    server.create_database("one")
    with pytest.raises(StepFailedError, match="42P04") as caught:
        server.create_database("one")
    assert "CREATE" not in str(caught.value)


def test_a_dropped_database_ends_its_connections(server: PostgresServer) -> None:
    server.start()
    with psycopg.connect(server.create_database("one")) as connection:
        server.drop_database("one")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
    server.drop_database("one")


def test_says_so_when_its_port_is_taken(tmp_path: Path, server: PostgresServer) -> None:
    server.start()
    second = PostgresServer(tmp_path / "second")
    try:
        with pytest.raises(TargetUnavailableError, match="did not start") as caught:
            second.start(port=server.port)
        assert str(second.folder) in caught.value.hint
    finally:
        second.destroy()


def test_its_tools_dump_and_read(server: PostgresServer, tmp_path: Path) -> None:
    server.start()
    dump = tmp_path / "dump"
    subprocess.run([server.tool("pg_dump"), "-Fc", "-f", dump, server.dsn()], check=True)
    subprocess.run([server.tool("pg_restore"), "--list", dump], check=True, capture_output=True)


def test_settings_reach_the_server(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / "pg", durable=False, settings={"work_mem": "7MB"})
    try:
        server.start()
        assert value(server.dsn(), "show work_mem") == "7MB"
    finally:
        server.destroy()


def test_only_the_owner_reads_the_password(server: PostgresServer) -> None:
    server.start()
    assert (server.folder / "server.json").stat().st_mode & 0o777 == 0o600
    assert server.password not in (server.folder / "server.log").read_text()


def test_destroy_leaves_nothing(server: PostgresServer) -> None:
    server.start()
    data = server.data
    server.destroy()
    assert not data.parent.exists()
    assert not server.folder.exists()


def test_a_folder_without_a_server_is_said_to_be_one(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path)
    assert not server.running
    with pytest.raises(PreflightError, match="no PostgreSQL server"):
        server.dsn()


def test_runs_under_an_ordinary_account_and_widens_no_folder(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = PostgresServer(closed / "pg", durable=False)
    try:
        server.start()
        assert Path(f"/proc/{server.pid}").stat().st_uid != 0
        # Root's server cannot pass a closed folder and keeps its data elsewhere.
        assert server.data.is_relative_to(closed) == (os.geteuid() != 0)
        assert closed.stat().st_mode & 0o777 == 0o700
    finally:
        server.destroy()


def test_binaries_are_copied_for_an_account_that_cannot_reach_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setattr(postgres, "SYSTEM_FOLDER", tmp_path / "system")
    monkeypatch.setattr(accounts.Account, "can_enter", lambda *_: False)
    me = accounts.Account("me", os.geteuid(), os.getegid())
    monkeypatch.setattr(postgres, "unprivileged_account", lambda: me)
    first = postgres.binaries()
    assert first.is_relative_to(tmp_path / "system")
    assert postgres.binaries() == first
    done = subprocess.run([first / "psql", "--version"], check=True, capture_output=True, text=True)
    assert "18." in done.stdout
