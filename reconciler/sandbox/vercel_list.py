"""Filtering and paging of the practice Vercel's lists.

Pure; called by `vercel_api`. Pages are newest first, the cursor is a creation time in milliseconds
and exclusive (the vendor does not say whether it is), so creation times are kept distinct.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.sandbox import vercel_json as show
from reconciler.sandbox.vercel_moves import is_candidate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.sandbox.http import JsonObject, Request
    from reconciler.sandbox.vercel_state import Deployment, Project, VercelState

DEFAULT_PAGE, LARGEST_PAGE = 20, 100
_META = "meta-"


def page_of_deployments(state: VercelState, request: Request) -> JsonObject | None:
    """One page of deployments; None when a limit or time is no number or out of range."""
    numbers = _numbers(request)
    if numbers is None:
        return None
    limit, since, until = numbers
    owners = {item.id: item for item in state.projects}
    found = [
        item
        for item in sorted(state.deployments, key=lambda item: item.created_at, reverse=True)
        if since < item.created_at < until
        and _wanted(state, owners[item.project_id], item, request)
    ]
    page = found[:limit]
    shown = [show.list_item(state, owners[item.project_id], item) for item in page]
    cursor = page[-1].created_at if len(found) > len(page) else None
    first = page[0].created_at if page else None
    return {
        "deployments": shown,
        "pagination": {"count": len(shown), "next": cursor, "prev": first},
    }


def page_of_aliases(
    project: Project, request: Request, now: int, *, nested: bool
) -> JsonObject | None:
    """The aliases of the last move, all on one page; None when a limit is wrong.

    The documented flat form is an empty object as long as nothing was ever moved.
    """
    numbers = _numbers(request)
    if numbers is None:
        return None
    move = project.move
    if move is None:
        return {"aliases": [], "pagination": None} if nested else {}
    names: Sequence[str] = move.domains
    if request.arg("failedOnly") == "true":
        names = [name for name in names if move.alias_status(name, now) == "failed"]
    row = show.nested_alias if nested else show.flat_alias
    shown = [row(project, move, name, now) for name in names[: numbers[0]]]
    return {
        "aliases": shown,
        "pagination": {"count": len(shown), "next": None, "prev": None},
    }


def _numbers(request: Request) -> tuple[int, int, float] | None:
    """Limit, since, until."""
    texts = [request.arg("limit"), request.arg("since") or request.arg("from")]
    texts.append(request.arg("until") or request.arg("to"))
    if any(text is not None and not text.isdecimal() for text in texts):
        return None
    limit = int(texts[0]) if texts[0] else DEFAULT_PAGE
    if not 1 <= limit <= LARGEST_PAGE:
        return None
    return limit, int(texts[1] or -1), int(texts[2]) if texts[2] else float("inf")


def _wanted(state: VercelState, owner: Project, item: Deployment, request: Request) -> bool:
    projects = {*_split(request, "projectId"), *_split(request, "projectIds")}
    targets = {None if name == "preview" else name for name in _split(request, "target")}
    candidate = request.arg("rollbackCandidate")
    labels = {
        name.removeprefix(_META): values[-1]
        for name, values in request.query.items()
        if name.startswith(_META)
    }
    return all(
        (
            not projects or bool(projects & {owner.id, owner.name}),
            request.arg("app") in {None, item.name},
            not targets or item.target in targets,
            not (states := _split(request, "state")) or item.ready_state in states,
            not (users := _split(request, "users")) or state.user.id in users,
            request.arg("branch") in {None, item.ref},
            request.arg("sha") in {None, item.sha},
            all(item.meta.get(name) == value for name, value in labels.items()),
            candidate is None or is_candidate(state, owner, item) == (candidate == "true"),
        )
    )


def _split(request: Request, name: str) -> set[str]:
    values = request.query.get(name, ())
    return {part for value in values for part in value.split(",") if part}
