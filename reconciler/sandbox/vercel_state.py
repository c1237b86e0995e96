"""The practice Vercel's model: teams, projects, deployments, the last move of the aliases.

What its state file holds. How it changes is in `vercel_moves`, how it is shown in `vercel_json`.
"""

from __future__ import annotations

import secrets
import string
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from reconciler.sandbox.store import State

ReadyState: TypeAlias = Literal["QUEUED", "BUILDING", "READY", "ERROR", "CANCELED"]
Plan: TypeAlias = Literal["hobby", "pro", "enterprise"]
MoveKind: TypeAlias = Literal["promote", "rollback"]
JobStatus: TypeAlias = Literal["pending", "in-progress", "succeeded", "failed"]
AliasStatus: TypeAlias = Literal["pending", "in-progress", "completed", "failed"]
_ALPHABET = string.ascii_letters + string.digits


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Settings(_Model):
    """What a rehearsal may tune; durations in milliseconds."""

    alias_delay_ms: int = Field(default=300, ge=0)
    alias_step_ms: int = Field(default=200, ge=0)
    build_ms: int = Field(default=1_000, ge=0)
    plan: Plan = "pro"


class User(_Model):
    """The token's owner; `default_team` answers requests that name no team."""

    id: str = "user_practice"
    username: str = "operator"
    email: str = "operator@example.test"
    name: str = "Practice Operator"
    default_team: str | None = None


class Team(_Model):
    """A team; a project without one belongs to the user."""

    id: str
    slug: str
    name: str
    created_at: int


class Domain(_Model):
    """A host name of a project and the deployment behind it right now."""

    name: str
    deployment: str | None = None
    redirect: str | None = None


class Move(_Model):
    """The last requested move of the production aliases."""

    kind: MoveKind
    from_id: str | None
    to_id: str
    requested_at: int
    delay_ms: int
    step_ms: int
    domains: list[str]
    fails: str | None = None
    settled: bool = False

    def alias_status(self, domain: str, now: int) -> AliasStatus:
        """How far one alias has come."""
        begins = self.requested_at + self.delay_ms + self.step_ms * self.domains.index(domain)
        if now >= begins + self.step_ms:
            return "failed" if domain == self.fails else "completed"
        return "in-progress" if now >= begins else "pending"

    def status(self, now: int) -> JobStatus:
        """How far the whole move has come."""
        begins = self.requested_at + self.delay_ms
        if now >= begins + self.step_ms * len(self.domains):
            return "failed" if self.fails else "succeeded"
        return "in-progress" if now >= begins else "pending"


class Description(_Model):
    """Why somebody rolled back."""

    text: str
    created_at: int


class Project(_Model):
    """A project and the pointer this whole API is about."""

    id: str
    name: str
    account_id: str
    created_at: int
    updated_at: int
    auto_assign: bool = True
    production: str | None = None
    served: list[str] = []
    """Ids of production deployments in the order in which they came to serve."""
    domains: list[Domain] = []
    move: Move | None = None
    description: Description | None = None


class Deployment(_Model):
    """One immutable build."""

    id: str
    project_id: str
    name: str
    url: str
    target: Literal["production"] | None
    ready_state: ReadyState
    created_at: int
    ready_at: int
    """When the build ends (or ended)."""
    promoted: bool = False
    """Has served production: `readySubstate` PROMOTED, otherwise STAGED."""
    meta: dict[str, str] = {}
    ref: str = "main"
    sha: str = ""
    error: str = ""


class VercelState(State):
    """Everything the practice Vercel knows; the content of its state file."""

    kind: Literal["vercel"] = "vercel"
    settings: Settings = Settings()
    user: User = User()
    teams: list[Team] = Field(default_factory=list)
    projects: list[Project] = Field(default_factory=list)
    deployments: list[Deployment] = Field(default_factory=list)

    def project(self, key: str) -> Project | None:
        """A project by id or name."""
        return next((item for item in self.projects if key in {item.id, item.name}), None)

    def deployment(self, key: str | None) -> Deployment | None:
        """A deployment by id, by its own host name, or by the alias that points at it now."""
        for project in self.projects:
            for domain in project.domains:
                if key == domain.name:
                    key = domain.deployment
        return next((item for item in self.deployments if key in {item.id, item.url}), None)

    def team(self, key: str | None) -> Team | None:
        """A team by id or slug."""
        return next((item for item in self.teams if key in {item.id, item.slug}), None)


def new_state(
    *,
    now: int,
    project: str = "omniops",
    team: str | None = "acme",
    domains: tuple[str, ...] | None = None,
    settings: Settings | None = None,
) -> VercelState:
    """A practice account with one project and no deployment yet.

    Args:
        now: Milliseconds since the epoch.
        project: Name of the project.
        team: Slug of the team that owns it; None makes it a personal project.
        domains: Production host names; the first is the vendor's own one.
        settings: Speeds and plan.
    """
    teams = [Team(id=new_id("team_"), slug=team, name=team.title(), created_at=now)] if team else []
    user = User(default_team=teams[0].id if teams else None)
    names = domains or (f"{project}.vercel.app", f"www.{project}.example", f"{project}.example")
    return VercelState(
        settings=settings or Settings(),
        user=user,
        teams=teams,
        projects=[
            Project(
                id=new_id("prj_"),
                name=project,
                account_id=teams[0].id if teams else user.id,
                created_at=now,
                updated_at=now,
                domains=[Domain(name=name) for name in names],
            )
        ],
    )


def new_id(prefix: str) -> str:
    """A fresh id as the vendor writes them: a prefix and 24 letters and digits."""
    return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(24))
