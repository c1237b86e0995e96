"""A world in memory with a real ledger, on which engines come and go as processes do: for tests of the engine."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Self

from reconciler import engine as engine_room
from reconciler.assembly import Equipment
from reconciler.audit.database import Database
from reconciler.audit.journal import Listener
from reconciler.audit.lease import TTL, Holder, Lease
from reconciler.audit.queries import entries, status_of
from reconciler.core.certificate import CheckVerdict
from reconciler.core.clock import Clock
from reconciler.core.conditions import Reason
from reconciler.core.crashpoints import CrashPoint
from reconciler.core.entry import Entry, EntryKind, Origin
from reconciler.core.facts import RecoveryPoint
from reconciler.core.loader import parse_spec
from reconciler.core.plan import Step
from reconciler.core.projection import fold
from reconciler.core.redact import Redactor
from reconciler.core.spec import Spec, canonical_digest
from reconciler.core.status import EnvironmentStatus, Override
from reconciler.core.table import TABLE
from reconciler.core.vectors import pins_from_vector
from reconciler.engine import Engine
from reconciler.setting import Setting
from tests.support import memory
from tests.support.worldparts import Crash, World
from tests.support.worldtargets import targets_of

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
      worker: {{image: "{image}"}}
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
GOOD_VECTOR = ("good", "sha256:good", True, (1,), "dpl_good")
BAD_VECTOR = ("bad", "sha256:bad", True, (1, 2, 3), "dpl_bad")

__all__ = [
    "BAD", "BAD_VECTOR", "GOOD", "GOOD_VECTOR", "SPEC", "Crash", "FrozenClock", "Silent", "Source",
    "Stage", "World", "crash_at", "empty_ledger", "parse", "source",
]  # fmt: skip

_LEGAL = {(move.source, move.trigger, move.dest) for move in TABLE}
Probe = Callable[[CrashPoint, str], None]


class FrozenClock:
    """Time that moves only when somebody waits, and by a millisecond with each look at it."""

    def __init__(self) -> None:
        self.time = datetime(2025, 11, 18, 3, 0, tzinfo=UTC)
        self.leases: list[Lease] = []

    def now(self) -> datetime:
        self.time += timedelta(milliseconds=1)
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()

    def sleep(self, seconds: float) -> None:
        """Waits in no time. Leases are renewed meanwhile, as they are in the background while real time passes."""
        until = self.time + timedelta(seconds=seconds)
        while self.time < until:
            self.time = min(until, self.time + TTL / 4)
            for lease in self.leases:
                lease.renew()


@dataclass
class MemoryChecker:
    """One check, `health`."""

    world: World

    def once(self) -> tuple[CheckVerdict, ...]:
        self.world.trip("checks")
        failed = self.world.failing_checks(self.world)
        passed = "health" not in failed
        return (CheckVerdict(name="health", kind="http", passed=passed, detail="looked"),)

    def until_passed(self, lenient: Collection[str] = ()) -> tuple[CheckVerdict, ...]:
        return self.once()

    def soak(self) -> tuple[CheckVerdict, ...]:
        return ()


class StageLease(Lease):
    """A lease that a frozen clock keeps alive."""

    def __init__(self, database: Database, environment: str, holder: Holder, clock: Clock) -> None:
        super().__init__(database, environment, holder, clock)
        if isinstance(clock, FrozenClock):
            clock.leases.append(self)

    def release(self) -> None:
        super().release()
        if isinstance(self._clock, FrozenClock):
            self._clock.leases.remove(self)


engine_room.__dict__["Lease"] = StageLease


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
    digest: str
    path: Path = Path("specs/prod.yaml")


def source(vector: Mapping[str, str], policy: str = "", volumes: str = "") -> Source:
    """A spec that asks for a vector."""
    text = SPEC.format(**vector, policy=policy)
    return _source(
        text.replace("  database:", f"    volumes: {volumes}\n  database:") if volumes else text
    )


@lru_cache(maxsize=64)
def _source(text: str) -> Source:
    spec = parse(text, "prod.yaml")
    return Source(spec, text, canonical_digest(spec))


def parse(text: str, path: str) -> Spec:
    spec = parse_spec(text.encode(), path)
    assert isinstance(spec, Spec), [str(problem) for problem in spec]
    return spec


@lru_cache(maxsize=1)
def empty_ledger() -> Path:
    """An empty ledger with its schema, made once: making it takes longer than a whole run in memory."""
    path = memory.folder() / "audit.db"
    database = Database(f"sqlite:///{path}")
    with database.writing():
        pass
    database.close()
    return path


#: Compiled statements, shared by all stages: compiling them again takes as long as a run.
_COMPILED: dict[object, object] = {}


@dataclass
class Stage:
    """A world with a ledger: each `engine()` is a new process that knows nothing but what is on record."""

    folder: Path = field(default_factory=memory.folder)
    world: World = field(default_factory=World)
    clock: FrozenClock = field(default_factory=FrozenClock)
    redactor: Redactor = field(default_factory=Redactor)
    listeners: tuple[Listener, ...] = ()

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(empty_ledger(), self.folder / "audit.db")
        self.url = f"sqlite:///{self.folder}/audit.db"
        self.database = Database(self.url)
        for name in ("_engine", "_reader"):
            shared = getattr(self.database, name).execution_options(compiled_cache=_COMPILED)
            setattr(self.database, name, shared)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()
        shutil.rmtree(self.folder)

    def engine(self, probe: Probe = lambda point, effect: None) -> Engine:
        return Engine(
            Setting(
                database=self.database,
                states=self.folder,
                equip=lambda spec: Equipment(targets_of(self.world), MemoryChecker(self.world)),
                parse=parse,
                redactor=self.redactor,
                clock=self.clock,
                reporter=Silent(),
                listeners=self.listeners,
                actor="tester",
                origin=Origin.CLI,
                probe=probe,
            )
        )

    def status(self) -> EnvironmentStatus:
        return status_of(self.database, "prod")

    def entries(self) -> list[Entry]:
        return [entry for _, entry in entries(self.database, "prod")]

    def back_to(self, point: RecoveryPoint) -> Override:
        """What `rollback --to POINT` hands to the engine."""
        return Override(
            generation=self.status().generation,
            reason=Reason.ROLLBACK,
            message="back",
            pins=pins_from_vector(point.vector),
            by="tester",
            at=self.clock.now(),
        )

    def check(self, *, resting: bool = True) -> None:
        """O2, O5, O7, O10, and that the status is what the entries say.

        Args:
            resting: Whether the environment rests, so that no intent may be open.
        """
        entries = self.entries()
        opened: set[tuple[str | None, str | None]] = set()
        phase = "new"
        for entry in entries:
            if entry.kind is EntryKind.TRANSITION:
                assert (entry.from_state, entry.trigger, entry.to_state) in _LEGAL
                assert entry.from_state == phase, "each move starts where the last one ended"
                phase = entry.to_state or ""
            if entry.kind is EntryKind.INTENT:
                assert (entry.run, entry.effect) not in opened
                opened.add((entry.run, entry.effect))
            if entry.kind is EntryKind.RESULT:
                assert (entry.run, entry.effect) in opened, "a result has an intent before it"
                opened.discard((entry.run, entry.effect))
        assert not (resting and opened), f"every intent is resolved: {opened}"
        assert fold(entries, "prod") == self.status()
        assert not self.world.wrong


def crash_at(point: CrashPoint, effect: str) -> Probe:
    """A probe that ends the process at one crash point of the effect whose key ends so."""

    def probe(where: CrashPoint, what: str) -> None:
        if where is point and what.endswith(effect):
            raise Crash

    return probe
