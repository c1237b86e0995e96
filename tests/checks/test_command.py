"""The command check with real processes."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from reconciler.checks import command
from reconciler.checks.base import Attempt, Outcome
from tests.checks.support import SECRETS, attempt, context
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


def run(*argv: str, root: Path | None = None, seconds: float = 10.0) -> Outcome:
    return command.probe(argv, context(root), attempt(seconds))


def sh(script: str, root: Path | None = None, seconds: float = 10.0) -> Outcome:
    return run("sh", "-c", script, root=root, seconds=seconds)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = (
        Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        if Path(f"/proc/{pid}").exists()
        else "Z"
    )
    return status.rpartition(")")[2].split()[0] != "Z" if ")" in status else False


def test_exit_zero_passes_in_the_project_root(tmp_path: Path) -> None:
    assert sh(f'test "$(pwd)" = "{tmp_path}"', tmp_path).passed


def test_a_failure_says_how_it_ended_and_what_it_said_last() -> None:
    outcome = sh("echo first; echo >&2 second; exit 3")
    assert not outcome.passed
    assert "expected exit 0, got 3; last said: first / second" in outcome.detail


def test_a_signal_is_named() -> None:
    assert "got signal SIGSEGV" in sh("kill -SEGV $$").detail


def test_a_program_that_does_not_exist_is_not_tried_again() -> None:
    outcome = run("no-such-program-here")
    assert outcome.final
    assert "cannot be started: No such file or directory" in outcome.detail


def test_it_does_not_wait_for_input() -> None:
    assert sh("read line || exit 0", seconds=3).passed


def test_at_the_deadline_its_children_die_with_it(tmp_path: Path) -> None:
    began = time.monotonic()
    outcome = sh("sleep 100 & echo $! > child; sleep 100", tmp_path, seconds=0.5)
    assert "not done within 0.5 s" in outcome.detail
    assert time.monotonic() - began < 5
    child = int((tmp_path / "child").read_text(encoding="utf-8"))
    wait_for(lambda: not alive(child), what="the child gone")


def test_a_program_that_ignores_the_request_to_stop_is_killed(tmp_path: Path) -> None:
    began = time.monotonic()
    outcome = sh("trap '' TERM; echo on; while :; do sleep 0.1; done", tmp_path, seconds=0.3)
    assert not outcome.passed
    assert time.monotonic() - began < 6


def test_what_it_leaves_behind_is_cleaned_up(tmp_path: Path) -> None:
    began = time.monotonic()
    assert sh("sleep 100 & echo $! > child", tmp_path).passed
    assert time.monotonic() - began < 3
    child = int((tmp_path / "child").read_text(encoding="utf-8"))
    wait_for(lambda: not alive(child), what="the child gone")


def test_an_interruption_stops_it(tmp_path: Path) -> None:
    cancelled = threading.Event()
    threading.Timer(0.3, cancelled.set).start()
    began = time.monotonic()
    outcome = command.probe(("sleep", "100"), context(tmp_path), Attempt(60, cancelled))
    assert "interrupted" in outcome.detail
    assert time.monotonic() - began < 5


def test_output_without_end_is_kept_only_in_part() -> None:
    script = "import sys\nfor i in range(200_000): print('line', i)\nsys.exit(1)"
    outcome = run(sys.executable, "-c", script)
    assert "line 199999" in outcome.detail
    assert len(outcome.detail) < 500


def test_secrets_of_its_environment_are_not_shown(tmp_path: Path) -> None:
    environ = {
        "PATH": os.environ["PATH"],
        "VERCEL_TOKEN": SECRETS["APP_KEY"],
        "DATABASE_URL": "postgres://me:hunter22@db/app",
    }
    lent = context(tmp_path, environ=environ)
    argv = ("sh", "-c", 'echo "$VERCEL_TOKEN $DATABASE_URL hunter22@db"; exit 1')
    detail = lent.line(command.probe(argv, lent, attempt()).detail)
    assert SECRETS["APP_KEY"] not in detail
    assert "postgres://me:hunter22" not in detail
