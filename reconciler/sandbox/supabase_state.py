"""The practice Supabase's model: one project, its settings, a restore and how it walks.

Pure; the time is passed in. The database itself is a real PostgreSQL and is not in here.
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from reconciler.core.errors import UsageError
from reconciler.sandbox.store import State

REF = re.compile(r"[a-z]{20}")
READ_ONLY_OVERRIDE_MS = 15 * 60 * 1000
ProjectStatus: TypeAlias = Literal[
    "INACTIVE",
    "ACTIVE_HEALTHY",
    "ACTIVE_UNHEALTHY",
    "COMING_UP",
    "UNKNOWN",
    "GOING_DOWN",
    "INIT_FAILED",
    "REMOVED",
    "RESTORING",
    "UPGRADING",
    "PAUSING",
    "RESTORE_FAILED",
    "RESTARTING",
    "PAUSE_FAILED",
    "RESIZING",
]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Settings(_Model):
    """What a rehearsal may switch; durations in milliseconds unless named otherwise.

    Attributes:
        status: The project's status while no restore is under way.
        migrations_available: False makes the migrations routes answer that they are not
            generally available.
        history_columns: Shape of a history table that the migrations routes have to make.
        read_only: Read-only mode, as a full disk causes it.
        pitr_enabled: The point-in-time add-on.
        pitr_earliest: Unix seconds; None is the project's creation.
        pitr_latest: Unix seconds; None is now.
        restore_lag_ms: How long a requested restore still shows the old status.
        restoring_ms: How long RESTORING shows at least.
        coming_up_ms: How long COMING_UP shows after it.
        rate_limit: Requests in one window.
        rate_window_s: Seconds of a window.
        statement_timeout_ms: The database's own limit for one statement.
    """

    status: ProjectStatus = "ACTIVE_HEALTHY"
    migrations_available: bool = True
    history_columns: Literal[3, 6] = 6
    read_only: bool = False
    pitr_enabled: bool = False
    pitr_earliest: int | None = Field(default=None, ge=0)
    pitr_latest: int | None = Field(default=None, ge=0)
    restore_lag_ms: int = Field(default=500, ge=0)
    restoring_ms: int = Field(default=500, ge=0)
    coming_up_ms: int = Field(default=500, ge=0)
    rate_limit: int = Field(default=120, ge=1)
    rate_window_s: int = Field(default=60, ge=1)
    statement_timeout_ms: int = Field(default=120_000, ge=1)


class Restore(_Model):
    """The last point-in-time restore."""

    target: int
    requested_at: int
    finished_at: int | None = None
    failed: bool = False


class SupabaseState(State):
    """Everything the practice Supabase knows beside the database; its state file's content."""

    kind: Literal["supabase"] = "supabase"
    ref: str
    name: str
    organization: str
    region: str
    created_at: int
    settings: Settings = Settings()
    read_only_override_until: int = 0
    restore: Restore | None = None
    login_roles: list[str] = Field(default_factory=list)

    def status(self, now: int) -> ProjectStatus:
        """The project's status, walking through a restore."""
        restore, settings = self.restore, self.settings
        if restore is None or now < restore.requested_at + settings.restore_lag_ms:
            return settings.status
        if restore.failed:
            return "RESTORE_FAILED"
        if restore.finished_at is None:
            return "RESTORING"
        shown = restore.requested_at + settings.restore_lag_ms + settings.restoring_ms
        restored = max(restore.finished_at, shown)
        if now < restored:
            return "RESTORING"
        return "COMING_UP" if now < restored + settings.coming_up_ms else settings.status

    def frozen(self, now: int) -> bool:
        """Whether writes are refused now: read-only mode, and no override is active."""
        return self.settings.read_only and now >= self.read_only_override_until

    def restore_window(self, now: int) -> tuple[int, int]:
        """The earliest and the latest time one can restore to, in Unix seconds."""
        earliest, latest = self.settings.pitr_earliest, self.settings.pitr_latest
        return (
            self.created_at // 1000 if earliest is None else earliest,
            now // 1000 if latest is None else latest,
        )


def new_state(
    *, ref: str, now: int, name: str = "omniops", settings: Settings | None = None
) -> SupabaseState:
    """A practice project.

    Raises:
        UsageError: The ref is not 20 lower-case letters.
    """
    if not REF.fullmatch(ref):
        raise UsageError(f'The project ref "{ref}" is not 20 lower-case letters.')
    return SupabaseState(
        ref=ref,
        name=name,
        organization="practice",
        region="eu-central-1",
        created_at=now,
        settings=settings or Settings(),
    )
