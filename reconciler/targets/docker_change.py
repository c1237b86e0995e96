"""What differs between production and the goal, worked out once for all phases. Pure. Called by `docker_plan`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from reconciler.core.facts import (
    COMPLETED,
    HEALTHY,
    RUNNING,
    Goal,
    Observation,
    service_config,
    service_image,
    service_state,
    target_of,
    volume_restored,
)
from reconciler.targets.containers import STARTING, is_down
from reconciler.targets.docker_materials import Materials, ServiceMaterial

TARGET = "docker"
_SERVICE, _STATE = "docker.service.", ".state"
#: States that time alone turns into the wanted one.
_SETTLING = {STARTING, RUNNING, HEALTHY}


@dataclass(frozen=True)
class Change:
    """What differs, worked out once for all phases.

    Attributes:
        materials: The goal's materials.
        observed: The world.
        goal: The goal.
        affected: Services that are taken down, or up, or both.
        gone: Services whose containers are to vanish.
        volumes: Volumes to be restored, by the spec's name.
        recreated: Services that get new containers.
        quiet: Services that are kept down because the database changes.
    """

    materials: Materials
    observed: Observation
    goal: Goal
    affected: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    recreated: frozenset[str] = frozenset()
    quiet: frozenset[str] = frozenset()

    @property
    def empty(self) -> bool:
        """Whether nothing is to be done."""
        return not (self.affected or self.gone or self.volumes)

    def differs(self, key: str) -> bool:
        """Whether a wanted fact is not (yet) as wanted."""
        wanted = self.goal.wanted.get(key)
        if wanted is None:
            return False
        fact = self.observed.get(key)
        return wanted.pending or not fact.known or fact.value != wanted.value

    def state(self, service: str) -> str | None:
        """A service's present state."""
        return self.observed.value(service_state(service))

    @property
    def replaced(self) -> list[str]:
        """Services that run another image now; where none runs, `up` sees to the reference."""
        return [
            name
            for name in self.affected
            if self.differs(service_image(name))
            and self.observed.value(service_image(name)) is not None
        ]

    @property
    def emptied(self) -> list[str]:
        """Services of the goal that mount a volume which is restored."""
        names = {self.materials.volumes[name].engine_name for name in self.volumes}
        services = self.materials.services
        return [name for name in services if names.intersection(services[name].volumes)]

    @property
    def stopping(self) -> list[str]:
        """Services that must be down before anything is restored, and are not. What time alone mends is left alone."""
        return [
            name
            for name in (*self.affected, *self.gone)
            if not is_down(self.state(name))
            and (
                name in self.recreated
                or name in self.quiet
                or name in self.gone
                or self.state(name) not in _SETTLING
            )
        ]


def change(observed: Observation, goal: Goal, pinned: Iterable[str]) -> Change:
    """Works out what differs.

    Args:
        observed: The world.
        goal: The goal.
        pinned: Services the spec names: they are kept down while the database changes.
    """
    materials = Materials.model_validate(goal.materials.get(TARGET) or {})
    bare = Change(materials, observed, goal)
    volumes = tuple(name for name in materials.volumes if bare.differs(volume_restored(name)))
    database = any(bare.differs(key) for key in goal.wanted if target_of(key) == "database")
    quiet = frozenset(
        name
        for name in pinned
        if database and name in materials.services and bare.state(name) != COMPLETED
    )
    found = replace(bare, volumes=volumes, quiet=quiet)
    recreated = {name for name in materials.services if _recreated(found, name)}
    while more := _following(materials.services, recreated) - recreated:
        recreated |= more
    affected = {name for name in materials.services if _differs(found, name)} | quiet | recreated
    gone = tuple(
        name
        for key, wanted in sorted(goal.wanted.items())
        if wanted.value is None and not wanted.pending and (name := _service_of(key))
        if found.state(name) is not None
    )
    return replace(
        found, affected=tuple(sorted(affected)), gone=gone, recreated=frozenset(recreated)
    )


def _service_of(key: str) -> str | None:
    if key.startswith(_SERVICE) and key.endswith(_STATE):
        return key[len(_SERVICE) : -len(_STATE)]
    return None


def _differs(found: Change, name: str) -> bool:
    keys = (service_image(name), service_config(name), service_state(name))
    if any(map(found.differs, keys)):
        return True
    # Not waited for, but not left lying either: it was stopped by us, or never came up.
    return found.materials.services[name].best_effort and is_down(found.state(name))


def _recreated(found: Change, name: str) -> bool:
    keys = (service_image(name), service_config(name))
    return any(map(found.differs, keys)) or name in found.emptied


def _following(services: Mapping[str, ServiceMaterial], moved: set[str]) -> set[str]:
    return {name for name, service in services.items() if moved.intersection(service.follows)}
