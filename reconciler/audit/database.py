"""The database behind the ledger: SQLite by default, PostgreSQL by URL. One short write transaction at a time.

SQLite runs in WAL mode with `synchronous=FULL`, so that a committed intent survives a power cut, and every write begins
with BEGIN IMMEDIATE, so that two writers wait for each other instead of failing half way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)

from reconciler.audit.sqlite import sqlite_path
from reconciler.audit.tables import SCHEMA_REVISION
from reconciler.core.errors import LedgerError

#: Key of the transaction-level advisory lock under which PostgreSQL ledgers are appended ("rlbk" in ASCII).
APPEND_LOCK = 0x726C626B
_BUSY_SECONDS = 10
_READING = "reconciler_reading"


class Database:
    """An open ledger database, its schema brought up to date when first written to.

    Args:
        url: Any SQLAlchemy URL of SQLite or PostgreSQL.

    Raises:
        LedgerError: The URL cannot be used, or its schema is newer than this program.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
            if parsed.drivername == "postgresql":
                parsed = parsed.set(drivername="postgresql+psycopg")
            if parsed.get_backend_name() not in {"sqlite", "postgresql"}:
                raise _unusable()
            self._sqlite = parsed.get_backend_name() == "sqlite"
            path = sqlite_path(url)
            if (
                path is not None
            ):  # SQLAlchemy would take %20 in it for a space, and make another file
                parsed = parsed.set(database=str(path))
                path.parent.mkdir(parents=True, exist_ok=True)
            self._engine = create_engine(
                parsed, **({} if self._sqlite else {"pool_pre_ping": True})
            )
        except (ArgumentError, NoSuchModuleError, OSError) as exc:
            raise _unusable() from exc
        if self._sqlite:
            event.listen(self._engine, "connect", _configure_sqlite)
            event.listen(self._engine, "begin", _begin_immediate)
        self._reader = self._engine.execution_options(**{_READING: True})
        self._ready = False

    @property
    def engine(self) -> Engine:
        """The SQLAlchemy engine, for readers."""
        return self._engine

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One write transaction: committed at the end, rolled back on any exception.

        Raises:
            LedgerError: The database cannot be written (full disk, locked, unreachable). Nothing was written.
        """
        self._prepare()
        try:
            with self._engine.begin() as connection:
                if not self._sqlite:
                    connection.execute(
                        text("SELECT pg_advisory_xact_lock(:key)"), {"key": APPEND_LOCK}
                    )
                yield connection
        except (DBAPIError, OSError) as exc:
            raise _translated(exc) from exc

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One read transaction. It waits for no writer, and no writer for it.

        Raises:
            LedgerError: The database cannot be read.
        """
        self._prepare()
        try:
            with self._reader.connect() as connection:
                yield connection
        except (DBAPIError, OSError) as exc:
            raise _translated(exc) from exc

    def close(self) -> None:
        """Closes all connections."""
        self._engine.dispose()

    def _prepare(self) -> None:
        if self._ready:
            return
        try:
            revision = self._revision()
            if revision != SCHEMA_REVISION:
                self._migrate(revision)
        except SQLAlchemyError as exc:
            raise _translated(exc) from exc
        self._ready = True

    def _revision(self) -> str | None:
        with self._reader.connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        return None if revision is None else str(revision)

    def _migrate(self, revision: str | None) -> None:
        # Imported only when a schema must be made or changed: it costs more than a command without work.
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "schema"))
        try:
            with self._engine.begin() as connection:
                if not self._sqlite:
                    connection.execute(
                        text("SELECT pg_advisory_xact_lock(:key)"), {"key": APPEND_LOCK}
                    )
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except CommandError as exc:
            raise LedgerError(
                f"The ledger's schema is at revision {revision}, which this version of reconciler does not know.",
                hint="Use the newer reconciler that wrote it.",
            ) from exc


def _unusable() -> LedgerError:
    return LedgerError(
        "The ledger's database URL cannot be used.",
        hint="Give sqlite:///path or postgresql://...",
    )


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = (
        None  # transactions are begun by `_begin_immediate`, not guessed by the driver
    )
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_BUSY_SECONDS * 1000}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_immediate(connection: Connection) -> None:
    reading = connection.get_execution_options().get(_READING)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _translated(exc: Exception) -> LedgerError:
    """A sentence for what went wrong. The statement and its parameters are not part of it."""
    origin = (
        str(getattr(exc, "orig", exc)).splitlines()[0]
        if str(getattr(exc, "orig", exc))
        else type(exc).__name__
    )
    if "append-only" in origin:
        return LedgerError(
            "The ledger is append-only: the database refused to change or delete an entry."
        )
    if "full" in origin or "No space" in origin:
        return LedgerError(
            f"The ledger cannot be written: {origin}.",
            hint="Free some disk space, then run the command again.",
        )
    if isinstance(exc, OperationalError) and "locked" in origin:
        return LedgerError(
            "The ledger is locked by another process.", hint="Try again when it has finished."
        )
    return LedgerError(
        f"The ledger's database failed: {origin}.", hint="Check that it can be reached and written."
    )
