"""The spec: what a human (or a commit) wants production to be. Frozen, strict, with its defaults.

`loader.parse_spec` makes one from YAML, `schema` describes it to editors, `specs/prod.yaml` is its
manual. Everything that decides or acts reads it from here. Checks and soak are in `spec_verify`.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from reconciler.core.duration import Duration
from reconciler.core.fields import (
    LAST_KNOWN_GOOD,
    AsTuple,
    ComposeName,
    ComposeProject,
    DnsLabel,
    DockerHost,
    HttpUrl,
    ImageRef,
    MigrationVersion,
    ProjectRef,
    RelPath,
    Revision,
    Sha256,
    Span,
    Timestamp,
    VercelDeployment,
    VercelName,
)
from reconciler.core.problems import Location, format_path
from reconciler.core.section import Group, SecretRef, Section, part, parts
from reconciler.core.spec_verify import Verify

API_VERSION = "reconciler/v1"


class Metadata(Section):
    """Which environment this is."""

    name: DnsLabel = Field(
        description="Name of the environment; names its state file and its entries in the ledger."
    )


class Git(Section):
    """The working tree production runs from."""

    repository: RelPath = Field(default=".", description="Path of the repository.")
    commit: Revision = Field(
        description="Commit wanted: full or short id, tag, branch, HEAD~1, or last-known-good."
    )
    dirty: Literal["refuse", "stash"] = Field(
        default="refuse", description="What to do about uncommitted changes."
    )


class Service(Section):
    """One service's way back: an image that exists, or a build from spec.git.commit."""

    groups = (Group(("image", "build")),)
    schema_rules = ({"dependentRequired": {"noCache": ["build"]}},)

    image: ImageRef | None = Field(
        default=None, description="Tag, digest or id of an image that exists, or last-known-good."
    )
    build: Literal[True] | None = Field(
        default=None,
        description="Build from spec.git.commit; reused when already built from that commit.",
    )
    no_cache: bool = Field(
        default=False, description="Build without the layer cache, and without reuse."
    )

    def faults(self) -> Iterator[tuple[Location, str]]:
        """An option of building where nothing is built."""
        if self.no_cache and not self.build:
            yield ("noCache",), "belongs to build: true"


class Volume(Section):
    """One volume's way back: an archive."""

    restore: RelPath = Field(description="Archive (.tar, .tar.gz, .tar.zst) to restore from.")
    sha256: Sha256 = Field(description="SHA-256 of the archive.")

    def faults(self) -> Iterator[tuple[Location, str]]:
        """A word that means something elsewhere, taken for a file."""
        if self.restore == LAST_KNOWN_GOOD:
            yield ("restore",), "names an archive and its digest; last-known-good is none"


class Docker(Section):
    """The containers of one Compose project."""

    groups = (Group(("host", "context"), least=0),)

    compose: Annotated[tuple[RelPath, ...], AsTuple] = Field(
        default=("docker-compose.yml",),
        min_length=1,
        max_length=50,
        description="Compose files, later ones over earlier ones; read at spec.git.commit.",
    )
    project: ComposeProject = Field(description="Compose project name.")
    profiles: Annotated[tuple[ComposeName, ...], AsTuple] = Field(
        default=(), max_length=100, description="Compose profiles to enable."
    )
    env_files: Annotated[tuple[RelPath, ...], AsTuple] = Field(
        default=(), max_length=100, description="Files for Compose's own variables (--env-file)."
    )
    services: Mapping[ComposeName, Service] = Field(
        default={}, max_length=500, description="What each service shall run."
    )
    volumes: Mapping[ComposeName, Volume] = Field(
        default={}, max_length=500, description="Volumes restored from an archive."
    )
    host: DockerHost | None = Field(
        default=None, description="Docker engine, as in DOCKER_HOST; otherwise this machine's."
    )
    context: ComposeName | None = Field(
        default=None, description="Docker context that names the engine."
    )


class Pitr(Section):
    """Point-in-time recovery, declared an acceptable way back. What was written since is lost."""

    time: Timestamp = Field(description="Moment to go back to, with its offset (RFC 3339).")


class Supabase(Section):
    """A database of Supabase, reached by its Management API."""

    project_ref: ProjectRef = Field(description="Project reference: 20 lower-case letters.")
    token_from: SecretRef = Field(description="Personal access token.")
    api_url: HttpUrl = Field(
        default="https://api.supabase.com", description="Address of the Management API."
    )
    dsn_from: SecretRef | None = Field(
        default=None, description="Direct connection string; all SQL then goes there."
    )
    pitr: Pitr | None = Field(default=None, description="Point-in-time recovery as a way back.")


class Postgres(Section):
    """A PostgreSQL database, reached directly."""

    dsn_from: SecretRef = Field(description="Connection string.")


def _sibling(data: Mapping[str, Any]) -> str:
    return posixpath.join(posixpath.dirname(posixpath.normpath(data["migrations"])), "rollbacks")


class Database(Section):
    """The database and the migration it shall stand at."""

    groups = (Group(("supabase", "postgres")),)

    supabase: Supabase | None = Field(default=None, description="A database of Supabase.")
    postgres: Postgres | None = Field(default=None, description="Any PostgreSQL database.")
    migrations: RelPath = Field(description="Folder of the up files.")
    rollbacks: RelPath = Field(
        default_factory=_sibling,
        description="Folder of the down files; otherwise `rollbacks` beside the up files.",
    )
    migration: MigrationVersion = Field(
        description="Newest migration that shall be applied, in quotes, or last-known-good."
    )
    lock_timeout: Span = Field(
        default=Duration(5_000), description="Longest wait for a lock before a step is given up."
    )
    statement_timeout: Span = Field(
        default=Duration(300_000), description="Longest run of one statement."
    )


class Vercel(Section):
    """The front end."""

    project: VercelName = Field(description="Project name or id (prj_...).")
    team: VercelName | None = Field(
        default=None, description="Team slug or id (team_...); leave out for a personal account."
    )
    token_from: SecretRef = Field(description="Access token.")
    api_url: HttpUrl = Field(default="https://api.vercel.com", description="Address of the API.")
    deployment: VercelDeployment = Field(
        description="Deployment to serve production: dpl_ id, host name, or last-known-good."
    )


class RecoveryTargets(Section):
    """Times that are promised; missing one is reported and recorded, never a reason to stop."""

    total: Span | None = Field(default=None, description="The whole way, from drift to stable.")
    capture: Span | None = Field(default=None, description="Saving evidence, making ready.")
    approve: Span | None = Field(default=None, description="Waiting for a human.")
    stop: Span | None = Field(default=None, description="Taking affected services down.")
    restore: Span | None = Field(default=None, description="Tree, images, volumes, migrations.")
    start: Span | None = Field(default=None, description="Until services are up and healthy.")
    verify: Span | None = Field(default=None, description="Facts, checks and soak.")


class Policy(Section):
    """What the reconciler may do on its own."""

    on_failure: Literal["compensate", "halt"] = Field(
        default="compensate",
        description="After a failure half way: back to where the run began, or stop for a human.",
    )
    allow_data_loss: bool = Field(
        default=False, description="Whether steps that destroy data may run (after a dump)."
    )
    approval: Literal["never", "always", "data-loss"] = Field(
        default="never", description="When a human must approve before production is touched."
    )
    recovery_targets: RecoveryTargets = Field(
        default=RecoveryTargets(), description="Recovery times promised."
    )
    max_attempts: int = Field(
        default=3, ge=1, le=20, description="Tries of a run before a human is asked."
    )


class Body(Section):
    """The wanted release vector, how to verify it, and what is allowed on the way."""

    groups = (Group(("git", "docker", "database", "vercel"), most=4),)

    git: Git | None = Field(default=None, description="The working tree.")
    docker: Docker | None = Field(default=None, description="The containers.")
    database: Database | None = Field(default=None, description="The database.")
    vercel: Vercel | None = Field(default=None, description="The front end.")
    verify: Verify = Field(default=Verify(), description="What must hold in the end.")
    policy: Policy = Field(default=Policy(), description="What may be done on the way.")

    @classmethod
    def faults_between(cls, data: Mapping[str, object]) -> Iterator[tuple[Location, str]]:
        """Parts that lean on a section that is not there."""
        services = part(data.get("docker"), "services")
        if data.get("git") is None and isinstance(services, Mapping):
            for name, service in services.items():
                if part(service, "build") is True:
                    yield ("docker", "services", name, "build"), "needs spec.git to build from"
        for index, check in enumerate(parts(part(data.get("verify"), "checks"))):
            where: Location = ("verify", "checks", index)
            sql = part(check, "sql")
            own_dsn = part(sql, "dsnFrom") or part(sql, "dsn_from")
            if sql is not None and own_dsn is None and data.get("database") is None:
                yield (*where, "sql"), "needs spec.database, or its own dsnFrom"
            if part(check, "container") is not None and data.get("docker") is None:
                yield (*where, "container"), "needs spec.docker"


class Spec(Section):
    """The whole document.

    Attributes:
        body: What stands under `spec` in YAML. Its parts are also reachable directly.
    """

    api_version: Literal["reconciler/v1"] = Field(description="Format of this document.")
    kind: Literal["Environment"] = Field(description="Always Environment.")
    metadata: Metadata = Field(description="Which environment this is.")
    body: Body = Field(alias="spec", description="What is wanted.")

    @property
    def name(self) -> str:
        """Name of the environment."""
        return self.metadata.name

    @property
    def git(self) -> Git | None:
        """The working tree, where declared."""
        return self.body.git

    @property
    def docker(self) -> Docker | None:
        """The containers, where declared."""
        return self.body.docker

    @property
    def database(self) -> Database | None:
        """The database, where declared."""
        return self.body.database

    @property
    def vercel(self) -> Vercel | None:
        """The front end, where declared."""
        return self.body.vercel

    @property
    def verify(self) -> Verify:
        """Checks and soak."""
        return self.body.verify

    @property
    def policy(self) -> Policy:
        """What may be done on the way."""
        return self.body.policy


def canonical_json(spec: Spec) -> str:
    """One text for one meaning: key order, comments, notation, spelt-out defaults do not show."""
    data = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical_digest(spec: Spec) -> str:
    """The identity of a generation: SHA-256 of the canonical JSON, in hex.

    Defaults are left out, so that a field added to the format later does not make every spec a new
    generation.
    """
    return hashlib.sha256(canonical_json(spec).encode()).hexdigest()


def last_known_good_fields(spec: Spec) -> list[str]:
    """Paths of the pinned values that say `last-known-good`."""
    pinned: list[tuple[Location, str | None]] = [
        (("spec", "git", "commit"), spec.git.commit if spec.git else None),
        *(
            (("spec", "docker", "services", name, "image"), service.image)
            for name, service in (spec.docker.services.items() if spec.docker else ())
        ),
        (("spec", "database", "migration"), spec.database.migration if spec.database else None),
        (("spec", "vercel", "deployment"), spec.vercel.deployment if spec.vercel else None),
    ]
    return [format_path(location) for location, value in pinned if value == LAST_KNOWN_GOOD]


def declared_paths(spec: Spec) -> list[tuple[Location, str]]:
    """Every path that is relative to the project root, with its location in the document."""
    paths: list[tuple[Location, str]] = []
    if spec.git:
        paths.append((("spec", "git", "repository"), spec.git.repository))
    if docker := spec.docker:
        root = ("spec", "docker")
        paths += [((*root, "compose", i), path) for i, path in enumerate(docker.compose)]
        paths += [((*root, "envFiles", i), path) for i, path in enumerate(docker.env_files)]
        paths += [((*root, "volumes", n, "restore"), v.restore) for n, v in docker.volumes.items()]
    if database := spec.database:
        paths.append((("spec", "database", "migrations"), database.migrations))
        paths.append((("spec", "database", "rollbacks"), database.rollbacks))
    return paths
