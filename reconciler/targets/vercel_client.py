"""The few calls of the Vercel REST API that going back needs, with typed answers.

Only `targets.vercel` and its helpers call this. Models keep the fields that are read and ignore the
rest, since the API grows. Source of paths and shapes: Vercel's public OpenAPI description and the
traffic of its own command line client.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from pydantic.alias_generators import to_camel

from reconciler.core.errors import ReconcilerError
from reconciler.targets.shared.http import HttpClient, HttpFormatError, Reply, one_line, segment

#: Characters Vercel accepts in the description of a rollback.
MAX_DESCRIPTION = 250
#: Pages of a list that are read at most, each of 100 items.
MAX_PAGES = 10

ACTIVE_JOBS = frozenset({"pending", "in-progress"})


class _Answer(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        populate_by_name=True,
        defer_build=True,
    )


class AliasRequest(_Answer):
    """The last move of production that was asked for: what was asked, not where production is.

    Attributes:
        from_deployment_id: Where production was.
        to_deployment_id: Where it shall go.
        job_status: `pending`, `in-progress`, `succeeded`, `failed` or `skipped`.
        requested_at: Milliseconds since the epoch, on Vercel's clock.
        type: `promote` or `rollback`.
    """

    from_deployment_id: str | None = None
    to_deployment_id: str | None = None
    job_status: str | None = None
    requested_at: float | None = None
    type: str | None = None

    @property
    def active(self) -> bool:
        """Whether the move is still under way."""
        return self.job_status in ACTIVE_JOBS


class DeploymentRef(_Answer):
    """A deployment as a project names it."""

    id: str
    url: str = ""
    created_at: float | None = None
    plan: str | None = None


class ProjectAlias(_Answer):
    """One domain of a project and the deployment behind it."""

    domain: str
    environment: str | None = None
    target: str | None = None
    redirect: str | None = None
    deployment: DeploymentRef | None = None

    @property
    def serves_production(self) -> bool:
        """Whether it answers production traffic itself."""
        return self.redirect is None and (
            self.environment == "production"
            if self.environment is not None
            else self.target == "PRODUCTION"
        )


class Project(_Answer):
    """A project.

    Attributes:
        account_id: Id of the team or user that owns it.
        targets: The deployment of each environment; `production` is the one that serves.
        alias: Its domains.
        last_alias_request: The last move asked for.
        rolling_release: The *configuration* of rolling releases; says nothing about one being
            active.
    """

    id: str
    name: str = ""
    account_id: str
    targets: Mapping[str, DeploymentRef | None] | None = None
    alias: tuple[ProjectAlias, ...] | None = None
    last_alias_request: AliasRequest | None = None
    rolling_release: Mapping[str, JsonValue] | None = None
    paused: bool = False

    @property
    def production(self) -> DeploymentRef | None:
        """The deployment that serves production by the project's own word."""
        return (self.targets or {}).get("production")

    @property
    def production_aliases(self) -> tuple[ProjectAlias, ...]:
        """Domains that answer production traffic and have a deployment behind them."""
        return tuple(
            alias
            for alias in self.alias or ()
            if alias.serves_production and alias.deployment is not None
        )


class _TeamRef(_Answer):
    id: str


class Deployment(_Answer):
    """A deployment, read by its id or host name.

    Attributes:
        project_id: Absent in the reduced answer given to those who do not own it.
        owner_id: As `project_id`.
        target: `production`, `staging` or None for a preview.
        ready_substate: With READY: `STAGED` never served production, `ROLLING` is being shifted to,
            `PROMOTED` has served.
    """

    id: str
    url: str = ""
    project_id: str | None = None
    owner_id: str | None = None
    team: _TeamRef | None = None
    target: str | None = None
    ready_state: str | None = None
    ready_substate: str | None = None
    created_at: float | None = None
    deleted_at: float | None = None
    plan: str | None = None
    error_message: str | None = None


class DeploymentItem(_Answer):
    """A deployment in a list, where the id is called `uid`."""

    uid: str
    url: str = ""
    target: str | None = None
    ready_state: str | None = None
    ready_substate: str | None = None
    created_at: float | None = None
    is_rollback_candidate: bool | None = None


class _Page(_Answer):
    next: float | None = None


class _DeploymentPage(_Answer):
    deployments: tuple[DeploymentItem, ...]
    pagination: _Page | None = None


class _RollingDeployment(_Answer):
    id: str


class RollingRelease(_Answer):
    """A gradual shift of traffic from one production deployment to another."""

    state: str
    current_deployment: _RollingDeployment | None = None
    canary_deployment: _RollingDeployment | None = None


class _RollingReleaseAnswer(_Answer):
    rolling_release: RollingRelease | None = None


class _Billing(_Answer):
    plan: str | None = None


class _Membership(_Answer):
    role: str | None = None


class Team(_Answer):
    """A team, as the token's owner sees it."""

    id: str
    slug: str = ""
    billing: _Billing | None = None
    membership: _Membership | None = None
    limited: bool = False


class _AliasName(_Answer):
    alias: str


class _AliasStatus(_Answer):
    status: str
    alias: str | _AliasName

    @property
    def name(self) -> str:
        """The domain, whichever of the two known shapes the answer had."""
        return self.alias if isinstance(self.alias, str) else self.alias.alias


class _AliasStatusPage(_Answer):
    aliases: tuple[_AliasStatus, ...] = ()
    pagination: _Page | None = None


_A = TypeVar("_A", bound=_Answer)


class VercelClient:
    """Typed calls for one project.

    Args:
        http: Speaks to the API; carries the token.
        project: Id or name of the project.
        team: Id (`team_...`) or slug of the team; None for a personal account.
    """

    def __init__(self, http: HttpClient, project: str, team: str | None) -> None:
        self.http = http
        self._project = project
        self._team = team
        self._scope: dict[str, str] = {}
        if team is not None:
            self._scope = {"teamId" if team.startswith("team_") else "slug": team}

    def project(self) -> Project:
        """The project, with the last move asked for."""
        path = f"/v9/projects/{segment(self._project)}"
        return _parse(Project, self.http.get(path, {**self._scope, "rollbackInfo": "true"}))

    def deployment(self, id_or_host: str) -> Deployment:
        """The deployment with this id, or behind this host name."""
        path = f"/v13/deployments/{segment(id_or_host)}"
        return _parse(Deployment, self.http.get(path, self._scope))

    def rollback_candidates(self, project_id: str) -> Iterator[DeploymentItem]:
        """Deployments that Vercel says can be rolled back to, newest first."""
        params = {
            **self._scope,
            "projectId": project_id,
            "target": "production",
            "rollbackCandidate": "true",
            "limit": "100",
        }
        for _ in range(MAX_PAGES):
            page = _parse(_DeploymentPage, self.http.get("/v6/deployments", params))
            yield from page.deployments
            if page.pagination is None or page.pagination.next is None:
                return
            params = {**params, "until": f"{page.pagination.next:.0f}"}

    def rolling_release(self, project_id: str) -> RollingRelease | None:
        """The active or last rolling release; None when there never was one."""
        path = f"/v1/projects/{segment(project_id)}/rolling-release"
        return _parse(_RollingReleaseAnswer, self.http.get(path, self._scope)).rolling_release

    def team(self) -> Team | None:
        """The configured team; None for a personal account."""
        if self._team is None:
            return None
        return _parse(Team, self.http.get(f"/v2/teams/{segment(self._team)}", self._scope))

    def move(self, kind: str, project_id: str, deployment_id: str, description: str) -> int:
        """Asks, once, for production to be moved; success only means that the request was taken.

        Args:
            kind: `rollback` or `promote`.
            project_id: Id of the project.
            deployment_id: Where production shall go.
            description: Shown with a rollback in Vercel's dashboard.

        Returns:
            201 accepted; 202 queued behind an active rolling release (promote only).

        Raises:
            OutcomeUnknownError: It may have been accepted.
            TransientError: Provably nothing was done.
            HttpRefusedError: Refused.
        """
        where = f"{segment(project_id)}/{kind}/{segment(deployment_id)}"
        if kind == "rollback":
            params = {**self._scope, "description": description[:MAX_DESCRIPTION]}
            return self.http.post(f"/v1/projects/{where}", params).status
        return self.http.post(f"/v10/projects/{where}", self._scope).status

    def failed_aliases(self, kind: str, project_id: str) -> list[str]:
        """Domains that the last move could not take along; empty when that cannot be read.

        The list for rollbacks is undocumented (known from Vercel's own client), so its absence must
        not hide the failure that is being reported.
        """
        version = "v9" if kind == "rollback" else "v1"
        path = f"/{version}/projects/{segment(project_id)}/{kind}/aliases"
        params = {**self._scope, "failedOnly": "true", "limit": "100"}
        names: list[str] = []
        try:
            for _ in range(MAX_PAGES):
                page = _parse(_AliasStatusPage, self.http.get(path, params))
                names += [
                    one_line(item.name, 253) for item in page.aliases if item.status == "failed"
                ]
                if page.pagination is None or page.pagination.next is None:
                    break
                params = {**params, "until": f"{page.pagination.next:.0f}"}
        except ReconcilerError:
            return names
        return names


def _parse(model: type[_A], reply: Reply) -> _A:
    """An answer as its model."""
    try:
        return model.model_validate(reply.json())
    except ValidationError as exc:
        # The error's own text would repeat parts of the answer.
        fields = ", ".join(
            sorted(
                {".".join(str(part) for part in error["loc"]) or "body" for error in exc.errors()}
            )
        )
        raise HttpFormatError(
            f"{reply.what}: the answer is not as documented (fields: {one_line(fields)})."
        ) from exc
