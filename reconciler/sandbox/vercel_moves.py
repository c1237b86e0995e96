"""How the practice Vercel changes: builds end, aliases move, and what is refused.

Pure: the time is passed in. `vercel_api` calls it under the state file's lock, `settle` first.
A move of aliases is a function of the clock, not a thread, so it goes on after `kill -9`.
Rules are the vendor's documented ones; where the vendor is silent the docstring says "our choice".
"""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from reconciler.sandbox.vercel_state import Deployment, Move, new_id

if TYPE_CHECKING:
    from reconciler.sandbox.vercel_state import MoveKind, Project, ReadyState, VercelState

HOBBY_MESSAGE = "To roll back further than the previous production deployment, upgrade to pro"
_UNDER_WAY = frozenset({"pending", "in-progress"})


@dataclass(frozen=True)
class Refusal:
    """Why a move is not allowed, as the vendor would answer."""

    status: int
    code: str
    message: str


def deploy(
    state: VercelState,
    project: Project,
    *,
    now: int,
    sha: str = "",
    ref: str = "main",
    target: Literal["production"] | None = "production",
    meta: dict[str, str] | None = None,
    build_ms: int | None = None,
    error: str = "",
) -> Deployment:
    """Start a build, as a push or a redeployment would.

    It goes live by itself when it is ready, if it targets production and the project still
    assigns its domains automatically.

    Args:
        state: Changed in place.
        project: Where to build.
        now: Milliseconds since the epoch.
        sha: Commit.
        ref: Branch.
        target: None is a preview.
        meta: Free labels, as `meta-KEY` filters find them.
        build_ms: How long it builds; the settings' time when None. 0 is ready at once.
        error: When given, the build fails with this message.
    """
    # Distinct times keep the paging cursor, which is a creation time, exact.
    created = max([now, *(item.created_at + 1 for item in state.deployments)])
    team = state.team(project.account_id)
    tail = f"-{team.slug}" if team else ""
    suffix = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(9))
    git = {"githubCommitSha": sha, "githubCommitRef": ref} if sha else {}
    made = Deployment(
        id=new_id("dpl_"),
        project_id=project.id,
        name=project.name,
        url=f"{project.name}-{suffix}{tail}.vercel.app",
        target=target,
        ready_state="QUEUED",
        created_at=created,
        ready_at=created + (state.settings.build_ms if build_ms is None else build_ms),
        meta={**git, **(meta or {})},
        ref=ref,
        sha=sha,
        error=error,
    )
    state.deployments.append(made)
    settle(state, max(now, created))
    return made


def due(state: VercelState, now: int) -> bool:
    """Whether `settle` would change anything; cheap, asked before every request."""
    building = any(_ready_state(item, now) != item.ready_state for item in state.deployments)
    moving = any(
        project.move is not None and not project.move.settled for project in state.projects
    )
    return building or moving


def settle(state: VercelState, now: int) -> None:
    """Let everything happen that is due: builds end, aliases move, jobs finish."""
    for deployment in state.deployments:
        if (present := _ready_state(deployment, now)) != deployment.ready_state:
            deployment.ready_state = present
            project = state.project(deployment.project_id)
            if project and present == "READY" and deployment.target and project.auto_assign:
                _assign_all(state, project, deployment.id, deployment.ready_at)
    for project in state.projects:
        if project.move is not None and not project.move.settled:
            _advance(state, project, project.move, now)


def is_candidate(state: VercelState, project: Project, deployment: Deployment) -> bool:
    """The list's `isRollbackCandidate`: it has served production, and the plan lets one go there.

    True for the deployment that serves production too; people have seen that on the vendor's side.
    """
    served = deployment.target == "production" and deployment.promoted
    ready = deployment.ready_state == "READY"
    return served and ready and (_plan_allows(state, project, deployment.id))


def refusal(
    state: VercelState, project: Project, deployment: Deployment, kind: MoveKind, now: int
) -> Refusal | None:
    """Why this move is not allowed, or None.

    Our choice, where the vendor documents only the status: 422 for a deployment that is not ready
    or was never aliased, 409 for a second move while one is under way. A repeated request for the
    move under way is not refused, because the vendor's own CLI sends a POST again when its answer
    is lost.
    """
    if project.move is not None and project.move.status(now) in _UNDER_WAY:
        if (project.move.kind, project.move.to_id) == (kind, deployment.id):
            return None
        return Refusal(409, "conflict", f"A {project.move.kind} is already in progress.")
    if _is_current(project, deployment.id):
        message = (
            f"The provided deploymentId ({deployment.id}) is already the current "
            "production deployment."
        )
        return Refusal(409, "conflict", message)
    return _not_eligible(state, project, deployment, kind)


def _not_eligible(
    state: VercelState, project: Project, deployment: Deployment, kind: MoveKind
) -> Refusal | None:
    if deployment.ready_state != "READY":
        message = f"The deployment is not ready ({deployment.ready_state})."
        return Refusal(422, "deployment_not_ready", message)
    if deployment.target != "production":
        message = "The deployment was not made for production."
        return Refusal(422, "not_a_production_deployment", message)
    if kind == "rollback" and not deployment.promoted:
        message = "The deployment has never been aliased to a production domain."
        return Refusal(422, "not_a_rollback_candidate", message)
    if kind == "rollback" and not _plan_allows(state, project, deployment.id):
        return Refusal(402, "payment_required", HOBBY_MESSAGE)
    return None


def begin_move(
    state: VercelState,
    project: Project,
    deployment: Deployment,
    kind: MoveKind,
    *,
    now: int,
    pace_ms: int | None = None,
    fails: str | None = None,
) -> bool:
    """Accept a move that `refusal` allows; False when the very same one is already under way.

    Args:
        state: Gives the pace.
        project: Changed in place.
        deployment: Where the aliases go.
        kind: Promote or rollback.
        now: Milliseconds since the epoch.
        pace_ms: Delay and step of this move, instead of the settings'.
        fails: Host name of the alias that will fail; the last one when it is empty.
    """
    if project.move is not None and project.move.status(now) in _UNDER_WAY:
        return False
    names = [domain.name for domain in project.domains]
    project.move = Move(
        kind=kind,
        from_id=project.production,
        to_id=deployment.id,
        requested_at=now,
        delay_ms=state.settings.alias_delay_ms if pace_ms is None else pace_ms,
        step_ms=state.settings.alias_step_ms if pace_ms is None else pace_ms,
        domains=names,
        fails=None if fails is None else (fails if fails in names else names[-1]),
    )
    project.updated_at = now
    return True


def _advance(state: VercelState, project: Project, move: Move, now: int) -> None:
    for domain in project.domains:
        if domain.name in move.domains and move.alias_status(domain.name, now) == "completed":
            domain.deployment = move.to_id
    status = move.status(now)
    move.settled = status in {"succeeded", "failed"}
    if status == "succeeded":
        ended = move.requested_at + move.delay_ms + move.step_ms * len(move.domains)
        _assign_all(state, project, move.to_id, ended)
        # A rollback stops automatic assignment, a promote brings it back (documented behaviour).
        project.auto_assign = move.kind == "promote"


def _assign_all(state: VercelState, project: Project, deployment_id: str, at: int) -> None:
    for domain in project.domains:
        domain.deployment = deployment_id
    project.production = deployment_id
    project.served.append(deployment_id)
    project.updated_at = at
    deployment = state.deployment(deployment_id)
    if deployment is not None:
        deployment.promoted = True


def _is_current(project: Project, deployment_id: str) -> bool:
    """Serves on every alias. After a failed move nothing does, and every way out stays open."""
    behind = {domain.deployment for domain in project.domains if not domain.redirect}
    return project.production == deployment_id and behind <= {deployment_id}


def _plan_allows(state: VercelState, project: Project, deployment_id: str) -> bool:
    """Hobby reaches only the deployment that served just before the present one."""
    earlier = [item for item in project.served if item != project.production]
    previous = earlier[-1] if earlier else None
    return state.settings.plan != "hobby" or deployment_id in {previous, project.production}


def _ready_state(deployment: Deployment, now: int) -> ReadyState:
    if deployment.ready_state in {"READY", "ERROR", "CANCELED"}:
        return deployment.ready_state
    if now >= deployment.ready_at:
        return "ERROR" if deployment.error else "READY"
    first_quarter = deployment.created_at + (deployment.ready_at - deployment.created_at) // 4
    return "BUILDING" if now >= first_quarter else "QUEUED"
