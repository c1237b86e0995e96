"""A practice production: a whole small production on this machine, to rehearse a rollback in.

Repository, containers with Redis and volumes, PostgreSQL with migrations, Vercel and Supabase APIs.
All of it is deployed here by ordinary means, never by the reconciler. Used by `reconciler sandbox`,
by the demo and by tests.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from reconciler.core.errors import UsageError
from reconciler.sandbox import practice_source as source
from reconciler.sandbox.practice_database import migrate
from reconciler.sandbox.practice_engine import PracticeEngine, answer_of
from reconciler.sandbox.practice_front_end import promote, push, wait_for
from reconciler.sandbox.practice_record import (
    DATABASE,
    VERCEL_PROJECT,
    Pace,
    Places,
    Record,
    Release,
    checked_name,
    default_name,
    pick_ports,
)
from reconciler.sandbox.practice_servers import ApiProcess, postgres_of, supabase_of, vercel_of
from reconciler.sandbox.practice_spec import spec_text

DEFAULT_FOLDER = "reconciler-sandbox"
_MIGRATIONS = "supabase/migrations"
_OK = 200

Say = Callable[[str], None]


class PracticeProduction:
    """One practice production, known by its folder.

    Args:
        root: The folder; it becomes a repository, and the root of the reconciler's project.
        say: Told what is done, a line each.
    """

    def __init__(self, root: Path, say: Say = lambda _: None) -> None:
        self.places = Places(root)
        self.root = self.places.root
        self._say = say

    # --- parts ----------------------------------------------------------------------------------

    @property
    def record(self) -> Record:
        """What it knows about itself.

        Raises:
            UsageError: The folder holds no practice production.
        """
        record = self.places.read()
        if record is None:
            raise UsageError(
                f"There is no practice production in {self.root}.",
                hint="Make one with `reconciler sandbox up`.",
            )
        return record

    @property
    def good(self) -> Release:
        """The release that works.

        Raises:
            UsageError: It was never made to the end.
        """
        return _made(self.record.good)

    @property
    def bad(self) -> Release:
        """The release that does not work; without a deployment before `break_`.

        Raises:
            UsageError: It was never made to the end.
        """
        return _made(self.record.bad)

    @property
    def engine(self) -> PracticeEngine:
        """Its containers."""
        return PracticeEngine(self.root, self.record.name)

    @property
    def vercel(self) -> ApiProcess:
        """Its Vercel."""
        return vercel_of(self.places, self.record)

    @property
    def supabase(self) -> ApiProcess:
        """Its Supabase; it runs only where the spec uses it."""
        return supabase_of(self.places, self.record)

    @property
    def dsn(self) -> str:
        """Address of its database; holds the password."""
        return postgres_of(self.places).dsn(DATABASE)

    @property
    def health_url(self) -> str:
        """Where the application says how it is."""
        return f"http://127.0.0.1:{self.record.ports.app}/api/health"

    @property
    def project(self) -> str:
        """Its project on Vercel."""
        return VERCEL_PROJECT

    @property
    def psql(self) -> Path:
        """The client that belongs to its database."""
        return postgres_of(self.places).tool("psql")

    def health(self) -> tuple[int, str]:
        """Status and text that the application answers; status 0 when it does not."""
        return answer_of(self.health_url)

    # --- up -------------------------------------------------------------------------------------

    def up(
        self, *, name: str | None = None, supabase: bool = False, pace: Pace | None = None
    ) -> None:
        """Makes it, at the good release; or starts again what of it does not run.

        Args:
            name: Compose project and prefix of images; from the folder by default.
            supabase: Let the spec reach the database through the Supabase API.
            pace: Speed of the practice Vercel.

        Raises:
            UsageError: The folder is in use for something else, or half made.
            PreflightError: There is no engine, no Compose, no PostgreSQL wheel.
        """
        record = self.places.read()
        if record is not None and record.ready:
            self._start_again(record)
            return
        if record is not None:
            raise UsageError(
                f"The practice production in {self.root} was never made to the end.",
                hint="Run `reconciler sandbox down`, then `up` again.",
            )
        if self.root.exists() and any(self.root.iterdir()):
            raise UsageError(
                f"{self.root} is not empty, and no practice production.",
                hint="Name another folder: reconciler sandbox up DIR",
            )
        name = checked_name(name or default_name(self.root))
        self._require(name)
        record = self.places.write(
            Record(name=name, ports=pick_ports(), supabase=supabase, pace=pace or Pace())
        )
        self._say("repository: four releases, checked out at 1.4.0")
        good, bad = source.create(self.places, record)
        record = self.places.write(record.model_copy(update={"good": good, "bad": bad}))
        with ThreadPoolExecutor() as pool:
            containers = pool.submit(self._deploy_containers, record, good)
            database = pool.submit(self._deploy_database, record)
            front_end = pool.submit(self._deploy_front_end, record, good)
            images, deployment = containers.result(), front_end.result()
            database.result()
        good = good.model_copy(update={"deployment": deployment})
        self.places.spec.parent.mkdir(exist_ok=True)
        self.places.spec.write_text(spec_text(record, good), encoding="utf-8")
        self.places.write(record.model_copy(update={"good": good, "images": images, "ready": True}))

    def _require(self, name: str) -> None:
        """Everything that could be missing or in the way, before anything is made."""
        from reconciler.sandbox.postgres import binaries

        engine = PracticeEngine(self.root, name)
        engine.require()
        binaries()
        if engine.containers():
            raise UsageError(
                f"There are containers of a Compose project {name} already.",
                hint="Choose another name with --name, or remove them: "
                f"docker compose --project-name {name} down --volumes",
            )
        self.root.mkdir(parents=True, exist_ok=True)

    def _deploy_containers(self, record: Record, good: Release) -> tuple[str, ...]:
        engine = PracticeEngine(self.root, record.name)
        images = engine.shared_images()
        self.places.write(self.record.model_copy(update={"images": images}))
        engine.build(good.version)
        engine.up()
        engine.seed()
        engine.wait_until_up()
        wait_for(lambda: self.health()[0] == _OK, "A healthy application")
        self._say(f"containers: app, worker, redis; the application on port {record.ports.app}")
        return images

    def _deploy_database(self, record: Record) -> None:
        server = postgres_of(self.places)
        server.start(port=record.ports.postgres)
        dsn = server.create_database(DATABASE)
        source.write_private(self.places.database_url, dsn + "\n")
        versions = migrate(dsn, self.root / _MIGRATIONS)
        if record.supabase:
            api = supabase_of(self.places, record)
            source.write_private(self.places.supabase_token, api.tokens.token + "\n")
            api.start()
        self._say(f"database: PostgreSQL on port {server.port}, {len(versions)} migrations")

    def _deploy_front_end(self, record: Record, good: Release) -> str:
        api = vercel_of(self.places, record)
        source.write_private(self.places.vercel_token, api.tokens.token + "\n")
        api.start()
        for version, commit in self._earlier_releases():
            push(api, version, commit)
        deployment = push(api, good.version, good.commit)
        self._say(f"front end: Vercel API on port {record.ports.vercel}, {deployment} live")
        return deployment

    def _earlier_releases(self) -> list[tuple[str, str]]:
        lines = source.git(self.root, "log", "--reverse", "--format=%s|%H", "main~1").splitlines()
        return [(line.partition(":")[0], line.rpartition("|")[2]) for line in lines]

    def _start_again(self, record: Record) -> None:
        """After a restart of the machine, or of Docker."""
        postgres_of(self.places).start()
        vercel_of(self.places, record).start()
        if record.supabase:
            supabase_of(self.places, record).start()
        self.engine.require()
        self.engine.up()
        self._say("everything runs")

    # --- break ----------------------------------------------------------------------------------

    def break_(self) -> None:
        """Deploys the bad release, as a team does on a bad day.

        Raises:
            UsageError: There is no practice production here.
            StepFailedError: Something of it refuses.
        """
        record, bad = self.record, self.bad
        source.git(self.root, "checkout", "--quiet", "main")
        source.git(self.root, "merge", "--quiet", "--ff-only", "release-1.5.0")
        self._say(f"repository: main at {bad.commit[:12]} ({bad.version})")
        with ThreadPoolExecutor() as pool:
            containers = pool.submit(self._break_containers, bad)
            database = pool.submit(migrate, self.dsn, self.root / _MIGRATIONS)
            front_end = pool.submit(self._break_front_end, record, bad)
            containers.result()
            versions, deployment = database.result(), front_end.result()
        self._say(f"database: {len(versions)} migrations applied")
        self._say(f"front end: {deployment} live")

    def _break_containers(self, bad: Release) -> None:
        engine = self.engine
        if engine.image("app", bad.version) in engine.images():
            engine.use(bad.version)
        else:
            engine.build(bad.version)
        engine.up()
        engine.wait_until_up()
        self._say("containers: rebuilt and up")

    def _break_front_end(self, record: Record, bad: Release) -> str:
        api = vercel_of(self.places, record)
        if bad.deployment is None:
            bad = bad.model_copy(update={"deployment": push(api, bad.version, bad.commit)})
            self.places.write(self.record.model_copy(update={"bad": bad}))
        assert bad.deployment
        promote(api, bad.deployment)
        return bad.deployment

    # --- down -----------------------------------------------------------------------------------

    def down(self, *, keep: bool = False) -> bool:
        """Removes it: containers, images, volumes, servers, files. Safe to repeat, and after a crash.

        Args:
            keep: Leave the files, so that ledger and repository can be read.

        Returns:
            Whether there was anything.

        Raises:
            UsageError: The folder holds something else.
            PreflightError: The engine cannot be reached; what is left is removed by the next call.
        """
        record = self.places.read()
        if record is None:
            if self.root.exists() and any(self.root.iterdir()):
                raise UsageError(f"{self.root} is no practice production; nothing was removed.")
            return False
        with ThreadPoolExecutor() as pool:
            servers = pool.submit(self._stop_servers, record, keep=keep)
            PracticeEngine(self.root, record.name).remove(record.images)
            servers.result()
        if not keep:
            # The record goes last, so that whatever is left is found again.
            for entry in [*self.root.iterdir(), *self.places.own.iterdir()]:
                if entry not in {self.places.own, self.places.record}:
                    remove = shutil.rmtree if _is_folder(entry) else Path.unlink
                    remove(entry)
            shutil.rmtree(self.root)
        return True

    def _stop_servers(self, record: Record, *, keep: bool) -> None:
        vercel_of(self.places, record).stop()
        supabase_of(self.places, record).stop()
        server = postgres_of(self.places)
        server.stop() if keep else server.destroy()


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _made(release: Release | None) -> Release:
    if release is None:
        raise UsageError(
            "The practice production was never made to the end.",
            hint="Run `reconciler sandbox down`, then `up` again.",
        )
    return release
