"""Running checks side by side, within one deadline."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.checks import command, runner
from reconciler.checks.base import Attempt, CheckContext, CheckResult, Outcome, failed, passed
from reconciler.checks.runner import run_checks
from reconciler.core.errors import TargetUnavailableError
from tests.checks.support import SECRETS, check, context

if TYPE_CHECKING:
    from reconciler.core.spec_verify import Check


class Kind:
    """A kind of check that behaves as told; counts its tries."""

    def __init__(self, *outcomes: Outcome | BaseException, hang: float = 0.0) -> None:
        self.outcomes = list(outcomes)
        self.hang = hang
        self.tries: list[float] = []
        self.released = threading.Event()

    def __call__(self, spec: Any, lent: CheckContext, attempt: Attempt) -> Outcome:
        self.tries.append(attempt.timeout)
        if self.hang:
            self.released.wait(self.hang)
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> dict[str, Kind]:
    table: dict[str, Kind] = {}
    monkeypatch.setattr(runner, "probe_of", lambda kind: table[kind])
    return table


def a(kind: str = "tcp", **more: Any) -> Check:
    spec: Any = {
        "tcp": {"host": "x", "port": 1},
        "http": {"url": "http://x/"},
        "command": ["true"],
    }[kind]
    return check(kind, spec, **{"interval": "10ms", **more})


def run(*checks: Check, timeout: float = 5.0, **more: Any) -> list[CheckResult]:
    return run_checks(checks, context(), timeout, **more)


def test_all_passing_returns_at_once(kinds: dict[str, Kind]) -> None:
    kinds["tcp"] = Kind(passed("yes"))
    began = time.monotonic()
    results = run(*(a(name=f"c{n}") for n in range(20)), timeout=60)
    assert time.monotonic() - began < 1
    assert [result.name for result in results] == [f"c{n}" for n in range(20)]
    assert all(result.passed and result.attempts == 1 for result in results)


def test_it_is_tried_again_until_it_passes(kinds: dict[str, Kind]) -> None:
    kinds["tcp"] = Kind(failed("no"), failed("no"), passed("yes"))
    (result,) = run(a())
    assert (result.passed, result.attempts, result.detail) == (True, 3, "yes")
    assert result.duration >= 0.02


def test_retries_bound_the_tries(kinds: dict[str, Kind]) -> None:
    kinds["tcp"] = Kind(failed("no"))
    assert [run(a(retries=n))[0].attempts for n in (0, 2)] == [1, 3]


def test_the_deadline_bounds_the_tries(kinds: dict[str, Kind]) -> None:
    kinds["tcp"] = Kind(failed("no"))
    began = time.monotonic()
    (result,) = run(a(), timeout=0.2)
    assert time.monotonic() - began < 1
    assert not result.passed
    assert result.attempts > 1


def test_a_failure_that_cannot_change_is_not_tried_again(kinds: dict[str, Kind]) -> None:
    kinds["tcp"] = Kind(failed("never", final=True))
    assert run(a())[0].attempts == 1


def test_lenient_checks_are_tried_once(kinds: dict[str, Kind]) -> None:
    kinds["tcp"] = Kind(failed("no"))
    kinds["http"] = Kind(failed("no"), passed("yes"))
    first, second = run(a(name="one"), a("http", name="two"), once=["one"])
    assert (first.attempts, second.attempts) == (1, 2)


def test_a_slow_check_holds_up_no_other(kinds: dict[str, Kind]) -> None:
    kinds["tcp"] = Kind(passed("late"), hang=0.3)
    kinds["http"] = Kind(failed("no"), passed("yes"))
    began = time.monotonic()
    assert all(result.passed for result in run(*[a(name=f"s{n}") for n in range(5)], a("http")))
    assert time.monotonic() - began < 1


def test_its_own_timeout_and_what_is_left_bound_a_try(kinds: dict[str, Kind]) -> None:
    kinds["tcp"] = Kind(passed("yes"))
    run(a(timeout="100ms"), timeout=5)
    run(a(timeout="1h"), timeout=5)
    run(a(), timeout=5)
    assert kinds["tcp"].tries[0] == pytest.approx(0.1)
    assert all(4 < seconds <= 5 for seconds in kinds["tcp"].tries[1:])


def test_a_try_that_never_comes_back_is_left_behind(
    kinds: dict[str, Kind], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "GRACE", 0.1)
    kinds["tcp"] = kind = Kind(passed("too late"), hang=30)
    began = time.monotonic()
    (result,) = run(a(), timeout=0.1)
    assert time.monotonic() - began < 2
    assert not result.passed
    assert "did not come back" in result.detail
    kind.released.set()


def test_an_error_of_ours_is_a_failure_and_is_tried_again(kinds: dict[str, Kind]) -> None:
    kinds["tcp"] = Kind(TargetUnavailableError("The database is away."), passed("yes"))
    assert run(a())[0].attempts == 2


def test_a_bug_is_not_swallowed(kinds: dict[str, Kind]) -> None:
    kinds["tcp"] = Kind(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        run(a())


def test_details_are_one_line_without_secrets(kinds: dict[str, Kind]) -> None:
    lent = context()
    lent.redactor.learn(SECRETS["APP_KEY"])
    kinds["tcp"] = Kind(failed(f"got\n{SECRETS['APP_KEY']}\x1b[31m" + "x" * 1000, final=True))
    (result,) = run_checks([a()], lent, 5)
    assert SECRETS["APP_KEY"] not in result.detail
    assert "\n" not in result.detail
    assert "\x1b" not in result.detail
    assert len(result.detail) <= 400


def test_a_missing_secret_is_a_failed_check() -> None:
    spec = {"url": "http://127.0.0.1:1/", "headers": {"Authorization": {"env": "ABSENT"}}}
    (result,) = run(check("http", spec, retries=0))
    assert "the secret in env ABSENT is empty or missing" in result.detail


def test_an_interruption_stops_commands(tmp_path: Path) -> None:
    class InterruptError(BaseException):
        pass

    def interrupt(_: str) -> None:
        raise InterruptError

    lent = context(tmp_path, progress=interrupt)
    script = "echo $$ > pid; exec sleep 100"
    checks = [
        check("command", ["sh", "-c", script], name="long"),
        check("tcp", {"host": "127.0.0.1", "port": 1}, name="short", retries=10, interval="50ms"),
    ]
    began = time.monotonic()
    with pytest.raises(InterruptError):
        run_checks(checks, lent, 60)
    assert time.monotonic() - began < 10
    pid = int((tmp_path / "pid").read_text(encoding="utf-8"))
    assert not Path(f"/proc/{pid}").exists()


def test_progress_tells_what_failed(kinds: dict[str, Kind]) -> None:
    said: list[str] = []
    kinds["tcp"] = Kind(failed("got nothing", final=True))
    run_checks([a(name="door")], context(progress=said.append), 5)
    assert said == ["check door: got nothing"]


@pytest.mark.parametrize("kind", ["http", "tcp", "command", "sql", "redis", "container"])
def test_every_kind_has_its_file(kind: str) -> None:
    assert callable(runner.probe_of(kind))
    assert runner.probe_of("command") is command.probe
