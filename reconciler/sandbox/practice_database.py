"""The practice shop's migrations, applied the way the Supabase CLI does it, and a look at the result.

Each up file and its row in the history are one transaction. Called by `production`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.core.errors import StepFailedError, TargetUnavailableError
from reconciler.core.migrations import newest, up_files
from reconciler.core.sqlsplit import stored

if TYPE_CHECKING:
    import psycopg

# As the CLI writes them (`supabase db push`).
_HISTORY = (
    "CREATE SCHEMA IF NOT EXISTS supabase_migrations",
    "CREATE TABLE IF NOT EXISTS supabase_migrations.schema_migrations (version text NOT NULL PRIMARY KEY)",
    "ALTER TABLE supabase_migrations.schema_migrations ADD COLUMN IF NOT EXISTS statements text[]",
    "ALTER TABLE supabase_migrations.schema_migrations ADD COLUMN IF NOT EXISTS name text",
)
_VERSIONS = "SELECT version FROM supabase_migrations.schema_migrations ORDER BY version"
_RECORD = (
    "INSERT INTO supabase_migrations.schema_migrations (version, statements, name)"
    " VALUES (%s, %s, %s)"
)
_TABLES = (
    "SELECT tablename FROM pg_catalog.pg_tables WHERE schemaname = 'public' ORDER BY tablename"
)


@dataclass(frozen=True)
class Database:
    """What stands in the database.

    Attributes:
        versions: Applied migrations, oldest first.
        rows: Number of rows of each table.
    """

    versions: tuple[str, ...]
    rows: dict[str, int]

    @property
    def version(self) -> str | None:
        """The newest applied migration."""
        return newest(self.versions)


def migrate(dsn: str, folder: Path) -> list[str]:
    """Applies what is not applied yet; gives the versions.

    Raises:
        TargetUnavailableError: The database cannot be reached.
        StepFailedError: A migration failed.
    """
    files = up_files(path.name for path in folder.glob("*.sql")).files
    with _connect(dsn) as connection:
        for statement in _HISTORY:
            connection.execute(statement)
        present = {row[0] for row in connection.execute(_VERSIONS)}
        connection.commit()
        pending = sorted(set(files) - present)
        for version in pending:
            text = (folder / files[version]).read_text(encoding="utf-8")
            name = Path(files[version]).stem.partition("_")[2]
            _apply(connection, version, name, text)
    return pending


def look(dsn: str) -> Database:
    """Reads versions and numbers of rows.

    Raises:
        TargetUnavailableError: The database cannot be reached.
    """
    from psycopg import sql

    with _connect(dsn) as connection:
        versions = tuple(row[0] for row in connection.execute(_VERSIONS))
        rows: dict[str, int] = {}
        for (table,) in connection.execute(_TABLES).fetchall():
            query = sql.SQL("SELECT count(*) FROM public.{}").format(sql.Identifier(table))
            (rows[table],) = connection.execute(query).fetchone() or (0,)
    return Database(versions, rows)


def _apply(connection: psycopg.Connection, version: str, name: str, text: str) -> None:
    import psycopg

    try:
        with connection.transaction():
            connection.execute(text, prepare=False)
            connection.execute(_RECORD, (version, stored(text), name))
    except psycopg.Error as exc:
        raise StepFailedError(
            f"Migration {version} failed ({exc.sqlstate}): {exc.diag.message_primary}"
        ) from exc


def _connect(dsn: str) -> psycopg.Connection:
    import psycopg

    try:
        return psycopg.connect(dsn, connect_timeout=5)
    except psycopg.OperationalError as exc:
        raise TargetUnavailableError(
            "The practice PostgreSQL cannot be reached.",
            hint="`reconciler sandbox up` starts it again.",
        ) from exc
