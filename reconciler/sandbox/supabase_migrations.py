"""The migrations routes of the practice Supabase.

Only selected partners may use them on the real platform; the setting `migrations_available` makes
this server answer as it does to everybody else. Called by `supabase_api`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from reconciler.sandbox.http import BAD_REQUEST, NOT_FOUND, OK, UNAUTHORIZED, Response
from reconciler.sandbox.supabase_history import (
    Migration,
    NoSuchMigrationError,
    apply_migration,
    get_migration,
    list_migrations,
    patch_migration,
    rollback_migrations,
)
from reconciler.sandbox.supabase_query import QueryFailedError, connection

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

    from reconciler.sandbox.http import Call, JsonObject
    from reconciler.sandbox.supabase_project import ProjectApi

T = TypeVar("T")
NOT_AVAILABLE = "Migrations endpoint is not generally available yet"


class MigrationRoutes:
    """List, get, apply, record, patch and roll back migrations.

    Args:
        owner: The API that serves them.
    """

    def __init__(self, owner: ProjectApi) -> None:
        self._owner = owner

    def register(self) -> None:
        """Add the routes to the API."""
        path = "/v1/projects/{ref}/database/migrations"
        for method, pattern, handler in (
            ("GET", path, self._list),
            ("POST", path, self._apply),
            ("PUT", path, self._upsert),
            ("DELETE", path, self._rollback),
            ("GET", f"{path}/{{version}}", self._get),
            ("PATCH", f"{path}/{{version}}", self._patch),
        ):
            self._owner.add_route(method, pattern, handler)

    def _list(self, call: Call) -> Response:
        return Response(OK, self._run(call, list_migrations))

    def _get(self, call: Call) -> Response:
        version = self._version(call.values["version"])
        return Response(OK, self._run(call, lambda opened: get_migration(opened, version)))

    def _apply(self, call: Call) -> Response:
        return self._write(call, execute=True)

    def _upsert(self, call: Call) -> Response:
        return self._write(call, execute=False)

    def _write(self, call: Call, *, execute: bool) -> Response:
        body = self._owner.json_object(call.request)
        query = self._text(body, "query")
        if not query:
            raise self._owner.refuse(BAD_REQUEST, "query must be a non-empty string")
        key = call.request.headers.get("idempotency-key")
        wanted = Migration(query, self._text(body, "name"), self._text(body, "rollback"), key)
        columns = self._owner.state(call).settings.history_columns
        version = self._run(
            call,
            lambda opened: apply_migration(opened, wanted, execute=execute, columns=columns),
        )
        if version is not None:
            self._owner.record(call, version=version)
        return Response(OK)

    def _patch(self, call: Call) -> Response:
        version = self._version(call.values["version"])
        body = self._owner.json_object(call.request)
        name, rollback = self._text(body, "name"), self._text(body, "rollback")
        self._run(
            call, lambda opened: patch_migration(opened, version, name=name, rollback=rollback)
        )
        self._owner.record(call, version=version)
        return Response(OK)

    def _rollback(self, call: Call) -> Response:
        gte = self._version(call.request.arg("gte") or "")
        undone = self._run(call, lambda opened: rollback_migrations(opened, gte))
        if undone:
            self._owner.record(call, versions=", ".join(undone))
        return Response(OK)

    def _run(self, call: Call, work: Callable[[psycopg.Connection], T]) -> T:
        if not self._owner.state(call).settings.migrations_available:
            raise self._owner.refuse(UNAUTHORIZED, NOT_AVAILABLE)
        dsn, session = self._owner.database(call)
        try:
            with connection(dsn, session) as opened:
                return work(opened)
        except NoSuchMigrationError as exc:
            raise self._owner.refuse(NOT_FOUND, "Migration not found") from exc
        except QueryFailedError as exc:
            raise self._owner.refuse(BAD_REQUEST, f"Failed to run sql query: {exc}") from exc

    def _version(self, text: str) -> str:
        if not text.isdecimal():
            raise self._owner.refuse(BAD_REQUEST, "A version has only digits")
        return text

    def _text(self, body: JsonObject, name: str) -> str | None:
        value = body.get(name)
        if value is not None and not isinstance(value, str):
            raise self._owner.refuse(BAD_REQUEST, f"{name} must be a string")
        return value
