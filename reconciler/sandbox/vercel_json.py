"""How the practice Vercel shows its model: the vendor's JSON shapes, type traps included.

Pure; called by `vercel_api`. A list item has `uid` and no `id`, one deployment has `id` and no
`uid`; `aliasAssigned` is a boolean on one deployment and a time on list items and targets.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from reconciler.sandbox.vercel_moves import is_candidate

if TYPE_CHECKING:
    from reconciler.sandbox.http import JsonObject
    from reconciler.sandbox.vercel_state import (
        Deployment,
        Domain,
        Move,
        Project,
        Team,
        User,
        VercelState,
    )

_REGION = "iad1"


def user(item: User) -> JsonObject:
    """Row `GET /v2/user`; `version` tells the CLI to use the default team."""
    return {
        "id": item.id,
        "username": item.username,
        "email": item.email,
        "name": item.name,
        "avatar": None,
        "defaultTeamId": item.default_team,
        **({"version": "northstar"} if item.default_team else {}),
    }


def team(state: VercelState, item: Team) -> JsonObject:
    """A team as both the list and the single row show it."""
    return {
        "id": item.id,
        "slug": item.slug,
        "name": item.name,
        "avatar": None,
        "createdAt": item.created_at,
        "creatorId": state.user.id,
        "billing": {"plan": state.settings.plan},
        "membership": {"uid": state.user.id, "role": "OWNER"},
    }


def project(state: VercelState, item: Project, now: int) -> JsonObject:
    """A project with `targets`, `alias` and `lastAliasRequest` as they are right now."""
    latest = sorted(
        (made for made in state.deployments if made.project_id == item.id),
        key=lambda made: made.created_at,
        reverse=True,
    )
    production = state.deployment(item.production) if item.production else None
    shown: JsonObject = {
        "id": item.id,
        "name": item.name,
        "accountId": item.account_id,
        "createdAt": item.created_at,
        "updatedAt": item.updated_at,
        "framework": None,
        "live": False,
        "paused": False,
        "autoAssignCustomDomains": item.auto_assign,
        "lastAliasRequest": _last_request(item.move, now) if item.move else None,
        "lastRollbackTarget": None,
        "rollingRelease": None,
        "targets": {"production": _reference(state, item, production) if production else None},
        "latestDeployments": [_reference(state, item, made) for made in latest[:5]],
        "alias": [_alias(state, item, domain) for domain in item.domains],
        "link": None,
    }
    if item.description is not None:
        shown["rollbackDescription"] = {
            "description": item.description.text,
            "createdAt": item.description.created_at,
            "userId": state.user.id,
            "username": state.user.username,
        }
    return shown


def list_item(state: VercelState, owner: Project, item: Deployment) -> JsonObject:
    """A deployment as the lists show it."""
    aliased = _assigned_at(owner, item)
    return {
        "uid": item.id,
        "name": item.name,
        "projectId": item.project_id,
        "url": item.url,
        "created": item.created_at,
        "createdAt": item.created_at,
        "type": "LAMBDAS",
        "state": item.ready_state,
        "readyState": item.ready_state,
        "target": item.target,
        "isRollbackCandidate": is_candidate(state, owner, item),
        "aliasAssigned": aliased,
        "aliasError": None,
        "creator": {"uid": state.user.id, "username": state.user.username},
        "meta": item.meta,
        "source": "git" if item.sha else "cli",
        "inspectorUrl": inspector(state, item),
        **_progress(item),
        **_failure(item),
    }


def deployment(state: VercelState, owner: Project, item: Deployment) -> JsonObject:
    """One deployment, as its owner sees it."""
    aliases = _aliases(owner, item)
    account = state.team(owner.account_id)
    shown: JsonObject = {
        "id": item.id,
        "name": item.name,
        "url": item.url,
        "projectId": item.project_id,
        "ownerId": owner.account_id,
        "project": {"id": owner.id, "name": owner.name},
        "version": 2,
        "type": "LAMBDAS",
        "target": item.target,
        "readyState": item.ready_state,
        "status": item.ready_state,
        "alias": aliases,
        "automaticAliases": [],
        "userAliases": aliases,
        "aliasAssigned": bool(aliases),
        "aliasAssignedAt": _assigned_at(owner, item),
        "aliasError": None,
        "autoAssignCustomDomains": owner.auto_assign,
        "createdAt": item.created_at,
        "createdIn": _REGION,
        "creator": {"uid": state.user.id, "username": state.user.username},
        "inspectorUrl": inspector(state, item),
        "meta": item.meta,
        "plan": state.settings.plan,
        "public": False,
        "regions": [_REGION],
        "routes": None,
        "source": "git" if item.sha else "cli",
        **_progress(item),
        **_failure(item),
    }
    if account is not None:
        shown["team"] = {"id": account.id, "name": account.name, "slug": account.slug}
    if item.sha:
        shown["gitSource"] = {"type": "github", "ref": item.ref, "sha": item.sha}
    return shown


def builds(item: Deployment) -> JsonObject:
    """Row `GET /v11/deployments/{id}/builds`."""
    build = {
        "id": f"bld_{item.id.removeprefix('dpl_')}",
        "createdAt": item.created_at,
        "readyState": item.ready_state,
        "readyStateAt": item.ready_at,
        "entrypoint": "package.json",
        "output": [],
    }
    return {"builds": [build]}


def nested_alias(owner: Project, move: Move, domain: str, now: int) -> JsonObject:
    """An alias of the last move as the CLI reads it."""
    target = next(item.deployment for item in owner.domains if item.name == domain)
    return {
        "id": f"{owner.id}-{domain}",
        "status": move.alias_status(domain, now),
        "alias": {"alias": domain, "deploymentId": target or move.to_id},
    }


def flat_alias(owner: Project, move: Move, domain: str, now: int) -> JsonObject:
    """An alias of the last move in the documented shape."""
    return {
        "id": f"{owner.id}-{domain}",
        "alias": domain,
        "status": move.alias_status(domain, now),
    }


def event_line(item: Deployment, text: str) -> str:
    """One line of a build log as `inspect --logs` reads it."""
    event = {"type": "stdout", "created": item.ready_at, "date": item.ready_at, "text": text}
    return json.dumps({**event, "deploymentId": item.id}) + "\n"


def inspector(state: VercelState, item: Deployment) -> str:
    """The dashboard address of a deployment (it exists on the vendor's side only)."""
    owner = state.project(item.project_id)
    account = state.team(owner.account_id) if owner else None
    scope = account.slug if account else state.user.username
    return f"https://vercel.com/{scope}/{item.name}/{item.id.removeprefix('dpl_')}"


def _last_request(move: Move, now: int) -> JsonObject:
    return {
        "fromDeploymentId": move.from_id,
        "toDeploymentId": move.to_id,
        "jobStatus": move.status(now),
        "requestedAt": move.requested_at,
        "type": move.kind,
    }


def _reference(state: VercelState, owner: Project, item: Deployment) -> JsonObject:
    return {
        "id": item.id,
        "name": item.name,
        "url": item.url,
        "deploymentHostname": item.url,
        "alias": _aliases(owner, item),
        "aliasAssigned": _assigned_at(owner, item),
        "aliasError": None,
        "createdAt": item.created_at,
        "createdIn": _REGION,
        "creator": {"uid": state.user.id, "username": state.user.username},
        "target": item.target,
        "plan": state.settings.plan,
        "private": False,
        "readyState": item.ready_state,
        "type": "LAMBDAS",
        "meta": item.meta,
        "teamId": owner.account_id if state.team(owner.account_id) else None,
        "userId": state.user.id,
        **({"readySubstate": _substate(item)} if item.ready_state == "READY" else {}),
    }


def _alias(state: VercelState, owner: Project, domain: Domain) -> JsonObject:
    behind = state.deployment(domain.deployment) if domain.deployment else None
    return {
        "domain": domain.name,
        "environment": "production",
        "target": "PRODUCTION",
        "redirect": domain.redirect,
        "createdAt": owner.created_at,
        "deployment": _reference(state, owner, behind) if behind else None,
    }


def _aliases(owner: Project, item: Deployment) -> list[str]:
    return [domain.name for domain in owner.domains if domain.deployment == item.id]


def _assigned_at(owner: Project, item: Deployment) -> int | bool:
    return item.ready_at if _aliases(owner, item) else False


def _substate(item: Deployment) -> str:
    return "PROMOTED" if item.promoted else "STAGED"


def _progress(item: Deployment) -> JsonObject:
    shown: JsonObject = {}
    if item.ready_state != "QUEUED":
        shown["buildingAt"] = item.created_at
    if item.ready_state == "READY":
        shown["ready"] = item.ready_at
        shown["readySubstate"] = _substate(item)
    return shown


def _failure(item: Deployment) -> JsonObject:
    if item.ready_state != "ERROR":
        return {}
    return {"errorCode": "BUILD_FAILED", "errorMessage": item.error}
