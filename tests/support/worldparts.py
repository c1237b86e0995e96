"""The parts of a world in memory: four targets whose effects are counted, and which can be made to fail in any way.

Only the engine is under test here; real targets have their own tests on real parts. A target of this world trusts the
engine: it does what a step says without looking, unless it is told that the step was begun before (`attempted`). What
must never happen in production (a migration run twice, traffic moved to services that are down, rows lost that were
not dumped) is written down in `World.wrong`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from reconciler.core import facts as f
from reconciler.core.crashpoints import CrashPoint
from reconciler.core.errors import TargetUnavailableError
from reconciler.core.facts import Fact, Goal, Observation, Resolution, Wanted
from reconciler.core.phase import Phase
from reconciler.core.pins import Artifact, Pins
from reconciler.core.plan import Step
from reconciler.targets.base import Applied, ApplyContext

SERVICES = ("app", "worker")
VOLUME = "data"


class Crash(BaseException):
    """Stands for SIGKILL: nothing in the program catches it."""


@dataclass
class World:
    """What really is, and how often each effect really happened.

    Attributes:
        image: Image of each service.
        running: Whether each service runs.
        versions: Applied migrations, oldest first.
        rows: Migrations whose rows are there: taking one down loses them, taking it up again brings an empty table.
        volume: What the volume holds.
        restored: Digest of the archive it was restored from.
        effects: How often each effect happened.
        unreadable: Targets that cannot be read.
        blind: Targets that cannot be read for some looks.
        contained: Whether the database runs as one of the containers, and holds its migrations in the volume.
        failing: Errors to be raised before a step does anything, by step key (or `resolve/TARGET`).
        losing: Errors to be raised after a step has done it, by step key: its answer is lost.
        failing_checks: Which checks fail.
        wrong: What must never happen, and did.
    """

    commit: str = "bad"
    image: dict[str, str] = field(default_factory=lambda: dict.fromkeys(SERVICES, "sha256:bad"))
    running: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(SERVICES, True))
    versions: list[int] = field(default_factory=lambda: [1, 2, 3])
    rows: set[int] = field(default_factory=lambda: {1, 2, 3})
    deployment: str = "dpl_bad"
    volume: str = "live"
    restored: str | None = None
    effects: Counter[str] = field(default_factory=Counter)
    unreadable: set[str] = field(default_factory=set)
    contained: bool = False
    blind: dict[str, int] = field(default_factory=dict)
    failing: dict[str, list[Exception]] = field(default_factory=dict)
    losing: dict[str, list[Exception]] = field(default_factory=dict)
    failing_checks: Callable[[World], list[str]] = lambda world: []
    wrong: list[str] = field(default_factory=list)

    @classmethod
    def good(cls) -> World:
        """The world in which the good release runs."""
        return cls(
            commit="good",
            image=dict.fromkeys(SERVICES, "sha256:good"),
            versions=[1],
            rows={1},
            deployment="dpl_good",
        )

    def vector(self) -> tuple[object, ...]:
        """Everything a release consists of: commit, images, what runs, migrations, deployment."""
        images, running = set(self.image.values()), set(self.running.values())
        image = images.pop() if len(images) == 1 else "mixture"
        runs = running.pop() if len(running) == 1 else "some"
        return (self.commit, image, runs, tuple(self.versions), self.deployment)

    @property
    def serving(self) -> bool:
        """Whether the database answers."""
        return not self.contained or self.running["worker"]

    def serve(self, service: str, image: str | None) -> None:
        """Starts a service's image, or stops it; a mixture among what runs is wrong at any instant."""
        self.running[service] = image is not None
        if image is not None:
            self.image[service] = image
        if len({self.image[name] for name in SERVICES if self.running[name]}) > 1:
            self.wrong.append(f"a mixture runs: {self.image}")

    def content(self) -> str:
        """What a backup of the volume holds."""
        return ",".join(map(str, self.versions)) if self.contained else self.volume

    def fill(self, content: str) -> None:
        """Writes the volume; a database that lives in it has other migrations then."""
        self.volume = content
        if self.contained:
            self.versions = [int(version) for version in content.split(",")]
            self.rows = set(self.versions)

    def must(self, right: bool, what: str) -> None:  # noqa: FBT001
        """Writes down what must never happen."""
        if not right:
            self.wrong.append(what)

    def trip(self, key: str) -> None:
        """Raises the next planned failure of a step that is about to be done."""
        if self.failing.get(key):
            raise self.failing[key].pop(0)

    def lose(self, key: str) -> None:
        """Loses the answer of a step that was done, if that is planned."""
        if self.losing.get(key):
            raise self.losing[key].pop(0)


@dataclass
class Wish:
    """What one phase of one target has to do."""

    target: str
    phase: Phase
    observed: Observation
    goal: Goal
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        wanted = self.goal.wanted
        self.differs = {
            key for key, want in wanted.items() if self.observed.value(key) != want.value
        }
        self.mine = {key for key in self.differs if f.target_of(key) == self.target}
        material = self.goal.materials.get(self.target)
        assert isinstance(material, dict)
        self.material: dict[str, JsonValue] = material
        versions = (self.observed.value(f.DATABASE_VERSION), self.goal.value(f.DATABASE_VERSION))
        self.now, self.then = (int(version or 0) for version in versions)

    def add(self, action: str, subject: str, args: object = None, **extra: bool) -> None:
        self.steps.append(
            Step.model_validate(
                {"phase": self.phase, "target": self.target, "action": action, "subject": subject,
                 "summary": f"{action} {subject}", "args": args or {}, **extra}
            )
        )  # fmt: skip


@dataclass
class MemoryTarget:
    """One part of the world as a target."""

    name: str
    world: World

    def facts(self) -> dict[str, str | None]:
        world = self.world
        match self.name:
            case "git":
                return {f.GIT_COMMIT: world.commit}
            case "docker":
                return {
                    f.volume_restored(VOLUME): world.restored,
                    **{f.service_image(name): world.image[name] for name in SERVICES},
                    **{
                        f.service_state(name): "running" if world.running[name] else "exited"
                        for name in SERVICES
                    },
                }
            case "database":
                newest = str(world.versions[-1]) if world.versions else None
                return {f.DATABASE_VERSION: newest}
            case _:
                return {f.VERCEL_DEPLOYMENT: world.deployment}

    def seen(self) -> list[Fact]:
        return [Fact(key=key, value=value) for key, value in self.facts().items()]

    def observe(self) -> Sequence[Fact]:
        if self.name == "database" and not self.world.serving:
            return [Fact(key=key, unknown="connection refused") for key in self.facts()]
        left = self.world.blind.get(self.name, 0)
        self.world.blind[self.name] = max(0, left - 1)
        if left or self.name in self.world.unreadable:
            return [Fact(key=key, unknown="unreachable") for key in self.facts()]
        self.world.trip(f"observe/{self.name}")
        return self.seen()

    def resolve(self, pins: Pins, observed: Observation, goal: Goal) -> Resolution:
        self.world.trip(f"resolve/{self.name}")
        materials: dict[str, JsonValue] = {}
        wanted: dict[str, str | None] = {}
        match self.name:
            case "git":
                wanted = {f.GIT_COMMIT: pins.git}
            case "docker":
                assert pins.docker
                for service in SERVICES:
                    image = pins.docker.services[service].image or ""
                    wanted[f.service_image(service)] = image.replace("app:", "sha256:")
                    if service not in pins.docker.best_effort:
                        wanted[f.service_state(service)] = "running"
                for volume, pin in pins.docker.volumes.items():
                    wanted[f.volume_restored(volume)] = pin.sha256
                    materials["archive"] = pin.path
            case "database" if pins.database is None:
                pass
            case "database":
                assert pins.database
                if not self.world.serving:
                    raise TargetUnavailableError("connection refused")
                wanted = {f.DATABASE_VERSION: pins.database.version}
                materials["rows"] = [row.subject for row in pins.database.rows]
            case _:
                wanted = {f.VERCEL_DEPLOYMENT: pins.vercel}
        return Resolution(
            wanted=tuple(Wanted(key=key, value=value) for key, value in wanted.items()),
            materials=materials,
        )

    def plan(self, phase: Phase, observed: Observation, goal: Goal) -> Sequence[Step]:
        wish = Wish(self.name, phase, observed, goal)
        self.steps(wish)
        return wish.steps

    def steps(self, wish: Wish) -> None:
        """Adds what is to be done."""
        raise NotImplementedError

    def apply(self, step: Step, context: ApplyContext) -> Applied:
        key = f"{step.phase}/{step.target}/{step.action}/{step.subject}"
        self.world.trip(key)
        context.guard()
        done = self.change(step, context)
        context.at(CrashPoint.APPLIED_UNREAD)
        self.world.lose(key)
        return done

    def change(self, step: Step, context: ApplyContext) -> Applied:
        """Makes the change. Where it consists of two, a crash may come between them."""
        raise NotImplementedError

    def saved(self, context: ApplyContext, kind: str, subject: str, content: str) -> Artifact:
        number = sum(artifact.subject == subject for artifact in context.artifacts)
        path = context.captures / f"{kind}-{subject}-{number}"
        path.write_text(content, encoding="utf-8")
        return Artifact(
            kind=kind,
            subject=subject,
            path=str(path.relative_to(context.states)),
            sha256=hashlib.sha256(content.encode()).hexdigest(),
            size=len(content),
        )
