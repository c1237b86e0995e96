"""Puts the parts together: from a spec to its targets and checks, from a project to its ledger.

The only place that knows which class stands behind which section of a spec, and the only one that reads secrets; each
secret is told to the redactor before anybody can write it. Called by `cli` and `loop`. A target's module is loaded only
when the spec has its section: loading all of them takes longer than looking at one.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from reconciler.checks.base import CheckContext
from reconciler.checks.checker import SpecChecker
from reconciler.clock import SystemClock
from reconciler.core.errors import PreflightError, SpecInvalidError, UsageError
from reconciler.core.facts import Fact
from reconciler.core.loader import parse_spec
from reconciler.core.redact import Redactor
from reconciler.core.section import SecretRef
from reconciler.core.spec import Docker, Spec
from reconciler.project import Project, inside, read_secret
from reconciler.targets.base import Target, TargetMap

if TYPE_CHECKING:
    from psycopg import Connection

    from reconciler.phases.base import Checker
    from reconciler.targets.docker_host import DockerHost
    from reconciler.targets.shared.repository import Repository
    from reconciler.targets.volumes import VolumeStore


def actor() -> str:
    """Who acts: RECONCILER_ACTOR, or `user@host`."""
    named = os.environ.get("RECONCILER_ACTOR")
    if named:
        return named
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def ledger_url(project: Project, given: str | None) -> str:
    """The ledger's database: as given (`--database`), as the project says, or `audit.db` in the state folder."""
    url = given or project.database_url or f"sqlite:///{project.states_dir / 'audit.db'}"
    prefix, relative = "sqlite:///", url.removeprefix("sqlite:///")
    if url.startswith(prefix) and relative and not relative.startswith("/"):
        return f"{prefix}{project.root / relative}"
    return url


def _silent(_message: str) -> None:
    """Nobody is watching."""


@dataclass(frozen=True, slots=True)
class Equipment:
    """What a spec needs to be acted on."""

    targets: TargetMap
    checker: Checker


@dataclass(frozen=True, slots=True)
class Parts:
    """Makes targets and checks of the specs of one project.

    Attributes:
        project: Where the specs live.
        redactor: Is told every secret that is read.
        spec_path: The spec's own file, which a checkout must not change.
        progress: Told what checks wait for.
    """

    project: Project
    redactor: Redactor
    spec_path: Path
    progress: Callable[[str], None] = field(default=_silent)

    def parse(self, text: str, path: str) -> Spec:
        """A spec from the text that the ledger keeps.

        Raises:
            SpecInvalidError: This version of the program no longer accepts it.
        """
        spec = parse_spec(text.encode(), path)
        if not isinstance(spec, Spec):
            raise SpecInvalidError(spec)
        return spec

    def equip(self, spec: Spec) -> Equipment:
        """The targets and checks of a spec. Opens no connection yet.

        Raises:
            UsageError: A secret that it refers to is not there.
            TerminalError: A path leads out of the project.
        """
        repository = self._repository(spec)
        targets: dict[str, Target] = {}
        if spec.git:
            targets["git"] = self._git(spec)
        if spec.docker:
            targets["docker"] = self._docker(spec, repository)
        if spec.database:
            targets["database"] = self._database(spec, repository)
        if spec.vercel:
            targets["vercel"] = self._vercel(spec)
        context = CheckContext(
            root=self.project.root,
            secret=self.secret,
            redactor=self.redactor,
            clock=SystemClock(),
            connect=self._connector(spec),
            containers=_containers(targets),
            progress=self.progress,
        )
        return Equipment(targets, SpecChecker(spec.verify, context))

    def secret(self, reference: SecretRef) -> str:
        """Reads a secret and tells the redactor.

        Raises:
            UsageError: There is none.
        """
        value = read_secret(reference, self.project.root)
        self.redactor.learn(value)
        password = urlsplit(value).password if "://" in value else None
        if password:
            self.redactor.learn(password, unquote(password))
        return value

    def _repository(self, spec: Spec) -> Repository | None:
        if spec.git is None:
            return None
        from reconciler.targets.shared.repository import Repository

        return Repository(inside(self.project.root, spec.git.repository))

    def _git(self, spec: Spec) -> Target:
        from reconciler.targets.git import GitTarget

        assert spec.git is not None
        root = inside(self.project.root, spec.git.repository)
        return GitTarget(root, protected=self._protected(root), dirty=spec.git.dirty)

    def _protected(self, repository: Path) -> Sequence[str]:
        """What lies in the repository and is ours: the specs, the states, our settings."""
        real = self.project.root.resolve()
        ours = (
            self.project.specs_dir,
            self.project.states_dir,
            self.spec_path,
            real / "reconciler.toml",
        )
        found = []
        for path in ours:
            resolved = path.resolve()
            if resolved.is_relative_to(repository) and resolved != repository:
                found.append(str(resolved.relative_to(repository)))
        return found

    def _docker(self, spec: Spec, repository: Repository | None) -> Target:
        from reconciler.targets.docker import DockerTarget
        from reconciler.targets.docker_host import DockerHost

        section = spec.docker
        assert section is not None
        host = DockerHost(section.host, section.context)
        return DockerTarget(
            section,
            project_root=self.project.root,
            repository=repository,
            volumes=self._volumes(section, host),
            host=host,
            cache=self.project.states_dir / "cache",
            timeout=spec.verify.timeout.seconds,
            # Its own: it learns every value in the containers' environment, `production` and `worker` among them. Known
            # to the ledger's redactor, such words would be taken out of facts and effect keys.
            redactor=Redactor(),
        )

    def _volumes(self, section: Docker, host: DockerHost) -> VolumeStore:
        from reconciler.targets.volumes import VolumeStore

        def any_image() -> str:
            """Any image that a container of the project runs: it is only mounted into, never started."""
            found = host.client().containers.list(
                all=True, filters={"label": f"com.docker.compose.project={section.project}"}
            )
            images = [str(container.attrs["Image"]) for container in found]
            images += [
                str(image.id) for image in (host.client().images.list() if not images else [])
            ]
            if not images:
                raise PreflightError("There is no image on the engine to reach volumes with.")
            return images[0]

        return VolumeStore(host.client, section.project, any_image, states=self.project.states_dir)

    def _database(self, spec: Spec, repository: Repository | None) -> Target:
        from reconciler.targets.database import DatabaseTarget
        from reconciler.targets.pg.source import MigrationSource

        section = spec.database
        assert section is not None
        pitr = section.supabase.pitr if section.supabase else None
        return DatabaseTarget(
            self._driver(spec),
            MigrationSource(self.project.root, section.migrations, section.rollbacks, repository),
            allow_data_loss=spec.policy.allow_data_loss,
            lock_timeout=section.lock_timeout.seconds,
            statement_timeout=section.statement_timeout.seconds,
            pitr=round(datetime.fromisoformat(pitr.time).timestamp()) if pitr else None,
        )

    def _driver(self, spec: Spec) -> Any:
        section = spec.database
        assert section is not None
        if section.postgres:
            from reconciler.targets.postgres import PostgresDriver

            return PostgresDriver(self.secret(section.postgres.dsn_from))
        from reconciler.targets.supabase import SupabaseDriver

        supabase = section.supabase
        assert supabase is not None
        dsn = self.secret(supabase.dsn_from) if supabase.dsn_from else None
        return SupabaseDriver(
            supabase.project_ref, self.secret(supabase.token_from), supabase.api_url, dsn
        )

    def _vercel(self, spec: Spec) -> Target:
        from reconciler.targets.vercel import VercelTarget

        section = spec.vercel
        assert section is not None
        return VercelTarget(
            section.project, section.team, self.secret(section.token_from), section.api_url
        )

    def _connector(self, spec: Spec) -> Callable[[SecretRef | None, float], Connection[Any]] | None:
        """Opens the connections that SQL checks ask for."""
        section = spec.database
        own: SecretRef | None = None
        if section is not None and section.postgres:
            own = section.postgres.dsn_from
        elif section is not None and section.supabase:
            own = section.supabase.dsn_from

        def connect(reference: SecretRef | None, timeout: float) -> Connection[Any]:
            import psycopg

            reference = reference or own
            if reference is None:
                raise UsageError(
                    "An sql check needs a direct connection to the database.",
                    hint="Give the check a dsnFrom, or spec.database.supabase.dsnFrom.",
                )
            try:
                return psycopg.connect(
                    self.secret(reference),
                    connect_timeout=max(1, round(timeout)),
                    application_name="reconciler-check",
                )
            except psycopg.Error as exc:
                raise UsageError("The database of an sql check cannot be reached.") from exc

        return connect


def _containers(targets: Mapping[str, Target]) -> Callable[[], Sequence[Fact]] | None:
    docker = targets.get("docker")
    return docker.observe if docker else None
