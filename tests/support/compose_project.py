"""A small real Compose project in a Git repository, and a short way to walk the docker target through its phases."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any

from reconciler.core.crashpoints import CrashPoint
from reconciler.core.drift import Comparison, compare
from reconciler.core.facts import (
    GIT_COMMIT,
    GIT_DIRTY,
    Fact,
    Goal,
    Observation,
    Wanted,
)
from reconciler.core.phase import WORK_ORDER, Phase
from reconciler.core.pins import Artifact, DockerPins, Pins, ServicePin, VolumePin
from reconciler.core.plan import Step
from reconciler.core.spec import Docker
from reconciler.targets.base import Applied
from reconciler.targets.docker import DockerTarget, VolumeStore
from reconciler.targets.docker_host import DockerHost
from reconciler.targets.shared.repository import Repository

if TYPE_CHECKING:
    from tests.support.engine import Engine

#: Runs until it is told to stop, and ends at once then.
PATIENT = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.05; done"]
STARTS = '["sh", "-c", "trap \'exit 0\' TERM; while :; do sleep 0.05; done"]'


@dataclass
class Context:
    """What a step is lent, with a record of what it said."""

    states: Path
    run: str = "20260101-000000-abcdef"
    attempted: datetime | None = None
    artifacts: list[Artifact] = field(default_factory=list)
    points: list[CrashPoint] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    guards: int = 0
    on_point: Callable[[CrashPoint], None] = lambda _: None

    @property
    def captures(self) -> Path:
        folder = self.states / "captures" / self.run
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    def at(self, point: CrashPoint) -> None:
        self.points.append(point)
        self.on_point(point)

    def guard(self) -> None:
        self.guards += 1

    def progress(self, message: str) -> None:
        self.said.append(message)

    def sleep(self, seconds: float) -> None:
        sleep(seconds)


@dataclass
class Walk:
    """What one walk through the phases did."""

    goal: Goal
    context: Context
    steps: list[Step] = field(default_factory=list)
    made: list[tuple[Step, Applied]] = field(default_factory=list)

    def keys(self, *phases: Phase) -> list[str]:
        return [f"{s.action}/{s.subject}" for s in self.steps if not phases or s.phase in phases]

    def step(self, action: str) -> Step:
        return next(step for step in self.steps if step.action == action)

    def configs(self) -> dict[str, str]:
        """Wanted config hash by service."""
        keys = [key for key in self.goal.wanted if key.endswith(".config")]
        return {key.split(".")[2]: str(self.goal.wanted[key].value) for key in keys}

    def note(self, action: str) -> str:
        return next(applied.note for step, applied in self.made if step.action == action)


class Project:
    """A Compose project in a repository of its own.

    Args:
        engine: The engine.
        name: The Compose project's name.
        root: Its folder; made.
        states: Folder for captures and caches.
    """

    def __init__(self, engine: Engine, name: str, root: Path, states: Path) -> None:
        self.engine, self.name, self.root, self.states = engine, name, root, states
        root.mkdir(parents=True)
        states.mkdir()
        self.tagged: list[str] = []
        self.hosts: list[DockerHost] = []
        self._git("init", "-q", "-b", "main")
        self.write(".gitignore", ".env\n*.secret\nlocal/\n")

    def write(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        text = text.replace("BASE", self.engine.base_image).replace("NAME", self.name)
        file.write_text(text.replace("STARTS", STARTS))
        return file

    def compose_file(self, services: str, rest: str = "") -> None:
        """Writes the compose file: services, one a line of YAML, each with a short grace period."""
        lines = [f"  {line}" for line in services.strip("\n").splitlines()]
        self.write("docker-compose.yml", "\n".join(["services:", *lines, rest, ""]))

    def commit(self, message: str = "change") -> str:
        self._git("add", "-A")
        self._git("commit", "-q", "--allow-empty", "-m", message)
        return self.head()

    def head(self) -> str:
        return self._git("rev-parse", "HEAD").strip()

    def checkout(self, commit: str) -> None:
        self._git("checkout", "-q", commit)

    def _git(self, *arguments: str) -> str:
        identity = {
            f"GIT_{who}_{what}": "t@example.invalid"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.root,
            env={**os.environ, **identity, "GIT_CONFIG_GLOBAL": os.devnull},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def image(self, tag: str, mark: str, *changes: str) -> str:
        """Makes an image that differs from every other mark's; gives its id. Changes are lines of a Dockerfile."""
        name = f"{self.name}-{tag}" if ":" in tag else f"{self.name}-{tag}:latest"
        container = self.engine.client.containers.create(self.engine.base_image, ["true"])
        repository, _, version = name.rpartition(":")
        container.commit(repository, version, changes="\n".join([f"LABEL mark={mark}", *changes]))
        container.remove()
        self.tagged.append(name)
        return self.image_id(name)

    def image_id(self, name: str) -> str:
        return str(self.engine.client.images.get(name).id)

    def compose(self, *arguments: str, check: bool = True) -> str:
        """What a plain user types in the project's folder."""
        return self.engine.docker(
            "compose", "-p", self.name, *arguments, cwd=self.root, check=check
        )

    def labels(self) -> dict[str, str]:
        """Config hash by service, from the containers' labels."""
        return {
            container.labels["com.docker.compose.service"]: container.labels[
                "com.docker.compose.config-hash"
            ]
            for container in self.containers()
        }

    def containers(self, service: str | None = None) -> list[Any]:
        label = [f"com.docker.compose.project={self.name}"]
        if service:
            label.append(f"com.docker.compose.service={service}")
        return self.engine.client.containers.list(all=True, filters={"label": label})

    def started(self, service: str) -> str:
        (container,) = self.containers(service)
        return str(container.attrs["State"]["StartedAt"])

    def running_image(self, service: str) -> str:
        (container,) = self.containers(service)
        return str(container.attrs["Image"])

    def environment(self, service: str) -> list[str]:
        (container,) = self.containers(service)
        return list(container.attrs["Config"]["Env"])

    def target(
        self,
        *,
        git: bool = True,
        store: VolumeStore | None = None,
        timeout: float = 20.0,
        host: DockerHost | None = None,
        **section: object,
    ) -> DockerTarget:
        host = host or DockerHost()
        self.hosts.append(host)
        declared = Docker.model_validate({"project": self.name, **section})
        return DockerTarget(
            declared,
            project_root=self.root,
            repository=Repository(self.root) if git else None,
            volumes=store,
            host=host,
            cache=self.states / "cache",
            timeout=timeout,
        )

    def observe(self, target: DockerTarget, *more: Fact) -> Observation:
        dirty = "dirty" if self._git("status", "--porcelain").strip() else "clean"
        git = [Fact(key=GIT_COMMIT, value=self.head()), Fact(key=GIT_DIRTY, value=dirty)]
        return Observation.of(datetime.now(UTC), [*git, *target.observe(), *more])

    def resolve(
        self, target: DockerTarget, pins: Pins, observed: Observation | None = None
    ) -> Goal:
        observed = observed or self.observe(target)
        wanted = {GIT_COMMIT: Wanted(key=GIT_COMMIT, value=pins.git)} if pins.git else {}
        goal = Goal(wanted=wanted)
        resolution = target.resolve(pins, observed, goal)
        return Goal(
            wanted={**goal.wanted, **{want.key: want for want in resolution.wanted}},
            materials={"docker": resolution.materials},
        )

    def resolve_without_git(self, target: DockerTarget) -> Goal:
        resolution = target.resolve(
            pins(), Observation.of(datetime.now(UTC), target.observe()), Goal()
        )
        return Goal(
            wanted={want.key: want for want in resolution.wanted},
            materials={"docker": resolution.materials},
        )

    def converge(
        self, target: DockerTarget, pins: Pins, *more: Fact, before: Walk | None = None
    ) -> Walk:
        """One walk through the phases, as the engine does it; the checkout happens in `restore`.

        Args:
            target: The target.
            pins: Where to go.
            more: Facts of other targets.
            before: The walk it leads back from, in the same run.
        """
        observed = self.observe(target, *more)
        walk = Walk(self.resolve(target, pins, observed), Context(self.states))
        walk.context.artifacts += before.context.artifacts if before else ()
        observed = self.observe(target, *more)  # the goal's services are known now
        for phase in WORK_ORDER:
            if phase is Phase.RESTORE and pins.git:
                self.checkout(pins.git)
            for step in target.plan(phase, observed, walk.goal):
                walk.steps.append(step)
                applied = target.apply(step, walk.context)
                walk.made.append((step, applied))
                walk.context.artifacts += applied.artifacts
                if phase is Phase.CAPTURE:
                    walk.goal = walk.goal.completed(applied.facts)
                else:
                    observed = observed.merged(applied.facts)
        return walk

    def run(
        self, target: DockerTarget, phase: Phase, observed: Observation, goal: Goal
    ) -> Observation:
        """Applies the steps of one phase; gives the observation with what they have made true."""
        for step in target.plan(phase, observed, goal):
            observed = observed.merged(target.apply(step, Context(self.states)).facts)
        return observed

    def wrong(self, target: DockerTarget, goal: Goal) -> list[Comparison]:
        """Wanted facts that are not as wanted, seen with fresh eyes."""
        return [
            each for each in compare(goal, self.observe(target)).facts if each.verdict != "equal"
        ]

    def close(self) -> None:
        for host in self.hosts:
            host.close()
        for name in {*self.tagged, *self._our_tags()}:
            self.engine.docker("image", "rm", "-f", name, check=False)

    def _our_tags(self) -> Iterable[str]:
        out = self.engine.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}")
        return [line for line in out.split() if line.startswith(self.name)]


def pins(
    git: str | None = None,
    services: Mapping[str, str | ServicePin] | None = None,
    volumes: Mapping[str, VolumePin] | None = None,
    best_effort: Sequence[str] = (),
) -> Pins:
    """Pins from short words: a service's text is its image, `build` builds it."""
    made = {
        name: pin if isinstance(pin, ServicePin)
        else ServicePin(build=True) if pin == "build" else ServicePin(image=pin)
        for name, pin in (services or {}).items()
    }  # fmt: skip
    return Pins(
        git=git,
        docker=DockerPins(services=made, volumes=volumes or {}, best_effort=tuple(best_effort)),
    )
