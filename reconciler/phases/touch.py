"""What stop, restore and start have in common: plan one phase, apply its steps, add what they have made true."""

from __future__ import annotations

from reconciler.core.conditions import Reason
from reconciler.core.decide import services_down
from reconciler.core.errors import LeaseLostError, LedgerError, ReconcilerError
from reconciler.core.facts import Observation
from reconciler.core.phase import Phase, Trigger
from reconciler.phases.base import Failed, Moved, PhaseResult, Work, failure_of
from reconciler.phases.runner import run_steps
from reconciler.targets.together import plan


def touch(
    work: Work, phase: Phase, observed: Observation, done: Trigger
) -> tuple[PhaseResult, Observation]:
    """Applies the steps of one phase that changes production.

    Returns:
        What moves the environment on, and the observation with the facts the steps have made true. That observation is
        good enough to plan the next phase by: looking at everything again while services are down would only
        lengthen the outage. Verify looks at the world itself.
    """
    try:
        observed = _with_database_as_it_is(work, phase, observed)
        made = run_steps(work, phase, plan(work.targets, observed, work.goal, (phase,)).steps)
    except (LeaseLostError, LedgerError):
        raise
    except ReconcilerError as exc:
        return Failed(failure_of(phase, exc)), observed
    return Moved(done, Reason.PHASE_DONE), observed.merged(made)


def _with_database_as_it_is(work: Work, phase: Phase, observed: Observation) -> Observation:
    """The observation, with the database read again once services are down: it may be one of them.

    Then it cannot be read, and nothing is planned for it now: the walk that follows finds it up again.
    """
    database = work.targets.get("database")
    if phase is not Phase.RESTORE or database is None or not services_down(observed):
        return observed
    return observed.merged(database.observe())
