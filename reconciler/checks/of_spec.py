"""A spec's checks, as the verify phase asks for them: once, until they pass, and through the soak."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from reconciler.checks.base import CheckContext, CheckResult
from reconciler.checks.runner import run_checks
from reconciler.checks.soak import watch
from reconciler.core.certificate import CheckVerdict
from reconciler.core.spec_verify import Check, Verify

#: Seconds a check gets when it is looked at once, before anything is touched or when there is nothing to do.
_QUICK = 3.0


@dataclass(frozen=True, slots=True)
class SpecChecker:
    """Runs the checks of one spec.

    Attributes:
        verify: The spec's section.
        context: What checks are lent.
    """

    verify: Verify
    context: CheckContext

    def once(self) -> tuple[CheckVerdict, ...]:
        """Each check once; commands, which may take minutes or change something, are left out."""
        quick = [check for check in self.verify.checks if check.command is None]
        return _verdicts(self._run(quick, _QUICK, once=[check.name for check in quick]))

    def until_passed(self, lenient: Collection[str] = ()) -> tuple[CheckVerdict, ...]:
        """Every check, tried again until it passes or `verify.timeout` is over; lenient ones are tried once."""
        return _verdicts(self._run(self.verify.checks, self.verify.timeout.seconds, once=lenient))

    def soak(self) -> tuple[CheckVerdict, ...]:
        """Watches for `verify.soak`: one verdict for the whole of it."""
        soak = self.verify.soak
        if soak is None:
            return ()
        names = [check.name for check in self.verify.checks]
        result = watch(
            soak,
            lambda: self._run(self.verify.checks, self.verify.timeout.seconds, once=names),
            self.context.clock,
            self.context.progress,
        )
        return (CheckVerdict(name="soak", kind="soak", passed=result.passed, detail=result.detail),)

    def _run(
        self, checks: Sequence[Check], timeout: float, *, once: Collection[str]
    ) -> list[CheckResult]:
        return run_checks(checks, self.context, timeout, once=once) if checks else []


def _verdicts(results: Sequence[CheckResult]) -> tuple[CheckVerdict, ...]:
    return tuple(
        CheckVerdict(name=result.name, kind=result.kind, passed=result.passed, detail=result.detail)
        for result in results
    )
