"""Declared faults: what a rehearsal (or a test) may make the practice APIs do wrong.

A fault is data. It names a kind, a method, a route pattern and how often it strikes, so that a
drill can say "the answer to the rollback POST is lost once". Both practice servers ask the
`FaultBook` at fixed points of a request; humans and tests fill it in process or through the
control route `POST /__faults`. Faults live in memory only: a restarted server has none.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

if TYPE_CHECKING:
    from collections.abc import Collection


class FaultKind(StrEnum):
    """Everything that can be made to go wrong."""

    LATENCY = "latency"
    """The answer is late by `delay_ms`; what was asked happens as usual."""
    RATE_LIMITED = "rate-limited"
    """Answer 429, nothing is executed; `reset_headers` says whether it says for how long."""
    ERROR_BEFORE = "error-before"
    """Answer `status` (500 unless told), nothing is executed."""
    LOST_ANSWER = "lost-answer"
    """The change is made, then the connection is closed without a byte of answer."""
    ERROR_AFTER = "error-after"
    """The change is made, then `status` (500, or 544 as Supabase's timeout) is answered."""
    SLOW_ALIASES = "slow-aliases"
    """The alias move that is accepted waits `delay_ms` before it starts and between two aliases."""
    ALIAS_FAILS = "alias-fails"
    """One alias of the accepted move (`alias`, or the last one) fails; the others move."""
    QUEUED = "queued"
    """A promote is answered 202, as behind an active rolling release, and nothing moves."""
    REFUSED = "refused"
    """Connections are refused for `delay_ms`; strikes at once, without waiting for a request."""


BEFORE = (FaultKind.RATE_LIMITED, FaultKind.ERROR_BEFORE)
AFTER = (FaultKind.LOST_ANSWER, FaultKind.ERROR_AFTER)
_LOWEST_ERROR = 500
_HIGHEST_ERROR = 599


def route_regex(pattern: str) -> re.Pattern[str]:
    """Compile a route pattern: `{name}` is one path segment, `*` is anything.

    Args:
        pattern: Such as `/v1/projects/{project}/rollback/{deployment}` or `/v*/rollback/*`.
    """
    parts = re.split(r"(\{\w+\}|\*)", pattern)
    text = "".join(
        f"(?P<{part[1:-1]}>[^/]+)"
        if part.startswith("{")
        else (".*" if part == "*" else re.escape(part))
        for part in parts
    )
    return re.compile(text)


class Fault(BaseModel):
    """One thing that goes wrong, a number of times.

    Attributes:
        kind: What goes wrong.
        method: HTTP method it strikes, or `*`.
        path: Route pattern it strikes (see `route_regex`), without the query.
        times: How often it strikes; None means until cleared.
        skip: How many matching requests pass first.
        status: Status answered by the two error kinds.
        delay_ms: Milliseconds, where the kind has a duration.
        reset_headers: Whether a 429 says when to come back.
        alias: Host name of the alias that fails.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: FaultKind
    method: str = "*"
    path: str = "*"
    times: int | None = Field(default=1, ge=1)
    skip: int = Field(default=0, ge=0)
    status: int = Field(default=500, ge=_LOWEST_ERROR, le=_HIGHEST_ERROR)
    delay_ms: int = Field(default=0, ge=0, le=600_000)
    reset_headers: bool = True
    alias: str | None = None

    @field_validator("method")
    @classmethod
    def _upper(cls, value: str) -> str:
        return value.upper()

    @model_validator(mode="after")
    def _needs_a_duration(self) -> Self:
        timed = (FaultKind.LATENCY, FaultKind.SLOW_ALIASES, FaultKind.REFUSED)
        if self.kind in timed and self.delay_ms == 0:
            raise ValueError(f"a fault of kind {self.kind} needs delay_ms")
        return self

    def matches(self, method: str, path: str) -> bool:
        """Whether a request is one this fault strikes."""
        return self.method in {"*", method} and (route_regex(self.path).fullmatch(path) is not None)


class FaultList(BaseModel):
    """Body of the control route `POST /__faults`."""

    model_config = ConfigDict(extra="forbid")

    faults: list[Fault]


@dataclass
class _Entry:
    fault: Fault
    seen: int = 0
    struck: int = 0

    @property
    def spent(self) -> bool:
        return self.fault.times is not None and self.struck >= self.fault.times


@dataclass(frozen=True)
class FaultReport:
    """How often a fault has struck so far."""

    fault: Fault
    struck: int
    state: Literal["armed", "spent"]


class FaultBook:
    """The faults of one server, safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: list[_Entry] = []

    def add(self, *faults: Fault) -> None:
        """Arm faults; of several that match one request, the oldest strikes first."""
        with self._lock:
            self._entries.extend(_Entry(fault) for fault in faults)

    def clear(self) -> None:
        """Forget all faults, spent ones included."""
        with self._lock:
            self._entries.clear()

    def take(self, kinds: Collection[FaultKind], method: str, path: str) -> Fault | None:
        """Use up one strike of the first armed fault of these kinds that matches, if any."""
        with self._lock:
            for entry in self._entries:
                if entry.fault.kind not in kinds or entry.spent:
                    continue
                if not entry.fault.matches(method, path):
                    continue
                entry.seen += 1
                if entry.seen <= entry.fault.skip:
                    continue
                entry.struck += 1
                return entry.fault
        return None

    def report(self) -> list[FaultReport]:
        """All faults in the order they were armed, with how often each has struck."""
        with self._lock:
            return [
                FaultReport(entry.fault, entry.struck, "spent" if entry.spent else "armed")
                for entry in self._entries
            ]
