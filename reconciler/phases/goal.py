"""From pins to a goal: resolved once for a run, except for the part of a database that could not be asked.

A database that runs as one of the containers cannot be read while they are down. Its wanted version is then left
pending: the services are started, verify sees that a fact is pending, and the next walk resolves it and goes the rest
of the way. Called by the passes and by capture.
"""

from __future__ import annotations

from collections.abc import Iterable

from reconciler.core import facts as f
from reconciler.core.decide import services_down
from reconciler.core.drift import Verdict, compare
from reconciler.core.errors import TransientError
from reconciler.core.facts import Goal, Observation, Resolution, Wanted
from reconciler.core.pins import Pins
from reconciler.targets.base import Target, TargetMap
from reconciler.targets.together import ordered

_DATABASE = "database"


def resolved(
    targets: TargetMap, pins: Pins, observed: Observation, *, waiting: bool = False
) -> Goal:
    """Resolves pins into a goal, target by target; each sees what those before it have resolved.

    Args:
        targets: The declared targets.
        pins: Where to go.
        observed: The world now.
        waiting: Whether a database that cannot be asked while services are down may wait until they are up.

    Raises:
        ReconcilerError: A pin cannot be met, or cannot be looked up now.
    """
    return _added(Goal(), ordered(targets), pins, observed, waiting=waiting)


def with_database(targets: TargetMap, pins: Pins, observed: Observation, goal: Goal) -> Goal:
    """The goal with its database's part resolved anew by what is observed now.

    Raises:
        ReconcilerError: The database's pin cannot be met, or it cannot be asked now.
    """
    kept = {key: want for key, want in goal.wanted.items() if f.target_of(key) != _DATABASE}
    rest = goal.model_copy(update={"wanted": kept})
    return _added(rest, [targets[_DATABASE]], pins, observed, waiting=False)


def database_is_open(goal: Goal, observed: Observation, *, again: bool) -> bool:
    """Whether the database's part of a goal is still to be resolved.

    Args:
        goal: The goal.
        observed: The world now.
        again: Whether the whole way was walked before: a volume that was restored on it may hold another version than
            the one the way was planned from.
    """
    if not all(fact.known for fact in observed.of_target(_DATABASE)):
        return False
    mine = [fact for fact in compare(goal, observed).facts if f.target_of(fact.key) == _DATABASE]
    wrong = {Verdict.PENDING, Verdict.DIFFERS} if again else {Verdict.PENDING}
    return any(fact.verdict in wrong for fact in mine)


def _added(
    goal: Goal, targets: Iterable[Target], pins: Pins, observed: Observation, *, waiting: bool
) -> Goal:
    for target in targets:
        try:
            resolution = target.resolve(pins, observed, goal)
        except TransientError:
            if target.name != _DATABASE or not waiting or not services_down(observed):
                raise
            resolution = Resolution(wanted=(Wanted(key=f.DATABASE_VERSION, pending=True),))
        goal = Goal(
            wanted={**goal.wanted, **{want.key: want for want in resolution.wanted}},
            materials={**goal.materials, target.name: resolution.materials},
        )
    return goal
