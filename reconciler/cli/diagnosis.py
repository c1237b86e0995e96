"""What `doctor` looks at on any machine: programs, engine, disk, ledger, clock. Changes nothing, shows no secret."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconciler import __version__
from reconciler.core.errors import LedgerError
from reconciler.project import Project

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from reconciler.targets.docker_host import DockerHost

_ANSWER = 20  # seconds a program may take to tell its version
_OLDEST_PYTHON, _OLDEST_GIT = (3, 11), (2, 30)
_LOW_DISK, _NO_DISK = 2 << 30, 200 << 20  # bytes
_FAR = timedelta(
    seconds=30
)  # two clocks further apart than this are not of one mind: half a lease's length and more
_BUILT = datetime(2025, 11, 1, tzinfo=UTC)  # no ledger of this program is older
_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.\d+)*")


class Level(StrEnum):
    """How one thing stands."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the diagnosis.

    Attributes:
        name: What was looked at.
        level: How it stands.
        message: What was found.
        next: The next action; empty only when all is well.
    """

    name: str
    level: Level
    message: str
    next: str = ""


def ok(name: str, message: str) -> Finding:
    """All is well."""
    return Finding(name, Level.OK, message)


def warning(name: str, message: str, following: str) -> Finding:
    """Worth knowing; nothing fails because of it."""
    return Finding(name, Level.WARNING, message, following)


def problem(name: str, message: str, following: str) -> Finding:
    """Something that is needed does not work."""
    return Finding(name, Level.PROBLEM, message, following)


def python() -> Finding:
    """The interpreter and this program."""
    version = ".".join(map(str, sys.version_info[:3]))
    message = f"{version} at {sys.executable}, reconciler {__version__}"
    if sys.version_info[:2] < _OLDEST_PYTHON:
        return problem("python", message, "Install Python 3.11 or newer.")
    return ok("python", message)


def git(*, needed: bool) -> Finding:
    """The git program."""
    found = shutil.which("git")
    if found is None:
        level = Level.PROBLEM if needed else Level.WARNING
        return Finding("git", level, "there is no git in PATH", "Install git.")
    said = _said([found, "--version"])
    version = _VERSION.search(said or "")
    if said is None or version is None:
        return problem("git", f"{found} does not tell its version", "Reinstall git.")
    if (int(version[1]), int(version[2])) < _OLDEST_GIT:
        return problem("git", f"{version[0]} at {found} is too old", "Install git 2.30 or newer.")
    return ok("git", f"{version[0]} at {found}")


def docker(host: DockerHost, *, needed: bool) -> Iterator[Finding]:
    """The engine, Compose and buildx.

    Args:
        host: The engine that the spec means, or this machine's.
        needed: Whether the spec has containers; otherwise what is missing is only worth knowing.
    """
    from reconciler.targets.compose_command import program

    level = Level.PROBLEM if needed else Level.WARNING
    found = shutil.which("docker")
    if found is None:
        yield Finding("docker", level, "there is no docker in PATH", "Install Docker's command.")
        return
    env = host.environment()
    engine = _said([found, "version", "--format", "{{.Server.Version}}"], env)
    if engine is None:
        yield Finding(
            "docker",
            level,
            f"the engine at {host.where} does not answer",
            "Start it, or name it in DOCKER_HOST or spec.docker.host, and see that this user may talk to it.",
        )
    else:
        yield ok("docker", f"engine {engine} at {host.where}")
    compose = _said(
        [*program(env.get("DOCKER_CONFIG"), env.get("HOME")), "version", "--short"], env
    )
    version = _VERSION.search(compose or "")
    if version is None or int(version[1]) < 2:  # noqa: PLR2004 - Compose v1 is another program
        yield Finding(
            "compose", level, "Compose v2 is missing", "Install the docker-compose-v2 plugin."
        )
    else:
        yield ok("compose", version[0])
    buildx = _VERSION.search(_said([found, "buildx", "version"], env) or "")
    if buildx is None:
        yield warning(
            "buildx", "is missing", "Install the docker-buildx plugin where services are built."
        )
    else:
        yield ok("buildx", buildx[0])


def disk(project: Project) -> Finding:
    """Free space where captures, dumps and the ledger go."""
    folder = project.states_dir
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    message = f"{free / (1 << 30):.1f} GiB free under {project.states_dir}"
    if free < _NO_DISK:
        return problem(
            "disk", message, "Free some space: nothing is begun that cannot be saved first."
        )
    if free < _LOW_DISK:
        return warning("disk", message, "Free some space before dumps and backups need it.")
    return ok("disk", message)


def states(project: Project) -> Finding:
    """Whether state files and captures can be written."""
    folder = project.states_dir
    existing = folder
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return problem(
            "states", f"{existing} cannot be written", f"Let this user write {existing}."
        )
    return ok("states", str(folder) if folder.exists() else f"{folder} (made at the first run)")


def ledger(url: str) -> Iterator[Finding]:
    """Whether the ledger can be written, has our schema, is append-only, and agrees with our clock. Writes nothing."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    from reconciler.audit.database import Database

    try:
        parsed = make_url(url)
    except SQLAlchemyError:
        parsed = None
    if parsed is None or parsed.get_backend_name() not in {"sqlite", "postgresql"}:
        yield problem(
            "ledger", "its URL means nothing here", "Give sqlite:///path or postgresql://..."
        )
        return
    path = Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None
    if path is not None and not path.exists():
        yield ok("ledger", f"{path} (made at the first run)")
        return
    shown = str(path) if path else parsed.render_as_string(hide_password=True)
    if path is not None and not os.access(path, os.W_OK):
        yield problem("ledger", f"{shown} cannot be written", "Let this user write it.")
        return
    try:
        database = Database(url)
        try:
            with database.engine.connect() as connection, connection.begin():
                yield from _inspected(connection, shown)
        finally:
            database.close()
    except LedgerError as exc:
        yield problem("ledger", exc.message, exc.hint)
    except SQLAlchemyError as exc:
        why = str(getattr(exc, "orig", None) or type(exc).__name__).splitlines()[0]
        yield problem(
            "ledger", f"{shown}: {why}", "Check that it can be reached, read and written."
        )


def _inspected(connection: Connection, shown: str) -> Iterator[Finding]:
    from sqlalchemy import inspect, text

    from reconciler.audit.tables import SCHEMA_REVISION

    if not inspect(connection).has_table("alembic_version"):
        yield ok("ledger", f"{shown} (its tables are made at the first run)")
        return
    revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if revision != SCHEMA_REVISION:
        yield problem(
            "ledger",
            f"{shown} has schema {revision}, this program knows {SCHEMA_REVISION}",
            "Use the reconciler that wrote it, or a newer one.",
        )
        return
    catalogue = (
        "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'ledger'"
        if connection.dialect.name == "sqlite"
        else "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'ledger'::regclass AND NOT tgisinternal"
    )
    triggers = int(connection.execute(text(catalogue)).scalar_one())
    count, newest = connection.execute(text("SELECT count(*), max(at) FROM ledger")).one()
    if not triggers:
        yield problem(
            "ledger",
            f"{shown} has lost the triggers that refuse changes",
            "Find out who removed them; restore the ledger from a backup made before that.",
        )
    else:
        yield ok("ledger", f"{shown}, schema {revision}, {count} entries, append-only")
    if newest and datetime.fromisoformat(newest) > datetime.now(UTC) + _FAR:
        yield problem(
            "clock",
            f"the newest entry of the ledger is from the future ({newest[:19]} UTC)",
            "Set this machine's clock (NTP).",
        )


def clock(engine_time: datetime | None) -> Finding:
    """This machine's clock, against the engine's where there is one."""
    now = datetime.now(UTC)
    if now < _BUILT:
        return problem("clock", f"{now:%Y-%m-%d %H:%M:%S} UTC", "Set this machine's clock (NTP).")
    if engine_time and abs(now - engine_time) > _FAR:
        apart = (now - engine_time).total_seconds()
        return warning(
            "clock",
            f"{now:%Y-%m-%d %H:%M:%S} UTC, {apart:+.0f} s from the Docker engine's",
            "Set both clocks (NTP): times in the ledger and in logs do not agree.",
        )
    return ok(
        "clock", f"{now:%Y-%m-%d %H:%M:%S} UTC" + (", as the engine's" if engine_time else "")
    )


def engine_time(host: DockerHost) -> datetime | None:
    """What the Docker engine takes the time to be; None when it does not tell."""
    found = shutil.which("docker")
    told = (
        _said([found, "info", "--format", "{{.SystemTime}}"], host.environment()) if found else None
    )
    try:
        return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", told or ""))
    except ValueError:
        return None


def pg_dump(server_major: int | None) -> Finding:
    """The program for backups by hand. Reconciler saves rows by itself and does not run it."""
    found = shutil.which("pg_dump")
    version = _VERSION.search(_said([found, "--version"]) or "") if found else None
    if found is None or version is None:
        if server_major is None:
            return ok("pg_dump", "not here; only backups by hand would need it")
        return warning(
            "pg_dump",
            "not here; reconciler saves rows without it, backups by hand need it",
            f"Install the PostgreSQL {server_major} client.",
        )
    if server_major is not None and int(version[1]) < server_major:
        return warning(
            "pg_dump",
            f"{version[0]} at {found} cannot back up a server of version {server_major} by hand",
            f"Install the PostgreSQL {server_major} client.",
        )
    return ok("pg_dump", f"{version[0]} at {found}")


def _said(command: Sequence[str], env: Mapping[str, str] | None = None) -> str | None:
    """What a program prints; None when it fails."""
    try:
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, errors="replace",
            stdin=subprocess.DEVNULL, timeout=_ANSWER, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def document(findings: Sequence[Finding]) -> dict[str, Any]:
    """The diagnosis as JSON."""
    return {
        "apiVersion": "reconciler/v1",
        "kind": "Diagnosis",
        "ok": all(finding.level is not Level.PROBLEM for finding in findings),
        "findings": [
            {
                "name": finding.name, "level": finding.level.value, "message": finding.message,
                "next": finding.next,
            }
            for finding in findings
        ],
    }  # fmt: skip


def render_json(findings: Sequence[Finding]) -> str:
    """The diagnosis as JSON text."""
    return json.dumps(document(findings), indent=2)
