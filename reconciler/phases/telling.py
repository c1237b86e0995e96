"""Showing progress must not hold up a run: a terminal that went away is told nothing more, and the run goes on."""

from __future__ import annotations

from collections.abc import Callable

from reconciler.core.plan import Step
from reconciler.phases.base import Reporter


class Unbroken:
    """A reporter that falls silent for good when the other end of its stream is gone.

    Args:
        reporter: The one that shows things.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter: Reporter | None = reporter

    def step_started(self, step: Step) -> None:
        """A step's intent is durable."""
        self._tell(lambda reporter: reporter.step_started(step))

    def step_finished(self, step: Step, note: str, seconds: float) -> None:
        """A step's result is durable."""
        self._tell(lambda reporter: reporter.step_finished(step, note, seconds))

    def waiting(self, message: str) -> None:
        """What is being waited for right now."""
        self._tell(lambda reporter: reporter.waiting(message))

    def note(self, message: str) -> None:
        """Something worth a line of its own."""
        self._tell(lambda reporter: reporter.note(message))

    def _tell(self, what: Callable[[Reporter], None]) -> None:
        if self._reporter is None:
            return
        try:
            what(self._reporter)
        except OSError:
            self._reporter = None
