"""The spec's checks as the phases ask for them: once, until they pass, and through the soak."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.checks.runner import run_checks
from reconciler.checks.soak import SoakResult, watch
from reconciler.core.certificate import CheckVerdict

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from reconciler.checks.base import CheckContext, CheckResult
    from reconciler.core.spec_verify import Verify

#: Seconds for a look at the checks before anything is touched.
QUICK = 5.0


class SpecChecker:
    """Runs what `spec.verify` declares.

    Args:
        verify: Checks, time-out and soak.
        context: What checks are lent.
    """

    def __init__(self, verify: Verify, context: CheckContext) -> None:
        self._verify = verify
        self._context = context

    def once(self) -> tuple[CheckVerdict, ...]:
        """Each quick check once, without waiting for it to pass (commands are left out)."""
        quick = [check for check in self._verify.checks if check.kind != "command"]
        names = [check.name for check in quick]
        return _verdicts(run_checks(quick, self._context, QUICK, once=names))

    def until_passed(self, lenient: Collection[str] = ()) -> tuple[CheckVerdict, ...]:
        """Every check, tried again until it passes or `verify.timeout` is over.

        Args:
            lenient: Names of checks that are tried once only.
        """
        seconds = self._verify.timeout.seconds
        return _verdicts(run_checks(self._verify.checks, self._context, seconds, once=lenient))

    def soak(self) -> tuple[CheckVerdict, ...]:
        """Watches for `verify.soak`: one verdict with the figures, none when no soak is declared."""
        result = self.watched()
        if result is None:
            return ()
        detail = self._context.line(result.detail)
        return (CheckVerdict(name="soak", kind="soak", passed=result.passed, detail=detail),)

    def watched(self, started: datetime | None = None, failures: int = 0) -> SoakResult | None:
        """The soak itself; None when none is declared.

        Args:
            started: When it began, if it goes on after an interruption.
            failures: Rounds that had failed before that.
        """
        soak = self._verify.soak
        if soak is None:
            return None
        context = self._context
        return watch(
            soak, self._round, context.clock, context.progress, started=started, failures=failures
        )

    def _round(self) -> Sequence[CheckResult]:
        names = [check.name for check in self._verify.checks]
        return run_checks(
            self._verify.checks, self._context, self._verify.timeout.seconds, once=names
        )


def _verdicts(results: Sequence[CheckResult]) -> tuple[CheckVerdict, ...]:
    return tuple(
        CheckVerdict(name=item.name, kind=item.kind, passed=item.passed, detail=item.detail)
        for item in results
    )
