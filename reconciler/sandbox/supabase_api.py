"""The practice Supabase Management API, over a real PostgreSQL.

Project, health, read-only mode and SQL are here; migrations, backups and logins in files of their
own. `serve` and `reconciler sandbox` put it on a port. Documented at
supabase.com/docs/reference/api; what the vendor leaves open is marked "our interpretation".
"""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import TYPE_CHECKING

from reconciler.sandbox.http import BAD_REQUEST, CREATED, OK, Call, JsonObject, Response
from reconciler.sandbox.store import now_ms
from reconciler.sandbox.supabase_backups import BackupRoutes
from reconciler.sandbox.supabase_logins import LoginRoutes
from reconciler.sandbox.supabase_migrations import MigrationRoutes
from reconciler.sandbox.supabase_project import ONLINE, ProjectApi
from reconciler.sandbox.supabase_query import (
    QueryFailedError,
    connection,
    ensure_read_only_role,
    run,
)
from reconciler.sandbox.supabase_state import READ_ONLY_OVERRIDE_MS, SupabaseState

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_SERVICES = (
    "auth",
    "db",
    "db_postgres_user",
    "pooler",
    "realtime",
    "rest",
    "storage",
    "pg_bouncer",
)


class SupabaseApi(ProjectApi):
    """The practice Supabase.

    Args:
        token: The bearer token that is accepted.
        path: The state file.
        initial: The state of a first start, see `supabase_state.new_state`.
        dsn: Address of the real PostgreSQL, of a superuser.
        on_restore: Restores that database in place to a Unix time, and returns when it is done;
            None refuses every restore.
        clock: Milliseconds since the epoch.

    Raises:
        UsageError: The state file exists and is not one of a practice Supabase.
    """

    def __init__(
        self,
        *,
        token: str,
        path: Path,
        initial: SupabaseState,
        dsn: str,
        on_restore: Callable[[int], None] | None = None,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        super().__init__(token=token, path=path, initial=initial, dsn=dsn, clock=clock)
        self._role_ready = False
        project = "/v1/projects/{ref}"
        for method, pattern, handler in (
            ("GET", "/v1/projects", self._projects),
            ("GET", project, self._project),
            ("GET", f"{project}/health", self._health),
            ("GET", f"{project}/readonly", self._read_only),
            ("POST", f"{project}/readonly/temporary-disable", self._lift_read_only),
            ("POST", f"{project}/database/query", self._query),
            ("POST", f"{project}/database/query/read-only", self._query_read_only),
        ):
            self.add_route(method, pattern, handler)
        MigrationRoutes(self).register()
        BackupRoutes(self, on_restore).register()
        LoginRoutes(self).register()

    def _projects(self, call: Call) -> Response:
        del call
        return Response(OK, [self._show(self.file.read())])

    def _project(self, call: Call) -> Response:
        return Response(OK, self._show(self.state(call)))

    def _show(self, state: SupabaseState) -> JsonObject:
        created = dt.datetime.fromtimestamp(state.created_at / 1000, dt.UTC)
        return {
            "id": state.ref,
            "ref": state.ref,
            "organization_id": state.organization,
            "organization_slug": state.organization,
            "name": state.name,
            "region": state.region,
            "created_at": created.isoformat(),
            "status": state.status(self.clock()),
            "database": {
                "host": f"db.{state.ref}.supabase.co",
                "version": self._server_version(),
                "postgres_engine": self._server_version().split(".")[0],
                "release_channel": "ga",
            },
        }

    def _server_version(self) -> str:
        try:
            with connection(self.dsn) as opened:
                number = opened.info.server_version
        except QueryFailedError:
            return "unknown"
        return f"{number // 10000}.{number % 10000}"

    def _health(self, call: Call) -> Response:
        state = self.state(call)
        asked = [
            name for text in call.request.query.get("services", ()) for name in text.split(",")
        ]
        if not asked or not set(asked) <= set(_SERVICES):
            raise self.refuse(BAD_REQUEST, f"services must be some of {', '.join(_SERVICES)}")
        up = state.status(self.clock()) in ONLINE
        reachable = self._server_version() != "unknown"
        rows: list[JsonObject] = []
        for name in asked:
            healthy = up and (reachable or not name.startswith(("db", "p")))
            down = "UNHEALTHY" if up else "COMING_UP"
            row: JsonObject = {
                "name": name,
                "healthy": healthy,
                "status": "ACTIVE_HEALTHY" if healthy else down,
            }
            rows.append(row if healthy else {**row, "error": "The service does not answer"})
        return Response(OK, rows)

    def _read_only(self, call: Call) -> Response:
        state, now = self.state(call), self.clock()
        until = dt.datetime.fromtimestamp(state.read_only_override_until / 1000, dt.UTC)
        return Response(
            OK,
            {
                "enabled": state.frozen(now),
                "override_enabled": now < state.read_only_override_until,
                "override_active_until": until.isoformat(),
            },
        )

    def _lift_read_only(self, call: Call) -> Response:
        self.state(call)
        with self.file.change() as draft:
            now = self.clock()
            draft.read_only_override_until = now + READ_ONLY_OVERRIDE_MS
            draft.record(at=now, route=call.route, ids={})
        return Response(CREATED)

    def _query(self, call: Call) -> Response:
        return self._run(call, read_only=self.json_object(call.request).get("read_only") is True)

    def _query_read_only(self, call: Call) -> Response:
        return self._run(call, read_only=True)

    def _run(self, call: Call, *, read_only: bool) -> Response:
        body = self.json_object(call.request)
        query, parameters = body.get("query"), body.get("parameters")
        if not isinstance(query, str) or not query:
            raise self.refuse(BAD_REQUEST, "query must be a non-empty string")
        if parameters is not None and not isinstance(parameters, list):
            raise self.refuse(BAD_REQUEST, "parameters must be an array")
        dsn, session = self.database(call, read_only=read_only)
        try:
            if read_only and not self._role_ready:
                ensure_read_only_role(dsn)
                self._role_ready = True
            with connection(dsn, session) as opened:
                outcome = run(opened, query, parameters)
        except QueryFailedError as exc:
            raise self.refuse(BAD_REQUEST, f"Failed to run sql query: {exc}") from exc
        if outcome.changes and not read_only:
            digest = hashlib.sha256(query.encode()).hexdigest()
            self.record(call, sha256=digest, commands=", ".join(outcome.commands))
        return Response(CREATED, outcome.rows)
