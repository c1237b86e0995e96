"""How one connects to the practice Supabase's database: temporary logins, and the pooler's address.

The roles that `cli/login-role` hands out are real and end by themselves; passwords are never kept.
Called by `supabase_api`.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from reconciler.sandbox.http import BAD_REQUEST, CREATED, OK, Response
from reconciler.sandbox.supabase_query import (
    READ_ONLY_ROLE,
    QueryFailedError,
    connection,
    ensure_read_only_role,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.sandbox.http import Call
    from reconciler.sandbox.supabase_project import ProjectApi

TTL_SECONDS = 300


@dataclass(frozen=True)
class Login:
    """A role that can log in for `ttl_seconds`."""

    role: str
    password: str
    ttl_seconds: int


def create_login(dsn: str, *, read_only: bool) -> Login:
    """Make a login that may become the database's owner, or only the reading role.

    Raises:
        QueryFailedError: PostgreSQL refused or cannot be reached.
    """
    login = Login(f"cli_login_{secrets.token_hex(6)}", secrets.token_urlsafe(24), TTL_SECONDS)
    ensure_read_only_role(dsn)
    with connection(dsn) as opened:
        member = READ_ONLY_ROLE if read_only else opened.info.user
        role = sql.Identifier(login.role)
        row = opened.execute(
            "select (now() + %s * interval '1 second')::text", (TTL_SECONDS,)
        ).fetchone()
        until = str(row[0]) if row else "now"
        opened.execute(
            sql.SQL("create role {} with login password {} valid until {}").format(
                role, sql.Literal(login.password), sql.Literal(until)
            )
        )
        opened.execute(sql.SQL("grant {} to {}").format(sql.Identifier(member), role))
    return login


def drop_logins(dsn: str, roles: Sequence[str]) -> None:
    """Remove logins that were handed out.

    Raises:
        QueryFailedError: PostgreSQL refused or cannot be reached.
    """
    with connection(dsn) as opened:
        for role in roles:
            opened.execute(sql.SQL("drop role if exists {}").format(sql.Identifier(role)))


class LoginRoutes:
    """Login roles and the pooler.

    Args:
        owner: The API that serves them.
    """

    def __init__(self, owner: ProjectApi) -> None:
        self._owner = owner

    def register(self) -> None:
        """Add the routes to the API."""
        project = "/v1/projects/{ref}"
        self._owner.add_route("GET", f"{project}/config/database/pooler", self._pooler)
        self._owner.add_route("POST", f"{project}/cli/login-role", self._create_login)
        self._owner.add_route("DELETE", f"{project}/cli/login-role", self._drop_logins)

    def _pooler(self, call: Call) -> Response:
        state = self._owner.state(call)
        known = conninfo_to_dict(self._owner.dsn)
        user, host = f"postgres.{state.ref}", str(known.get("host") or "localhost")
        port, name = int(known.get("port") or 5432), str(known.get("dbname") or "postgres")
        address = f"postgresql://{user}:[YOUR-PASSWORD]@{host}:{port}/{name}"
        pooler = {
            "identifier": state.ref,
            "database_type": "PRIMARY",
            "is_using_scram_auth": True,
            "db_user": user,
            "db_host": host,
            "db_port": port,
            "db_name": name,
            "connection_string": address,
            "connectionString": address,
            "default_pool_size": None,
            "max_client_conn": None,
            "pool_mode": "session",
        }
        return Response(OK, [pooler])

    def _create_login(self, call: Call) -> Response:
        read_only = self._owner.json_object(call.request).get("read_only")
        if not isinstance(read_only, bool):
            raise self._owner.refuse(BAD_REQUEST, "read_only must be a boolean")
        dsn, _ = self._owner.database(call)
        try:
            login = create_login(dsn, read_only=read_only)
        except QueryFailedError as exc:
            raise self._owner.refuse(BAD_REQUEST, f"Failed to create login role: {exc}") from exc
        with self._owner.file.change() as draft:
            draft.login_roles.append(login.role)
            draft.record(at=self._owner.clock(), route=call.route, ids={"role": login.role})
        shown = {"role": login.role, "password": login.password, "ttl_seconds": login.ttl_seconds}
        return Response(CREATED, shown)

    def _drop_logins(self, call: Call) -> Response:
        dsn, _ = self._owner.database(call)
        roles = self._owner.file.read().login_roles
        try:
            drop_logins(dsn, roles)
        except QueryFailedError as exc:
            raise self._owner.refuse(BAD_REQUEST, f"Failed to delete login roles: {exc}") from exc
        with self._owner.file.change() as draft:
            draft.login_roles = [role for role in draft.login_roles if role not in roles]
            draft.record(at=self._owner.clock(), route=call.route, ids={"roles": ", ".join(roles)})
        return Response(OK, {"message": "ok"})
