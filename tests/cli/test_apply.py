"""`validate`, `plan`, `apply`, `rollback` as a user meets them: exit codes, messages, nothing done twice."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from reconciler.audit.database import Database
from reconciler.audit.lease import Holder, Lease
from reconciler.clock import SystemClock
from tests.support.commandline import Repo
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

NOWHERE = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("command", ["validate", "plan", "apply", "doctor"])
def test_an_invalid_spec_is_told_with_every_place_and_nothing_is_made(
    repo: Repo, command: str
) -> None:
    path = repo.spec("HEAD", more="  gti: {}\n  policy: {onFailure: pray}\n")
    ended = repo.run(command, str(path))
    assert ended.code == 2
    assert ended.out == ""
    lines = ended.err.splitlines()
    assert [line.split(" ")[0] for line in lines] == [f"{path}:7:3:", f"{path}:8:23:"]
    assert "did you mean git?" in lines[0]
    assert not (repo.root / "states").exists()


def test_validate_tells_valid_ones_and_all_problems_as_json(repo: Repo) -> None:
    good, bad = repo.spec("HEAD"), repo.spec("HEAD", name="bad", more="  gti: {}\n")
    ended = repo.run("validate", str(good), str(bad))
    assert ended.code == 2
    assert ended.out == f"{good}: valid\n"
    problems = repo.run("validate", str(good), str(bad), "-o", "json")
    assert problems.code == 2
    assert problems.json["valid"] is False
    assert problems.json["problems"][0]["line"] == 7
    assert repo.run("validate", "specs/nothing.yaml").code == 2


def test_plan_tells_drift_by_its_exit_code_and_changes_nothing(repo: Repo) -> None:
    path = repo.spec(repo.commits[0])
    ended = repo.run("plan", str(path), "--exit-code")
    assert ended.code == 1
    assert "check out" in ended.out
    assert "production is touched" in ended.out
    assert repo.run("plan", str(path)).code == 0
    assert not (repo.root / "states").exists()
    assert repo.head() == repo.commits[2]
    document = repo.run("plan", str(path), "-o", "json").json
    assert document["kind"] == "Plan"
    assert [step["phase"] for step in document["steps"]] == ["capture", "restore"]
    assert document["drift"][0]["key"] == "git.commit"
    repo.spec(repo.commits[2])
    assert repo.run("plan", str(path), "--exit-code").code == 0


def test_plan_tells_an_error_from_drift(repo: Repo) -> None:
    path = repo.spec(NOWHERE)
    assert repo.run("plan", str(path), "--exit-code").code not in {0, 1}


def test_apply_proves_what_it_did_and_a_second_one_changes_nothing(repo: Repo) -> None:
    path = repo.spec(repo.commits[0])
    first = repo.run("apply", str(path), "--yes")
    assert first.code == 0
    assert f"= git.commit  {repo.commits[0]}" in first.out
    assert "prod is stable." in first.out
    assert repo.head() == repo.commits[0]
    before = repo.states()
    assert before
    for _ in range(3):
        again = repo.run("apply", str(path), "--yes")
        assert again.code == 0
        assert "nothing to do" in again.out
        assert again.err == ""
    assert repo.states() == before


def test_a_second_apply_of_another_process_changes_nothing_either(repo: Repo) -> None:
    path = repo.spec(repo.commits[0])
    assert repo.call("apply", str(path), "--yes").code == 0
    before = repo.states()
    assert repo.call("apply", str(path), "--yes").code == 0
    assert repo.states() == before


def test_apply_asks_first_and_no_is_an_answer(repo: Repo) -> None:
    path = repo.spec(repo.commits[0])
    for answer in ("n\n", ""):
        ended = repo.run("apply", str(path), stdin=answer)
        assert ended.code == 130
        assert "check out" in ended.err
        assert ended.out == ""
        assert repo.head() == repo.commits[2]
        assert repo.states() == {}
    assert repo.run("apply", str(path), stdin="y\n").code == 0
    assert repo.head() == repo.commits[0]


def test_apply_as_json_is_one_document(repo: Repo) -> None:
    path = repo.spec(repo.commits[0])
    done = repo.run("apply", str(path), "--yes", "-o", "json").json
    assert done["phase"] == "stable"
    assert done["certificate"]["facts"][0] == {
        "key": "git.commit",
        "value": repo.commits[0],
        "detail": done["certificate"]["facts"][0]["detail"],
    }
    again = repo.run("apply", str(path), "--yes", "-o", "json").json
    assert again["changed"] is False


def test_a_commit_that_does_not_exist_stalls_untouched_and_says_how_to_go_on(repo: Repo) -> None:
    path = repo.spec(NOWHERE)
    ended = repo.run("apply", str(path), "--yes")
    assert ended.code == 3
    assert "STALLED: a human must act" in ended.err
    assert "Production was not touched." in ended.err
    assert "reconciler resume prod --reason" in ended.err
    assert repo.head() == repo.commits[2]
    status = repo.run("status", "prod")
    assert status.code == 3
    assert "STALLED" in status.out
    again = repo.run("apply", str(path), "--yes")
    assert again.code == 3
    repo.spec(repo.commits[1])
    assert repo.run("apply", str(path), "--yes").code == 0


def test_a_failed_check_takes_a_new_release_back(repo: Repo) -> None:
    repo.applied(repo.commits[1])
    check = "  verify:\n    timeout: 1s\n    checks: [{name: newer, command: [grep, -q, '2', release.txt]}]\n"
    path = repo.spec(repo.commits[0], more=check)
    ended = repo.run("apply", str(path), "--yes")
    assert ended.code == 1
    assert "prod could not be brought to" in ended.err
    assert "newer" in ended.err
    assert repo.head() == repo.commits[1]
    held = repo.run("apply", str(path), "--yes")
    assert held.code == 3
    assert "Held:" in held.err
    assert repo.head() == repo.commits[1]


def test_local_changes_are_not_lost(repo: Repo) -> None:
    path = repo.spec(repo.commits[0])
    (repo.root / "release.txt").write_text("by hand\n", encoding="utf-8")
    ended = repo.run("apply", str(path), "--yes")
    assert ended.code == 3
    assert "release.txt" in ended.err
    assert (repo.root / "release.txt").read_text() == "by hand\n"


def test_who_holds_the_lease_keeps_others_out(repo: Repo) -> None:
    path = repo.spec(repo.commits[1], more="  policy: {approval: always}\n")
    waiting = repo.run("apply", str(path), "--yes")
    run = repo.run("status", "prod", "-o", "json").json["status"]["run"]["id"]
    assert waiting.code == 3
    holder = repo.start("hold", code=_HOLD)
    try:
        wait_for((repo.root / "held").exists, seconds=60, what="the lease")
        for command in (
            ("apply", str(path), "--yes"),
            ("rollback", "prod", "--yes"),
            ("resume", "prod", "--reason", "x"),
            ("suspend", "prod", "--reason", "x"),
            ("approve", run, "--reason", "x"),
            ("reject", run, "--reason", "x"),
            ("watch", "specs", "--once"),
        ):
            ended = repo.run(*command)
            assert ended.code == 5, (command, ended)
            assert command[0] == "watch" or "is being worked on by holder" in ended.err
        assert repo.run("status", "prod", "-o", "json").json["status"]["lease"]
    finally:
        holder.process.kill()
        holder.process.wait()
    assert repo.run("reject", run, "--reason", "the holder died").code == 0


_HOLD = """
import sys, time
from pathlib import Path
from reconciler.audit.database import Database
from reconciler.audit.lease import Holder, Lease
from reconciler.clock import SystemClock
lease = Lease(Database("sqlite:///states/audit.db"), "prod", Holder.me("holder"), SystemClock())
Path("held").touch()
time.sleep(600)
"""


def test_rollback_goes_back_and_stays_there(repo: Repo) -> None:
    repo.applied(repo.commits[1])
    path = repo.spec(repo.commits[2])
    assert repo.run("apply", str(path), "--yes").code == 0
    ended = repo.run("rollback", "prod", "--yes", "--reason", "it is slow")
    assert ended.code == 0
    assert repo.head() == repo.commits[1]
    assert f'spec.git.commit: "{repo.commits[1]}"' in ended.err
    held = repo.run("apply", str(path), "--yes")
    assert held.code == 3
    assert "it is slow" in held.err
    assert repo.head() == repo.commits[1]
    assert repo.run("resume", "prod", "--reason", "it was the network").code == 0
    assert repo.head() == repo.commits[2]


def test_rollback_can_write_the_spec_and_keeps_its_comments(repo: Repo) -> None:
    repo.applied(repo.commits[1])
    path = repo.spec(repo.commits[2])
    assert repo.run("apply", str(path), "--yes").code == 0
    assert repo.run("rollback", "prod", "--yes", "--write-spec").code == 0
    text = path.read_text()
    assert text.startswith("# What prod shall be.\n")
    assert repo.commits[1] in text
    assert repo.run("apply", str(path), "--yes").code == 0
    assert repo.head() == repo.commits[1]


def test_rollback_without_any_verified_state_goes_to_the_parent(repo: Repo) -> None:
    repo.spec(repo.commits[2])
    assert repo.run("rollback", "prod", "--yes").code == 0
    assert repo.head() == repo.commits[1]


def test_rollback_to_a_point_and_to_one_that_is_not_there(repo: Repo) -> None:
    repo.applied(repo.commits[0])
    oldest = repo.run("points", "prod", "-o", "json").json["items"][0]["id"]
    repo.applied(repo.commits[1])
    repo.applied(repo.commits[2])
    missing = repo.run("rollback", "prod", "--to", "rp-nothing", "--yes")
    assert missing.code == 2
    assert oldest in missing.err
    assert repo.run("rollback", "prod", "--to", oldest, "--yes").code == 0
    assert repo.head() == repo.commits[0]


@pytest.mark.parametrize(
    "command",
    [
        ("status", "prdo"),
        ("points", "prdo"),
        ("history", "prdo"),
        ("rollback", "prdo", "--yes"),
        ("resume", "prdo", "--reason", "x"),
        ("suspend", "prdo", "--reason", "x"),
    ],
)
def test_an_environment_nobody_knows_is_answered_with_the_nearest_name(
    repo: Repo, command: tuple[str, ...]
) -> None:
    repo.applied(repo.commits[1])
    ended = repo.run(*command)
    assert ended.code == 2
    assert "There is no environment prdo" in ended.err
    assert "Did you mean prod?" in ended.err


def test_the_ledger_can_be_elsewhere(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    path = repo.spec(repo.commits[1])
    url = f"sqlite:///{repo.root}/elsewhere/ledger.db"
    assert repo.run("apply", str(path), "--yes", "--database", url).code == 0
    assert (repo.root / "elsewhere" / "ledger.db").exists()
    assert not (repo.root / "states" / "audit.db").exists()
    assert repo.run("status", "prod").code == 2
    assert "STABLE" in repo.run("status", "prod", "--database", url).out
    monkeypatch.setenv("RECONCILER_DATABASE_URL", url)
    assert "STABLE" in repo.run("status", "prod").out
    monkeypatch.delenv("RECONCILER_DATABASE_URL")
    (repo.root / "reconciler.toml").write_text(f'database = "{url}"\n', encoding="utf-8")
    assert "STABLE" in repo.run("status", "prod").out


@pytest.mark.postgres
def test_the_ledger_can_be_in_postgres(repo: Repo, database: str) -> None:
    path = repo.spec(repo.commits[1])
    env = {"RECONCILER_DATABASE_URL": database}
    assert repo.call("apply", str(path), "--yes", env=env).code == 0
    again = repo.call("apply", str(path), "--yes", env=env)
    assert "nothing to do" in again.out
    assert "STABLE" in repo.call("status", "prod", env=env).out
    assert repo.call("watch", "specs", "--once", env=env).code == 0
    assert repo.call("history", "prod", env=env).code == 0
    assert not list((repo.root / "states").glob("audit.db*"))


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "mysql://u:pw-pw-pw@h/d",
        "sqlite:////proc/no/x.db",
    ],
)
def test_a_ledger_that_cannot_be_used_is_told_in_a_sentence(repo: Repo, url: str) -> None:
    path = repo.spec(repo.commits[1])
    ended = repo.run("apply", str(path), "--yes", "--database", url)
    assert ended.code == 1
    assert ended.err.startswith("Error: The ledger")
    assert "pw-pw-pw" not in ended.err
    assert repo.head() == repo.commits[2]


def test_the_state_file_is_written_again_when_it_is_lost(repo: Repo) -> None:
    repo.applied(repo.commits[1])
    state = repo.root / "states" / "prod.yaml"
    assert "phase: stable" in state.read_text()
    state.unlink()
    repo.applied(repo.commits[0])
    assert repo.commits[0] in state.read_text()


def test_a_spec_of_another_folder_is_found_by_its_path(repo: Repo, tmp_path: Path) -> None:
    repo.applied(repo.commits[1])
    os.chdir(tmp_path)
    ended = repo.run("plan", str(repo.root / "specs" / "prod.yaml"), "-o", "json")
    assert ended.code == 0
    assert json.loads(ended.out)["drift"] == []


def test_the_lease_is_given_back_in_the_end(repo: Repo) -> None:
    repo.applied(repo.commits[1])
    database = Database(f"sqlite:///{repo.root}/states/audit.db")
    with Lease(database, "prod", Holder.me("next"), SystemClock()):
        pass
    database.close()
