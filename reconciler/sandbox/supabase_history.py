"""The migration history table, and what Supabase's migrations routes do to it.

The Supabase CLI makes three columns, the platform six; both occur, so columns are discovered. What
the vendor leaves open is decided here and says "our interpretation". Called by `supabase_api`;
`create_history` also by the sandbox and by tests.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import psycopg
from psycopg import sql

from reconciler.sandbox.supabase_query import QueryFailedError, run

if TYPE_CHECKING:
    from collections.abc import Mapping

_BASE = {"version": "text not null primary key", "statements": "text[]", "name": "text"}
_PLATFORM = {"created_by": "text", "idempotency_key": "text unique", "rollback": "text[]"}
_TABLE = sql.SQL("supabase_migrations.schema_migrations")
_OLDEST_FIRST = sql.SQL(" order by length(version), version")


class NoSuchMigrationError(Exception):
    """The history has no such version."""


@dataclass(frozen=True)
class Migration:
    """What a caller wants recorded."""

    query: str
    name: str | None = None
    rollback: str | None = None
    key: str | None = None


def create_history(opened: psycopg.Connection, columns: Literal[3, 6] = 6) -> None:
    """Make the history table if it is missing, with the CLI's or the platform's columns."""
    shape = _BASE if columns == len(_BASE) else {**_BASE, **_PLATFORM}
    parts = sql.SQL(", ").join(
        sql.SQL("{} ").format(sql.Identifier(name)) + sql.SQL(kind) for name, kind in shape.items()
    )
    opened.execute("create schema if not exists supabase_migrations")
    opened.execute(
        sql.SQL("create table if not exists ") + _TABLE + sql.SQL(" (") + parts + sql.SQL(")")
    )


def history_columns(opened: psycopg.Connection) -> frozenset[str]:
    """The columns that are there; empty when there is no history table."""
    rows = opened.execute(
        "select attname from pg_catalog.pg_attribute where attnum > 0 and not attisdropped"
        " and attrelid = to_regclass('supabase_migrations.schema_migrations')"
    )
    return frozenset(str(row[0]) for row in rows)


def list_migrations(opened: psycopg.Connection) -> list[dict[str, object]]:
    """Version and name of all rows, oldest first by (length, text)."""
    known = history_columns(opened)
    if not known:
        return []
    fields = sql.SQL("version, name" if "name" in known else "version, null")
    rows = opened.execute(sql.SQL("select ") + fields + sql.SQL(" from ") + _TABLE + _OLDEST_FIRST)
    return [
        {"version": str(version), **({} if name is None else {"name": str(name)})}
        for version, name in rows
    ]


def get_migration(opened: psycopg.Connection, version: str) -> dict[str, object]:
    """All columns of one row that are not null.

    Raises:
        NoSuchMigrationError: There is no such row.
    """
    if not history_columns(opened):
        raise NoSuchMigrationError(version)
    query = sql.SQL("select to_jsonb(h) from ") + _TABLE + sql.SQL(" h where version = %s")
    row = opened.execute(query, (version,)).fetchone()
    if row is None:
        raise NoSuchMigrationError(version)
    shown: Mapping[str, object] = row[0]
    known = {**_BASE, **_PLATFORM}
    return {name: value for name, value in shown.items() if value is not None and name in known}


def apply_migration(
    opened: psycopg.Connection, migration: Migration, *, execute: bool, columns: Literal[3, 6] = 6
) -> str | None:
    """Run a migration (or only record it) in one transaction; the server chooses the version.

    Args:
        opened: An autocommit connection.
        migration: SQL, name, rollback, idempotency key.
        execute: False records without running, as `PUT` does.
        columns: Shape of the table when it has to be made. Columns that a value needs are added.

    Returns:
        The version, or None when the idempotency key was known and nothing was done.

    Raises:
        QueryFailedError: The SQL was refused; nothing was changed.
    """
    with opened.transaction():
        create_history(opened, columns)
        _add_columns(opened, migration)
        _lock(opened)
        if migration.key is not None and _exists(opened, "idempotency_key", migration.key):
            return None
        if execute:
            run(opened, migration.query)
        version = _free_version(opened)
        _insert(opened, version, migration)
        return version


def patch_migration(
    opened: psycopg.Connection, version: str, *, name: str | None, rollback: str | None
) -> None:
    """Attach a name or a rollback script afterwards.

    Raises:
        NoSuchMigrationError: There is no such row.
    """
    if not history_columns(opened):
        raise NoSuchMigrationError(version)
    with opened.transaction():
        _add_columns(opened, Migration("", rollback=rollback))
        for column, value in (("name", name), ("rollback", rollback and [rollback])):
            if value is not None:
                query = sql.SQL("update {} set {} = %s where version = %s").format(
                    _TABLE, sql.Identifier(column)
                )
                opened.execute(query, (value, version))
        if not _exists(opened, "version", version):
            raise NoSuchMigrationError(version)


def rollback_migrations(opened: psycopg.Connection, gte: str) -> list[str]:
    """Undo every version at or above `gte`, newest first, all in one transaction.

    Our interpretation of an underspecified route: versions compare by (length, text), and if any
    row has no rollback script nothing at all is done.

    Returns:
        The versions that were undone, newest first.

    Raises:
        QueryFailedError: A script is missing or was refused; nothing was changed.
    """
    known = history_columns(opened)
    if not known:
        return []
    script = sql.SQL("rollback" if "rollback" in known else "null::text[]")
    with opened.transaction():
        _lock(opened)
        query = sql.SQL("select version, {} from {}").format(script, _TABLE) + _OLDEST_FIRST
        rows = [row for row in opened.execute(query) if _order(row[0]) >= _order(gte)]
        if missing := [str(version) for version, scripts in rows if not scripts]:
            raise QueryFailedError(f"no rollback script for migration {', '.join(missing)}")
        for version, scripts in reversed(rows):
            run(opened, ";\n".join(scripts))
            delete = sql.SQL("delete from {} where version = %s").format(_TABLE)
            opened.execute(delete, (version,))
        return [str(version) for version, _ in reversed(rows)]


def _lock(opened: psycopg.Connection) -> None:
    opened.execute(sql.SQL("lock table ") + _TABLE + sql.SQL(" in share row exclusive mode"))


def _order(version: str) -> tuple[int, str]:
    return len(version), version


def _exists(opened: psycopg.Connection, column: str, value: str) -> bool:
    query = sql.SQL("select 1 from {} where {} = %s").format(_TABLE, sql.Identifier(column))
    return opened.execute(query, (value,)).fetchone() is not None


def _add_columns(opened: psycopg.Connection, migration: Migration) -> None:
    wanted = {"rollback": migration.rollback, "idempotency_key": migration.key}
    for name, value in wanted.items():
        if value is not None and name not in history_columns(opened):
            query = sql.SQL("alter table {} add column {} ").format(_TABLE, sql.Identifier(name))
            opened.execute(query + sql.SQL(_PLATFORM[name]))


def _free_version(opened: psycopg.Connection) -> str:
    at = dt.datetime.now(dt.UTC)
    while _exists(opened, "version", version := at.strftime("%Y%m%d%H%M%S")):
        at += dt.timedelta(seconds=1)
    return version


def _insert(opened: psycopg.Connection, version: str, migration: Migration) -> None:
    values: dict[str, object] = {
        "version": version,
        "statements": [migration.query],
        "name": migration.name,
        "rollback": None if migration.rollback is None else [migration.rollback],
        "idempotency_key": migration.key,
    }
    present = {name: value for name, value in values.items() if value is not None}
    query = sql.SQL("insert into {} ({}) values ({})").format(
        _TABLE,
        sql.SQL(", ").join(map(sql.Identifier, present)),
        sql.SQL(", ").join([sql.Placeholder()] * len(present)),
    )
    opened.execute(query, list(present.values()))
