"""The declared targets taken together: one look, one goal, one plan. Called by the engine, the phases and `look`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from reconciler.core.clock import Clock
from reconciler.core.drift import compare
from reconciler.core.errors import TerminalError
from reconciler.core.facts import TARGET_ORDER, Goal, Observation
from reconciler.core.phase import WORK_ORDER, Phase
from reconciler.core.pins import Pins
from reconciler.core.plan import Plan, Step
from reconciler.core.vectors import settled
from reconciler.targets.base import Target, TargetMap


def ordered(targets: TargetMap) -> list[Target]:
    """The declared targets in the order in which they are planned."""
    return [targets[name] for name in TARGET_ORDER if name in targets]


def observe(targets: TargetMap, clock: Clock) -> Observation:
    """Looks at all targets at once."""
    with ThreadPoolExecutor(max_workers=max(1, len(targets)), thread_name_prefix="observe") as pool:
        seen = [
            fact
            for facts in pool.map(lambda target: target.observe(), ordered(targets))
            for fact in facts
        ]
    return Observation.of(clock.now(), seen)


def seen_again(targets: TargetMap, clock: Clock, observed: Observation, goal: Goal) -> Observation:
    """The observation, taken anew when the goal names something that nobody had heard of when it was taken.

    A service that only the target commit has is such a thing: once its name is known, it is observed as absent.
    """
    unheard = any(key not in observed.facts for key in goal.wanted)
    return observe(targets, clock) if unheard else observed


def resolve(targets: TargetMap, pins: Pins, observed: Observation) -> Goal:
    """Resolves pins into a goal, target by target; each sees what those before it have resolved.

    Raises:
        ReconcilerError: A pin cannot be met, or cannot be looked up now.
    """
    goal = Goal()
    for target in ordered(targets):
        resolution = target.resolve(pins, observed, goal)
        goal = Goal(
            wanted={**goal.wanted, **{want.key: want for want in resolution.wanted}},
            materials={**goal.materials, target.name: resolution.materials},
        )
    return goal


def as_it_is_now(targets: TargetMap, pins: Pins, observed: Observation, goal: Goal) -> Goal:
    """A goal that was reached before, resolved anew if production has drifted away from it.

    What is wanted stays what it was; how to get there (files to run, services to touch) is by what is there now. When
    that cannot be found out, the goal stays as it was, and capture says what is in the way.
    """
    if compare(goal, observed).equal:
        return goal
    try:
        return resolve(targets, settled(pins, goal), observed)
    except TerminalError:
        return goal


def plan(
    targets: TargetMap, observed: Observation, goal: Goal, phases: Sequence[Phase] = WORK_ORDER
) -> Plan:
    """The steps of the given phases.

    When a volume is restored, what the database holds afterwards is not what was observed, and the server that holds it
    may be down: its steps are left to the next walk, after verify has read it again. The same goes for a database that
    could not be read.
    """
    steps: list[Step] = []
    for phase in phases:
        here: list[Step] = []
        for target in ordered(targets):
            readable = all(fact.known for fact in observed.of_target(target.name))
            if target.name == "database" and (not readable or _restores_volume(phase, here)):
                continue
            here.extend(target.plan(phase, observed, goal))
        steps.extend(here)
    return Plan.ordered(steps)


def _restores_volume(phase: Phase, steps: Sequence[Step]) -> bool:
    return phase is Phase.RESTORE and any(step.action == "restore-volume" for step in steps)
