"""`doctor`: what it finds on this machine and for a spec, and that it changes nothing and shows no secret."""

from __future__ import annotations

import gc
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from reconciler.cli import diagnosis
from reconciler.cli.diagnosis import Level
from reconciler.cli.doctor import secrets_of
from reconciler.core.loader import parse_spec
from reconciler.core.spec import Spec
from reconciler.project import Config, Project
from tests.support.commandline import Ended, Repo
from tests.support.engine import Engine

pytestmark = pytest.mark.process

SECRET = "correct-horse-battery"


def findings(ended: Ended) -> dict[str, dict[str, Any]]:
    document = ended.json
    assert document["kind"] == "Diagnosis"
    assert document["ok"] is (ended.code == 0)
    for finding in document["findings"]:
        assert finding["level"] in {"ok", "warning", "problem"}
        assert bool(finding["next"]) is (finding["level"] != "ok"), "a next action, or all is well"
        assert "\n" not in finding["next"]
    return {finding["name"]: finding for finding in document["findings"]}


def test_this_machine_without_a_spec(repo: Repo) -> None:
    ended = repo.run("doctor", "-o", "json")
    found = findings(ended)
    assert ended.code == 0
    assert {"python", "git", "disk", "states", "ledger", "clock", "pg_dump"} <= set(found)
    assert found["git"]["message"].endswith(shutil.which("git") or "")
    assert not (repo.root / "states").exists(), "looking makes nothing"
    table = repo.run("doctor")
    assert table.out.splitlines()[-1] == "Nothing is wrong with this machine."


def test_a_spec_that_this_machine_can_serve(repo: Repo) -> None:
    repo.applied(repo.commits[1])
    before = repo.states()
    ended = repo.run("doctor", "specs/prod.yaml")
    assert ended.code == 0, ended
    assert "This machine can do it." in ended.out
    assert "everything the spec names is found" in ended.out
    assert repo.states() == before


def test_an_invalid_spec_is_located(repo: Repo) -> None:
    path = repo.spec("HEAD", more="  sandwich: cheese\n")
    ended = repo.run("doctor", str(path))
    assert ended.code == 2
    assert f"{path}:7:3: spec.sandwich: unknown field" in ended.err


def test_a_commit_that_does_not_exist_is_a_problem_with_a_way_on(repo: Repo) -> None:
    repo.spec("0123456789abcdef0123456789abcdef01234567")
    ended = repo.run("doctor", "specs/prod.yaml", "-o", "json")
    assert ended.code == 1
    assert findings(ended)["goal"]["level"] == "problem"


def test_missing_secrets_are_named_and_present_ones_never_shown(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRONT_TOKEN", SECRET)
    more = (
        "  vercel: {project: shop, tokenFrom: {env: FRONT_TOKEN}, deployment: dpl_1, apiUrl: 'http://127.0.0.1:9'}\n"
        "  database:\n    postgres: {dsnFrom: {file: dsn.txt}}\n    migrations: m\n    migration: '1'\n"
    )
    repo.spec("HEAD", more=more)
    ended = repo.run("doctor", "specs/prod.yaml")
    assert ended.code == 1
    assert SECRET not in ended.out + ended.err
    assert "spec.database.postgres.dsnFrom" in ended.out
    assert "next: Provide" in ended.out
    (repo.root / "dsn.txt").write_text(f"postgresql://ada:{SECRET}@127.0.0.1:9/shop")
    unreachable = repo.run("doctor", "specs/prod.yaml", "-o", "json")
    assert unreachable.code == 1
    assert SECRET not in unreachable.out + unreachable.err
    found = findings(unreachable)
    assert found["database"]["level"] == "problem"
    assert found["vercel"]["level"] == "problem"
    assert found["git"]["level"] == "ok"


def test_every_reference_of_the_annotated_spec_is_found() -> None:
    path = Path("specs/prod.yaml")
    text = (Path(__file__).parents[2] / path).read_text(encoding="utf-8")
    spec = parse_spec(text.encode(), str(path))
    assert isinstance(spec, Spec)
    found = dict(secrets_of(spec))
    written = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    count = sum(line.count("{env:") + line.count("{file:") for line in written)
    assert len(found) == count
    assert "spec.verify.checks[0].http.headers.Authorization" in found


def test_a_failing_check_is_a_warning(repo: Repo) -> None:
    repo.spec(
        repo.commits[2],
        more="  verify:\n    timeout: 1s\n    checks: [{name: port, tcp: {host: 127.0.0.1, port: 9}}]\n",
    )
    ended = repo.run("doctor", "specs/prod.yaml", "-o", "json")
    assert ended.code == 0
    assert findings(ended)["check port"]["level"] == "warning"


def test_a_ledger_of_a_newer_program_and_one_without_its_triggers(repo: Repo) -> None:
    repo.applied(repo.commits[1])
    path = repo.root / "states" / "audit.db"
    ledger = sqlite3.connect(path, isolation_level=None)
    for name in ("update", "delete", "replace"):
        ledger.execute(f"DROP TRIGGER ledger_no_{name}")
    stripped = repo.run("doctor", "-o", "json")
    assert stripped.code == 1
    assert "lost the triggers" in findings(stripped)["ledger"]["message"]
    ledger.execute("UPDATE alembic_version SET version_num = '9999'")
    ledger.close()
    newer = repo.run("doctor", "-o", "json")
    assert newer.code == 1
    assert "schema 9999" in findings(newer)["ledger"]["message"]
    path.write_bytes(b"nonsense" * 1000)
    assert repo.run("doctor", "-o", "json").code == 1


def test_a_ledger_from_the_future_means_a_wrong_clock(repo: Repo) -> None:
    repo.applied(repo.commits[1])
    ledger = sqlite3.connect(repo.root / "states" / "audit.db", isolation_level=None)
    ledger.execute("DROP TRIGGER ledger_no_update")
    ledger.execute("UPDATE ledger SET at = '2999-01-01T00:00:00.000000+00:00' WHERE seq = 1")
    ledger.close()
    ended = repo.run("doctor", "-o", "json")
    messages = [item["message"] for item in ended.json["findings"] if item["name"] == "clock"]
    assert any("from the future" in message for message in messages)


def test_a_ledger_that_is_locked_is_a_problem(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.audit.database._BUSY_SECONDS", 0)
    repo.applied(repo.commits[1])
    with sqlite3.connect(repo.root / "states" / "audit.db", isolation_level=None) as ledger:
        ledger.execute("BEGIN IMMEDIATE")
        ended = repo.run("doctor", "-o", "json")
        ledger.execute("ROLLBACK")
    ledger.close()
    assert ended.code == 1
    assert "locked" in findings(ended)["ledger"]["message"]


@pytest.mark.parametrize(
    "url", ["nonsense", "mysql://u:pw-pw-pw@h/d", "postgresql://u:pw-pw-pw@127.0.0.1:9/d"]
)
def test_a_ledger_that_cannot_be_reached_is_a_problem_and_its_password_stays_hidden(
    repo: Repo, url: str
) -> None:
    ended = repo.run("doctor", "--database", url, "-o", "json")
    assert ended.code == 1
    assert findings(ended)["ledger"]["level"] == "problem"
    assert "pw-pw-pw" not in ended.out + ended.err


def test_too_little_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project(tmp_path, Config())
    levels = []
    for free in (100 << 20, 1 << 30, 10 << 30):
        usage = (0, 0, free)
        monkeypatch.setattr(
            shutil, "disk_usage", lambda _, usage=usage: shutil._ntuple_diskusage(*usage)
        )
        levels.append(diagnosis.disk(project).level)
    assert levels == [Level.PROBLEM, Level.WARNING, Level.OK]


def test_without_git_and_docker(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(repo.root))
    found = findings(repo.run("doctor", "-o", "json"))
    assert found["git"]["level"] == "warning"
    assert found["docker"]["level"] == "warning"
    assert found["pg_dump"]["level"] == "ok"
    assert diagnosis.git(needed=True).level is Level.PROBLEM


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_engine_that_is_not_there_is_a_problem_only_where_it_is_needed(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{repo.root}/nothing.sock")
    assert repo.run("doctor").code == 0
    (repo.root / "docker-compose.yml").write_text("services: {app: {image: app:1}}\n")
    repo.git.commit("compose")
    repo.spec("HEAD", more="  docker: {project: shop, services: {app: {image: 'app:1'}}}\n")
    ended = repo.run("doctor", "specs/prod.yaml", "-o", "json")
    assert ended.code == 1
    assert "does not answer" in next(
        item["message"]
        for item in ended.json["findings"]
        if item["name"] == "docker" and item["level"] == "problem"
    )
    gc.collect()  # Docker's SDK leaves the socket of a refused connection to the garbage collector


@pytest.mark.engine
def test_the_engine_compose_buildx_and_their_clock(
    repo: Repo, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in engine.env.items():
        if os.environ.get(name) != value:
            monkeypatch.setenv(name, value)
    found = findings(repo.run("doctor", "-o", "json"))
    assert found["docker"]["message"].startswith("engine ")
    assert found["compose"]["level"] == "ok"
    assert found["buildx"]["level"] == "ok"
    assert "as the engine's" in found["clock"]["message"]


@pytest.mark.postgres
def test_a_database_is_read_and_pg_dump_compared_with_its_server(
    repo: Repo, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_DSN", database)
    (repo.root / "m").mkdir()
    (repo.root / "m" / "1_first.sql").write_text("create table t (id int);\n")
    (repo.root / "rollbacks").mkdir()
    repo.git.commit("migrations")
    repo.spec(
        "HEAD",
        more="  database:\n    postgres: {dsnFrom: {env: SHOP_DSN}}\n    migrations: m\n    migration: '1'\n",
    )
    ended = repo.run("doctor", "specs/prod.yaml", "-o", "json")
    found = findings(ended)
    assert found["database"]["level"] == "ok", ended
    assert found["secret"]["level"] == "ok"
    assert database not in ended.out
    assert diagnosis.pg_dump(99).level is Level.WARNING
    assert "99" in diagnosis.pg_dump(99).next
