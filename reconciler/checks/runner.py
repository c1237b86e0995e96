"""Runs checks side by side, each tried again until it passes or its time is over.

One thread a check: a slow one holds up no other, and the whole ends as soon as all have passed. A
try that does not come back in time (a name server that hangs) is left behind after a short grace,
never waited for.
"""

from __future__ import annotations

import importlib
import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, cast

from reconciler.checks.base import Attempt, CheckContext, CheckResult, Outcome, failed
from reconciler.core.errors import ReconcilerError

if TYPE_CHECKING:
    from reconciler.core.spec_verify import Check

#: Seconds by which a try may overrun its timeout before it is left behind (stopping a command takes
#: two).
GRACE = 3.0
#: Seconds that any try gets at least, however little is left.
SHORTEST = 0.05

Probe = Callable[[Any, CheckContext, Attempt], Outcome]
_Answer = tuple[int, CheckResult | BaseException]


def run_checks(
    checks: Sequence[Check],
    context: CheckContext,
    timeout: float,
    *,
    once: Collection[str] = (),
) -> list[CheckResult]:
    """Runs all checks at the same time.

    Args:
        checks: What to run.
        context: What they are lent.
        timeout: Seconds after which no further try is begun, and within which a try has to end.
        once: Names of checks that are tried once only.

    Returns:
        One result a check, in the order given, as soon as the last one is known.

    Raises:
        BaseException: Whatever a check raised that is no answer: a bug in this program, or an
            interruption.
    """
    cancelled = threading.Event()
    answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
    began = time.monotonic()
    threads = []
    for index, check in enumerate(checks):
        single = _Single(check, context, began + timeout, cancelled, once=check.name in once)
        thread = threading.Thread(
            target=_work, args=(index, single, answers), name=f"check {check.name}", daemon=True
        )
        thread.start()
        threads.append(thread)
    try:
        return _gather(checks, context, answers, began + timeout)
    except BaseException:
        # Commands have to be stopped before anybody leaves.
        cancelled.set()
        until = time.monotonic() + GRACE
        for thread in threads:
            thread.join(timeout=max(0.0, until - time.monotonic()))
        raise
    finally:
        cancelled.set()


def _gather(
    checks: Sequence[Check],
    context: CheckContext,
    answers: queue.SimpleQueue[_Answer],
    deadline: float,
) -> list[CheckResult]:
    results: dict[int, CheckResult] = {}
    while len(results) < len(checks):
        try:
            index, answer = answers.get(timeout=max(0.0, deadline + GRACE - time.monotonic()))
        except queue.Empty:
            break
        if isinstance(answer, BaseException):
            raise answer
        results[index] = answer
        if not answer.passed:
            context.progress(f"check {answer.name}: {answer.detail}")
    for index, check in enumerate(checks):
        if index not in results:
            detail = "a try did not come back, and was left behind"
            results[index] = CheckResult(
                name=check.name,
                kind=check.kind,
                passed=False,
                detail=detail,
                attempts=1,
                duration=0.0,
                at=context.clock.now(),
            )
    return [results[index] for index in range(len(checks))]


def _work(index: int, single: _Single, answers: queue.SimpleQueue[_Answer]) -> None:
    try:
        answers.put((index, single.run()))
    except BaseException as exc:  # noqa: BLE001 - handed to the caller's thread, which raises it
        answers.put((index, exc))


class _Single:
    """One check in its thread."""

    def __init__(
        self,
        check: Check,
        context: CheckContext,
        deadline: float,
        cancelled: threading.Event,
        *,
        once: bool,
    ) -> None:
        self._check = check
        self._context = context
        self._deadline = deadline
        self._cancelled = cancelled
        self._tries = 1 if once else None if check.retries is None else check.retries + 1
        self._probe = probe_of(check.kind)

    def run(self) -> CheckResult:
        """Tries until it passes, or until there is no sense or no time left in trying again."""
        began, attempts = time.monotonic(), 0
        while True:
            attempts += 1
            outcome = self._once()
            if outcome.passed or outcome.final or attempts == self._tries:
                break
            pause = self._check.interval.seconds
            if time.monotonic() + pause >= self._deadline or self._cancelled.wait(pause):
                break
        return CheckResult(
            name=self._check.name,
            kind=self._check.kind,
            passed=outcome.passed,
            detail=self._context.line(outcome.detail),
            attempts=attempts,
            duration=round(time.monotonic() - began, 3),
            at=self._context.clock.now(),
        )

    def _once(self) -> Outcome:
        left = max(SHORTEST, self._deadline - time.monotonic())
        own = self._check.timeout.seconds if self._check.timeout else left
        try:
            return self._probe(
                spec_of(self._check), self._context, Attempt(min(own, left), self._cancelled)
            )
        except ReconcilerError as exc:
            # A secret that is not there, a database that cannot be reached.
            return failed(exc.message)


def probe_of(kind: str) -> Probe:
    """The function of a kind. Its module, and the library behind it, are loaded on first use."""
    return cast("Probe", importlib.import_module(f"reconciler.checks.{kind}").probe)


def spec_of(check: Check) -> object:
    """The part of a check that belongs to its kind."""
    return getattr(check, check.kind)
