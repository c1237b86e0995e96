"""What all routes of the practice Supabase share: state, errors, rate limit, the database's address.

`supabase_api` derives the whole API from it; each group of routes gets it handed in.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from reconciler.sandbox.http import (
    BAD_REQUEST,
    NOT_FOUND,
    TOO_MANY,
    UNAUTHORIZED,
    Api,
    Call,
    JsonObject,
    Request,
    Response,
)
from reconciler.sandbox.store import Effect, StateFile, now_ms
from reconciler.sandbox.supabase_query import Session
from reconciler.sandbox.supabase_state import REF, Settings, SupabaseState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from reconciler.sandbox.faults import Fault

PLATFORM_TIMEOUT = 544
"""Supabase's own status for "the platform could not reach the database in time"."""
ONLINE = frozenset({"ACTIVE_HEALTHY", "ACTIVE_UNHEALTHY"})
_TIMEOUT_MESSAGE = "Connection terminated due to connection timeout"


class ProjectApi(Api):
    """One practice project.

    Args:
        token: The bearer token that is accepted.
        path: The state file.
        initial: The state of a first start, see `supabase_state.new_state`.
        dsn: Address of the real PostgreSQL, of a superuser.
        clock: Milliseconds since the epoch.

    Raises:
        UsageError: The state file exists and is not one of a practice Supabase.
    """

    def __init__(
        self,
        *,
        token: str,
        path: Path,
        initial: SupabaseState,
        dsn: str,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        super().__init__(token)
        self.file = StateFile(path, initial)
        self.dsn, self.clock = dsn, clock
        self._rate = _RateWindow()

    def effects(self) -> list[Effect]:
        """The log of accepted changes; SQL appears as a digest and its command tags."""
        return self.file.read().effects

    def configure(self, changes: bytes) -> JsonObject:
        """Change settings, see `supabase_state.Settings`."""
        with self.file.change() as draft:
            draft.settings = Settings.model_validate(
                {**draft.settings.model_dump(), **self.json_object(Request("", "", body=changes))}
            )
        return draft.settings.model_dump(mode="json")

    def error(self, status: int, message: str, code: str = "") -> Response:
        """`{"message"}`; the vendor has no codes."""
        del code
        return Response(status, {"message": message})

    def outage(self, status: int) -> Response:
        """A failure of the platform; 544 says that the database could not be reached in time."""
        if status == PLATFORM_TIMEOUT:
            return self.error(status, _TIMEOUT_MESSAGE)
        return self.error(status, "Internal server error")

    def unauthorized(self, request: Request) -> Response:
        """401."""
        del request
        return self.error(UNAUTHORIZED, "Unauthorized")

    def admit(self, request: Request) -> Response | None:
        """Count the request; 429 until the window ends once there were too many."""
        del request
        settings = self.file.read().settings
        if self._rate.count(settings.rate_limit, settings.rate_window_s):
            return None
        return self.error(TOO_MANY, "ThrottlerException: Too Many Requests")

    def rate_limited(self, fault: Fault) -> Response:
        """A 429 that ends the window now; without headers the reset time is missing."""
        settings = self.file.read().settings
        headers = {
            "x-ratelimit-limit": str(settings.rate_limit),
            "x-ratelimit-remaining": "0",
            "x-ratelimit-reset": str(max(fault.delay_ms // 1000, 1)),
        }
        message = {"message": "ThrottlerException: Too Many Requests"}
        if fault.reset_headers:
            return Response(TOO_MANY, message, headers=headers)
        return Response(TOO_MANY, message, bare=True)

    def headers(self, request: Request) -> Mapping[str, str]:
        """The rate headers that go with every answer; reset is seconds left, not a time."""
        del request
        settings = self.file.read().settings
        remaining, reset = self._rate.left(settings.rate_limit, settings.rate_window_s)
        return {
            "x-ratelimit-limit": str(settings.rate_limit),
            "x-ratelimit-remaining": str(remaining),
            "x-ratelimit-reset": str(reset),
        }

    def state(self, call: Call) -> SupabaseState:
        """The project the call is about.

        Raises:
            ApiError: 400 for a malformed ref or a removed project, 404 for another one.
        """
        state = self.file.read()
        ref = call.values["ref"]
        if not REF.fullmatch(ref):
            raise self.refuse(BAD_REQUEST, "ref must be 20 lower-case letters")
        if ref != state.ref:
            raise self.refuse(NOT_FOUND, "Project not found")
        if state.status(self.clock()) == "REMOVED":
            raise self.refuse(BAD_REQUEST, "Resource has been removed")
        return state

    def database(self, call: Call, *, read_only: bool = False) -> tuple[str, Session]:
        """Address and session settings of the project's database.

        Raises:
            ApiError: 544, the project is not up.
        """
        state, now = self.state(call), self.clock()
        if state.status(now) not in ONLINE:
            raise self.refuse(PLATFORM_TIMEOUT, _TIMEOUT_MESSAGE)
        return self.dsn, Session(
            read_only=read_only,
            frozen=state.frozen(now),
            timeout_ms=state.settings.statement_timeout_ms,
        )

    def record(self, call: Call, **ids: str) -> None:
        """Log an accepted change, durably."""
        with self.file.change() as draft:
            draft.record(at=self.clock(), route=call.route, ids=ids)


class _RateWindow:
    """Counts requests in fixed windows; not durable, as a restart of the platform's would be."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends = 0.0
        self._count = 0

    def count(self, limit: int, seconds: int) -> bool:
        with self._lock:
            self._roll(seconds)
            self._count += 1
            return self._count <= limit

    def left(self, limit: int, seconds: int) -> tuple[int, int]:
        with self._lock:
            self._roll(seconds)
            return max(limit - self._count, 0), max(round(self._ends - time.monotonic()), 1)

    def _roll(self, seconds: int) -> None:
        if time.monotonic() >= self._ends:
            self._ends, self._count = time.monotonic() + seconds, 0
