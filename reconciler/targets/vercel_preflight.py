"""Whether Vercel will let production go to a deployment, found out by reading beforehand.

Called by the Vercel target in `capture`. What the API only tells when asked to act (the token's
right to write to this very project) stays unknown here and is said so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.core.errors import TargetUnavailableError
from reconciler.targets.shared.http import HttpRefusedError
from reconciler.targets.vercel_production import belongs, production_fact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.targets.vercel_client import (
        Deployment,
        Project,
        RollingRelease,
        Team,
        VercelClient,
    )

#: Team roles that may look but not act. Source: Vercel's documentation of team-level roles.
READ_ONLY_ROLES = frozenset({"VIEWER", "VIEWER_FOR_PLUS", "BILLING"})
#: Seconds to wait before looking again while another move is under way.
MOVE_PAUSE = 5.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that was read to decide.

    Attributes:
        project: The project.
        deployment: Where production shall go.
        team: The team, None for a personal account.
        rolling: The active or last rolling release, where the project uses them.
        candidates: Ids that Vercel lists as rollback candidates, newest first; None when it was not
            needed.
        now_ms: The time on Vercel's clock, milliseconds since the epoch.
    """

    project: Project
    deployment: Deployment
    team: Team | None
    rolling: RollingRelease | None
    candidates: Sequence[str] | None
    now_ms: float

    @property
    def plan(self) -> str | None:
        """`hobby`, `pro`, `enterprise`, or None when nothing told."""
        billing = self.team.billing.plan if self.team and self.team.billing else None
        production = self.project.production
        return billing or self.deployment.plan or (production.plan if production else None)


def gather(
    client: VercelClient, project: Project, deployment: Deployment, action: str, now_ms: float
) -> Evidence:
    """Reads what the decision needs.

    Raises:
        TransientError: It cannot be found out now.
    """
    try:
        team = client.team()
    except HttpRefusedError:
        team = (
            None  # a token for one project may not read its team; the project itself was readable
        )
    rolling = client.rolling_release(project.id) if project.rolling_release else None
    partial = Evidence(project, deployment, team, rolling, None, now_ms)
    if action != "rollback" or (
        deployment.ready_substate == "PROMOTED" and partial.plan in {"pro", "enterprise"}
    ):
        return partial
    candidates = tuple(item.uid for item in client.rollback_candidates(project.id))
    return Evidence(project, deployment, team, rolling, candidates, now_ms)


def examine(evidence: Evidence, action: str) -> list[str]:
    """Every reason for which the move would be refused, each one sentence.

    Raises:
        PreflightError: The deployment belongs to somebody else.
        TargetUnavailableError: Another move is under way; it will be over soon.
    """
    belongs(evidence.deployment, evidence.project)
    request = evidence.project.last_alias_request
    if (
        request is not None
        and request.active
        and request.to_deployment_id != evidence.deployment.id
    ):
        fact = production_fact(evidence.project, None, evidence.now_ms)
        if not fact.known:
            raise TargetUnavailableError(
                f"Vercel is still moving production to {request.to_deployment_id}, and does one "
                "move at a time (409).",
                retry_after=MOVE_PAUSE,
            )
    problems = [*_of_deployment(evidence.deployment), *_of_token(evidence)]
    if action == "rollback":
        problems += _of_rollback(evidence)
    return problems + _of_rolling_release(evidence, action)


def _of_deployment(deployment: Deployment) -> list[str]:
    problems = []
    if deployment.deleted_at is not None:
        problems.append(f"Deployment {deployment.id} was deleted and cannot serve any more (410).")
    elif deployment.ready_state != "READY":
        problems.append(
            f"Deployment {deployment.id} is {deployment.ready_state}, only a READY one can serve "
            "(422)."
        )
    if deployment.target != "production":
        problems.append(
            f"Deployment {deployment.id} was built for {deployment.target or 'preview'}, not for "
            "production: "
            "promoting it would be a new build with other settings (422)."
        )
    return problems


def _of_token(evidence: Evidence) -> list[str]:
    team, problems = evidence.team, []
    if team is not None and team.id != evidence.project.account_id:
        problems.append(
            f"Project {evidence.project.id} is owned by {evidence.project.account_id}, not by "
            f"team {team.id} (403)."
        )
    role = team.membership.role if team and team.membership else None
    if role in READ_ONLY_ROLES:
        problems.append(
            f"The token's owner has the role {role} in the team, which may not move production "
            "(403)."
        )
    return problems


def _of_rollback(evidence: Evidence) -> list[str]:
    deployment, candidates = evidence.deployment, evidence.candidates
    served = deployment.ready_substate == "PROMOTED"
    if not served and candidates is not None and deployment.id not in candidates:
        return [
            (
                f"Deployment {deployment.id} has never served production, and Vercel does not "
                "list it as a "
                "rollback candidate (422)."
            )
        ]
    if evidence.plan == "hobby" and deployment.id != _previous(evidence):
        return [
            (
                "To roll back further than the previous production deployment, upgrade to pro "
                "(402): on the Hobby "
                f"plan only {_previous(evidence) or 'the previous deployment'} can be reached, "
                f"not {deployment.id}."
            )
        ]
    return []


def _previous(evidence: Evidence) -> str | None:
    """The deployment that served right before the current one, as far as can be told."""
    project = evidence.project
    current, request = project.production, project.last_alias_request
    if current is None:
        return None
    if (
        request is not None
        and request.to_deployment_id == current.id
        and request.from_deployment_id
    ):
        return request.from_deployment_id
    # A build that took production by itself leaves no request: then it is the newest candidate
    # besides the current.
    return next((item for item in evidence.candidates or () if item != current.id), None)


def _of_rolling_release(evidence: Evidence, action: str) -> list[str]:
    rolling = evidence.rolling
    if rolling is None or rolling.state != "ACTIVE":
        return []
    base = rolling.current_deployment.id if rolling.current_deployment else None
    if action == "promote" or base == evidence.deployment.id:
        return [
            (
                "A rolling release is active: the move would only be queued behind it (202). "
                "Abort or complete it in "
                "Vercel's dashboard first."
            )
        ]
    return []
