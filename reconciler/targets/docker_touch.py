"""The docker target's changes: stop, re-point, bring up, and wait until it is well.

Services are down from the first stop until the last health check, so the engine is asked as little as possible in
between, stops run side by side, and health is polled closely. Called by `docker`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from reconciler.core.crashpoints import CrashPoint
from reconciler.core.errors import StepFailedError
from reconciler.core.facts import COMPLETED, HEALTHY, Fact, service_state
from reconciler.targets.base import Applied
from reconciler.targets.compose import Compose
from reconciler.targets.containers import DEAD, RESTARTING, UNHEALTHY, Container, Containers
from reconciler.targets.docker_host import DockerHost, short
from reconciler.targets.images import Images

if TYPE_CHECKING:
    from reconciler.core.plan import Step
    from reconciler.targets.base import ApplyContext

_FIRST_WAIT, _LONGEST_WAIT, _GROWTH = 0.05, 0.25, 1.2
_TELL_EVERY = 1.0
_MOST_RESTARTS = 3
_LOG_LINES, _LOG_WIDTH, _HEALTH_WIDTH = 12, 240, 160
#: The name Compose gives a new container until the old one is gone.
_HALF_RECREATED = re.compile(r"^[0-9a-f]{12}_(?P<name>.+)$")


class Changes:
    """Applies the steps that touch production.

    Args:
        host: The engine.
        containers: The project's containers.
        images: The engine's images.
        compose: The project.
        facts: Facts from a list of containers.
        timeout: Seconds services are given to become healthy.
        redact: Takes known secrets out of a text.
    """

    def __init__(
        self,
        host: DockerHost,
        containers: Containers,
        images: Images,
        compose: Compose,
        *,
        facts: Callable[[Sequence[Container]], list[Fact]],
        timeout: float,
        redact: Callable[[str], str],
    ) -> None:
        self._host = host
        self._containers = containers
        self._images = images
        self._compose = compose
        self._facts = facts
        self._timeout = timeout
        self._redact = redact

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
            self._containers.parallel(self._stop_one, running)
        self._containers.parallel(
            self._remove_one, [each for each in found if each.service in removed]
        )
        context.at(CrashPoint.APPLIED_UNREAD)
        left = self._containers.all()
        if alive := [each.name for each in left if each.service in touched and not each.down]:
            raise StepFailedError(
                f"{', '.join(alive)} still runs after it was stopped.",
                hint="Find out what starts it again, then `reconciler resume`.",
            )
        return Applied(facts=self._about(touched, left))

    def _stop_one(self, container: Container) -> None:
        from docker.errors import NotFound

        api = self._containers.client().api
        grace = self._containers.traits([container]).get(container.id)
        seconds = int(grace.grace) if grace and grace.grace >= 0 else None
        with self._host.errors(f"stop {container.name}", changing=True), suppress(NotFound):
            if container.state == "paused":
                api.unpause(container.id)
            api.stop(container.id, timeout=seconds)

    def _remove_one(self, container: Container) -> None:
        from docker.errors import NotFound

        with self._host.errors(f"remove {container.name}", changing=True), suppress(NotFound):
            self._containers.client().api.remove_container(container.id)

    def retag(self, step: Step, context: ApplyContext) -> Applied:
        """Points the reference Compose starts a service from at the wanted image.

        Raises:
            StepFailedError: The engine refuses.
        """
        moved = self._images.retag(str(step.args["reference"]), str(step.args["image"]), context)
        return Applied(note="" if moved else "already so")

    def up(self, step: Step, context: ApplyContext) -> Applied:
        """Brings services up and waits until each is as wanted.

        Raises:
            StepFailedError: One does not start, or does not become healthy in time.
            TransientError: The engine cannot be reached.
        """
        services = list(map(str, _sequence(step.args["services"])))
        gone = frozenset(map(str, _sequence(step.args["remove"])))
        wait = {name: str(state) for name, state in _mapping(step.args["wait"]).items()}
        deadline = time.monotonic() + self._timeout
        self._repoint(_mapping(step.args["images"]), context)
        vanishing = (
            [each for each in self._containers.all() if each.service in gone] if gone else []
        )
        context.guard()
        context.at(CrashPoint.MID_EFFECT)
        self._containers.parallel(self._remove_one, vanishing)
        if services:
            self._compose_up(services, context)
        context.at(CrashPoint.APPLIED_UNREAD)
        left = self._wait(wait, deadline, context)
        self._mend_names(left, set(services))
        return Applied(facts=self._about({*services, *gone}, left))

    def _repoint(self, images: Mapping[str, Any], context: ApplyContext) -> None:
        """Re-points references that name another image all the same: Compose would start that one."""
        references = sorted(images)
        found = self._containers.parallel(self._images.find, references)
        for reference, image in zip(references, found, strict=True):
            if image != images[reference]:
                context.guard()
                self._images.tag(str(images[reference]), reference)

    def _compose_up(self, services: Sequence[str], context: ApplyContext) -> None:
        try:
            self._compose.up(services, context.progress, timeout=self._timeout)
        except StepFailedError as exc:
            listed = [each for each in self._containers.all() if each.service in services]
            bad = next((each for each in listed if self._failed(each, HEALTHY)), None)
            said = self._last_lines(bad) if bad else ""
            raise StepFailedError(f"{exc.message}{said}", hint=exc.hint) from exc

    def _wait(
        self, wanted: Mapping[str, str], deadline: float, context: ApplyContext
    ) -> list[Container]:
        """Polls until every service is in its state; gives the last list."""
        pause, told = _FIRST_WAIT, 0.0
        while True:
            found = self._containers.all()
            states = {fact.key: fact.value for fact in self._containers.facts(found, wanted)}
            waiting = {
                name: state
                for name, state in wanted.items()
                if states.get(service_state(name)) != state
            }
            if not waiting:
                return found
            for each in found:
                if each.service in waiting and self._failed(each, waiting[each.service]):
                    raise self._failure(each, f"is {each.state}")
            name = min(waiting)
            slow = next((each for each in found if each.service == name), None)
            now = time.monotonic()
            if now >= deadline:
                late = f"is not {waiting[name]} after {self._timeout:g} s"
                if slow is None:
                    raise StepFailedError(f"{name} {late}: it has no container.")
                raise self._failure(slow, late)
            if slow is not None and now - told >= _TELL_EVERY:
                told = now
                context.progress(f"waiting for {name}: {slow.state}{self._health(slow)}")
            context.sleep(min(pause, max(0.0, deadline - now)))
            pause = min(pause * _GROWTH, _LONGEST_WAIT)

    def _failed(self, container: Container, wanted: str) -> bool:
        """Whether waiting longer would not help."""
        state = container.state
        if state in {UNHEALTHY, DEAD}:
            return True
        if state == RESTARTING:
            info = self._containers.inspect(container.id) or {}
            return int(info.get("RestartCount") or 0) >= _MOST_RESTARTS
        if state.startswith("exited"):
            if wanted == COMPLETED:
                return state != "exited(0)"
            traits = self._containers.traits([container]).get(container.id)
            return traits is None or traits.final
        return False

    def _failure(self, container: Container, what: str) -> StepFailedError:
        return StepFailedError(
            f"{container.service} {what}{self._health(container)}.{self._last_lines(container)}",
            hint=f"`docker logs {container.name}` shows all it said. The images that were replaced kept a tag.",
        )

    def _health(self, container: Container) -> str:
        """The last word of a container's healthcheck, in brackets."""
        info = self._containers.inspect(container.id) or {}
        log = ((info.get("State") or {}).get("Health") or {}).get("Log") or []
        said = " ".join(str(log[-1].get("Output") or "").split()) if log else ""
        return (
            f" (healthcheck: {short(self._redact(said), _HEALTH_WIDTH).rstrip('.')})"
            if said
            else ""
        )

    def _last_lines(self, container: Container) -> str:
        from docker.errors import APIError

        with self._host.errors(f"read the log of {container.name}"):
            try:
                data = self._containers.client().api.logs(
                    container.id, stdout=True, stderr=True, tail=_LOG_LINES
                )
            except APIError:
                return ""
        lines = self._redact(bytes(data).decode("utf-8", "replace")).splitlines()
        kept = [line[:_LOG_WIDTH] for line in lines if line.strip()]
        return f" Its last lines:\n{chr(10).join(kept)}" if kept else " It logged nothing."

    def _mend_names(self, containers: Sequence[Container], services: Collection[str]) -> None:
        """Gives a container its proper name, if Compose was killed just before it could."""
        taken = {each.name for each in containers}
        for each in containers:
            match = _HALF_RECREATED.match(each.name)
            if each.service in services and match and match["name"] not in taken:
                with self._host.errors(f"rename {each.name}", changing=True):
                    self._containers.client().api.rename(each.id, match["name"])

    def _about(self, services: Collection[str], containers: Sequence[Container]) -> list[Fact]:
        prefixes = tuple(f"docker.service.{name}." for name in services)
        return [fact for fact in self._facts(containers) if fact.key.startswith(prefixes)]


def _sequence(value: object) -> Sequence[Any]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
