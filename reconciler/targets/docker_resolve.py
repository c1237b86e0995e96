"""From pins to the wanted facts of the containers: what Compose would start at the target commit, on which images.

Reads only. Called by `docker` when a goal is resolved; what it finds is kept with the goal, so nothing here runs again
while services are down.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from reconciler.core.errors import PreflightError
from reconciler.core.facts import (
    COMPLETED,
    HEALTHY,
    RUNNING,
    Observation,
    Resolution,
    Wanted,
    service_config,
    service_image,
    service_state,
    volume_restored,
)
from reconciler.core.pins import DockerPins, ServicePin
from reconciler.targets.compose import Rendering, Service
from reconciler.targets.containers import Container, Containers
from reconciler.targets.docker_materials import (
    Materials,
    NowMaterial,
    ServiceMaterial,
    VolumeMaterial,
)
from reconciler.targets.images import Image, Images, is_digest

_STATE_PREFIX, _STATE_SUFFIX = "docker.service.", ".state"
_ENDS = {None, "", "no", "on-failure"}


@dataclass
class _Choice:
    """The image a service shall run.

    Attributes:
        image: It, when it is here.
        detail: A human's word for it.
        pull: Reference to be pulled.
        build: To be built.
    """

    image: Image | None
    detail: str
    pull: str | None = None
    build: bool = False

    def inherited(self) -> _Choice:
        """The same image, made ready for another service."""
        return _Choice(self.image, self.detail)


@dataclass
class Resolver:
    """Resolves pins against one rendered project.

    Attributes:
        rendering: The project at the target commit.
        images: The engine's images.
        project: The project's name.
        commit: The target commit; None when Git is not declared.
        declared: Services the spec names.
        dormant: Services of profiles that are not active, where one of them was met.
        choices: The image of each service, filled while resolving.
    """

    rendering: Rendering
    images: Images
    project: str
    commit: str | None
    declared: Collection[str]
    dormant: Collection[str] = ()
    choices: dict[str, _Choice] = field(default_factory=dict)

    def resolve(
        self, pins: DockerPins, observed: Observation, now: Mapping[str, NowMaterial]
    ) -> Resolution:
        """The wanted facts and the materials.

        Raises:
            PreflightError: A pin cannot be met.
            TransientError: The engine cannot be reached.
        """
        self._require_known(pins)
        active = [
            name for name in self.rendering.services if _replicas(self.rendering.services[name])
        ]
        pinned = {name: pin for name, pin in pins.services.items() if name in active}
        self._choose_pinned(pinned)
        owners = {self.rendering.reference(name): name for name in sorted(pinned, reverse=True)}
        rest = [name for name in active if name not in self.choices]
        found = Containers.parallel(lambda name: self._inherit(name, owners), rest)
        self.choices.update(zip(rest, found, strict=True))
        wanted = [
            want
            for name in active
            for want in self._wanted(name, best_effort=name in pins.best_effort)
        ]
        wanted += [
            Wanted(key=key)
            for name in self._gone(observed, active)
            for key in (service_image(name), service_config(name), service_state(name))
        ]
        volumes = {name: self._volume(name, pins) for name in pins.volumes}
        wanted += [
            Wanted(key=volume_restored(name), value=each.sha256, detail=each.path)
            for name, each in volumes.items()
        ]
        services = {name: self._material(name, pins, owners) for name in active}
        materials = Materials(commit=self.commit, services=services, volumes=volumes, now=now)
        dumped: JsonValue = materials.model_dump(mode="json")
        return Resolution(wanted=tuple(wanted), materials=dumped)

    def _require_known(self, pins: DockerPins) -> None:
        known = {*self.rendering.services, *self.dormant}
        for name in pins.services:
            if name in self.declared and name not in known:
                raise PreflightError(
                    f"The spec names the service {name}, and the compose files{self._place()} have none of that name.",
                    hint="Take it out of spec.docker.services, or choose a commit that has it.",
                )

    def _place(self) -> str:
        return f" at {self.commit[:12]}" if self.commit else ""

    def _choose(self, name: str, pin: ServicePin) -> _Choice:
        reference = self.rendering.reference(name)
        if pin.build:
            choice = self._built(name, pin)
        else:
            wanted = pin.image or reference
            choice = _Choice(self.images.look(wanted), wanted)
            if choice.image is None:
                if wanted.startswith("sha256:"):
                    raise PreflightError(
                        f"The image {wanted[:19]} wanted for {name} is no longer on the engine.",
                        hint="Load it again, or pin a tag that can be pulled, or build: true.",
                    )
                choice.pull = wanted
        if is_digest(reference):
            fixed = self.images.find(reference)
            if choice.image is None or fixed != choice.image.id:
                raise PreflightError(
                    f"The compose files{self._place()} start {name} by digest ({reference[:60]}), so it cannot be "
                    "pointed at another image.",
                    hint="Name it by tag in the compose file, or take its pin out of the spec.",
                )
        return choice

    def _built(self, name: str, pin: ServicePin) -> _Choice:
        if self.commit is None:
            raise PreflightError(
                f"{name} is to be built from a commit, and spec.git is not declared."
            )
        if not self.rendering.services[name].get("build"):
            raise PreflightError(
                f"{name} is to be built, and the compose files{self._place()} give it no build section.",
                hint="Pin an image that exists instead.",
            )
        detail = f"built from {self.commit[:12]}"
        image = self.images.built(self.project, name, self.commit, no_cache=pin.no_cache)
        return _Choice(self.images.look(image) if image else None, detail, build=image is None)

    def _choose_pinned(self, pinned: Mapping[str, ServicePin]) -> None:
        """One choice for each reference: services started from the same one get the same image."""
        names = sorted(pinned)
        owners: dict[str, str] = {}
        for name in names:
            owners.setdefault(self.rendering.reference(name), name)
        owner_of = {name: owners[self.rendering.reference(name)] for name in names}
        own = [
            name
            for name in names
            if owner_of[name] == name or pinned[name] != pinned[owner_of[name]]
        ]
        found = Containers.parallel(lambda name: self._choose(name, pinned[name]), own)
        self.choices = dict(zip(own, found, strict=True))
        for name in names:
            owner = owner_of[name]
            mine = self.choices.setdefault(name, self.choices[owner].inherited())
            if owner != name and mine.image != self.choices[owner].image:
                raise PreflightError(
                    f"{owner} and {name} are both started from {self.rendering.reference(name)}, "
                    "and are pinned to different images.",
                    hint="Give them image names of their own in the compose file, or the same pin.",
                )

    def _inherit(self, name: str, owners: Mapping[str, str]) -> _Choice:
        """The image of a service without a pin: what its reference names, now or once it is re-pointed."""
        reference = self.rendering.reference(name)
        if reference in owners:
            return self.choices[owners[reference]].inherited()
        image = self.images.look(reference)
        if image is None:
            raise PreflightError(
                f"The image {reference} of the service {name} is not on the engine.",
                hint=f"Pull or build it, or name {name} in spec.docker.services.",
            )
        return _Choice(image, reference)

    def _wanted(self, name: str, *, best_effort: bool) -> list[Wanted]:
        choice = self.choices[name]
        image = choice.image
        wanted = [
            Wanted(
                key=service_image(name),
                value=image.id if image else None,
                pending=image is None,
                detail=choice.detail,
            ),
            Wanted(key=service_config(name), value=self.rendering.hashes[name]),
        ]
        if not best_effort:
            state = self._state(name)
            pending = state is None and image is None
            checked = HEALTHY if image and image.checks_health else RUNNING
            value = None if pending else state or checked
            wanted.append(Wanted(key=service_state(name), value=value, pending=pending))
        return wanted

    def _state(self, name: str) -> str | None:
        """The state a service shall come to; None when its image decides whether there is a healthcheck."""
        service = self.rendering.services[name]
        if service.get("restart") in _ENDS and any(
            self.rendering.depends_on(other).get(name) == "service_completed_successfully"
            for other in self.rendering.services
        ):
            return COMPLETED
        check = service.get("healthcheck")
        if not check:
            return None
        test = check.get("test")
        if check.get("disable") or test == ["NONE"]:
            return RUNNING
        return HEALTHY if test else None

    def _gone(self, observed: Observation, active: Sequence[str]) -> list[str]:
        """Services that run and that the goal does not have; those of inactive profiles are left alone."""
        present = [
            key[len(_STATE_PREFIX) : -len(_STATE_SUFFIX)]
            for key, fact in observed.facts.items()
            if key.startswith(_STATE_PREFIX)
            and key.endswith(_STATE_SUFFIX)
            and fact.value is not None
        ]
        return sorted(name for name in present if name not in active and name not in self.dormant)

    def _volume(self, name: str, pins: DockerPins) -> VolumeMaterial:
        engine_name = self.rendering.volume(name)
        if engine_name is None:
            raise PreflightError(
                f"The spec restores the volume {name}, and the compose files{self._place()} have no such volume.",
                hint="Name it as the `volumes` section of the compose file does.",
            )
        pin = pins.volumes[name]
        return VolumeMaterial(
            engine_name=engine_name, path=pin.path, sha256=pin.sha256, own=pin.own
        )

    def _material(self, name: str, pins: DockerPins, owners: Mapping[str, str]) -> ServiceMaterial:
        choice, reference = self.choices[name], self.rendering.reference(name)
        shares = tuple(
            other
            for other in self.rendering.services
            if other != name
            and other in self.choices
            and self.rendering.reference(other) == reference
        )
        pin = pins.services.get(name)
        return ServiceMaterial(
            reference=reference,
            pull=choice.pull,
            build=choice.build,
            no_cache=bool(pin and pin.no_cache),
            shares=shares if owners.get(reference) == name else (),
            depends_on=self.rendering.depends_on(name),
            needs_compose=self.rendering.needs_compose(name),
            follows=tuple(self.rendering.follows(name)),
            volumes=tuple(sorted(self.rendering.mounted(name))),
            best_effort=name in pins.best_effort,
        )


def now_of(
    containers: Sequence[Container], graces: Mapping[str, float], ignoring: Collection[str]
) -> dict[str, NowMaterial]:
    """How services run at this moment, for summaries.

    Args:
        containers: The project's containers.
        graces: Seconds of grace by container id.
        ignoring: Services whose first process does not handle its stop signal.
    """
    slowest: dict[str, float] = {}
    for each in containers:
        slowest[each.service] = max(slowest.get(each.service, 0.0), graces.get(each.id, 10.0))
    return {
        name: NowMaterial(grace=grace, ignores_stop=name in ignoring)
        for name, grace in slowest.items()
    }


def _replicas(service: Service) -> int:
    scale = service.get("scale")
    if scale is None:
        scale = (service.get("deploy") or {}).get("replicas")
    return 1 if scale is None else int(scale)
