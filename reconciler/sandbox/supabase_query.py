"""Runs SQL as the query routes of Supabase's Management API do, over a real PostgreSQL.

Each request has a connection of its own. Without parameters the simple protocol is used: many
statements, one implicit transaction, and the rows of the last statement that returned any. Errors
have the text format of postgres-meta, the open-source service behind those routes. Called by
`supabase_api` and `supabase_history`.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import error_from_result

from reconciler.sandbox.pg_values import to_json, to_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

READ_ONLY_ROLE = "supabase_read_only_user"
_CONNECT_SECONDS = 5
_CHANGES = re.compile(
    r"\b(insert|update|delete|merge|create|drop|alter|truncate|grant|revoke|call|do|comment)\b",
    re.IGNORECASE,
)
_ENSURE_ROLE = f"""
do $$ begin
  if not exists (select from pg_catalog.pg_roles where rolname = '{READ_ONLY_ROLE}') then
    create role {READ_ONLY_ROLE} with nologin bypassrls;
    grant pg_read_all_data to {READ_ONLY_ROLE};
  end if;
end $$"""


class QueryFailedError(Exception):
    """SQL that was refused; the text is what the API answers after its own prefix."""


@dataclass(frozen=True)
class Outcome:
    """What one request's SQL did.

    Attributes:
        rows: JSON objects, as the API answers them.
        commands: Command tags of all statements, such as `DELETE 1`.
        changes: Whether anything may have been changed.
    """

    rows: list[dict[str, object]]
    commands: tuple[str, ...]
    changes: bool


@dataclass(frozen=True)
class Session:
    """Settings of the connection of one request."""

    read_only: bool = False
    """Low-privilege role, and an empty search path: names need their schema."""
    frozen: bool = False
    """The project is in read-only mode (as with a full disk): the usual role, no writes."""
    timeout_ms: int = 120_000


@contextmanager
def connection(dsn: str, session: Session | None = None) -> Iterator[psycopg.Connection]:
    """A fresh autocommit connection.

    Raises:
        QueryFailedError: The database cannot be reached, or SQL failed inside the block.
    """
    session = session or Session()
    known = conninfo_to_dict(dsn)
    options = [str(known.get("options") or ""), f"-c statement_timeout={session.timeout_ms}"]
    if session.read_only or session.frozen:
        options.append("-c default_transaction_read_only=on")
    if session.read_only:
        options.append(f"-c role={READ_ONLY_ROLE} -c search_path=")
    try:
        opened = psycopg.connect(
            dsn,
            autocommit=True,
            connect_timeout=_CONNECT_SECONDS,
            application_name="supabase/management-api",
            client_encoding="utf8",
            options=" ".join(options).strip(),
        )
    except psycopg.OperationalError as exc:
        # The address only: libpq's own text may name users and files.
        place = f"{known.get('host', 'localhost')}:{known.get('port', 5432)}"
        raise QueryFailedError(f"connect ECONNREFUSED {place}") from exc
    try:
        with opened:
            yield opened
    except psycopg.Error as exc:
        raise QueryFailedError(error_text(exc, "")) from exc


def ensure_read_only_role(dsn: str) -> None:
    """Make the role of the read-only route, once; needs a superuser.

    Raises:
        QueryFailedError: The database cannot be reached or refuses.
    """
    with connection(dsn) as opened:
        run(opened, _ENSURE_ROLE)


def run(
    opened: psycopg.Connection, query: str, parameters: Sequence[object] | None = None
) -> Outcome:
    """Run SQL and shape its result.

    Args:
        opened: An autocommit connection, or one inside a transaction block.
        query: One statement when there are parameters, else any number.
        parameters: JSON values for `$1`, `$2`, ...

    Raises:
        QueryFailedError: PostgreSQL refused; everything of this call is undone.
    """
    if "\0" in query:
        raise QueryFailedError("invalid message format")
    try:
        results = _extended(opened, query, parameters) if parameters else _simple(opened, query)
    except psycopg.Error as exc:
        raise QueryFailedError(error_text(exc, query)) from exc
    shaped = [_rows(result) for result in results]
    tags = tuple((result.command_status or b"").decode() for result in results)
    reads = all(tag.split(" ")[0] in {"SELECT", "SHOW", "EXPLAIN", ""} for tag in tags)
    return Outcome(
        rows=next((rows for rows in reversed(shaped) if rows), []),
        commands=tags,
        changes=not reads or _CHANGES.search(query) is not None,
    )


def error_text(error: psycopg.Error, query: str) -> str:
    """An error as postgres-meta writes it: two spaces after the severity, LINE with a caret."""
    diag = error.diag
    if diag.message_primary is None:
        return "Connection terminated unexpectedly" if not error.sqlstate else str(error)
    code = f"{diag.sqlstate}: " if diag.sqlstate else ""
    text = f"{diag.severity}:  {code}{diag.message_primary}\n"
    if diag.statement_position:
        text += _pointer(query, int(diag.statement_position) - 1)
    for label, part in (
        ("DETAIL", diag.message_detail),
        ("HINT", diag.message_hint),
        ("QUERY", diag.internal_query),
        ("CONTEXT", diag.context),
    ):
        text += f"{label}:  {part}\n" if part else ""
    return text


def _pointer(query: str, position: int) -> str:
    start, number, line, offset = 0, 0, "", 0
    for index, text in enumerate(query.split("\n"), start=1):
        if start + len(text) > position:
            number, line, offset = index, text, position - start
            break
        start += len(text) + 1
    return f"LINE {number}: {line}\n{' ' * (len(f'LINE {number}: ') + offset)}^\n"


def _simple(opened: psycopg.Connection, query: str) -> list[pq.abc.PGresult]:
    results: list[pq.abc.PGresult] = []
    with opened.cursor() as cursor:
        cursor.execute(query.encode())
        while True:
            if cursor.pgresult is not None:
                results.append(cursor.pgresult)
            if not cursor.nextset():
                return results


def _extended(
    opened: psycopg.Connection, query: str, parameters: Sequence[object]
) -> list[pq.abc.PGresult]:
    texts = [to_text(value) for value in parameters]
    values = [None if text is None else text.encode() for text in texts]
    result = opened.pgconn.exec_params(query.encode(), values)
    if result.status == pq.ExecStatus.FATAL_ERROR:
        raise error_from_result(result, "utf-8")
    return [result]


def _rows(result: pq.abc.PGresult) -> list[dict[str, object]]:
    columns = [
        ((result.fname(index) or b"").decode(), result.ftype(index))
        for index in range(result.nfields)
    ]
    return [
        {
            name: to_json(_text(result.get_value(row, index)), kind)
            for index, (name, kind) in enumerate(columns)
        }
        for row in range(result.ntuples)
    ]


def _text(value: bytes | memoryview | None) -> str | None:
    return None if value is None else bytes(value).decode()
