"""What runs where in a practice production, asked of its own parts and never of the reconciler.

Called by `reconciler sandbox status`, by the demo and by tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from reconciler.core.errors import ReconcilerError
from reconciler.sandbox import practice_database, practice_front_end
from reconciler.sandbox import practice_source as source
from reconciler.sandbox.practice_database import Database
from reconciler.sandbox.practice_engine import SERVICES, Container, answer_of
from reconciler.sandbox.practice_servers import postgres_of

if TYPE_CHECKING:
    from reconciler.sandbox.production import PracticeProduction

T = TypeVar("T")


@dataclass(frozen=True)
class Seen:
    """The practice production as its own parts tell it; None where a part does not answer.

    Attributes:
        commit: Where the working tree stands.
        branch: The branch it is on; None when on none.
        containers: The containers.
        database: What stands in the database.
        deployment: Vercel's production deployment.
        health: Status and text of `/api/health`; status 0 without an answer.
    """

    commit: str
    branch: str | None
    containers: list[Container] | None
    database: Database | None
    deployment: str | None
    health: tuple[int, str]


@dataclass(frozen=True)
class Server:
    """One of its own servers.

    Attributes:
        name: What it is.
        address: Where it listens, without a password.
        pid: Its process; None when it does not run.
    """

    name: str
    address: str
    pid: int | None

    @property
    def state(self) -> str:
        """Whether it runs."""
        return f"pid {self.pid}" if self.pid else "stopped"


def look(production: PracticeProduction) -> Seen:
    """Asks every part how it is.

    Raises:
        UsageError: There is no practice production.
    """
    root = production.root
    vercel = production.vercel
    branch = source.git(root, "rev-parse", "--abbrev-ref", "HEAD")
    return Seen(
        commit=source.git(root, "rev-parse", "HEAD"),
        branch=None if branch == "HEAD" else branch,
        containers=_or_none(production.engine.containers),
        database=_or_none(lambda: practice_database.look(production.dsn)),
        deployment=_or_none(lambda: practice_front_end.production(vercel)),
        health=answer_of(production.health_url),
    )


def servers(production: PracticeProduction) -> list[Server]:
    """Its own servers, running or not."""
    record = production.record
    found = [
        Server(
            "PostgreSQL", f"127.0.0.1:{record.ports.postgres}", postgres_of(production.places).pid
        ),
        Server("Vercel API", production.vercel.url, production.vercel.pid),
    ]
    if record.supabase:
        found.append(Server("Supabase API", production.supabase.url, production.supabase.pid))
    return found


def release_of(production: PracticeProduction, seen: Seen) -> str:
    """Which release was seen; `mixed` when the parts are not of one."""
    engine = production.engine
    images = _or_none(engine.images) or {}
    running = {one.image for one in seen.containers or [] if one.service in SERVICES}
    for release in (production.good, production.bad):
        same = seen.commit == release.commit and seen.deployment == release.deployment
        if same and seen.database and seen.database.version == release.migration:
            built = {images.get(engine.image(one, release.version)) for one in SERVICES}
            return release.version if running <= built else f"{release.version}, rebuilt"
    return "mixed"


def _or_none(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except ReconcilerError:
        return None
