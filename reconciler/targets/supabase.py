"""A Supabase project's database: its state by the Management API, its SQL by the same API or a direct connection.

Point-in-time recovery restores the whole database in place. There is no job to ask for: whether it happened is told by
the server's timeline, which grows with each recovery.
"""

from __future__ import annotations

import time as clock
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime

import httpx
from pydantic import BaseModel, ConfigDict, JsonValue

from reconciler.core.crashpoints import CrashPoint
from reconciler.core.errors import (
    OutcomeUnknownError,
    PreflightError,
    ReconcilerError,
    StepFailedError,
    TerminalError,
    TransientError,
)
from reconciler.targets.base import ApplyContext
from reconciler.targets.pg.api_sql import ApiDriver
from reconciler.targets.pg.driver import (
    Driver,
    Limits,
    Rehearsal,
    Row,
    RowsBack,
    Script,
    Server,
    Snapshot,
    Stored,
)
from reconciler.targets.pg.management import ManagementApi, SqlFailedError
from reconciler.targets.postgres import PostgresDriver

_HEALTHY = "ACTIVE_HEALTHY"
_FAILED = frozenset({"RESTORE_FAILED", "INIT_FAILED", "REMOVED"})
_TIMELINE = "SELECT timeline_id AS timeline FROM pg_catalog.pg_control_checkpoint()"
#: Seconds between looks, and the longest a restore may take.
_POLL, _LONGEST = 5.0, 6 * 3600.0
#: Seconds after which a project that never looked unhealthy, on the old timeline, counts as not restored.
_NEVER_BEGAN = 600.0


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", defer_build=True)


class _Project(_Answer):
    status: str = "UNKNOWN"


class _ReadOnly(_Answer):
    enabled: bool = False


class _Window(_Answer):
    earliest_physical_backup_date_unix: int | None = None
    latest_physical_backup_date_unix: int | None = None


class _Backups(_Answer):
    pitr_enabled: bool = False
    physical_backup_data: _Window = _Window()


class SupabaseDriver:
    """A Supabase project's database.

    Args:
        ref: Project reference.
        token: Access token.
        api_url: Base URL of the Management API.
        dsn: Direct connection string, if there is one: used for all SQL.
        transport: Replaces the network, for tests.

    Raises:
        UsageError: One of them cannot be used.
    """

    def __init__(
        self,
        ref: str,
        token: str,
        api_url: str = "https://api.supabase.com",
        dsn: str | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._api = ManagementApi(ref, token, api_url, transport)
        self._sql: Driver = PostgresDriver(dsn) if dsn else ApiDriver(self._api)

    def close(self) -> None:
        """Gives back the connections to the API."""
        self._api.close()

    @property
    def direct(self) -> bool:
        """Whether SQL goes by a connection of our own."""
        return self._sql.direct

    # --- SQL: as the driver beneath has it --------------------------------------------------------

    def history(self) -> Mapping[str, str | None]:
        """Applied versions with the fingerprint of their stored statements."""
        return self._sql.history()

    def stored(self, versions: Sequence[str]) -> Mapping[str, Stored]:
        """What the history keeps of some versions."""
        return self._sql.stored(versions)

    def rehearse(
        self, scripts: Sequence[Script], undo: Sequence[Script], limits: Limits
    ) -> Rehearsal:
        """Runs scripts and their undoing, and undoes all of it."""
        return self._sql.rehearse(scripts, undo, limits)

    def migrate(self, script: Script, limits: Limits, tag: str, context: ApplyContext) -> bool:
        """One version in one transaction."""
        return self._sql.migrate(script, limits, tag, context)

    def migrate_outside(
        self, script: Script, limits: Limits, tag: str, context: ApplyContext
    ) -> bool:
        """One statement that cannot run in a transaction, then the history row."""
        return self._sql.migrate_outside(script, limits, tag, context)

    def busy(self, tag: str) -> bool:
        """Whether a session of that application name is still at work."""
        return self._sql.busy(tag)

    def query(self, sql: str, context: ApplyContext | None = None) -> Sequence[Row]:
        """Runs text in one implicit transaction."""
        return self._sql.query(sql, context)

    def snapshot(self, context: ApplyContext) -> AbstractContextManager[Snapshot]:
        """A look at tables."""
        return self._sql.snapshot(context)

    def put_back(self, back: RowsBack, context: ApplyContext) -> int:
        """Merges dumped rows into their table."""
        return self._sql.put_back(back, context)

    # --- the project ------------------------------------------------------------------------------

    def server(self) -> Server:
        """Whether the project is up, not in read-only mode, and its database can be written to."""
        status = self._status()
        if status != _HEALTHY:
            return Server(0, (f"The Supabase project is {status}, not {_HEALTHY}.",))
        if _ReadOnly.model_validate(self._api.get("/readonly")).enabled:
            return Server(0, ("The Supabase project is in read-only mode, as with a full disk.",))
        return self._sql.server()

    def _status(self, context: ApplyContext | None = None) -> str:
        return _Project.model_validate(self._api.get("", context)).status

    # --- back in time -----------------------------------------------------------------------------

    def can_travel(self, time: int) -> None:
        """Makes sure that a Unix time can be gone back to."""
        answer: JsonValue = self._api.get("/database/backups")
        backups = _Backups.model_validate(answer)
        window = backups.physical_backup_data
        earliest, latest = (
            window.earliest_physical_backup_date_unix,
            window.latest_physical_backup_date_unix,
        )
        if not backups.pitr_enabled or earliest is None or latest is None:
            raise PreflightError(
                "Point-in-time recovery is not available for this Supabase project.",
                hint="Remove spec.database.supabase.pitr, or enable the add-on.",
            )
        if not earliest <= time <= latest:
            raise PreflightError(
                f"Point-in-time recovery reaches from {_utc(earliest)} to {_utc(latest)}, not {_utc(time)}.",
                hint="Correct spec.database.supabase.pitr.time.",
            )

    def travel(self, time: int, context: ApplyContext) -> None:
        """Restores the database in place and waits until it serves again; never asks twice."""
        mark = context.captures / "database-timeline"
        if context.attempted is None:
            before = self._timeline(context)
            mark.write_text(str(before), encoding="ascii")
            context.at(CrashPoint.MID_EFFECT)
            context.guard()
            try:
                self._api.post(
                    "/database/backups/restore-pitr",
                    {"recovery_time_target_unix": time},
                    context=context,
                    answered=lambda: context.at(CrashPoint.APPLIED_UNREAD),
                )
            except OutcomeUnknownError:
                context.progress("the answer was lost; looking whether the recovery began")
            except SqlFailedError as exc:
                raise StepFailedError(f"The recovery was refused ({exc.state}).") from exc
        elif not mark.exists():
            raise StepFailedError(
                "It cannot be told whether the recovery was begun before.",
                hint="Look at the project's dashboard; if it was not, resume.",
            )
        self._wait(int(mark.read_text(encoding="ascii")), context)

    def _timeline(self, context: ApplyContext) -> int:
        return int(str(self._sql.query(_TIMELINE, context)[0]["timeline"]))

    def _wait(self, before: int, context: ApplyContext) -> None:
        """The first looks may still find the project healthy: only a new timeline, or a dip, says that it happened."""
        begun, dipped = clock.monotonic(), False
        while clock.monotonic() - begun < _LONGEST:
            try:
                status = self._status(context)
            except TransientError:
                status = "UNKNOWN"
            if status in _FAILED:
                raise StepFailedError(
                    f"The recovery ended with {status}.",
                    hint="Ask Supabase's support; nothing more is tried.",
                )
            dipped = dipped or status not in {_HEALTHY, "UNKNOWN"}
            if status == _HEALTHY and self._came_back(before, dipped=dipped, context=context):
                return
            if not dipped and clock.monotonic() - begun > _NEVER_BEGAN:
                raise StepFailedError(
                    "The recovery was asked for and never began.",
                    hint="Look at the project's dashboard, then resume.",
                )
            context.progress(f"the project is {status}")
            context.sleep(_POLL)
        raise TransientError("The recovery has not ended yet.", retry_after=60.0)

    def _came_back(self, before: int, *, dipped: bool, context: ApplyContext) -> bool:
        try:
            return self._timeline(context) > before or dipped
        except TerminalError:
            return dipped  # a role that may not read the timeline
        except ReconcilerError:
            return False


def _utc(time: int) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
