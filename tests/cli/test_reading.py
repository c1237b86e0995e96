"""`status`, `points`, `history` and decisions of humans, in each format, on a real small production."""

from __future__ import annotations

import csv
import io
import json

import pytest

from tests.support.commandline import Repo

pytestmark = pytest.mark.process


@pytest.fixture
def twice(repo: Repo) -> Repo:
    """A production that was brought to two releases."""
    repo.applied(repo.commits[0])
    repo.applied(repo.commits[1])
    return repo


def test_status_of_one_and_of_all(twice: Repo) -> None:
    twice.applied(twice.commits[1], name="staging")
    one = twice.run("status", "prod")
    assert one.code == 0
    assert one.out.splitlines()[0] == "prod: STABLE  generation 2"
    assert twice.commits[1][:12] in one.out
    everything = twice.run("status")
    assert "prod: STABLE" in everything.out
    assert "staging: STABLE" in everything.out
    document = twice.run("status", "prod", "-o", "json").json
    assert document["metadata"]["name"] == "prod"
    assert document["status"]["phase"] == "stable"
    assert document["status"]["observed"]["git.commit"] == twice.commits[1]
    assert document["status"]["observedGeneration"] == document["status"]["generation"] == 2
    listed = twice.run("status", "-o", "json").json
    assert [item["metadata"]["name"] for item in listed["items"]] == ["prod", "staging"]


def test_status_before_anything_was_done_names_the_first_step(repo: Repo) -> None:
    ended = repo.run("status")
    assert ended.code == 0
    assert "reconciler apply" in ended.out
    assert not (repo.root / "states").exists()


def test_points_newest_first(twice: Repo) -> None:
    ended = twice.run("points", "prod")
    assert ended.code == 0
    assert ended.out.index(twice.commits[1][:12]) < ended.out.index(twice.commits[0][:12])
    assert ended.out.count("(as it is now)") == 1
    items = twice.run("points", "prod", "-o", "json").json["items"]
    assert [item["vector"]["git.commit"] for item in items] == [
        twice.commits[1],
        twice.commits[0],
    ]


def test_history_tells_the_story_and_the_same_as_json_and_csv(twice: Repo) -> None:
    told = twice.run("history", "prod")
    assert told.code == 0
    for words in (
        "ada@desk",
        "capture -> stop",
        "restore -> start",
        "verify -> stable",
        "done: check out",
    ):
        assert words in told.out
    items = twice.run("history", "prod", "-o", "json").json["items"]
    assert [item["seq"] for item in items] == list(range(1, len(items) + 1))
    assert {item["actor"] for item in items} == {"ada@desk"}
    rows = list(csv.DictReader(io.StringIO(twice.run("history", "-o", "csv").out)))
    assert [int(row["seq"]) for row in rows] == [item["seq"] for item in items]
    assert [row["to_state"] or None for row in rows] == [item["to_state"] for item in items]


def test_history_of_one_run_and_since(twice: Repo) -> None:
    run = twice.run("status", "prod", "-o", "json").json["status"]["run"]["id"]
    by_name = twice.run("history", "prod", "--run", run)
    assert by_name.out == twice.run("history", "prod", "--run", "last").out
    assert f"run {run} of prod, generation 2" in by_name.out
    assert "generation 1" not in by_name.out
    assert twice.run("history", "prod", "--since", "1h").out == twice.run("history", "prod").out
    assert not twice.run("history", "prod", "--since", "2999-01-01").out.strip()
    wrong = twice.run("history", "prod", "--since", "yesterday")
    assert wrong.code == 2
    assert "2h or 7d" in wrong.err


def test_a_message_that_looks_like_a_formula_does_not_become_one(repo: Repo) -> None:
    repo.applied(repo.commits[0])
    assert repo.run("suspend", "prod", "--reason", "=cmd|' /C calc'!A0").code == 0
    rows = list(csv.DictReader(io.StringIO(repo.run("history", "-o", "csv").out)))
    assert rows[-1]["message"].startswith("'=")


def test_suspend_keeps_hands_off_and_resume_ends_it(repo: Repo) -> None:
    repo.applied(repo.commits[0])
    assert repo.run("suspend", "prod", "--reason", "by hand until six").code == 0
    path = repo.spec(repo.commits[1])
    refused = repo.run("apply", str(path), "--yes")
    assert refused.code == 3
    assert "suspended" in refused.err
    status = repo.run("status", "prod")
    assert "suspended" in status.out
    assert "by hand until six" in status.out
    assert repo.run("rollback", "prod", "--yes").code in {0, 1}, "the emergency command still works"
    assert repo.run("resume", "prod", "--reason", "done").code == 0
    assert repo.run("apply", str(path), "--yes").code == 0
    assert repo.head() == repo.commits[1]
    assert "by hand until six" in repo.run("history", "prod").out


def test_approve_lets_the_run_go_on(repo: Repo) -> None:
    path = repo.spec(repo.commits[0], more="  policy: {approval: always}\n")
    waiting = repo.run("apply", str(path), "--yes")
    assert waiting.code == 3
    assert "waits for approval; production is not touched" in waiting.err
    assert repo.head() == repo.commits[2]
    run = repo.run("status", "prod", "-o", "json").json["status"]["run"]["id"]
    assert f"reconciler approve (or reject) {run}" in repo.run("status", "prod").out
    unknown = repo.run("approve", "no-such-run", "--reason", "x")
    assert unknown.code == 2
    approved = repo.run("approve", run, "--reason", "agreed with on-call")
    assert approved.code == 0
    assert repo.head() == repo.commits[0]
    assert "approved by ada@desk: agreed with on-call" in repo.run("history", "prod").out
    assert repo.run("approve", run, "--reason", "again").code == 2


def test_reject_ends_the_run_untouched_and_holds_its_generation(repo: Repo) -> None:
    repo.applied(repo.commits[1])
    path = repo.spec(repo.commits[0], more="  policy: {approval: always}\n")
    assert repo.run("apply", str(path), "--yes").code == 3
    run = repo.run("status", "prod", "-o", "json").json["status"]["run"]["id"]
    assert repo.run("reject", run, "--reason", "not on a Friday").code == 0
    assert repo.head() == repo.commits[1]
    before = repo.run("history").out
    for _ in range(2):
        repo.run("apply", str(path), "--yes")
        assert repo.run("watch", "specs", "--once").code == 3
    assert repo.head() == repo.commits[1]
    assert repo.run("history").out == before
    assert "not on a Friday" in repo.run("status", "prod").out


def test_apply_tells_that_a_rejected_generation_is_held(repo: Repo) -> None:
    repo.applied(repo.commits[1])
    path = repo.spec(repo.commits[0], more="  policy: {approval: always}\n")
    assert repo.run("apply", str(path), "--yes").code == 3
    run = repo.run("status", "prod", "-o", "json").json["status"]["run"]["id"]
    assert repo.run("reject", run, "--reason", "not on a Friday").code == 0
    again = repo.run("apply", str(path), "--yes")
    assert again.code == 3
    assert "not on a Friday" in again.err


@pytest.mark.parametrize(
    "command", [("resume", "prod"), ("suspend", "prod"), ("approve", "x"), ("reject", "x")]
)
def test_a_decision_needs_a_reason(repo: Repo, command: tuple[str, str]) -> None:
    repo.applied(repo.commits[0])
    ended = repo.run(*command)
    assert ended.code == 2
    assert "--reason" in ended.err


def test_json_is_the_only_thing_on_stdout(twice: Repo) -> None:
    for command in (
        ("status",), ("points", "prod"), ("history", "prod"), ("plan", "specs/prod.yaml"),
        ("apply", "specs/prod.yaml", "--yes"), ("doctor", "specs/prod.yaml"), ("validate", "specs/prod.yaml"),
    ):  # fmt: skip
        json.loads(twice.run(*command, "-o", "json").out)
