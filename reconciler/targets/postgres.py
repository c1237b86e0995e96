"""The direct way to PostgreSQL, by psycopg 3: explicit transactions and COPY. The database target drives it.

Every operation opens a session of its own and closes it: whatever goes wrong in between, closing without a commit
undoes it. The connection string never appears in an error.
"""

# ruff: noqa: S608 - SQL is built from quoted names and literals; see `pg.texts`

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from reconciler.core.crashpoints import CrashPoint
from reconciler.core.errors import (
    OutcomeUnknownError,
    PreflightError,
    ReconcilerError,
    StepFailedError,
    TargetUnavailableError,
    TransientError,
)
from reconciler.targets.base import ApplyContext
from reconciler.targets.pg import rows as merging
from reconciler.targets.pg import sqlstate, texts
from reconciler.targets.pg.connecting import no_connection
from reconciler.targets.pg.driver import (
    ADVISORY_LOCK,
    APPLICATION,
    Limits,
    Rehearsal,
    Row,
    RowsBack,
    Script,
    Server,
    Snapshot,
    Stored,
    doing,
)
from reconciler.targets.pg.outside import already_done, half_built_index

_CONNECT_SECONDS = 10


class PostgresDriver:
    """A PostgreSQL database reached by its connection string.

    Args:
        dsn: URL or key-value form. Kept to itself.
    """

    direct = True

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    # --- looking --------------------------------------------------------------------------------

    def history(self) -> Mapping[str, str | None]:
        """Applied versions with the fingerprint of their stored statements."""
        with self._session(APPLICATION, "Reading the migration history") as session:
            try:
                found = session.rows(texts.READ_HISTORY)
            except psycopg.Error as exc:
                if exc.sqlstate in sqlstate.NO_HISTORY:
                    return {}
                if exc.sqlstate != sqlstate.NO_COLUMN:
                    raise
                found = session.rows(texts.READ_VERSIONS)
        return {str(row["version"]): _text(row["fingerprint"]) for row in found}

    def stored(self, versions: Sequence[str]) -> Mapping[str, Stored]:
        """What the history keeps of some versions."""
        if not versions:
            return {}
        rows = self.query(texts.stored_sql(versions))
        return {
            str(row["version"]): Stored(_text(row["name"]), _text(row["rollback"])) for row in rows
        }

    def server(self) -> Server:
        """Whether the server can be written to."""
        return texts.server(self.query(texts.READ_SERVER)[0])

    def busy(self, tag: str) -> bool:
        """Whether a session of that application name is still at work."""
        return bool(self.query(texts.busy_sql(tag))[0]["busy"])

    def query(self, sql: str, context: ApplyContext | None = None) -> Sequence[Row]:
        """Runs text in one implicit transaction; rows of the last statement that gives any."""
        del context
        with self._session(APPLICATION, "Reading the database") as session:
            return session.rows(sql)

    # --- rehearsing -----------------------------------------------------------------------------

    def rehearse(
        self, scripts: Sequence[Script], undo: Sequence[Script], limits: Limits
    ) -> Rehearsal:
        """Runs scripts, then those that take them back, in one transaction, and rolls it back."""
        with self._session(f"{APPLICATION}/dry-run", "The dry run") as session:
            session.run("BEGIN")
            session.run(texts.limits_sql(limits, f"{APPLICATION}/dry-run"))
            session.run(texts.BEGIN_SNAPSHOTS + texts.snapshot_sql(0))
            for step, script in enumerate(scripts, 1):
                self._try(session, script, "would fail")
                session.run(texts.snapshot_sql(step))
            changes = session.rows(texts.CHANGES)
            for script in undo:
                self._try(session, script, "would fail on the way back")
            after = session.rows(texts.SHAPE) if undo else None
            session.run("ROLLBACK")
        return Rehearsal(changes, after)

    def _try(self, session: _Session, script: Script, verdict: str) -> None:
        try:
            session.run(texts.script_sql(script))
        except psycopg.Error as exc:
            raise _failed_rehearsal(exc, script, verdict) from exc
        session.must_be_open(script)

    # --- changing -------------------------------------------------------------------------------

    def migrate(self, script: Script, limits: Limits, tag: str, context: ApplyContext) -> bool:
        """One version in one transaction: guard, script, history row. Nothing changes on any error.

        Returns:
            False when the history already says so.
        """
        with self._session(tag, doing(script)) as session:
            session.run("BEGIN")
            session.run(texts.limits_sql(limits, tag))
            if self._already(session, script):
                return False
            try:
                session.run(texts.script_sql(script))
            except psycopg.Error as exc:
                raise _failed_script(exc, script) from exc
            session.must_be_open(script)
            context.at(CrashPoint.MID_EFFECT)
            session.run(texts.row_sql(script))
            context.guard()
            session.commit()
        context.at(CrashPoint.APPLIED_UNREAD)
        return True

    def _already(self, session: _Session, script: Script) -> bool:
        try:
            session.run(texts.guard_sql(script))
        except psycopg.Error as exc:
            if exc.sqlstate in {sqlstate.ROW_ABSENT, sqlstate.ROW_PRESENT}:
                return True
            if script.direction == "down" and exc.sqlstate in sqlstate.NO_HISTORY:
                return True
            raise
        return False

    def migrate_outside(
        self, script: Script, limits: Limits, tag: str, context: ApplyContext
    ) -> bool:
        """One statement that cannot run in a transaction, then the history row; not atomic, but can be resumed."""
        with self._session(tag, doing(script)) as session:
            session.run(texts.session_limits_sql(limits))
            if not session.rows(f"SELECT pg_catalog.pg_try_advisory_lock({ADVISORY_LOCK}) AS free")[
                0
            ]["free"]:
                raise sqlstate.translate(sqlstate.LOCK_TAKEN, "the lock is taken", doing(script))
            session.run("BEGIN")
            if self._already(session, script):
                return False
            session.run("ROLLBACK")
            leftover = half_built_index(script.sql)
            if leftover and session.rows(texts.invalid_index_sql(leftover)):
                session.run(f"DROP INDEX CONCURRENTLY {leftover}")
            context.guard()
            try:
                session.run(script.sql)
            except psycopg.Error as exc:
                if not (context.attempted and already_done(exc.sqlstate or "", script.sql)):
                    raise _failed_script(exc, script) from exc
            context.at(CrashPoint.MID_EFFECT)
            session.run("BEGIN")
            session.run(texts.row_sql(script))
            context.guard()
            session.commit()
        context.at(CrashPoint.APPLIED_UNREAD)
        return True

    # --- rows -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def snapshot(self, context: ApplyContext) -> Iterator[Snapshot]:
        """A consistent look at tables: one repeatable-read transaction."""
        del context
        with self._session(f"{APPLICATION}/dump", "The dump") as session:
            session.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            session.run("SET LOCAL lock_timeout = 5000; SET LOCAL statement_timeout = 0")
            session.run(texts.PLAIN_FORMS)
            yield _DirectSnapshot(session)

    def put_back(self, back: RowsBack, context: ApplyContext) -> int:
        """Merges dumped rows into their table and checks each; gives how many were left to differ."""
        with self._session(
            f"{APPLICATION}/restore", f"Putting back rows of {back.relation}"
        ) as session:
            session.run("BEGIN")
            session.run("SET LOCAL lock_timeout = 5000; SET LOCAL statement_timeout = 0")
            session.run(texts.PLAIN_FORMS + merging.source_sql(back))
            session.copy_in(merging.SOURCE, back)
            session.run(f"ANALYZE {merging.SOURCE}")
            session.run(merging.quiet_sql(back))
            session.run(merging.merge_sql(back, merging.SOURCE))
            session.run(merging.sequences_sql(back) + merging.loud_sql())
            (count,) = session.rows(merging.differing_sql(back, merging.SOURCE))
            if count["wrong"]:
                raise StepFailedError(
                    f"{count['wrong']} rows of {back.relation} did not come back as they were dumped."
                    " Nothing was changed."
                )
            context.at(CrashPoint.MID_EFFECT)
            context.guard()
            session.commit()
        context.at(CrashPoint.APPLIED_UNREAD)
        return int(str(count["differing"]))

    # --- how ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _session(self, tag: str, what: str) -> Iterator[_Session]:
        """A session that is closed in any case; what psycopg raises inside comes out as ours."""
        try:
            connection = psycopg.connect(
                self._dsn,
                autocommit=True,
                application_name=tag[:63],
                connect_timeout=_CONNECT_SECONDS,
                client_encoding="utf8",
                prepare_threshold=None,
                row_factory=dict_row,
            )
        except psycopg.Error as exc:
            raise no_connection(
                self._dsn, exc
            ) from None  # its text may quote the connection string
        session = _Session(connection)
        try:
            yield session
        except psycopg.Error as exc:
            raise _translated(exc, what) from exc
        finally:
            connection.close()


class _Session:
    """One open connection; errors leave it as psycopg's."""

    def __init__(self, connection: psycopg.Connection[dict[str, Any]]) -> None:
        self._connection = connection

    def run(self, sql: str) -> None:
        """Runs text; results are not wanted."""
        self._connection.execute(sql.encode())

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """Rows of the last statement that gives any."""
        cursor = self._connection.execute(sql.encode())
        found: list[dict[str, Any]] = []
        while True:
            if cursor.description is not None:
                found = cursor.fetchall()
            if not cursor.nextset():
                return found

    def copy_out(self, sql: str) -> Iterator[bytes]:
        with self._connection.cursor().copy(sql.encode()) as copy:
            for piece in copy:
                yield bytes(piece)

    def copy_in(self, relation: str, back: RowsBack) -> None:
        sql = f"COPY {relation} ({texts.names(back.columns)}) FROM STDIN"
        with self._connection.cursor().copy(sql.encode()) as copy:
            for piece in back.pieces():
                copy.write(piece)

    def must_be_open(self, script: Script) -> None:
        """Makes sure the script has not ended the transaction by itself."""
        if self._connection.info.transaction_status is not TransactionStatus.INTRANS:
            raise StepFailedError(
                f"{script.where} ended its transaction by itself; what it had done so far may have stayed.",
                hint="Take the transaction control out of it, and look at the database.",
            )

    def commit(self) -> None:
        """Commits; only an answer that says so counts."""
        try:
            tag = self._connection.execute("COMMIT").statusmessage
        except psycopg.Error as exc:
            if exc.sqlstate and not sqlstate.connection_lost(exc.sqlstate):
                raise
            raise OutcomeUnknownError(
                "The connection was lost while a migration was being committed; looking will tell."
            ) from exc
        if tag != "COMMIT":
            raise StepFailedError(f"The server answered a commit with {tag}; nothing was changed.")


class _DirectSnapshot:
    """Reads in an open repeatable-read transaction."""

    def __init__(self, session: _Session) -> None:
        self._session = session

    def query(self, sql: str) -> Sequence[Row]:
        return self._session.rows(sql)

    def copy(self, relation: str, columns: Sequence[str]) -> Iterator[bytes]:
        return self._session.copy_out(
            f"COPY (SELECT {texts.names(columns)} FROM {relation}) TO STDOUT"
        )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _translated(exc: psycopg.Error, what: str) -> ReconcilerError:
    """Before a commit is sent the outcome is known: a lost connection undoes all."""
    if exc.sqlstate:
        return sqlstate.translate(exc.sqlstate, exc.diag.message_primary, what)
    if isinstance(exc, psycopg.OperationalError | psycopg.InterfaceError):
        return TargetUnavailableError(
            f"{what} failed: the connection was lost; nothing was changed.", retry_after=1.0
        )
    return StepFailedError(f"{what} failed in the client ({type(exc).__name__}).")


def _failed_script(exc: psycopg.Error, script: Script) -> ReconcilerError:
    return _translated(exc, f"{doing(script)} ({script.where}{_line(exc, script)})")


def _failed_rehearsal(exc: psycopg.Error, script: Script, verdict: str) -> ReconcilerError:
    found = _translated(exc, f"The dry run of {script.where}")
    if isinstance(found, TransientError):
        return found
    said = sqlstate.primary(exc.sqlstate or "", exc.diag.message_primary)
    return PreflightError(
        f"{script.where}{_line(exc, script)} {verdict} ({exc.sqlstate}): {said}. Nothing was changed.",
        hint=found.hint,
    )


def _line(exc: psycopg.Error, script: Script) -> str:
    """Where in the file the server found fault, without quoting it."""
    position = exc.diag.statement_position
    if not position or not position.isdigit():
        return ""
    before = texts.script_sql(script)[: int(position) - 1]
    return f", line {before.count(chr(10))}"
