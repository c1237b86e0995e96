"""Bringing services up: Compose makes the containers, this room starts them and waits until they are well.

Services are down until this is done, so what is needed is asked for once, each service starts as soon as what it needs
is there, and health is polled closely. Called by `docker`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reconciler.core.crashpoints import CrashPoint
from reconciler.core.errors import StepFailedError
from reconciler.core.facts import COMPLETED, HEALTHY, Fact
from reconciler.targets.base import Applied
from reconciler.targets.compose import Compose
from reconciler.targets.containers import (
    CREATED,
    DEAD,
    RESTARTING,
    UNHEALTHY,
    Container,
    Containers,
    about,
    is_down,
)
from reconciler.targets.docker_host import short
from reconciler.targets.images import Images

if TYPE_CHECKING:
    from reconciler.core.plan import Step
    from reconciler.targets.base import ApplyContext

#: A look each twentieth of the time waited so far: what has come is noticed late by no more than that.
_FIRST_WAIT, _LONGEST_WAIT, _PART = 0.05, 0.25, 1 / 20
_TELL_EVERY = 1.0
_MOST_RESTARTS = 3
_MOST_REMADE = 3
_LOG_LINES, _LOG_WIDTH, _HEALTH_WIDTH = 12, 240, 160
#: The name Compose gives a new container until the old one is gone.
_HALF_RECREATED = re.compile(r"^[0-9a-f]{12}_(?P<name>.+)$")


@dataclass(frozen=True)
class _Work:
    """The arguments of `up`.

    Attributes:
        services: Services to bring up.
        gone: Services whose containers are removed.
        wait: Wanted state by service; who is not in it is not waited for.
        keep: Wanted state of the services that nothing was to be done about. Whatever took them down meanwhile (the
            engine was restarted), production is not back without them.
        needs: Condition by service, by the service that needs it.
        by_compose: Whether Compose has to start them.
    """

    services: frozenset[str]
    gone: frozenset[str]
    wait: Mapping[str, str]
    keep: Mapping[str, str]
    needs: Mapping[str, Mapping[str, str]]
    by_compose: bool

    @classmethod
    def of(cls, step: Step) -> _Work:
        """Read from a step."""
        return cls(
            services=frozenset(map(str, _sequence(step.args["services"]))),
            gone=frozenset(map(str, _sequence(step.args["remove"]))),
            wait={name: str(state) for name, state in _mapping(step.args["wait"]).items()},
            keep={
                name: str(state) for name, state in _mapping(step.args.get("keep") or {}).items()
            },
            needs={name: _mapping(each) for name, each in _mapping(step.args["needs"]).items()},
            by_compose=bool(step.args["by_compose"]),
        )

    def starts(self, container: Container) -> bool:
        """Whether a container is ours to start; Compose may have recreated one that others depend on."""
        mine = container.service in self.services or container.service in self.keep
        return mine or (container.state == CREATED and container.service in self.needs)

    def wanted(self, states: Mapping[str, str]) -> Mapping[str, str]:
        """What is waited for: our services, and those that have gone down meanwhile."""
        fallen = {
            name: state for name, state in self.keep.items() if is_down(states.get(name, HEALTHY))
        }
        return {**self.wait, **fallen}

    def may_start(self, service: str, states: Mapping[str, str]) -> bool:
        """Whether everything a service depends on is as its conditions ask. What has no container is no condition."""
        return all(
            _met(condition, states[name])
            for name, condition in self.needs.get(service, {}).items()
            if name in states
        )


def _met(condition: str, state: str) -> bool:
    if condition == "service_completed_successfully":
        return state == COMPLETED
    if condition == "service_healthy":
        return state == HEALTHY
    return state == COMPLETED or not is_down(state)


class Start:
    """Applies the step that brings services up.

    Args:
        containers: The project's containers.
        images: The engine's images.
        compose: The project.
        facts: Facts from a list of containers.
        timeout: Seconds services are given to become healthy.
        redact: Takes known secrets out of a text.
    """

    def __init__(
        self,
        containers: Containers,
        images: Images,
        compose: Compose,
        *,
        facts: Callable[[Sequence[Container]], list[Fact]],
        timeout: float,
        redact: Callable[[str], str],
    ) -> None:
        self._containers = containers
        self._images = images
        self._compose = compose
        self._facts = facts
        self._timeout = timeout
        self._redact = redact

    def up(self, step: Step, context: ApplyContext) -> Applied:
        """Brings services up and waits until each is as wanted.

        Compose makes the containers; starting them is done here, because Compose would run completed one-shot services
        again, and looks at the health of what they depend on only twice a second.

        Raises:
            StepFailedError: One does not start, or does not become healthy in time.
            TransientError: The engine cannot be reached.
        """
        work = _Work.of(step)
        deadline = time.monotonic() + self._timeout
        moved = self._repoint(_mapping(step.args["images"]), context)
        vanishing = (
            [each for each in self._containers.all() if each.service in work.gone]
            if work.gone
            else []
        )
        context.guard()
        context.at(CrashPoint.MID_EFFECT)
        self._containers.parallel(self._containers.remove, vanishing)
        if work.services:
            self._make(work, context)
        context.at(CrashPoint.APPLIED_UNREAD)
        left = self._bring_up(work, deadline, context)
        self._mend_names(left, work.services)
        note = f"pointed {', '.join(moved)} at the wanted image first" if moved else ""
        return Applied(facts=about(work.services | work.gone, self._facts(left)), note=note)

    def _repoint(self, images: Mapping[str, Any], context: ApplyContext) -> list[str]:
        """Re-points references that name another image all the same: Compose would start that one."""
        references = sorted(images)
        found = self._containers.parallel(self._images.find, references)
        moved = []
        for reference, image in zip(references, found, strict=True):
            if image != images[reference]:
                context.guard()
                self._images.tag(str(images[reference]), reference)
                moved.append(reference)
        return moved

    def _make(self, work: _Work, context: ApplyContext) -> None:
        if work.by_compose:
            try:
                self._compose.up(work.services, context.progress, timeout=self._timeout)
            except StepFailedError as exc:
                bad = [each for each in self._containers.all() if each.service in work.services]
                failed = next((each for each in bad if self._failed(each, HEALTHY)), None)
                said = self._last_lines(failed) if failed else ""
                raise StepFailedError(f"{exc.message}{said}", hint=exc.hint) from exc
        else:
            self._compose.create(work.services, context.progress, timeout=self._timeout)

    def _bring_up(self, work: _Work, deadline: float, context: ApplyContext) -> list[Container]:
        """Starts each service as soon as what it needs is there, and polls until all are well; gives the last list."""
        since = told = time.monotonic()
        begun: set[str] = set()
        wait: dict[str, str] = {}
        remade = 0
        while True:
            found = self._containers.all()
            states = self._states(found)
            wait.update(work.wanted(states))
            ready = [
                each
                for each in found
                if each.down
                and each.id not in begun
                and work.starts(each)
                and not (work.by_compose and each.service in work.services)
                and states[each.service] != wait.get(each.service)
                and work.may_start(each.service, states)
            ]
            if ready:
                self._containers.parallel(self._containers.start, ready)
                begun |= {each.id for each in ready}
                continue
            waiting = {name: want for name, want in wait.items() if states.get(name) != want}
            if not waiting:
                return found
            for each in found:
                settled = each.id in begun or work.by_compose
                if (
                    settled
                    and each.service in waiting
                    and self._failed(each, waiting[each.service])
                ):
                    raise self._failure(each, f"is {each.state}")
            now = time.monotonic()
            if now >= deadline:
                raise self._late(waiting, found)
            if waiting.keys() - states.keys() and remade < _MOST_REMADE:
                # Another Compose (left over from a process that was killed) took them away meanwhile.
                remade += 1
                self._make(work, context)
                continue
            if now - told >= _TELL_EVERY:
                told = now
                context.progress(self._waiting_for(waiting, found))
            pause = min(max(_FIRST_WAIT, (now - since) * _PART), _LONGEST_WAIT)
            context.sleep(min(pause, max(0.0, deadline - now)))

    def _states(self, found: Sequence[Container]) -> dict[str, str]:
        facts = self._containers.facts(found, ())
        return {
            fact.key.split(".")[2]: fact.value
            for fact in facts
            if fact.key.endswith(".state") and fact.value is not None
        }

    def _waiting_for(self, waiting: Mapping[str, str], found: Sequence[Container]) -> str:
        slow = next((each for each in found if each.service in waiting), None)
        if slow is None:
            return f"waiting for {min(waiting)}"
        return f"waiting for {slow.service}: {slow.state}{self._health(slow)}"

    def _late(self, waiting: Mapping[str, str], found: Sequence[Container]) -> StepFailedError:
        slow = [each for each in found if each.service in waiting]
        # What others wait for says more than they do.
        slow.sort(key=lambda each: each.down)
        name = slow[0].service if slow else min(waiting)
        late = f"is not {waiting[name]} after {self._timeout:g} s"
        return (
            self._failure(slow[0], late)
            if slow
            else StepFailedError(f"{name} {late}: no container.")
        )

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
            hint=f"`docker logs {container.name}` shows all it said; once the run has gone back, its captures do. "
            "The images that were replaced kept a tag.",
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
        text = self._redact(self._containers.log(container, _LOG_LINES) or "")
        lines = [line[:_LOG_WIDTH] for line in text.splitlines() if line.strip()]
        return "\n".join([" Its last lines:", *lines]) if lines else " It logged nothing."

    def _mend_names(self, containers: Sequence[Container], services: frozenset[str]) -> None:
        """Gives a container its proper name, if Compose was killed just before it could."""
        taken = {each.name for each in containers}
        for each in containers:
            match = _HALF_RECREATED.match(each.name)
            if each.service in services and match and match["name"] not in taken:
                self._containers.rename(each, match["name"])


def _sequence(value: object) -> Sequence[Any]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
