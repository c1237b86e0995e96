"""A practice production for tests: made once, broken as often as needed, looked at from outside.

What it says about the world is read from Git, Docker, PostgreSQL and the practice APIs themselves,
never from the reconciler. Tests get it from the fixtures at the end of this file:

    from tests.support.production import practice, practice_session  # in a conftest.py

    def test_it(practice):                     # broken, exactly as after `sandbox break`
        practice.run("apply", "specs/prod.yaml", "--yes").ok()
        assert practice.world().release == practice.good_world.release

`practice.fork(..., kill_at=(point, effect))` kills the command at a crash point; see `zygote`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql

from reconciler.core.errors import ReconcilerError
from reconciler.sandbox.practice_record import DATABASE, VERCEL_PROJECT, Pace
from reconciler.sandbox.practice_redis import REDIS_VARIABLE
from reconciler.sandbox.practice_servers import ApiProcess, postgres_of
from reconciler.sandbox.practice_source import git
from reconciler.sandbox.production import PracticeProduction
from tests.support import zygote
from tests.support.engine import load_environment
from tests.support.programs import PARTS, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reconciler.core.crashpoints import CrashPoint

_PREFIX = "reconciler-test-practice-"
_FOREIGN = ("VERCEL_", "SUPABASE_", "PG", "RECONCILER_", "COMPOSE_", "GIT_")
#: The practice Vercel is quick in tests, and its moves still take several looks.
_PACE = Pace(build_ms=50, alias_delay_ms=60, alias_step_ms=40)
_BROKEN = "shop_broken"


@dataclass(frozen=True)
class Ended:
    """A command that has ended.

    Attributes:
        code: Exit code; negative when a signal ended it.
        out: Its stdout.
        err: Its stderr.
        seconds: How long it took.
    """

    code: int
    out: str
    err: str
    seconds: float

    def ok(self, code: int = 0) -> Ended:
        """Itself; an AssertionError with all it said when the exit code is another."""
        assert self.code == code, f"exit code {self.code}\n{self.out[-4000:]}\n{self.err[-6000:]}"
        return self


@dataclass(frozen=True)
class World:
    """Production, seen from outside.

    Attributes:
        commit: HEAD's commit.
        branch: The branch HEAD is on, None when on none.
        dirty: `git status --porcelain`.
        services: By service: image id, state, config hash.
        containers: By service: container id and start time. Changes when one is recreated or restarted.
        tags: The shop's image tags, with their ids.
        schema: Columns of every table (`name type`), by table.
        rows: Every row of every table, as sorted JSON texts, by table.
        versions: Applied migrations, oldest first.
        production: Vercel's production deployment.
        aliases: The deployment behind each production host name.
    """

    commit: str
    branch: str | None
    dirty: str
    services: dict[str, tuple[str, str, str]]
    containers: dict[str, tuple[str, str]]
    tags: dict[str, str]
    schema: dict[str, list[str]]
    rows: dict[str, list[str]]
    versions: tuple[str, ...]
    production: str | None
    aliases: dict[str, str | None]

    @property
    def production_itself(self) -> World:
        """Without image tags: a capture may add some, to keep what runs from being pruned."""
        return replace(self, tags={})

    @property
    def release(self) -> dict[str, Any]:
        """What has to be equal for two productions to be at the same release, data included."""
        left_out = {"branch", "containers", "tags"}
        return {key: value for key, value in asdict(self).items() if key not in left_out}


class Practice:
    """One practice production and what tests do with it.

    Args:
        production: Made and broken once.
        env: The environment for subprocesses.
    """

    def __init__(self, production: PracticeProduction, env: dict[str, str]) -> None:
        self.production = production
        self.root = production.root
        self.spec = production.places.spec
        self.env = env
        self.good_world = self.world()
        production.break_()
        self.broken_world = self.world()
        self._spec_text = self.spec.read_text(encoding="utf-8")
        self._server = postgres_of(production.places)
        self._server.create_database(_BROKEN, template=DATABASE)
        self._apis = [production.vercel]
        if production.record.supabase:
            self._apis.append(production.supabase)
        self._zygote: zygote.Zygote | None = None
        self._states = {api.api: api.state.read_bytes() for api in self._apis}

    @classmethod
    def up(cls, *, supabase: bool = False) -> Practice:
        """Makes one: good, then broken. Takes some 10 s."""
        remove_orphans()
        load_environment()
        os.environ.setdefault(REDIS_VARIABLE, str(PARTS / "redis-server"))
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        folder.joinpath("owner").write_text(str(os.getpid()), encoding="ascii")
        production = PracticeProduction(folder / "shop")
        try:
            production.up(supabase=supabase, pace=_PACE)
            return cls(production, _environment())
        except BaseException:
            production.down()
            shutil.rmtree(folder)
            raise

    def rest(self) -> None:
        """Freezes its containers until it is needed again: their health checks take a third of a core all the time."""
        self._freeze("pause", "running")

    def _freeze(self, order: str, state: str) -> None:
        engine, name = self.production.engine, self.production.record.name
        label = f"label=com.docker.compose.project={name}"
        found = engine.docker("ps", "--quiet", "--filter", label, "--filter", f"status={state}")
        if found:
            engine.docker(order, *found.split())

    def down(self) -> None:
        """Removes it."""
        if self._zygote is not None:
            self._zygote.close()
        self._freeze("unpause", "paused")
        self.production.down()
        shutil.rmtree(self.root.parent)

    # --- breaking it again ----------------------------------------------------------------------

    def reset_to_broken(self) -> None:
        """Makes it what it was right after `break`, whatever a test (or a kill) left. Only what differs is touched."""
        self._freeze("unpause", "paused")
        self._reset_tree()
        with ThreadPoolExecutor() as pool:
            for done in [
                pool.submit(self._reset_database),
                pool.submit(self._reset_containers),
                *(pool.submit(self._reset_api, api) for api in self._apis),
            ]:
                done.result()

    def _reset_tree(self) -> None:
        git_folder = self.root / ".git"
        for lock in (*git_folder.glob("*.lock"), *git_folder.glob("refs/**/*.lock")):
            lock.unlink()
        for folder in (git_folder / "reconciler", self.root / "states"):
            shutil.rmtree(folder, ignore_errors=True)
        if self._head() != (self.broken_world.commit, "main") or self._dirty():
            git(self.root, "checkout", "--quiet", "--force", "main")
            git(self.root, "reset", "--quiet", "--hard", self.broken_world.commit)
            git(self.root, "clean", "--quiet", "--force", "-d")
        git(self.root, "stash", "clear")
        self.spec.write_text(self._spec_text, encoding="utf-8")

    def _reset_database(self) -> None:
        self._server.drop_database(DATABASE)
        self._server.create_database(DATABASE, template=_BROKEN)

    def _reset_containers(self) -> None:
        engine = self.production.engine
        known = self.broken_world.tags
        if engine.images() != known:
            engine.use(self.production.bad.version)
        if self._containers()[0] != self.broken_world.services:
            engine.up()
            engine.wait_until_up()
        if extra := sorted(set(engine.images()) - set(known)):
            engine.docker("image", "rm", "--force", "--no-prune", *extra)

    def _reset_api(self, api: ApiProcess) -> None:
        api.call("DELETE", "/__faults", control=True) if api.pid else None
        if api.pid is None or api.state.read_bytes() != self._states[api.api]:
            api.stop()
            api.state.write_bytes(self._states[api.api])
            api.start()

    # --- looking at it --------------------------------------------------------------------------

    def world(self) -> World:
        """Production as it is now."""
        commit, branch = self._head()
        services, containers = self._containers()
        schema, rows, versions = read_database(self.production.dsn)
        project = self.production.vercel.call("GET", f"/v9/projects/{VERCEL_PROJECT}")
        assert isinstance(project, dict)
        return World(
            commit=commit,
            branch=branch,
            dirty=self._dirty(),
            services=services,
            containers=containers,
            tags=self.production.engine.images(),
            schema=schema,
            rows=rows,
            versions=versions,
            production=(project["targets"].get("production") or {}).get("id"),
            aliases={
                alias["domain"]: (alias.get("deployment") or {}).get("id")
                for alias in project["alias"]
            },
        )

    def _head(self) -> tuple[str, str | None]:
        branch = git(self.root, "rev-parse", "HEAD", "--abbrev-ref", "HEAD").split()
        return branch[0], None if branch[1] == "HEAD" else branch[1]

    def _dirty(self) -> str:
        return git(self.root, "status", "--porcelain")

    def _containers(self) -> tuple[dict[str, tuple[str, str, str]], dict[str, tuple[str, str]]]:
        found = self.production.engine.containers()
        return (
            {one.service: (one.image, one.state, one.config) for one in found},
            {one.service: (one.id, one.started) for one in found},
        )

    def effects(self) -> list[dict[str, Any]]:
        """Changes the practice APIs have accepted since `break`, oldest first: route, ids, repeat."""
        found: list[dict[str, Any]] = []
        for api in self._apis:
            before = len(json.loads(self._states[api.api])["effects"])
            answer = api.call("GET", "/__effects", control=True)
            assert isinstance(answer, dict)
            found += answer["effects"][before:]
        return found

    def effect_counts(self) -> Counter[str]:
        """How often each route was accepted since `break`."""
        return Counter(effect["route"] for effect in self.effects())

    def container_events(self, since: float) -> Counter[str]:
        """What the engine did to the shop's containers (`start app`, `die worker`, ...).

        Args:
            since: Unix time.
        """
        lines = self.production.engine.docker(
            *("events", "--since", f"{since:.3f}", "--until", f"{time.time():.3f}"),
            *("--filter", f"label=com.docker.compose.project={self.production.record.name}"),
            *("--filter", "type=container", "--format", "{{json .}}"),
        )
        events = [json.loads(line) for line in lines.splitlines()]
        return Counter(
            f"{event['Action']} {event['Actor']['Attributes']['com.docker.compose.service']}"
            for event in events
            if not event["Action"].startswith("exec_")
        )

    def reflog(self) -> list[str]:
        """Every move of HEAD, newest first."""
        return git(self.root, "reflog", "--format=%H %gs").splitlines()

    def ledger(self) -> list[tuple[Any, ...]]:
        """Rows of the default ledger, oldest first: seq, kind, run, effect, to_state, reason."""
        path = self.root / "states" / "audit.db"
        if not path.exists():
            return []
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            query = "SELECT seq, kind, run, effect, to_state, reason FROM ledger ORDER BY seq"
            return connection.execute(query).fetchall()
        except sqlite3.OperationalError:
            return []  # it is just being made
        finally:
            connection.close()

    # --- running the program --------------------------------------------------------------------

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts the reconciler in the project's folder; the caller waits for it, or kills it."""
        return subprocess.Popen(
            [sys.executable, "-m", "reconciler", *arguments],
            cwd=self.root,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, timeout: float = 120) -> Ended:
        """Runs the reconciler in the project's folder to its end, as a user would."""
        began = time.monotonic()
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
        return Ended(process.returncode, out, err, time.monotonic() - began)

    def fork(
        self,
        *arguments: str,
        kill_at: tuple[CrashPoint, str] | None = None,
        do_at: tuple[CrashPoint, str, Sequence[str]] | None = None,
        record: Path | None = None,
    ) -> zygote.Ended:
        """Runs the reconciler in a forked child, to be killed at a crash point, or to record them."""
        if self._zygote is None:
            folder = self.root.parent / "zygote"
            self._zygote = zygote.Zygote(folder, {**self.env, "PYTHONPATH": str(ROOT)})
        return self._zygote.run(
            *arguments, cwd=self.root, kill_at=kill_at, do_at=do_at, record=record
        )


def read_database(
    dsn: str,
) -> tuple[dict[str, list[str]], dict[str, list[str]], tuple[str, ...]]:
    """Schema, all rows and applied migrations of a database."""
    schema: dict[str, list[str]] = {}
    rows: dict[str, list[str]] = {}
    with psycopg.connect(dsn) as connection:
        columns = connection.execute(
            "SELECT table_name, column_name || ' ' || data_type FROM information_schema.columns"
            " WHERE table_schema = 'public' ORDER BY table_name, ordinal_position"
        )
        for table, column in columns:
            schema.setdefault(table, []).append(column)
        for table in schema:
            query = sql.SQL("SELECT to_jsonb(t)::text FROM public.{} t ORDER BY 1")
            found = connection.execute(query.format(sql.Identifier(table)))
            rows[table] = [row[0] for row in found]
        history = "SELECT version FROM supabase_migrations.schema_migrations ORDER BY version"
        versions = tuple(row[0] for row in connection.execute(history))
    return schema, rows, versions


def remove_orphans() -> None:
    """Removes practice productions whose test run is gone; a killed run cannot do it itself.

    One worker at a time, and what does not go is no reason for a test to fail.
    """
    load_environment()
    with Path(tempfile.gettempdir(), f"{_PREFIX}lock").open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/"):
            if _is_orphan(folder):
                with contextlib.suppress(ReconcilerError, OSError):
                    PracticeProduction(folder / "shop").down()
                shutil.rmtree(folder, ignore_errors=True)


def _is_orphan(folder: Path) -> bool:
    try:
        os.kill(int(folder.joinpath("owner").read_text(encoding="ascii")), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError):
        return False  # just being made, or somebody else's
    return False


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)}
    return {**kept, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "RECONCILER_ACTOR": "tester"}


@pytest.fixture(scope="session")
def practice_session() -> Iterator[Practice]:
    """A practice production for the whole run (one a worker); mark the test `e2e` or `crash`."""
    made = Practice.up()
    yield made
    made.down()


@pytest.fixture
def practice(practice_session: Practice) -> Iterator[Practice]:
    """The run's practice production, broken, exactly as after `sandbox break`."""
    practice_session.reset_to_broken()
    yield practice_session
    practice_session.rest()
