"""Looking at a project's containers and volumes: one list call where nothing is unusual. Called by `docker`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from reconciler.core.errors import ReconcilerError
from reconciler.core.facts import (
    Fact,
    service_config,
    service_image,
    service_state,
    volume_restored,
)
from reconciler.targets.compose import Compose, Rendering
from reconciler.targets.containers import Container, Containers
from reconciler.targets.docker_memory import Alias, Memory

#: Says that the engine itself could not be asked; only there when it could not.
ENGINE = "docker.engine"


class ReadsVolumes(Protocol):
    """What is needed of the store of volumes."""

    def observe(self, volume: str) -> Fact:
        """What a volume was last restored from, by its engine name."""


class Observer:
    """Reads the docker target's facts.

    Args:
        containers: The project's containers.
        compose: The project.
        memory: What is remembered of it.
        volumes: The store of volumes; None when the spec names none.
        services: Services the spec names.
        volume_names: Volumes the spec names.
        render: Renders the working tree.
    """

    def __init__(
        self,
        containers: Containers,
        compose: Compose,
        memory: Memory,
        *,
        volumes: ReadsVolumes | None,
        services: Collection[str],
        volume_names: Collection[str],
        render: Callable[[], Rendering],
    ) -> None:
        self._containers = containers
        self._compose = compose
        self._memory = memory
        self._volumes = volumes
        self._services = frozenset(services)
        self._volume_names = tuple(volume_names)
        self._render = render

    def observe(self) -> list[Fact]:
        """Facts of all services and declared volumes. What cannot be read is unknown, with the reason."""
        try:
            found = self._first_look() if self._memory.blank else self._containers.all()
            return [*self.facts(found), *self._volume_facts()]
        except ReconcilerError as exc:
            return self._unknown(exc.message)

    def facts(self, containers: Sequence[Container]) -> list[Fact]:
        """Facts of the services, from a list of containers."""
        names = self._services | self._memory.services
        facts = self._containers.facts(containers, names)
        sharing = self._memory.sharing & {each.service for each in containers}
        return self._canonical(facts, containers, sharing) if sharing else facts

    def _first_look(self) -> list[Container]:
        """Lists while the working tree is rendered: its services are known then, also those without containers."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            rendering = pool.submit(self._render)
            found = self._containers.all()
            self._learn(rendering.result)
        return found

    def _learn(self, render: Callable[[], Rendering]) -> Rendering | None:
        try:
            rendering = render()
        except ReconcilerError:
            return None  # a broken compose file: resolving the goal says so, in its place
        self._memory.learn(rendering, {name: rendering.volume(name) for name in self._volume_names})
        return rendering

    def _canonical(
        self, facts: Sequence[Fact], containers: Sequence[Container], sharing: Collection[str]
    ) -> list[Fact]:
        """Config hashes without the container ids Compose puts into those of services that share namespaces."""
        ids = {each.service: each.id for each in reversed(containers)}
        keys = {service_config(name): name for name in sharing}
        labels = {
            keys[fact.key]: fact.value
            for fact in facts
            if fact.key in keys and fact.value is not None
        }
        known = {name: self._memory.canonical(name, label, ids) for name, label in labels.items()}
        if any(value is None for value in known.values()) and (
            rendering := self._learn(self._render)
        ):
            beside = self._compose.hashes_beside(rendering, ids)
            for name in [name for name, value in known.items() if value is None]:
                if beside.get(name) == labels[name]:
                    others = {
                        other: ids[other] for other in rendering.follows(name) if other in ids
                    }
                    known[name] = rendering.hashes[name]
                    alias = Alias(
                        label=labels[name], others=others, canonical=rendering.hashes[name]
                    )
                    self._memory.learn_alias(name, alias)
        return [
            fact.model_copy(update={"value": known[keys[fact.key]]})
            if fact.key in keys and known.get(keys[fact.key])
            else fact
            for fact in facts
        ]

    def _volume_facts(self) -> list[Fact]:
        if not self._volume_names or self._volumes is None:
            return []
        if any(self._memory.volume(name) is None for name in self._volume_names):
            self._learn(self._render)
        store = self._volumes

        def read(name: str) -> Fact:
            engine_name = self._memory.volume(name) or f"{self._compose.project}_{name}"
            return store.observe(engine_name).model_copy(update={"key": volume_restored(name)})

        return list(self._containers.parallel(read, self._volume_names))

    def _unknown(self, why: str) -> list[Fact]:
        names = sorted(self._services | self._memory.services)
        keys = [ENGINE, *(volume_restored(name) for name in self._volume_names)]
        for name in names:
            keys += [service_image(name), service_config(name), service_state(name)]
        return [Fact(key=key, unknown=why.rstrip(".")) for key in keys]
