"""`watch` as a real process on a real repository: it follows the spec, survives being killed, and ends politely."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reconciler.audit.database import Database
from reconciler.audit.lease import Holder, Lease
from reconciler.clock import SystemClock
from reconciler.core.crashpoints import CrashPoint
from tests.support.commandline import Repo, Started
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

QUICK = ("--interval", "200ms", "-o", "json")


def watching(repo: Repo, *more: str) -> Started:
    started = repo.start("watch", "specs", *QUICK, *more)
    started.wait_for_event("watching")
    return started


def arrives(repo: Repo, commit: str) -> None:
    wait_for(lambda: repo.head() == commit, seconds=60, what=f"HEAD at {commit}")


def test_production_follows_the_spec_while_it_runs(repo: Repo) -> None:
    repo.spec(repo.commits[1])
    watch = watching(repo)
    arrives(repo, repo.commits[1])
    watch.wait_for_event("stable")
    repo.spec(repo.commits[0])
    arrives(repo, repo.commits[0])
    stable = watch.wait_for_event("stable", count=2)
    assert stable["generation"] == 2
    assert [event["event"] for event in watch.events()[:4]] == ["watching", "spec", "phase", "step"]
    assert watch.end().code == 0
    history = repo.run("history", "prod", "-o", "json").json
    assert {item["origin"] for item in history["items"]} == {"gitops"}


def test_an_editor_that_saves_by_renaming_and_a_checkout_of_the_specs(repo: Repo) -> None:
    path = repo.spec(repo.commits[2])
    watch = watching(repo)
    watch.wait_for_event("stable")
    new = path.with_name(".prod.yaml.new")
    new.write_text(path.read_text().replace(repo.commits[2], repo.commits[1]), encoding="utf-8")
    new.replace(path)
    arrives(repo, repo.commits[1])
    aside = repo.root / "aside"
    (repo.root / "specs").rename(aside)
    watch.wait_for_event("gone")
    aside.rename(repo.root / "specs")
    repo.spec(repo.commits[0])
    arrives(repo, repo.commits[0])
    assert watch.end().code == 0


def test_drift_is_repaired_by_the_timer(repo: Repo) -> None:
    repo.spec(repo.commits[1])
    watch = watching(repo)
    watch.wait_for_event("stable")
    repo.git.git("checkout", "-q", repo.commits[2])
    arrives(repo, repo.commits[1])
    watch.wait_for_event("stable", count=2)


def test_while_nothing_is_to_do_nothing_is_written_and_nothing_grows(repo: Repo) -> None:
    repo.applied(repo.commits[1])
    before = repo.states()
    watch = repo.start("watch", "specs", "--interval", "100ms", "-o", "json")
    watch.wait_for_event("stable")
    process = Path("/proc") / str(watch.process.pid)

    def used() -> int:
        return sum(int(number) for number in (process / "stat").read_text().split()[13:15])

    def work(ticks: int) -> None:
        target = used() + ticks
        wait_for(lambda: used() >= target, seconds=60, what="it works on")

    work(20)  # hundredths of a second: some looks, so that everything is loaded
    files, memory = len(list((process / "fd").iterdir())), _resident(process)
    work(60)
    assert len(list((process / "fd").iterdir())) <= files + 2
    assert _resident(process) <= memory + 8_000, "kilobytes"
    assert repo.states() == before
    assert watch.end().code == 0
    assert repo.states() == before
    assert [event["event"] for event in watch.events()] == ["watching", "spec", "stable", "ended"]


def _resident(process: Path) -> int:
    line = next(
        line for line in (process / "status").read_text().splitlines() if line.startswith("VmRSS")
    )
    return int(line.split()[1])


@pytest.mark.parametrize(
    "point", [CrashPoint.INTENT_DURABLE, CrashPoint.MID_EFFECT, CrashPoint.APPLIED_UNREAD]
)
def test_killed_at_any_instant_of_a_checkout_the_next_one_goes_on(
    repo: Repo, point: CrashPoint
) -> None:
    repo.spec(repo.commits[0])
    code = f"""
import os, signal
from reconciler import probes
def die(point, effect):
    if point == {point.value!r} and "/checkout/" in effect:
        os.kill(os.getpid(), signal.SIGKILL)
probes.installed = die
"""
    killed = repo.start("watch", "specs", *QUICK, code=code).ended()
    assert killed.code == -signal.SIGKILL
    watch = watching(repo)
    arrives(repo, repo.commits[0])
    watch.wait_for_event("stable")
    assert watch.end().code == 0
    items = repo.run("history", "prod", "-o", "json").json["items"]
    opened = [item["effect"] for item in items if item["kind"] == "intent"]
    closed = [item["effect"] for item in items if item["kind"] == "result"]
    assert sorted(opened) == sorted(closed), "every intent is resolved, and none was begun twice"


def test_a_rollback_sticks_while_watch_runs_and_the_bad_spec_is_unchanged(repo: Repo) -> None:
    good, bad = repo.commits[1], repo.commits[2]
    repo.applied(good)
    path = repo.spec(bad)
    watch = watching(repo)
    arrives(repo, bad)
    watch.wait_for_event("stable")
    done = repo.call("rollback", "prod", "--yes")
    assert done.code == 0, done
    assert repo.head() == good
    watch.wait_for_event("held")
    path.write_text(path.read_text() + "# looked at\n", encoding="utf-8")
    repo.git.git("checkout", "-q", repo.commits[0])
    arrives(repo, good)
    assert watch.end().code == 0
    again = watching(repo)
    again.wait_for_event("held")
    assert repo.head() == good
    repo.spec(repo.commits[0])
    arrives(repo, repo.commits[0])


def test_an_invalid_spec_is_told_on_stderr_with_its_place(repo: Repo) -> None:
    repo.applied(repo.commits[1])
    watch = repo.start("watch", "specs", "--interval", "200ms")
    wait_for(lambda: " stable " in watch.out.read_text(), seconds=60, what="start")
    path = repo.root / "specs" / "prod.yaml"
    path.write_text(path.read_text().replace("commit", "comit"), encoding="utf-8")
    wait_for(
        lambda: "until then prod is left as it is" in watch.err.read_text(),
        seconds=60,
        what="refusal",
    )
    assert "specs/prod.yaml:6:9: spec.git.comit: unknown field" in watch.err.read_text()
    assert repo.head() == repo.commits[1]
    repo.spec(repo.commits[0])
    arrives(repo, repo.commits[0])
    ended = watch.end()
    assert ended.code == 0
    assert ended.err.count("spec.git.comit") == 1
    assert "\x1b" not in ended.out + ended.err


def test_ctrl_c_ends_it_with_130(repo: Repo) -> None:
    repo.applied(repo.commits[1])
    watch = watching(repo)
    watch.wait_for_event("stable")
    ended = watch.end(signal.SIGINT)
    assert ended.code == 130
    assert watch.events()[-1]["event"] == "ended"
    assert "Traceback" not in ended.err


def test_a_second_signal_ends_it_at_once_and_the_next_one_goes_on(repo: Repo) -> None:
    slow = "  verify:\n    checks: [{name: slow, command: [sleep, '60']}]\n"
    repo.spec(repo.commits[1], more=slow)
    watch = watching(repo)
    wait_for(
        lambda: any("-> verify" in event["message"] for event in watch.events("phase")),
        seconds=60,
        what="verify",
    )
    watch.send(signal.SIGTERM)
    wait_for(
        lambda: "once more to end at once" in watch.err.read_text(),
        seconds=60,
        what="the first signal",
    )
    began = time.monotonic()
    assert watch.end().code == 130
    assert time.monotonic() - began < 5
    status = repo.run("status", "prod", "-o", "json").json["status"]
    assert status["phase"] == "verify"
    repo.spec(repo.commits[0])
    next_one = watching(repo)
    next_one.send(signal.SIGKILL)
    next_one.ended()


def test_once_says_by_its_exit_code_how_things_stand(repo: Repo) -> None:
    repo.spec(repo.commits[1])
    assert repo.run("watch", "specs", "--once").code == 0
    assert repo.head() == repo.commits[1]
    empty = repo.root / "empty"
    empty.mkdir()
    assert repo.run("watch", str(empty), "--once").code == 2
    missing = repo.run("watch", "nowhere", "--once")
    assert missing.code == 2
    assert "no folder of specs" in missing.err
    assert repo.run("suspend", "prod", "--reason", "by hand").code == 0
    assert repo.run("watch", "specs", "--once").code == 3
    assert repo.run("resume", "prod", "--reason", "done").code == 0
    bad = repo.root / "specs" / "bad.yaml"
    bad.write_text("kind: Environment\n", encoding="utf-8")
    assert repo.run("watch", "specs", "--once").code == 2
    bad.unlink()
    repo.spec("0123456789abcdef0123456789abcdef01234567")
    stalled = repo.run("watch", "specs", "--once")
    assert stalled.code == 3
    assert "reconciler resume prod --reason" in stalled.err
    database = Database(f"sqlite:///{repo.root}/states/audit.db")
    with Lease(database, "prod", Holder.me("somebody"), SystemClock()):
        assert repo.run("watch", "specs", "--once").code == 5
    database.close()


def test_the_reader_of_its_events_may_leave(repo: Repo) -> None:
    repo.applied(repo.commits[1])
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "reconciler", "watch", "specs", "--interval", "100ms"],
        cwd=repo.root,
        stdout=writing,
        stderr=subprocess.PIPE,
    )
    os.close(writing)
    assert os.read(reading, 10)
    os.close(reading)
    repo.spec(repo.commits[0])
    _, error = process.communicate(timeout=30)
    assert b"Traceback" not in error
    assert process.returncode == 0
    with sqlite3.connect(f"file:{repo.root}/states/audit.db?mode=ro", uri=True) as ledger:
        (phase,) = ledger.execute("SELECT phase FROM environments").fetchone()
    ledger.close()
    assert phase != "stalled", "a closed pipe is no reason to stop half way"


@pytest.mark.parametrize("text", ["0s", "50ms", "soon", "-1s"])
def test_an_interval_that_makes_no_sense_is_refused(repo: Repo, text: str) -> None:
    ended = repo.run("watch", "specs", f"--interval={text}")
    assert ended.code == 2
    assert "interval" in ended.err
