"""Taking services down, and pointing references at other images. Called by `docker`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from reconciler.core.crashpoints import CrashPoint
from reconciler.core.errors import StepFailedError
from reconciler.core.facts import Fact
from reconciler.targets.base import Applied
from reconciler.targets.containers import Container, Containers, about
from reconciler.targets.images import Images

if TYPE_CHECKING:
    from reconciler.core.plan import Step
    from reconciler.targets.base import ApplyContext


class Stop:
    """Applies the steps that take services down and re-point references.

    Args:
        containers: The project's containers.
        images: The engine's images.
        facts: Facts from a list of containers.
    """

    def __init__(
        self,
        containers: Containers,
        images: Images,
        *,
        facts: Callable[[Sequence[Container]], list[Fact]],
    ) -> None:
        self._containers = containers
        self._images = images
        self._facts = facts

    def stop(self, step: Step, context: ApplyContext) -> Applied:
        """Takes services down, dependents first, and removes containers that mount what is to be restored.

        Raises:
            StepFailedError: One of them still runs.
        """
        levels = [list(map(str, level)) for level in _sequence(step.args["levels"])]
        volumes = frozenset(map(str, _sequence(step.args["volumes"])))
        found = self._containers.all()
        mounting = {each.service for each in found if each.volumes & volumes}
        named = {name for level in levels for name in level}
        removed = mounting | set(map(str, _sequence(step.args["remove"])))
        levels.insert(
            0, sorted(removed - named)
        )  # whoever else mounts it, whatever the compose file says
        touched = named | removed
        self._containers.traits(each for each in found if each.service in touched and not each.down)
        context.guard()
        context.at(CrashPoint.MID_EFFECT)
        for level in levels:
            running = [each for each in found if each.service in level and not each.down]
            self._containers.parallel(self._containers.stop, running)
        self._containers.parallel(
            self._containers.remove, [each for each in found if each.service in removed]
        )
        context.at(CrashPoint.APPLIED_UNREAD)
        left = self._containers.all()
        if alive := [each.name for each in left if each.service in touched and not each.down]:
            raise StepFailedError(
                f"{', '.join(alive)} still runs after it was stopped.",
                hint="Find out what starts it again, then `reconciler resume`.",
            )
        return Applied(facts=about(touched, self._facts(left)))

    def retag(self, step: Step, context: ApplyContext) -> Applied:
        """Points the reference Compose starts a service from at the wanted image.

        Raises:
            StepFailedError: The engine refuses.
        """
        moved = self._images.retag(str(step.args["reference"]), str(step.args["image"]), context)
        return Applied(note="" if moved else "already so")


def _sequence(value: object) -> Sequence[Any]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()
