"""What serves production on Vercel, read from a project: pure functions for the target.

The project names one deployment, each production domain names one too. Production has converged
when all name the same. `lastAliasRequest` is never the source of truth, it only tells whether a
move is under way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from reconciler.core.errors import PreflightError
from reconciler.core.facts import VERCEL_DEPLOYMENT, Fact

if TYPE_CHECKING:
    from reconciler.targets.vercel_client import AliasRequest, Deployment, Project, RollingRelease

#: Begins a value that equals no deployment: production is split. The first id after it is the
#: project's own word.
MIXED = "mixed:"
#: Seconds after which a move that still calls itself active is taken for stuck (Vercel's own client
#: waits 180).
MOVE_WINDOW = 900.0
#: Seconds after a request in which domains that disagree are taken for still settling.
SETTLING = 30.0


def production_fact(project: Project, rolling: RollingRelease | None, now_ms: float) -> Fact:
    """The production deployment as a fact.

    Args:
        project: The project as just read.
        rolling: Its active or last rolling release, where it uses them.
        now_ms: The time on Vercel's clock, in milliseconds since the epoch.

    Returns:
        The id when all agree; unknown while a move is under way; a value that equals no deployment
        when they disagree for good; absent when nothing was ever deployed to production.
    """
    request = project.last_alias_request
    ids = _ids(project)
    if request is not None and _under_way(request, split=len(ids) > 1, now_ms=now_ms):
        return Fact(
            key=VERCEL_DEPLOYMENT,
            unknown=f"aliases are moving ({request.type or 'move'} to {request.to_deployment_id}, "
            f"{request.job_status})",
        )
    if rolling is not None and rolling.state == "ACTIVE":
        canary = rolling.canary_deployment.id if rolling.canary_deployment else "unknown"
        return _mixed([*ids, *({canary} - set(ids))], "a rolling release is active")
    if len(ids) > 1:
        return _mixed(ids, _by_domain(project))
    if not ids:
        return Fact(key=VERCEL_DEPLOYMENT, detail="nothing is deployed to production")
    return Fact(key=VERCEL_DEPLOYMENT, value=ids[0], detail=_url(project))


def pinned(text: str) -> str:
    """A pin as the API wants it: an id, or a bare host name.

    Args:
        text: `dpl_...`, a host name, a URL, or the value of a split production (its first id
            counts: the deployment the project itself named).
    """
    text = text.strip()
    if text.startswith(MIXED):
        return text.removeprefix(MIXED).partition("+")[0]
    if text.startswith("dpl_"):
        return text
    return urlsplit(text if "//" in text else f"//{text}").hostname or text


def belongs(deployment: Deployment, project: Project) -> None:
    """Refuses a deployment of somebody else.

    Raises:
        PreflightError: It is of another project or team, or the token may not see whose it is.
    """
    if deployment.project_id is None or deployment.owner_id is None:
        raise PreflightError(
            f"The token may not see which project Vercel deployment {deployment.id} belongs to.",
            hint="Use a token of the team that owns the deployment.",
        )
    if deployment.project_id != project.id:
        raise PreflightError(
            f"Vercel deployment {deployment.id} belongs to project {deployment.project_id}, "
            f"not to {project.name or project.id} ({project.id}).",
            hint="Correct spec.vercel.deployment or spec.vercel.project.",
        )
    owners = {deployment.owner_id, deployment.team.id if deployment.team else deployment.owner_id}
    if owners != {project.account_id}:
        raise PreflightError(
            f"Vercel deployment {deployment.id} is owned by {', '.join(sorted(owners))}, "
            f"the project by {project.account_id}.",
            hint="Correct spec.vercel.team.",
        )


def way(deployment: Deployment, project: Project) -> str:
    """The verb that takes production to a deployment: `rollback` or `promote`.

    Rollback goes to an older deployment that has served before; it turns off the automatic
    assignment of production domains. Promote goes forward, undoes a rollback, and takes in a
    deployment that never served. While a move to this very deployment is on record as under way its
    verb is kept, so that planning again after a crash names the same effect.
    """
    request, current = project.last_alias_request, project.production
    if request is not None and request.to_deployment_id == deployment.id and request.type:
        split = len(_ids(project)) > 1
        if request.active or split or (current is not None and current.id == deployment.id):
            return request.type
    if deployment.ready_substate == "STAGED" or current is None:
        return "promote"
    older = (deployment.created_at or 0) < (current.created_at or 0)
    return "rollback" if older else "promote"


def _ids(project: Project) -> list[str]:
    """Every deployment that serves production, the project's own word first."""
    own = [project.production.id] if project.production else []
    behind = {alias.deployment.id for alias in project.production_aliases if alias.deployment}
    return own + sorted(behind - set(own))


def _under_way(request: AliasRequest, *, split: bool, now_ms: float) -> bool:
    age = (now_ms - (request.requested_at or 0)) / 1000
    if request.active:
        return age < MOVE_WINDOW
    return split and request.job_status != "failed" and age < SETTLING


def _mixed(ids: list[str], why: str) -> Fact:
    return Fact(key=VERCEL_DEPLOYMENT, value=MIXED + "+".join(ids), detail=f"split: {why}")


def _by_domain(project: Project) -> str:
    return ", ".join(
        f"{alias.domain} is {alias.deployment.id}"
        for alias in project.production_aliases
        if alias.deployment
    )


def _url(project: Project) -> str:
    refs = [project.production, *(alias.deployment for alias in project.production_aliases)]
    return next((ref.url for ref in refs if ref is not None and ref.url), "")
