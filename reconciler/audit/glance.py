"""The status of an environment, read in a few milliseconds: what `status` and an `apply` without work need.

For the default SQLite ledger this goes through Python's own driver on a read-only connection, because loading
SQLAlchemy takes longer than everything else such a command does. Other databases are read the ordinary way.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from pydantic import ValidationError

from reconciler.audit.sqlite import sqlite_path
from reconciler.core.errors import LedgerError
from reconciler.core.status import EnvironmentStatus


@dataclass(frozen=True, slots=True)
class Holding:
    """Who holds an environment's lease at the moment."""

    holder: str
    process: str
    since: datetime
    expires: datetime


def glance(url: str, environment: str) -> tuple[EnvironmentStatus, Holding | None]:
    """The stored status and lease of an environment.

    Raises:
        LedgerError: The ledger cannot be read.
    """
    found = _rows(url, environment)
    if not found:
        return EnvironmentStatus(environment=environment), None
    status, holder, process, since, expires = found[0]
    holding = (
        Holding(holder, process, datetime.fromisoformat(since), datetime.fromisoformat(expires))
        if holder
        else None
    )
    return stored_status(environment, status), holding


def stored_status(environment: str, text: str) -> EnvironmentStatus:
    """A status from the text the ledger keeps of it.

    Raises:
        LedgerError: It is not one that this version of the program understands.
    """
    try:
        return EnvironmentStatus.model_validate_json(text)
    except ValidationError as exc:
        raise LedgerError(
            f"The stored status of {environment} cannot be understood by this version of reconciler.",
            hint="Use the newer reconciler that wrote it.",
        ) from exc


def names(url: str) -> list[str]:
    """The names of all environments ever seen."""
    path = sqlite_path(url)
    if path is None:
        from reconciler.audit.database import Database
        from reconciler.audit.queries import environments

        with closing(Database(url)) as database:
            return environments(database)
    return [row[0] for row in _query(path, "SELECT name FROM environments ORDER BY name", ())]


def _rows(url: str, environment: str) -> list[tuple[str, str, str, str, str]]:
    path = sqlite_path(url)
    if path is not None:
        query = (
            "SELECT status, lease_holder, lease_process, lease_since, lease_expires "
            "FROM environments WHERE name = ?"
        )
        return _query(path, query, (environment,))
    from sqlalchemy import text

    from reconciler.audit.database import Database

    with closing(Database(url)) as database, database.reading() as connection:
        rows = connection.execute(
            text(
                "SELECT status, lease_holder, lease_process, lease_since, lease_expires "
                "FROM environments WHERE name = :name"
            ),
            {"name": environment},
        ).all()
    return [tuple(row) for row in rows]


def _query(path: Path, query: str, values: tuple[str, ...]) -> list[tuple[str, str, str, str, str]]:
    if not path.exists():
        return []
    try:
        connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=10)
        try:
            return connection.execute(query, values).fetchall()
        finally:
            connection.close()
    except sqlite3.OperationalError as exc:
        if "no such table" in str(exc):
            return []
        raise LedgerError(
            f"The ledger {path.name} cannot be read: {exc}.", hint="Check its permissions."
        ) from exc
    except sqlite3.DatabaseError as exc:
        raise LedgerError(
            f"The ledger {path.name} is damaged: {exc}.", hint="Restore it from a backup."
        ) from exc
