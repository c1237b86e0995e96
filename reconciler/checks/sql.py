"""The `sql` check: the first column of a query's first row is compared, in a read-only transaction."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import psycopg

from reconciler.checks.base import Attempt, CheckContext, Outcome, failed, passed

if TYPE_CHECKING:
    from reconciler.core.spec_verify import SqlCheck

#: Syntax error, not supported, a write in a read-only transaction: waiting does not mend these.
_WRONG_QUERY = ("42601", "0A", "25006")


def probe(spec: SqlCheck, context: CheckContext, attempt: Attempt) -> Outcome:
    """Asks once."""
    wanted = _wanted(spec, context)
    if context.connect is None:
        return failed(f"sql: expected {wanted}, but no database is declared", final=True)
    try:
        with context.connect(spec.dsn_from, attempt.timeout) as connection:
            row = _first_row(connection, spec.query, attempt.timeout)
    except psycopg.Error as exc:
        state = exc.sqlstate or ""
        # Never the error's own text: it repeats the statement, and of a connection the address.
        said = exc.diag.message_primary or "the database cannot be reached"
        named = f"{said} ({state})" if state else said
        return failed(f"sql: expected {wanted}, got: {named}", final=state.startswith(_WRONG_QUERY))
    if row is None:
        return failed(f"sql: expected {wanted}, got no row")
    found = row[0]
    shown = f"got {context.quote(found)}"
    return (
        passed(f"sql: {shown}")
        if _holds(spec, found)
        else failed(f"sql: expected {wanted}, {shown}")
    )


def _first_row(
    connection: psycopg.Connection[Any], query: str, timeout: float
) -> tuple[Any, ...] | None:
    connection.rollback()
    connection.autocommit = False
    connection.read_only = True
    try:
        with connection.cursor() as cursor:
            milliseconds = max(1, math.ceil(timeout * 1000))
            cursor.execute("select set_config('statement_timeout', %s, true)", (str(milliseconds),))
            # The binary form goes through the extended protocol, which takes one statement only: no
            # query can end the read-only transaction and go on outside of it.
            cursor.execute(query.encode(), binary=True)
            row = cursor.fetchone() if cursor.description else None
            return tuple(row) if row is not None else None
    finally:
        if not connection.closed:
            connection.rollback()


def _holds(spec: SqlCheck, found: object) -> bool:
    if spec.equals is not None:
        return _equal(found, spec.equals)
    number = _number(found)
    if number is None:
        return False
    return (spec.min is None or number >= spec.min) and (spec.max is None or number <= spec.max)


def _equal(found: object, wanted: object) -> bool:
    if isinstance(wanted, bool) or isinstance(found, bool):
        return found is wanted
    if isinstance(wanted, str):
        # Dates, ids and enumerations are compared as they are written.
        return _number(found) is None and found is not None and str(found) == wanted
    number = _number(found)
    return number is not None and number == wanted


def _number(found: object) -> int | float | Decimal | None:
    if isinstance(found, bool) or not isinstance(found, int | float | Decimal):
        return None
    return None if isinstance(found, float | Decimal) and math.isnan(found) else found


def _wanted(spec: SqlCheck, context: CheckContext) -> str:
    if spec.equals is not None:
        return context.quote(spec.equals)
    bounds = [
        f"{word} {bound}"
        for word, bound in (("at least", spec.min), ("at most", spec.max))
        if bound is not None
    ]
    return " and ".join(bounds)
