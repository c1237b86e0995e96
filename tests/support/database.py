"""What the tests of the database target share: a project with migrations, a recording context, a run of steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from reconciler.core.crashpoints import CrashPoint
from reconciler.core.facts import Goal, Observation, Resolution
from reconciler.core.phase import Phase
from reconciler.core.pins import Artifact, DatabasePins, Pins
from reconciler.core.plan import Step
from reconciler.sandbox.server import ApiServer
from reconciler.sandbox.store import now_ms
from reconciler.sandbox.supabase_api import SupabaseApi
from reconciler.sandbox.supabase_state import Settings, new_state
from reconciler.targets.base import Applied
from reconciler.targets.database import DatabaseTarget
from reconciler.targets.pg.driver import Driver
from reconciler.targets.pg.source import MigrationSource, Trees
from reconciler.targets.postgres import PostgresDriver
from reconciler.targets.supabase import SupabaseDriver


@dataclass
class Context:
    """An `ApplyContext` that keeps artifacts and calls back at crash points."""

    states: Path
    run: str = "r1"
    leg: int = 1
    attempted: datetime | None = None
    artifacts: list[Artifact] = field(default_factory=list)
    points: list[CrashPoint] = field(default_factory=list)
    on_point: Callable[[CrashPoint], None] = lambda _point: None
    on_guard: Callable[[], None] = lambda: None
    slept: list[float] = field(default_factory=list)

    @property
    def captures(self) -> Path:
        folder = self.states / "captures" / self.run / f"leg-{self.leg}"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    def at(self, point: CrashPoint) -> None:
        self.points.append(point)
        self.on_point(point)

    def guard(self) -> None:
        self.on_guard()

    def progress(self, message: str) -> None:
        pass

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        time.sleep(min(seconds, 0.05))


@dataclass
class Project:
    """A folder with migrations, and the database they belong to."""

    root: Path
    dsn: str
    driver: Driver
    repository: Trees | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def up(self, version: str, sql: str, name: str = "change") -> None:
        self.write(f"supabase/migrations/{version}_{name}.sql", sql)

    def down(self, version: str, sql: str, name: str = "change") -> None:
        self.write(f"supabase/rollbacks/{version}_{name}.sql", sql)

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def pair(self, version: str, up: str, down: str) -> None:
        self.up(version, up)
        self.down(version, down)

    @property
    def source(self) -> MigrationSource:
        return MigrationSource(
            self.root, "supabase/migrations", "supabase/rollbacks", self.repository
        )

    @property
    def target(self) -> DatabaseTarget:
        return DatabaseTarget(self.driver, self.source, **{"allow_data_loss": True, **self.options})

    @property
    def context(self) -> Context:
        return Context(self.root / "states")

    def observe(self) -> Observation:
        return Observation.of(datetime.now(UTC), self.target.observe())

    def resolve(self, version: str | None, observed: Observation | None = None) -> Goal:
        return self.goal(DatabasePins(version=version), observed)

    def goal(self, pins: DatabasePins, observed: Observation | None = None) -> Goal:
        resolution: Resolution = self.target.resolve(
            Pins(database=pins), observed or self.observe(), Goal()
        )
        return Goal(
            wanted={want.key: want for want in resolution.wanted},
            materials={"database": resolution.materials},
        )

    def steps(self, goal: Goal, phase: Phase) -> Sequence[Step]:
        return self.target.plan(phase, self.observe(), goal)

    def go(self, goal: Goal, context: Context | None = None, *phases: Phase) -> list[Applied]:
        """Capture and restore, as the runner would; gives what each step made."""
        context = context or self.context
        made = []
        for phase in phases or (Phase.CAPTURE, Phase.RESTORE):
            for step in self.steps(goal, phase):
                Step.model_validate_json(step.model_dump_json())
                applied = self.target.apply(step, context)
                context.artifacts.extend(applied.artifacts)
                made.append(applied)
        return made

    def back(self, version: str | None, context: Context | None = None) -> Context:
        context = context or self.context
        self.go(self.resolve(version), context)
        return context

    def compensate(self, version: str, reapply: Sequence[str], context: Context) -> list[Applied]:
        rows = tuple(a for a in context.artifacts if a.kind == "table-dump")
        pins = DatabasePins(version=version, reapply=tuple(reapply), rows=rows)
        return self.go(self.goal(pins), context)

    def sql(self, text: str) -> list[tuple[Any, ...]]:
        return run(self.dsn, text)

    def versions(self) -> list[str]:
        return [row[0] for row in self.sql(HISTORY)]


HISTORY = "SELECT version FROM supabase_migrations.schema_migrations ORDER BY 1"


def run(dsn: str, text: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(text.encode())
        found: list[tuple[Any, ...]] = []
        while True:
            if cursor.description is not None:
                found = cursor.fetchall()
            if not cursor.nextset():
                return found


REF, TOKEN = "abcdefghijklmnopqrst", "sbp_practice_token"


@contextmanager
def supabase(
    root: Path, dsn: str, *, on_restore: Callable[[int], None] | None = None, **options: Any
) -> Iterator[tuple[Project, SupabaseApi]]:
    """A project whose database is reached by the practice Management API alone."""
    api = SupabaseApi(
        token=TOKEN,
        path=root / "supabase.json",
        initial=new_state(ref=REF, now=now_ms(), settings=Settings(rate_limit=10_000)),
        dsn=dsn,
        on_restore=on_restore,
    )
    with ApiServer(api) as server:
        driver = SupabaseDriver(REF, TOKEN, server.url)
        yield Project(root, dsn, driver, options=options), api
        driver.close()


def direct(root: Path, dsn: str, **options: Any) -> Project:
    return Project(root, dsn, PostgresDriver(dsn), options=options)
