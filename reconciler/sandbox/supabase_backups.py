"""The backup routes of the practice Supabase: what can be restored, and point-in-time restore.

The restore itself is a hook; here is the walk of the project's status around it. Called by
`supabase_api`.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING

from reconciler.sandbox.http import BAD_REQUEST, CREATED, OK, UNPROCESSABLE, Response
from reconciler.sandbox.supabase_state import Restore

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconciler.sandbox.http import Call
    from reconciler.sandbox.supabase_project import ProjectApi


class BackupRoutes:
    """Backups and in-place restore.

    Args:
        owner: The API that serves them.
        on_restore: Restores the database in place to a Unix time; None refuses every restore.
    """

    def __init__(self, owner: ProjectApi, on_restore: Callable[[int], None] | None) -> None:
        self._owner, self._on_restore = owner, on_restore

    def register(self) -> None:
        """Add the routes to the API, and close a restore that a dead server left open."""
        path = "/v1/projects/{ref}/database/backups"
        self._owner.add_route("GET", path, self._backups)
        self._owner.add_route("POST", f"{path}/restore-pitr", self._restore)
        self._fail_interrupted_restore()

    def _backups(self, call: Call) -> Response:
        state = self._owner.state(call)
        enabled = state.settings.pitr_enabled
        earliest, latest = state.restore_window(self._owner.clock())
        window = {
            "earliest_physical_backup_date_unix": earliest,
            "latest_physical_backup_date_unix": latest,
        }
        return Response(
            OK,
            {
                "region": state.region,
                "walg_enabled": True,
                "pitr_enabled": enabled,
                "backups": [],
                "physical_backup_data": window if enabled else {},
            },
        )

    def _restore(self, call: Call) -> Response:
        target = self._owner.json_object(call.request).get("recovery_time_target_unix")
        if not isinstance(target, int) or isinstance(target, bool) or target < 0:
            raise self._owner.refuse(
                BAD_REQUEST, "recovery_time_target_unix must be an integer >= 0"
            )
        self._owner.database(call)
        now = self._owner.clock()
        with self._owner.file.change() as draft:
            if not draft.settings.pitr_enabled:
                raise self._owner.refuse(BAD_REQUEST, "PITR is not enabled for this project.")
            if self._on_restore is None:
                raise self._owner.refuse(
                    BAD_REQUEST, "This practice server has nothing to restore from."
                )
            earliest, latest = draft.restore_window(now)
            if not earliest <= target <= latest:
                raise self._owner.refuse(
                    UNPROCESSABLE, "The recovery time is outside the backup window."
                )
            if draft.restore is not None and draft.restore.finished_at is None:
                raise self._owner.refuse(BAD_REQUEST, "A restore is already in progress.")
            draft.restore = Restore(target=target, requested_at=now)
            draft.record(at=now, route=call.route, ids={"recovery_time_target_unix": str(target)})
            lag = draft.settings.restore_lag_ms
        hook = self._on_restore
        threading.Thread(target=self._run_restore, args=(hook, target, lag), daemon=True).start()
        return Response(CREATED, {})

    def _run_restore(self, hook: Callable[[int], None], target: int, lag_ms: int) -> None:
        time.sleep(lag_ms / 1000)
        failed = True
        try:
            hook(target)
            failed = False
        except Exception:  # noqa: BLE001 - whatever the hook raises, the restore has failed
            traceback.print_exc(file=sys.stderr)
        finally:
            self._finish_restore(failed=failed)

    def _finish_restore(self, *, failed: bool) -> None:
        with self._owner.file.change() as draft:
            if draft.restore is not None:
                draft.restore.finished_at, draft.restore.failed = self._owner.clock(), failed

    def _fail_interrupted_restore(self) -> None:
        """A restore that was under way when the server died is never repeated blindly."""
        restore = self._owner.file.read().restore
        if restore is not None and restore.finished_at is None:
            self._finish_restore(failed=True)
