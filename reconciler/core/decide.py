"""What to do next, as pure functions of what is known. Phases do it, the machine moves; nobody else decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.core import facts as f
from reconciler.core.conditions import Reason
from reconciler.core.drift import Drift, Verdict
from reconciler.core.facts import Fact, Goal, Observation
from reconciler.core.phase import RUN_PHASES, Phase, Trigger
from reconciler.core.spec import Policy
from reconciler.core.status import Cause, EnvironmentStatus, Failure, Run

#: States of a service that does what it shall, or is about to.
_UP = frozenset({f.HEALTHY, f.RUNNING, f.COMPLETED, "starting"})


@dataclass(frozen=True, slots=True)
class Begin:
    """A run shall begin.

    Attributes:
        trigger: What moves the environment.
        cause: Why.
        reason: Its code.
        message: One sentence.
    """

    trigger: Trigger
    cause: Cause
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing shall be done.

    Attributes:
        message: Why.
    """

    message: str


def at_rest(
    status: EnvironmentStatus, drift: Drift | None, *, fresh: bool, resume: bool
) -> Begin | Rest:
    """What to do with an environment that is not in a run.

    Args:
        status: Its status (phase new, stable or stalled).
        drift: The comparison with the goal; None when the goal could not be resolved, which capture will then explain.
        fresh: Whether the goal is one that was never pursued (a new generation, a rollback just asked for).
        resume: Whether a human asked to go on.
    """
    if status.phase in RUN_PHASES:
        raise AssertionError("a run is under way")
    if status.phase is Phase.STALLED:
        if resume:
            return Begin(
                Trigger.RESUMED, Cause.RESUME, Reason.RESUMED, "A human resumed the environment."
            )
        if fresh:
            return Begin(
                Trigger.RESUMED, Cause.SPEC, Reason.SPEC_CHANGED, "A new goal came while stalled."
            )
        return Rest("Stalled: a human must act.")
    new = status.phase is Phase.NEW
    cause = Cause.FIRST_SIGHT if new else Cause.SPEC if fresh else Cause.DRIFT
    reason = {
        Cause.FIRST_SIGHT: Reason.FIRST_SIGHT,
        Cause.SPEC: Reason.SPEC_CHANGED,
        Cause.DRIFT: Reason.DRIFT,
    }[cause]
    if drift is not None and drift.equal:
        if new or fresh:
            return Begin(
                Trigger.MATCHES, cause, reason, "Production already equals the goal; verifying."
            )
        return Rest("Nothing to do.")
    if drift is None:
        return Begin(Trigger.DRIFTED, cause, reason, "The goal is not resolved yet.")
    names = ", ".join(fact.key for fact in drift.differing[:4])
    more = len(drift.differing) - 4
    return Begin(
        Trigger.DRIFTED,
        cause,
        reason,
        f"Differs: {names}{f' and {more} more' if more > 0 else ''}.",
    )


def after_failure(
    run: Run, phase: Phase, policy: Policy, *, whole: bool, failure: Failure
) -> Trigger:
    """What follows a failure inside a run: compensate or stall.

    Args:
        run: The run.
        phase: The phase it failed in.
        policy: The spec's policy.
        whole: Whether every wanted fact is in place (only a check failed).
        failure: What failed.
    """
    if phase is Phase.APPROVE or run.compensating or policy.on_failure == "halt":
        return Trigger.STALL
    # A capture that fails leaves production as it is: untouched, or the mixture that an earlier walk has made.
    if failure.reason is Reason.INTERNAL_ERROR or not run.touched:
        return Trigger.STALL
    if whole and run.rollback:
        return Trigger.STALL  # nobody wants to be taken back to the broken release
    return Trigger.COMPENSATE


def verify_again(run: Run, policy: Policy, drift: Drift) -> bool:
    """Whether facts that still differ after a whole walk are worth another one.

    A walk that had to leave the database for the next one was none of its tries.
    """
    if drift.unknown:
        return False
    tries = policy.max_attempts + bool(drift.having(Verdict.PENDING))
    return run.attempt < tries


def needs_approval(policy: Policy, run: Run, *, data_loss: bool) -> bool:
    """Whether a human must say yes before production is touched. A compensation never waits for one."""
    if run.compensating or run.approved_by:
        return False
    match policy.approval:
        case "always":
            return True
        case "data-loss":
            return data_loss
        case _:
            return False


def compensation_verdict(failed: Sequence[str], before: Sequence[str]) -> tuple[str, ...]:
    """Checks that count against a compensation: those that fail now and did not fail before the run began."""
    return tuple(name for name in failed if name not in before)


def services_down(observed: Observation) -> bool:
    """Whether a service was seen that does not run."""
    return any(
        key.endswith(".state") and fact.known and fact.value not in _UP
        for key, fact in observed.facts.items()
    )


def blocking(goal: Goal | None, observed: Observation, *, waiting: bool = False) -> Fact | None:
    """The first fact that could not be read and without which nothing may be done; None when one may act.

    A database that runs as one of the containers cannot be read while they are down in the middle of a run. That must
    not keep them from being started again: verify reads it afterwards, and nothing is granted without it.

    Args:
        goal: The resolved goal; None while there is none.
        observed: The world.
        waiting: Whether a database may wait for services that are down whatever the goal says of them: production was
            touched already, or a human asked to go on.
    """
    down = waiting and services_down(observed)
    for key, want in goal.wanted.items() if goal else ():
        fact = observed.get(key)
        down = down or (key.endswith(".state") and fact.known and fact.value != want.value)
    for key in sorted(observed.facts):
        fact = observed.facts[key]
        if not fact.known and not (down and f.target_of(key) == "database"):
            return fact
    return None


def changed_since_capture(run: Run, observed: Observation) -> Failure | None:
    """Whether somebody changed production between the capture and the first touch, so that the capture no longer fits.

    Only before anything was touched; afterwards the differences are our own.
    """
    if run.touched or run.compensating:
        return None
    changed = [
        key
        for key, value in run.before.items()
        if not key.endswith(".state") and key != f.GIT_HEAD and observed.value(key) != value
    ]
    if not changed:
        return None
    return Failure(
        phase=Phase.STOP,
        reason=Reason.NOT_CONVERGED,
        message=f"Production changed after the capture ({', '.join(changed[:4])}); nothing was touched.",
        hint="`reconciler resume` captures it anew and goes on.",
    )
