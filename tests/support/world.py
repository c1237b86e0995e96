"""A world in memory with four targets, for tests of the engine: effects are counted, and anything can be made to fail.

Only the engine is under test here; real targets have their own tests on real parts.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

from reconciler.audit.database import Database
from reconciler.audit.queries import entries, status_of
from reconciler.core import facts as f
from reconciler.core.certificate import CheckVerdict
from reconciler.core.crashpoints import CrashPoint
from reconciler.core.entry import Entry, Origin
from reconciler.core.errors import PreflightError, ReconcilerError
from reconciler.core.facts import Fact, Goal, Observation, Resolution, Wanted
from reconciler.core.loader import parse_spec
from reconciler.core.phase import Phase
from reconciler.core.pins import Artifact, Pins
from reconciler.core.plan import Step
from reconciler.core.redact import Redactor
from reconciler.core.spec import Spec, canonical_digest
from reconciler.core.status import EnvironmentStatus
from reconciler.engine import Engine
from reconciler.assembly import Equipment
from reconciler.setting import Setting
from reconciler.targets.base import Applied, ApplyContext

SPEC = """\
apiVersion: reconciler/v1
kind: Environment
metadata: {{name: prod}}
spec:
  git: {{commit: "{commit}"}}
  docker:
    project: shop
    services:
      app: {{image: "{image}"}}
  database:
    postgres: {{dsnFrom: {{env: DSN}}}}
    migrations: migrations
    migration: "{version}"
  vercel: {{project: shop, tokenFrom: {{env: TOKEN}}, deployment: {deployment}}}
  verify: {{timeout: 1s}}
  policy: {{allowDataLoss: true{policy}}}
"""

GOOD = {"commit": "good", "image": "app:good", "version": "1", "deployment": "dpl_good"}
BAD = {"commit": "bad", "image": "app:bad", "version": "3", "deployment": "dpl_bad"}


class Crash(BaseException):
    """Stands for SIGKILL: nothing in the program catches it."""


class FrozenClock:
    """Time that moves only when somebody waits."""

    def __init__(self) -> None:
        self.time = datetime(2025, 11, 18, 3, 0, tzinfo=UTC)

    def now(self) -> datetime:
        self.time += timedelta(milliseconds=1)
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()

    def sleep(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@dataclass
class World:
    """What really is, and how often each effect really happened."""

    commit: str = "bad"
    image: str = "sha256:bad"
    running: bool = True
    versions: list[int] = field(default_factory=lambda: [1, 2, 3])
    deployment: str = "dpl_bad"
    effects: Counter[str] = field(default_factory=Counter)
    unreadable: set[str] = field(default_factory=set)
    failing: dict[str, list[ReconcilerError]] = field(default_factory=dict)
    failing_checks: Callable[[World], list[str]] = lambda world: []
    mixtures: list[str] = field(default_factory=list)

    def vector(self) -> tuple[object, ...]:
        return (self.commit, self.image, self.running, tuple(self.versions), self.deployment)

    def change(self, effect: str) -> None:
        self.effects[effect] += 1

    def trip(self, key: str) -> None:
        """Raises the next planned failure of a step."""
        queue = self.failing.get(key)
        if queue:
            raise queue.pop(0)


@dataclass
class MemoryTarget:
    """One part of the world as a target."""

    name: str
    world: World

    def observe(self) -> Sequence[Fact]:
        world = self.world
        facts = {
            "git": {f.GIT_COMMIT: world.commit},
            "docker": {
                f.service_image("app"): world.image,
                f.service_state("app"): "running" if world.running else "exited",
            },
            "database": {f.DATABASE_VERSION: str(world.versions[-1])},
            "vercel": {f.VERCEL_DEPLOYMENT: world.deployment},
        }[self.name]
        if self.name in world.unreadable:
            return [Fact(key=key, unknown="unreachable") for key in facts]
        return [Fact(key=key, value=value) for key, value in facts.items()]

    def resolve(self, pins: Pins, observed: Observation, goal: Goal) -> Resolution:
        self.world.trip(f"resolve/{self.name}")
        match self.name:
            case "git":
                wanted = {f.GIT_COMMIT: pins.git}
            case "docker":
                assert pins.docker
                image = pins.docker.services["app"].image or ""
                wanted = {
                    f.service_image("app"): image.replace("app:", "sha256:"),
                    f.service_state("app"): "running",
                }
                if "app" in pins.docker.best_effort:
                    del wanted[f.service_state("app")]
            case "database":
                assert pins.database
                wanted = {f.DATABASE_VERSION: pins.database.version}
            case _:
                wanted = {f.VERCEL_DEPLOYMENT: pins.vercel}
        return Resolution(
            wanted=tuple(Wanted(key=key, value=value) for key, value in wanted.items())
        )

    def plan(self, phase: Phase, observed: Observation, goal: Goal) -> Sequence[Step]:
        differs = {key for key, want in goal.wanted.items() if observed.value(key) != want.value}
        steps: list[Step] = []

        def add(action: str, subject: str, **extra: object) -> None:
            steps.append(
                Step(phase=phase, target=self.name, action=action, subject=subject, summary=f"{action} {subject}",
                     **extra)  # type: ignore[arg-type]
            )  # fmt: skip

        now, then = (
            int(observed.value(f.DATABASE_VERSION) or 0),
            int(goal.value(f.DATABASE_VERSION) or 0),
        )
        mine = any(f.target_of(key) == self.name for key in differs)
        match self.name, phase:
            case "git", Phase.RESTORE if mine:
                add("checkout", "worktree")
            case "docker", Phase.CAPTURE if mine:
                add("save-logs", "app", once=True, touches=False)
            case "docker", Phase.STOP if f.service_image("app") in differs or now != then:
                add("stop", "services", downtime=1.0)
            case "docker", Phase.RESTORE if f.service_image("app") in differs:
                add("retag", "app")
            case "docker", Phase.START if (
                f.service_image("app") in differs
                or observed.value(f.service_state("app")) != "running"
            ):
                add("up", "services")
            case "database", Phase.CAPTURE if now > then:
                add("dump", "orders", once=True, touches=False)
            case "database", Phase.RESTORE if now > then:
                for version in range(now, then, -1):
                    add("down", str(version), data_loss=True, irreversible=True)
            case "database", Phase.RESTORE if now < then:
                for version in range(now + 1, then + 1):
                    add("up", str(version))
            case "vercel", Phase.START if mine:
                add("move", "production", args={"to": goal.value(f.VERCEL_DEPLOYMENT)})
        self._tag(steps, goal)
        return steps

    def _tag(self, steps: list[Step], goal: Goal) -> None:
        target_image = goal.value(f.service_image("app"))
        for index, step in enumerate(steps):
            args = {**step.args, "commit": goal.value(f.GIT_COMMIT), "image": target_image}
            steps[index] = step.model_copy(update={"args": args})

    def apply(self, step: Step, context: ApplyContext) -> Applied:
        world = self.world
        world.trip(f"{step.phase}/{step.target}/{step.action}/{step.subject}")
        context.guard()
        context.at(CrashPoint.MID_EFFECT)
        done = self._change(step, context)
        context.at(CrashPoint.APPLIED_UNREAD)
        return done

    def _change(self, step: Step, context: ApplyContext) -> Applied:
        world = self.world
        match step.action:
            case "checkout":
                world.commit = str(step.args["commit"])
                return Applied(facts=[Fact(key=f.GIT_COMMIT, value=world.commit)])
            case "stop":
                world.running = False
                return Applied(facts=[Fact(key=f.service_state("app"), value="exited")])
            case "retag":
                world.change("retag")
            case "up":
                world.image, world.running = str(step.args["image"]), True
                return Applied(facts=self.observe())
            case "save-logs" | "dump":
                path = context.captures / f"{step.action}-{context.run}"
                path.write_bytes(b"saved")
                digest = hashlib.sha256(b"saved").hexdigest()
                kind = "table-dump" if step.action == "dump" else "logs"
                artifact = Artifact(
                    kind=kind,
                    subject=step.subject,
                    path=str(path.relative_to(context.states)),
                    sha256=digest,
                    size=5,
                )
                return Applied(artifacts=[artifact])
            case "down":
                version = int(step.subject)
                if version in world.versions:
                    if world.running:
                        world.mixtures.append(f"down {version} while running")
                    world.versions.remove(version)
                    world.change(f"down {version}")
                return Applied(facts=self.observe())
            case "move":
                if world.deployment != step.args["to"]:
                    if not world.running:
                        world.mixtures.append("traffic moved while down")
                    world.deployment = str(step.args["to"])
                    world.change(f"move to {world.deployment}")
                return Applied(facts=self.observe())
            case _:
                raise PreflightError(f"unknown action {step.action}")
        return Applied()


class DatabaseMemory(MemoryTarget):
    """The database, whose `up` is a migration."""

    def _change(self, step: Step, context: ApplyContext) -> Applied:
        if step.action == "up":
            version = int(step.subject)
            if version not in self.world.versions:
                self.world.versions.append(version)
                self.world.change(f"up {version}")
            return Applied(facts=self.observe())
        return super()._change(step, context)


@dataclass
class MemoryChecker:
    world: World

    def once(self) -> tuple[CheckVerdict, ...]:
        failed = self.world.failing_checks(self.world)
        return (
            CheckVerdict(
                name="health", kind="http", passed="health" not in failed, detail="looked"
            ),
        )

    def until_passed(self, lenient: object = ()) -> tuple[CheckVerdict, ...]:
        return self.once()

    def soak(self) -> tuple[CheckVerdict, ...]:
        return ()


class Silent:
    """A reporter that says nothing."""

    def step_started(self, step: Step) -> None: ...
    def step_finished(self, step: Step, note: str, seconds: float) -> None: ...
    def waiting(self, message: str) -> None: ...
    def note(self, message: str) -> None: ...


@dataclass(frozen=True)
class Source:
    spec: Spec
    text: str
    path: Path = Path("specs/prod.yaml")

    @property
    def digest(self) -> str:
        return canonical_digest(self.spec)


def source(vector: dict[str, str], policy: str = "") -> Source:
    text = SPEC.format(**vector, policy=policy)
    return Source(parse(text, "prod.yaml"), text)


def parse(text: str, path: str) -> Spec:
    spec = parse_spec(text.encode(), path)
    assert isinstance(spec, Spec), [str(problem) for problem in spec]
    return spec


@lru_cache(maxsize=1)
def _empty_ledger() -> Path:
    """An empty ledger with its schema, made once: making it takes longer than a whole run in memory."""
    path = Path(tempfile.mkdtemp(prefix="reconciler-test-")) / "audit.db"
    database = Database(f"sqlite:///{path}")
    with database.writing():
        pass
    database.close()
    return path


class Stage:
    """A world with a ledger: each `engine()` is a new process that knows nothing but what is on record."""

    def __init__(self, folder: Path, world: World | None = None) -> None:
        self.folder, self.world, self.clock = folder, world or World(), FrozenClock()
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(_empty_ledger(), folder / "audit.db")
        self.url = f"sqlite:///{folder}/audit.db"

    def engine(
        self, probe: Callable[[CrashPoint, str], None] = lambda point, effect: None
    ) -> Engine:
        world = self.world
        targets = {
            name: (DatabaseMemory if name == "database" else MemoryTarget)(name, world)
            for name in f.TARGET_ORDER
        }
        return Engine(
            Setting(
                database=Database(self.url),
                states=self.folder,
                equip=lambda spec: Equipment(targets, MemoryChecker(world)),
                parse=parse,
                redactor=Redactor(),
                clock=self.clock,
                reporter=Silent(),
                listeners=(),
                actor="tester",
                origin=Origin.CLI,
                probe=probe,
            )
        )

    def status(self) -> EnvironmentStatus:
        return status_of(Database(self.url), "prod")

    def entries(self) -> list[Entry]:
        return [entry for _, entry in entries(Database(self.url), "prod")]
