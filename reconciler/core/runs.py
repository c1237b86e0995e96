"""How a run begins: where the environment shall go, and what is known before anything is touched. Pure."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from typing import Any

from reconciler.core.conditions import Reason
from reconciler.core.decide import Begin
from reconciler.core.facts import GIT_DIRTY, Goal, Observation
from reconciler.core.phase import Phase, Trigger
from reconciler.core.pins import Pins
from reconciler.core.spec import Spec
from reconciler.core.status import EnvironmentStatus, Run
from reconciler.core.vectors import differs, pins_from_spec


def effective(status: EnvironmentStatus, spec: Spec, generation: int) -> tuple[Pins, bool]:
    """Where the environment shall go, and whether that goal was never pursued before."""
    held = status.override if status.override and status.override.generation == generation else None
    pins = held.pins if held else pins_from_spec(spec, status.last_known_good)
    pursued = status.run if status.phase is Phase.STALLED else status.resolved
    fresh = pursued is None or pursued.generation != generation or pursued.pins != pins
    return pins, fresh


def new_run(  # noqa: PLR0917 - all of them are what a run consists of
    status: EnvironmentStatus,
    begin: Begin,
    pins: Pins,
    goal: Goal | None,
    observed: Observation,
    now: datetime,
) -> Run:
    """The run that begins now, with the vector that leads back from it."""
    run = Run(
        id=f"{now:%Y%m%d-%H%M%S}-{sha256(f'{status.environment} {now.isoformat()}'.encode()).hexdigest()[:6]}",
        cause=begin.cause,
        rollback=goes_back(status, goal),
        generation=status.generation,
        started=now,
        phase_started=now,
        pins=pins,
        goal=goal,
        **way_back(observed),
    )
    old = status.run
    if begin.trigger is Trigger.RESUMED and old is not None and old.touched:
        # Production may be a mixture now: what was captured before it was first touched stays the way back.
        run = run.model_copy(
            update={
                "leg": old.leg + 1, "before": old.before, "before_details": old.before_details,
                "effects": old.effects, "artifacts": old.artifacts, "checks_before": old.checks_before,
                "compensating": bool(status.held and status.held.reason is Reason.COMPENSATED),
                "rollback": old.rollback, "outage_started": old.outage_started, "failure": old.failure,
            }
        )  # fmt: skip
    return run


def way_back(observed: Observation) -> dict[str, Any]:
    """The fields of a run that say where it leads back to: what was seen before anything was touched.

    What could not be read is left out: None would mean "known to be absent", and be restored as such.
    """
    facts = [fact for _, fact in sorted(observed.facts.items()) if fact.known]
    return {
        "before": {fact.key: fact.value for fact in facts if fact.key != GIT_DIRTY},
        "before_details": {fact.key: fact.detail for fact in facts if fact.detail},
    }


def goes_back(status: EnvironmentStatus, goal: Goal | None) -> bool:
    """Whether a goal is a release that was verified before."""
    if goal is None:
        return False
    wanted = {key: want.value for key, want in goal.wanted.items()}
    return any(
        not differs({key: point.vector.get(key) for key in wanted}, wanted)
        for point in status.recovery_points
    )
