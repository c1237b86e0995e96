"""The practice Vercel REST API: what its CLI and a production observer ask for.

Serves observation, rollback in both known forms, promote, and the rebuild behind promoting a
preview. `serve` and `reconciler sandbox` put it on a port. Routes accept any version number where
the answers do not differ by version. Documented at vercel.com/docs/rest-api.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from reconciler.sandbox import vercel_json as show
from reconciler.sandbox.faults import Fault, FaultKind
from reconciler.sandbox.http import (
    ACCEPTED,
    BAD_REQUEST,
    CREATED,
    FORBIDDEN,
    NOT_FOUND,
    OK,
    TOO_MANY,
    Api,
    Call,
    JsonObject,
    Request,
    Response,
)
from reconciler.sandbox.store import Effect, StateFile, now_ms
from reconciler.sandbox.vercel_list import page_of_aliases, page_of_deployments
from reconciler.sandbox.vercel_moves import (
    begin_move,
    deploy,
    due,
    refusal,
    settle,
)
from reconciler.sandbox.vercel_state import (
    Deployment,
    Description,
    MoveKind,
    Project,
    Settings,
    VercelState,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DESCRIPTION_LIMIT = 250
_RATE_TOTAL = 100


class VercelApi(Api):
    """The practice Vercel.

    Args:
        token: The bearer token that is accepted; letters, digits, underscore (the CLI's rule).
        path: The state file.
        initial: The state of a first start, see `vercel_state.new_state`.
        clock: Milliseconds since the epoch; the CLI needs it to be the wall clock.

    Raises:
        UsageError: The state file exists and is not one of a practice Vercel.
    """

    def __init__(
        self,
        *,
        token: str,
        path: Path,
        initial: VercelState,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        super().__init__(token)
        self._file = StateFile(path, initial)
        self._clock = clock
        project, move = "/{v}/projects/{project}", "{deployment}"
        for method, pattern, handler in (
            ("GET", "/{v}/user", self._user),
            ("GET", "/{v}/teams", self._teams),
            ("GET", "/teams/{team}", self._team),
            ("GET", "/{v}/teams/{team}", self._team),
            ("GET", "/{v}/projects", self._projects),
            ("GET", project, self._project),
            ("GET", f"{project}/rolling-release", self._rolling_release),
            ("GET", "/v1/projects/{project}/promote/aliases", self._flat_aliases),
            ("GET", f"{project}/promote/aliases", self._nested_aliases),
            ("GET", f"{project}/rollback/aliases", self._nested_aliases),
            ("POST", f"{project}/promote/{move}", self._promote),
            ("POST", f"{project}/rollback/{move}", self._rollback),
            ("PATCH", f"{project}/rollback/{move}/update-description", self._describe),
            ("GET", "/{v}/deployments", self._deployments),
            ("POST", "/{v}/deployments", self._create),
            ("GET", "/{v}/deployments/{deployment}", self._deployment),
            ("GET", "/{v}/deployments/{deployment}/builds", self._builds),
            ("GET", "/{v}/now/deployments/{deployment}/events", self._events),
        ):
            self.add_route(method, pattern, handler)

    def state(self) -> VercelState:
        """The present state, with everything that is due done."""
        return self._look()[0]

    def _look(self) -> tuple[VercelState, int]:
        """The present state and the time it is of: what is shown is never ahead of it."""
        now = self._clock()
        if due(self._file.read(), now):
            with self._file.change() as draft:
                settle(draft, now)
        return self._file.read(), now

    @contextmanager
    def _change(self) -> Iterator[tuple[VercelState, int]]:
        """A draft of the state, with everything done that is due at the given time."""
        with self._file.change() as draft:
            now = self._clock()
            settle(draft, now)
            yield draft, now

    def deploy(
        self, *, sha: str = "", production: bool = True, error: str = "", build_ms: int = 0
    ) -> str:
        """Add a deployment to the (only) project without an HTTP call; gives its id.

        Args:
            sha: Commit it was built from.
            production: False makes a preview.
            error: When given, the build fails with this message.
            build_ms: How long it builds, in milliseconds.
        """
        with self._change() as (draft, now):
            made = deploy(
                draft,
                draft.projects[0],
                now=now,
                sha=sha,
                target="production" if production else None,
                error=error,
                build_ms=build_ms,
            )
        return made.id

    def effects(self) -> list[Effect]:
        """The log of accepted changes."""
        return self._file.read().effects

    def configure(self, changes: bytes) -> JsonObject:
        """Change settings (`alias_delay_ms`, `alias_step_ms`, `build_ms`, `plan`)."""
        with self._file.change() as draft:
            draft.settings = Settings.model_validate(
                {**draft.settings.model_dump(), **self.json_object(Request("", "", body=changes))}
            )
        return draft.settings.model_dump(mode="json")

    def error(self, status: int, message: str, code: str = "") -> Response:
        """`{"error": {"code", "message"}}`."""
        return Response(status, {"error": {"code": code or "bad_request", "message": message}})

    def unauthorized(self, request: Request) -> Response:
        """403, as documented for a missing, bad or insufficient token."""
        extra = "invalidToken" if request.bearer() else "missingToken"
        body = {"code": "forbidden", "message": "Not authorized", extra: True}
        return Response(FORBIDDEN, {"error": body})

    def rate_limited(self, fault: Fault) -> Response:
        """429 with the documented `limit` object; header names are those of the older docs."""
        wait = max(fault.delay_ms // 1000, 1)
        reset = self._clock() // 1000 + wait
        limit = {"remaining": 0, "reset": reset, "resetMs": reset * 1000, "total": _RATE_TOTAL}
        message = f"The rate limit of {_RATE_TOTAL} exceeded. Try again in {wait} seconds"
        headers = {
            "Retry-After": str(wait),
            "X-RateLimit-Limit": str(_RATE_TOTAL),
            "X-RateLimit-Remaining": "0",
            "X-RateLimit-Reset": str(reset),
        }
        body = {"code": "rate_limited", "message": message, "limit": limit}
        return Response(TOO_MANY, {"error": body}, headers=headers if fault.reset_headers else {})

    # Reading

    def _user(self, call: Call) -> Response:
        del call
        return Response(OK, {"user": show.user(self._file.read().user)})

    def _teams(self, call: Call) -> Response:
        del call
        state = self._file.read()
        teams = [show.team(state, item) for item in state.teams]
        pagination = {"count": len(teams), "next": None, "prev": None}
        return Response(OK, {"teams": teams, "pagination": pagination})

    def _team(self, call: Call) -> Response:
        state = self._file.read()
        team = state.team(call.values["team"])
        if team is None:
            raise self.refuse(NOT_FOUND, "Team not found", "not_found")
        return Response(OK, show.team(state, team))

    def _projects(self, call: Call) -> Response:
        state, now = self._look()
        self._check_scope(call, state)
        search = call.request.arg("search") or ""
        shown = [show.project(state, item, now) for item in state.projects if search in item.name]
        pagination = {"count": len(shown), "next": None, "prev": None}
        return Response(OK, {"projects": shown, "pagination": pagination})

    def _project(self, call: Call) -> Response:
        state, now = self._look()
        return Response(OK, show.project(state, self._find_project(call, state), now))

    def _rolling_release(self, call: Call) -> Response:
        self._find_project(call, self.state())
        return Response(OK, {"rollingRelease": None})

    def _deployments(self, call: Call) -> Response:
        state = self.state()
        self._check_scope(call, state)
        page = page_of_deployments(state, call.request)
        if page is None:
            raise self.refuse(BAD_REQUEST, "Invalid request: a limit or time is wrong")
        return Response(OK, page)

    def _deployment(self, call: Call) -> Response:
        state = self.state()
        deployment = self._find_deployment(call, state)
        owner = self._owner(state, deployment)
        return Response(OK, show.deployment(state, owner, deployment))

    def _builds(self, call: Call) -> Response:
        return Response(OK, show.builds(self._find_deployment(call, self.state())))

    def _events(self, call: Call) -> Response:
        deployment = self._find_deployment(call, self.state())
        text = f"Build of {deployment.sha or deployment.name}: {deployment.ready_state}"
        return Response(OK, lines=show.event_line(deployment, text))

    def _flat_aliases(self, call: Call) -> Response:
        return self._aliases(call, nested=False)

    def _nested_aliases(self, call: Call) -> Response:
        return self._aliases(call, nested=True)

    def _aliases(self, call: Call, *, nested: bool) -> Response:
        state, now = self._look()
        project = self._find_project(call, state)
        page = page_of_aliases(project, call.request, now, nested=nested)
        if page is None:
            raise self.refuse(BAD_REQUEST, "Invalid request: a limit or time is wrong")
        return Response(OK, page)

    # Changing

    def _promote(self, call: Call) -> Response:
        return self._move(call, "promote")

    def _rollback(self, call: Call) -> Response:
        return self._move(call, "rollback")

    def _move(self, call: Call, kind: MoveKind) -> Response:
        self.json_object(call.request)
        text = call.request.arg("description")
        self._check_description(text)
        with self._change() as (draft, now):
            project = self._find_project(call, draft)
            deployment = draft.deployment(call.values["deployment"])
            if deployment is None or deployment.project_id != project.id:
                raise self.refuse(NOT_FOUND, "Deployment not found", "not_found")
            if reason := refusal(draft, project, deployment, kind, now):
                raise self.refuse(reason.status, reason.message, reason.code)
            if kind == "promote" and self._strike(FaultKind.QUEUED, call):
                return Response(ACCEPTED)
            slow = self._strike(FaultKind.SLOW_ALIASES, call)
            broken = self._strike(FaultKind.ALIAS_FAILS, call)
            begun = begin_move(
                draft,
                project,
                deployment,
                kind,
                now=now,
                pace_ms=slow.delay_ms if slow else None,
                fails=(broken.alias or "") if broken else None,
            )
            if text and kind == "rollback":
                project.description = Description(text=text, created_at=now)
            ids = {"project": project.id, "deployment": deployment.id}
            if project.production:
                ids["from"] = project.production
            draft.record(at=now, route=call.route, ids=ids, repeat=not begun)
        return Response(CREATED)

    def _describe(self, call: Call) -> Response:
        text = self.json_object(call.request).get("description")
        if not isinstance(text, str):
            raise self.refuse(BAD_REQUEST, "Missing required property `description`")
        self._check_description(text)
        with self._change() as (draft, now):
            project = self._find_project(call, draft)
            project.description = Description(text=text, created_at=now)
            ids = {"project": project.id, "deployment": call.values["deployment"]}
            draft.record(at=now, route=call.route, ids=ids)
        return Response(OK)

    def _create(self, call: Call) -> Response:
        body = self.json_object(call.request)
        name = body.get("name")
        if not isinstance(name, str):
            raise self.refuse(BAD_REQUEST, "Missing required property `name`")
        source, git, meta = body.get("deploymentId"), body.get("gitSource"), body.get("meta")
        git = git if isinstance(git, dict) else {}
        meta = meta if isinstance(meta, dict) else {}
        with self._change() as (draft, now):
            self._check_scope(call, draft)
            old = draft.deployment(source) if isinstance(source, str) else None
            if source is not None and old is None:
                raise self.refuse(NOT_FOUND, "Deployment not found", "not_found")
            project = draft.project(old.project_id if old else name)
            if project is None:
                raise self.refuse(NOT_FOUND, "Project not found", "not_found")
            made = deploy(
                draft,
                project,
                now=now,
                sha=str(git.get("sha", old.sha if old else "")),
                ref=str(git.get("ref", old.ref if old else "main")),
                target="production" if body.get("target") == "production" else None,
                meta={str(key): str(value) for key, value in meta.items()},
            )
            ids = {"project": project.id, "deployment": made.id}
            if old is not None:
                ids["source"] = old.id
            draft.record(at=now, route=call.route, ids=ids)
            return Response(OK, show.deployment(draft, project, made))

    # Helpers

    def _strike(self, kind: FaultKind, call: Call) -> Fault | None:
        return self.faults.take((kind,), call.request.method, call.request.path)

    def _check_description(self, text: str | None) -> None:
        if text is not None and len(text) > DESCRIPTION_LIMIT:
            message = f"`description` must be {DESCRIPTION_LIMIT} characters at most"
            raise self.refuse(BAD_REQUEST, message)

    def _check_scope(self, call: Call, state: VercelState) -> None:
        """A request that names no team is one of the token's default team."""
        named = call.request.arg("teamId") or call.request.arg("slug")
        if named and state.team(named) is None:
            raise self.refuse(FORBIDDEN, "Not authorized", "forbidden")

    def _find_project(self, call: Call, state: VercelState) -> Project:
        self._check_scope(call, state)
        project = state.project(call.values["project"])
        if project is None:
            raise self.refuse(NOT_FOUND, "Project not found", "not_found")
        return project

    def _find_deployment(self, call: Call, state: VercelState) -> Deployment:
        self._check_scope(call, state)
        deployment = state.deployment(call.values["deployment"])
        if deployment is None:
            raise self.refuse(NOT_FOUND, "Deployment not found", "not_found")
        return deployment

    def _owner(self, state: VercelState, deployment: Deployment) -> Project:
        return next(item for item in state.projects if item.id == deployment.project_id)
