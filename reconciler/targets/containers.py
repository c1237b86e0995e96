"""A project's containers as they are: listed in one round trip, and told as facts.

`docker ps` says nearly all that is compared (image id, config hash, state, health); what never changes in a container's
life is inspected once and remembered. Called by `docker` and by what applies its steps.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from reconciler.core.facts import (
    COMPLETED,
    HEALTHY,
    RUNNING,
    Fact,
    service_config,
    service_image,
    service_state,
)
from reconciler.targets.docker_host import POOL, DockerHost

if TYPE_CHECKING:
    from collections.abc import Callable


STARTING, UNHEALTHY, RESTARTING = "starting", "unhealthy", "restarting"
PAUSED, CREATED, DEAD = "paused", "created", "dead"
_LABEL = "com.docker.compose."
PROJECT_LABEL = f"{_LABEL}project"
_EXITED = re.compile(r"Exited \((\d+)\)")
_HEALTH = (("(healthy)", HEALTHY), ("(unhealthy)", UNHEALTHY), ("(health: starting)", STARTING))
#: Of several replicas the worst one speaks; what is not listed is an exit code and comes after these.
_BAD_FIRST = (DEAD, RESTARTING, UNHEALTHY)
_GOOD_LAST = (CREATED, PAUSED, STARTING, RUNNING, HEALTHY, COMPLETED)
_DEFAULT_GRACE = 10.0
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Container:
    """One container of the project, as listed.

    Attributes:
        id: Full id.
        name: Name without the slash.
        service: The Compose service.
        number: Number of the replica.
        image: Id of the image it runs.
        reference: The image as the engine names it.
        config: Compose's config hash.
        state: One of the states of `docker.service.*.state`, never `completed`.
        volumes: Engine names of the volumes it mounts.
        needs: Services it was created to start after.
    """

    id: str
    name: str
    service: str
    number: int
    image: str
    reference: str
    config: str
    state: str
    volumes: frozenset[str]
    needs: frozenset[str]

    @property
    def down(self) -> bool:
        """Whether it runs nothing."""
        return is_down(self.state)


@dataclass(frozen=True, slots=True)
class Traits:
    """What does not change in a container's life.

    Attributes:
        grace: Seconds between the stop signal and the kill.
        one_shot: Nothing restarts it and nothing asks for its health: exit code 0 means it is done.
        final: Nothing restarts it, whatever its exit code.
    """

    grace: float
    one_shot: bool
    final: bool


def is_down(state: str | None) -> bool:
    """Whether nothing runs in a container of this state."""
    return state is None or state in {COMPLETED, CREATED, DEAD} or state.startswith("exited")


class Containers:
    """The containers of one Compose project.

    Args:
        host: The engine.
        project: The project's name.
    """

    def __init__(self, host: DockerHost, project: str) -> None:
        self._host = host
        self._project = project
        self._traits: dict[str, Traits] = {}

    def all(self) -> list[Container]:
        """All containers of the project, running or not; those of `compose run` are left out.

        Raises:
            TargetUnavailableError: The engine cannot be reached.
        """
        with self._host.errors("list the containers"):
            label = [f"{PROJECT_LABEL}={self._project}", f"{_LABEL}oneoff=False"]
            entries = self._host.client().api.containers(all=True, filters={"label": label})
        found = [_container(entry) for entry in entries]
        alive = {each.id for each in found}
        self._traits = {key: value for key, value in self._traits.items() if key in alive}
        return sorted(found, key=lambda each: (each.service, each.number, each.id))

    def traits(self, containers: Iterable[Container]) -> Mapping[str, Traits]:
        """What `docker inspect` adds, by id. A container that is gone meanwhile is left out."""
        wanted = list(containers)
        missing = [each.id for each in wanted if each.id not in self._traits]
        for container, info in zip(missing, self.parallel(self.inspect, missing), strict=True):
            if info:
                self._traits[container] = _traits(info)
        known = {each.id for each in wanted}
        return {key: value for key, value in self._traits.items() if key in known}

    def inspect(self, container: str) -> Mapping[str, Any] | None:
        """The engine's whole record of a container (holds its environment); None when it is gone."""
        from docker.errors import NotFound

        with self._host.errors("inspect a container"):
            try:
                found: Mapping[str, Any] = self._host.client().api.inspect_container(container)
            except NotFound:
                return None
        return found

    def facts(self, containers: Sequence[Container], services: Iterable[str]) -> list[Fact]:
        """Facts of every service that has a container or is named here; the others are known to be absent."""
        by_service: dict[str, list[Container]] = {name: [] for name in services}
        for each in containers:
            by_service.setdefault(each.service, []).append(each)
        done = self._completed(containers)
        return [
            fact for name in sorted(by_service) for fact in _facts(name, by_service[name], done)
        ]

    def _completed(self, containers: Sequence[Container]) -> frozenset[str]:
        """Ids of those that ended well and were meant to end."""
        ended = [each for each in containers if each.state == "exited(0)"]
        if not ended:
            return frozenset()
        return frozenset(key for key, traits in self.traits(ended).items() if traits.one_shot)

    def stop(self, container: Container) -> None:
        """Stops one with its own grace period; one that is gone is stopped."""
        from docker.errors import NotFound

        api = self._host.client().api
        traits = self.traits([container]).get(container.id)
        # A negative grace period waits for ever
        grace = int(traits.grace) if traits and traits.grace >= 0 else None
        with self._host.errors(f"stop {container.name}", changing=True), suppress(NotFound):
            if container.state == PAUSED:
                api.unpause(container.id)
            api.stop(container.id, timeout=grace)

    def start(self, container: Container) -> None:
        """Starts one. Nothing happens when it is gone: the next list says so."""
        from docker.errors import NotFound

        with self._host.errors(f"start {container.name}", changing=True):
            try:
                self._host.client().api.start(container.id)
            except NotFound as exc:
                if "No such container" not in str(exc.explanation):
                    raise  # something it needs is missing, a network for example

    def remove(self, container: Container) -> None:
        """Removes one that does not run; its anonymous volumes stay. One that is gone is removed."""
        from docker.errors import NotFound

        with self._host.errors(f"remove {container.name}", changing=True), suppress(NotFound):
            self._host.client().api.remove_container(container.id)

    def rename(self, container: Container, name: str) -> None:
        """Gives one another name."""
        with self._host.errors(f"rename {container.name}", changing=True):
            self._host.client().api.rename(container.id, name)

    def log(self, container: Container, lines: int, *, timestamps: bool = False) -> str | None:
        """The last lines it wrote; None when its logging driver cannot be read from, or it is gone."""
        from docker.errors import APIError

        with self._host.errors(f"read the log of {container.name}"):
            try:
                data = self._host.client().api.logs(
                    container.id, stdout=True, stderr=True, timestamps=timestamps, tail=lines
                )
            except APIError:
                return None
        return bytes(data).decode("utf-8", "replace")

    @staticmethod
    def parallel(function: Callable[[_T], _R], items: Sequence[_T]) -> Sequence[_R]:
        """Calls a function for each item at the same time; the first exception wins, after all are done."""
        if len(items) < 2:  # noqa: PLR2004 - one needs no thread
            return [function(item) for item in items]
        with ThreadPoolExecutor(max_workers=min(len(items), POOL)) as pool:
            return [future.result() for future in [pool.submit(function, item) for item in items]]

    def ignores_stop(self, containers: Sequence[Container]) -> frozenset[str]:
        """Services whose first process has no handler for the signal that stops it, so that it costs its whole grace.

        Only known where the engine's processes are this machine's; elsewhere the answer is empty.
        """
        if not self._host.local:
            return frozenset()
        running = [each for each in containers if not each.down]
        found = self.parallel(lambda each: self.inspect(each.id), running)
        return frozenset(
            each.service
            for each, info in zip(running, found, strict=True)
            if info and _ignores_stop(info)
        )


def _ignores_stop(info: Mapping[str, Any]) -> bool:
    name = str((info.get("Config") or {}).get("StopSignal") or "SIGTERM").upper()
    pid = (info.get("State") or {}).get("Pid")
    try:
        number = int(name) if name.isdigit() else signal.Signals[f"SIG{name.removeprefix('SIG')}"]
        process = Path(f"/proc/{pid}")
        if str(info["Id"]) not in (process / "cgroup").read_text(encoding="ascii"):
            return False  # another machine's process id
        status = (process / "status").read_text(encoding="utf-8", errors="replace")
    except (OSError, KeyError, ValueError):
        return False
    masks = re.findall(r"^Sig(?:Cgt|Blk):\s*([0-9a-f]+)$", status, re.MULTILINE)
    # The first process of a namespace is not killed by a signal it does not handle. One that blocks a signal waits
    # for it (sigwait, signalfd), as `docker-init` does.
    return bool(masks) and not any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def _facts(service: str, containers: Sequence[Container], done: frozenset[str]) -> list[Fact]:
    keys = (service_image(service), service_config(service), service_state(service))
    if not containers:
        return [Fact(key=key, detail="no container") for key in keys]
    images = sorted({each.image for each in containers})
    configs = sorted({each.config for each in containers})
    names = sorted({each.reference for each in containers})
    return [
        Fact(key=keys[0], value=_one(images), detail=", ".join(names)),
        Fact(key=keys[1], value=_one(configs)),
        Fact(
            key=keys[2],
            value=worst(COMPLETED if each.id in done else each.state for each in containers),
        ),
    ]


def about(services: Iterable[str], facts: Iterable[Fact]) -> list[Fact]:
    """The facts of some services."""
    prefixes = tuple(f"docker.service.{name}." for name in services)
    return [fact for fact in facts if fact.key.startswith(prefixes)]


def _one(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else f"mixed:{','.join(values)}"


def worst(states: Iterable[str]) -> str:
    """The state that speaks for several replicas."""

    def rank(state: str) -> tuple[int, str]:
        if state in _BAD_FIRST:
            return _BAD_FIRST.index(state), state
        if state in _GOOD_LAST:
            return len(_BAD_FIRST) + 1 + _GOOD_LAST.index(state), state
        return len(_BAD_FIRST), state

    return min(states, key=rank)


def _container(entry: Mapping[str, Any]) -> Container:
    labels = entry.get("Labels") or {}
    number = str(labels.get(f"{_LABEL}container-number", "0"))
    mounts = entry.get("Mounts") or ()
    needs = str(labels.get(f"{_LABEL}depends_on", ""))
    return Container(
        id=entry["Id"],
        name=str((entry.get("Names") or ["/"])[0]).removeprefix("/"),
        service=str(labels.get(f"{_LABEL}service", "")),
        number=int(number) if number.isdigit() else 0,
        image=str(entry.get("ImageID", "")),
        reference=str(entry.get("Image", "")),
        config=str(labels.get(f"{_LABEL}config-hash", "")),
        state=state_of(str(entry.get("State", "")), str(entry.get("Status", ""))),
        volumes=frozenset(m["Name"] for m in mounts if m.get("Type") == "volume" and m.get("Name")),
        needs=frozenset(each.split(":")[0] for each in needs.split(",") if each),
    )


def state_of(state: str, status: str) -> str:
    """A listed container's state in our words; the engine puts health and exit code into the text of `Status` only."""
    if state == "running":
        return next((word for sign, word in _HEALTH if sign in status), RUNNING)
    if state == "exited":
        code = _EXITED.search(status)
        return f"exited({code[1]})" if code else "exited"
    return {"removing": DEAD}.get(state, state or DEAD)


def _traits(info: Mapping[str, Any]) -> Traits:
    config, host = info.get("Config") or {}, info.get("HostConfig") or {}
    policy = str((host.get("RestartPolicy") or {}).get("Name") or "no")
    test = (config.get("Healthcheck") or {}).get("Test") or []
    grace = config.get("StopTimeout")
    return Traits(
        grace=_DEFAULT_GRACE if grace is None else float(grace),
        one_shot=policy in {"no", "on-failure"} and (not test or test == ["NONE"]),
        final=policy in {"", "no"},
    )


def record_of(info: Mapping[str, Any]) -> str:
    """What is kept of a container's record as evidence, as JSON: nothing a secret could be in."""
    state, config = info.get("State") or {}, info.get("Config") or {}
    health = state.get("Health") or {}
    kept = {
        "id": info.get("Id"),
        "name": str(info.get("Name", "")).removeprefix("/"),
        "created": info.get("Created"),
        "image": info.get("Image"),
        "reference": config.get("Image"),
        "state": {
            key: state.get(key)
            for key in ("Status", "ExitCode", "OOMKilled", "StartedAt", "FinishedAt")
        },
        "health": {"status": health.get("Status"), "failingStreak": health.get("FailingStreak")},
        "restartCount": info.get("RestartCount"),
        "restartPolicy": (info.get("HostConfig") or {}).get("RestartPolicy"),
        "ports": sorted((info.get("NetworkSettings") or {}).get("Ports") or {}),
        "networks": sorted((info.get("NetworkSettings") or {}).get("Networks") or {}),
        "mounts": [
            {key: mount.get(key) for key in ("Type", "Name", "Destination", "RW")}
            for mount in info.get("Mounts") or ()
        ],
    }
    return json.dumps(kept, sort_keys=True)
