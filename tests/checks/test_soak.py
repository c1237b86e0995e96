"""The soak on a clock of its own, and the checker that the phases are given."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.checks.base import CheckResult
from reconciler.checks.checker import SpecChecker
from reconciler.checks.soak import SoakResult, watch
from reconciler.core.spec_verify import Soak, Verify
from tests.checks.support import context

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

START = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)


class FakeClock:
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return 1000.0 + self.seconds

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.seconds += seconds


class Rounds:
    """Rounds that end as told, each taking a while; notes when they began."""

    def __init__(self, clock: FakeClock, outcomes: Sequence[bool], takes: float = 0.0) -> None:
        self.clock, self.outcomes, self.takes = clock, list(outcomes), takes
        self.began: list[float] = []

    def __call__(self) -> list[CheckResult]:
        self.began.append(self.clock.seconds)
        self.clock.seconds += self.takes
        good = self.outcomes.pop(0) if self.outcomes else True
        return [CheckResult("health", "http", good, "got 503", 1, 0.0, START)]


def soak(duration: str = "10m", interval: str = "1m", limit: int = 0) -> Soak:
    return Soak.model_validate({"duration": duration, "interval": interval, "failureLimit": limit})


def watched(
    spec: Soak, outcomes: Sequence[bool] = (), takes: float = 0.0, **more: Any
) -> tuple[SoakResult, Rounds, FakeClock]:
    clock = FakeClock()
    rounds = Rounds(clock, outcomes, takes)
    return watch(spec, rounds, clock, **more), rounds, clock


def test_it_lasts_as_long_as_was_asked_and_looks_at_the_very_end() -> None:
    result, rounds, clock = watched(soak())
    assert result.passed
    assert clock.seconds == 600
    assert rounds.began == [60.0 * n for n in range(1, 11)]
    assert result.rounds == 10


def test_an_uneven_interval_still_ends_with_a_look() -> None:
    _, rounds, _ = watched(soak("10m", "4m"))
    assert rounds.began == [240, 480, 600]


def test_rounds_longer_than_the_interval_follow_each_other() -> None:
    result, rounds, _ = watched(soak("10m", "1m"), takes=150)
    assert result.passed
    assert rounds.began == [60, 210, 360, 510, 660]


@pytest.mark.parametrize(
    ("limit", "failures", "good"), [(0, 1, False), (1, 1, True), (1, 2, False)]
)
def test_it_fails_when_more_failed_than_the_limit(limit: int, failures: int, good: object) -> None:
    result, _, _ = watched(soak(limit=limit), [True, *[False] * failures])
    assert result.passed is good
    assert f"{failures} failed (limit {limit}); last: health: got 503" in result.detail


def test_it_fails_as_soon_as_it_is_certain() -> None:
    result, rounds, _ = watched(soak(), [True, False])
    assert not result.passed
    assert len(rounds.began) == 2


def test_it_goes_on_where_it_was_interrupted() -> None:
    result, rounds, _ = watched(soak(), started=START - timedelta(minutes=8))
    assert result.rounds == 2
    assert rounds.began == [60, 120]
    assert result.started == START - timedelta(minutes=8)


def test_interrupted_for_longer_than_it_lasts_it_looks_once_more() -> None:
    result, rounds, _ = watched(soak(), started=START - timedelta(hours=3))
    assert rounds.began == [0]
    assert result.passed


def test_failures_before_the_interruption_count() -> None:
    more: dict[str, Any] = {"started": START - timedelta(minutes=8), "failures": 1}
    assert not watched(soak(limit=1), [False], **more)[0].passed
    assert watched(soak(limit=2), [False], **more)[0].passed


def test_a_start_in_the_future_counts_as_now() -> None:
    _, _, clock = watched(soak(), started=START + timedelta(days=1))
    assert clock.seconds == 600


def test_it_tells_how_far_it_is() -> None:
    said: list[str] = []
    watched(soak(limit=1), [True, False], progress=said.append)
    assert said[0] == "soak: 0 rounds, 0 failed (limit 1), 10m left"
    assert said[2] == "soak: 2 rounds, 1 failed (limit 1), 8m left"


@given(
    duration=st.integers(1, 10_000),
    interval=st.integers(1, 10_000),
    takes=st.floats(0, 100),
    outcomes=st.lists(st.booleans(), max_size=50),
    limit=st.integers(0, 5),
    ago=st.floats(0, 20_000),
)
def test_whatever_happens_it_ends_in_time_and_judges_by_the_limit(
    *, duration: int, interval: int, takes: float, outcomes: list[bool], limit: int, ago: float
) -> None:
    spec = Soak.model_validate(
        {
            "duration": f"{max(duration, interval)}s",
            "interval": f"{min(duration, interval)}s",
            "failureLimit": limit,
        }
    )
    if spec.duration.seconds / spec.interval.seconds > 500:
        return
    result, rounds, clock = watched(spec, outcomes, takes, started=START - timedelta(seconds=ago))
    assert result.rounds == len(rounds.began) >= 1
    assert result.passed is (result.failures <= limit)
    assert clock.seconds <= spec.duration.seconds + 2 * takes + 0.001
    if result.passed:
        assert rounds.began[-1] >= spec.duration.seconds - ago - 0.001


VERIFY = {
    "timeout": "5s",
    "checks": [
        {"name": "door", "tcp": {"host": "127.0.0.1", "port": 1}, "retries": 1, "interval": "1ms"},
        {"name": "made", "command": ["sh", "-c", "echo x >> made"]},
    ],
    "soak": {"duration": "2m", "interval": "1m", "failureLimit": 5},
}


def test_the_checker_leaves_commands_out_of_a_quick_look(tmp_path: Path) -> None:
    checker = SpecChecker(Verify.model_validate(VERIFY), context(tmp_path))
    assert [(item.name, item.kind, item.passed) for item in checker.once()] == [
        ("door", "tcp", False)
    ]
    assert not (tmp_path / "made").exists()


def test_the_checker_runs_everything_and_soaks(tmp_path: Path) -> None:
    checker = SpecChecker(Verify.model_validate(VERIFY), context(tmp_path, clock=FakeClock()))
    assert [(item.name, item.passed) for item in checker.until_passed()] == [
        ("door", False),
        ("made", True),
    ]
    (verdict,) = checker.soak()
    assert verdict.passed
    assert "2 rounds in 2m, 2 failed (limit 5)" in verdict.detail
    assert (tmp_path / "made").read_text(encoding="utf-8") == "x\n" * 3


def test_no_soak_is_no_verdict(tmp_path: Path) -> None:
    assert SpecChecker(Verify(), context(tmp_path)).soak() == ()
    assert SpecChecker(Verify(), context(tmp_path)).once() == ()
