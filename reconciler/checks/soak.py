"""The soak: a release that passed once is watched for a while, round after round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.core.duration import Duration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from reconciler.checks.base import CheckResult
    from reconciler.core.clock import Clock
    from reconciler.core.spec_verify import Soak


@dataclass(frozen=True, slots=True)
class SoakResult:
    """How a soak ended.

    Attributes:
        passed: Whether no more rounds failed than the limit allows.
        started: When the first round of it began (UTC).
        rounds: Rounds run.
        failures: Rounds in which a check failed.
        detail: The figures, and what failed last, in one line.
        last: Results of the last round that failed; of the last one at all when none did.
    """

    passed: bool
    started: datetime
    rounds: int
    failures: int
    detail: str
    last: Sequence[CheckResult]


def watch(
    soak: Soak,
    run_round: Callable[[], Sequence[CheckResult]],
    clock: Clock,
    progress: Callable[[str], None] = lambda _: None,
    *,
    started: datetime | None = None,
    failures: int = 0,
) -> SoakResult:
    """Runs rounds until the duration is over, or more have failed than the limit allows.

    A round begins one interval after the one before it began, or at once when that one took longer.
    The last begins when the duration is over, so that its end is what was seen last.

    Args:
        soak: Duration, interval and limit.
        run_round: Tries every check once.
        clock: Wall clock, monotonic clock and waiting.
        progress: Told before each wait how far it is.
        started: When this soak began, if it goes on after an interruption; a time to come counts as
            now.
        failures: Rounds that had failed before the interruption.
    """
    now = clock.now()
    started = min(started, now) if started else now
    end = clock.monotonic() - (now - started).total_seconds() + soak.duration.seconds
    due = min(clock.monotonic() + soak.interval.seconds, end)
    rounds = 0
    broken: Sequence[CheckResult] = ()
    while True:
        if (wait := due - clock.monotonic()) > 0:
            progress(_figures(soak, rounds, failures, end - clock.monotonic()))
            clock.sleep(wait)
        began = clock.monotonic()
        results = run_round()
        rounds += 1
        if not all(result.passed for result in results):
            failures, broken = failures + 1, results
        over = failures > soak.failure_limit
        if over or due >= end:
            last = broken or results
            detail = _detail(soak, rounds, failures, last)
            return SoakResult(not over, started, rounds, failures, detail, last)
        # The last round is never skipped: what is certified is what was seen at the end.
        due = min(max(began + soak.interval.seconds, clock.monotonic()), end)


def _detail(soak: Soak, rounds: int, failures: int, last: Sequence[CheckResult]) -> str:
    detail = f"{rounds} rounds in {soak.duration}, {failures} failed (limit {soak.failure_limit})"
    broken = [f"{result.name}: {result.detail}" for result in last if not result.passed]
    if broken:
        detail += "; last: " + "; ".join(broken)
    return detail


def _figures(soak: Soak, rounds: int, failures: int, left: float) -> str:
    span = Duration.of(float(max(1, round(left))))
    return f"soak: {rounds} rounds, {failures} failed (limit {soak.failure_limit}), {span} left"
