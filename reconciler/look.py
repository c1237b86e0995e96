"""One look without any intent to act: what `plan` shows, and how `apply` finds that there is nothing to do.

Takes no lease, writes nothing, and keeps clear of the ledger's writing side, whose libraries take longer to
load than the whole look takes.
"""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.core.clock import Clock
from reconciler.core.drift import Drift, compare
from reconciler.core.facts import Goal, Observation
from reconciler.core.phase import Phase
from reconciler.core.pins import Pins
from reconciler.core.plan import Plan
from reconciler.core.runs import effective
from reconciler.core.spec import Spec
from reconciler.core.status import EnvironmentStatus
from reconciler.core.vectors import settled
from reconciler.targets.base import TargetMap
from reconciler.targets.together import as_it_is_now, observe, plan, resolve, seen_again


@dataclass(frozen=True, slots=True)
class Look:
    """What one look without any intent to act has found.

    Attributes:
        status: The environment's status.
        generation: The generation this spec is, or would become.
        pins: Where it shall go.
        fresh: Whether that goal was never pursued.
        observed: The world.
        goal: The resolved goal.
        drift: The comparison.
        plan: Every step that would be taken; empty while something cannot be read, for that blocks.
    """

    status: EnvironmentStatus
    generation: int
    pins: Pins
    fresh: bool
    observed: Observation
    goal: Goal
    drift: Drift
    plan: Plan


def look(
    status: EnvironmentStatus, spec: Spec, digest: str, targets: TargetMap, clock: Clock
) -> Look:
    """Looks at the world and plans.

    Raises:
        ReconcilerError: The goal cannot be resolved.
    """
    generation = status.generation + (digest != status.spec_digest)
    pins, fresh = effective(status, spec, generation)
    observed = observe(targets, clock)
    run = status.run
    if status.phase is Phase.STALLED and not fresh and run is not None:  # where `resume` would go
        goal = resolve(
            targets, settled(pins, run.goal) if run.goal and run.touched else pins, observed
        )
    elif fresh or status.resolved is None:
        goal = resolve(targets, pins, observed)
    else:
        goal = as_it_is_now(targets, pins, observed, status.resolved.goal)
    observed = seen_again(targets, clock, observed, goal)
    drift = compare(goal, observed)
    steps = Plan() if drift.unknown else plan(targets, observed, goal)
    return Look(status, generation, pins, fresh, observed, goal, drift, steps)
