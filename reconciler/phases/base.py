"""What every phase is lent, and what it answers. The engine makes one `Work` for each run and hands it down."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from reconciler.core.certificate import CheckVerdict
from reconciler.core.clock import Clock
from reconciler.core.conditions import Reason
from reconciler.core.crashpoints import CrashPoint
from reconciler.core.errors import PolicyRefusedError, ReconcilerError
from reconciler.core.facts import Goal
from reconciler.core.phase import Phase, Trigger
from reconciler.core.plan import Step
from reconciler.core.redact import Redactor
from reconciler.core.spec import Spec
from reconciler.core.status import Failure, Run
from reconciler.targets.base import TargetMap

if TYPE_CHECKING:
    from reconciler.audit.journal import Journal

#: Announces a crash point of an effect. Does nothing outside tests.
Probe = Callable[[CrashPoint, str], None]


class Reporter(Protocol):
    """Shows a person what is going on. Told after the fact is on record."""

    def step_started(self, step: Step) -> None:
        """A step's intent is durable."""

    def step_finished(self, step: Step, note: str, seconds: float) -> None:
        """A step's result is durable."""

    def waiting(self, message: str) -> None:
        """What is being waited for right now."""

    def note(self, message: str) -> None:
        """Something worth a line of its own."""


class Checker(Protocol):
    """Runs the spec's checks."""

    def once(self) -> tuple[CheckVerdict, ...]:
        """Each quick check once, without waiting for it to pass (commands are left out)."""

    def until_passed(self, lenient: Collection[str] = ()) -> tuple[CheckVerdict, ...]:
        """Every check, tried again until it passes or `verify.timeout` is over; lenient ones are tried once."""

    def soak(self) -> tuple[CheckVerdict, ...]:
        """Watches for `verify.soak`; failed verdicts only when more failed than its limit allows."""


@dataclass(frozen=True, slots=True)
class Work:
    """What phases work with."""

    journal: Journal
    spec: Spec
    targets: TargetMap
    checker: Checker
    clock: Clock
    states: Path
    redactor: Redactor
    reporter: Reporter
    probe: Probe

    @property
    def run(self) -> Run:
        """The present run."""
        run = self.journal.status.run
        assert run is not None, "phases work inside a run"
        return run

    @property
    def goal(self) -> Goal:
        """The resolved goal of the present leg."""
        goal = self.run.goal
        assert goal is not None, "capture resolves the goal before anything else is asked of it"
        return goal

    @property
    def captures(self) -> Path:
        """The folder for artifacts of the present leg: what one leg has saved, another never overwrites."""
        return self.states / "captures" / self.spec.name / self.run.id / f"leg-{self.run.leg}"


@dataclass(frozen=True, slots=True)
class Moved:
    """A phase is done: what moves the environment, why, and what is recorded with it."""

    trigger: Trigger
    reason: Reason
    message: str = ""
    body: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """A phase could not do its work.

    Attributes:
        failure: What failed.
        whole: Whether every wanted fact is in place all the same (only a check failed).
    """

    failure: Failure
    whole: bool = False


PhaseResult = Moved | Failed


def failure_of(phase: Phase, exc: ReconcilerError, reason: Reason | None = None) -> Failure:
    """A failure from an error of ours."""
    code = (
        Reason.POLICY_REFUSED
        if isinstance(exc, PolicyRefusedError)
        else reason or (Reason.PREFLIGHT_FAILED if phase is Phase.CAPTURE else Reason.STEP_FAILED)
    )
    return Failure(phase=phase, reason=code, message=exc.message, hint=exc.hint)
