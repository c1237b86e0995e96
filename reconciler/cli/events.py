"""How `watch` speaks: one line an event. Never raises, since it is called while production is being changed."""

from __future__ import annotations

import json
import tempfile
import threading
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import click

from reconciler.core.entry import Entry, EntryKind
from reconciler.core.phase import RESTING_PHASES
from reconciler.core.plan import Step
from reconciler.core.redact import Redactor
from reconciler.core.status import EnvironmentStatus
from reconciler.loop import Event, Kind

_COLOURS = {Kind.STABLE: "green", Kind.APPROVAL: "yellow", Kind.HELD: "yellow", Kind.PHASE: "cyan"}
#: What a human has to mend; told on stderr.
_TO_MEND = frozenset({Kind.REFUSED, Kind.GONE, Kind.STALLED, Kind.ERROR})


class Voice:
    """Writes events as text or as JSON lines.

    Args:
        output: `text` or `json`. As JSON every event goes to stdout; as text what a human has to mend goes to stderr.
        redactor: Takes secrets out of every line.
        unheard: Called once nobody reads any more.
    """

    def __init__(self, output: str, redactor: Redactor, unheard: Callable[[], None]) -> None:
        self._json, self._redactor, self._unheard = output == "json", redactor, unheard
        self._one_at_a_time = threading.Lock()

    def say(self, event: Event) -> None:
        """Writes one event."""
        try:
            with self._one_at_a_time:
                self._write(event, datetime.now(UTC))
        except (OSError, ValueError):  # a closed pipe, a full disk, a closed stream
            self._unheard()

    def bug(self, exc: Exception) -> str:
        """Keeps the traceback of an unexpected exception, the same one once; gives a sentence about it."""
        trace = self._redactor.text("".join(traceback.format_exception(exc)))
        name = f"reconciler-{sha256(trace.encode()).hexdigest()[:12]}.traceback"
        path = Path(tempfile.gettempdir()) / name
        try:
            path.unlink(missing_ok=True)
            with path.open("x", encoding="utf-8") as file:  # never through somebody's link
                file.write(trace)
        except OSError:
            return f"A bug in reconciler ({type(exc).__name__}); its traceback could not be kept."
        return f"A bug in reconciler ({type(exc).__name__}); the traceback is in {path}."

    def _write(self, event: Event, at: datetime) -> None:
        to_mend = event.kind in _TO_MEND
        message = self._redactor.text(event.message)
        if self._json:
            click.echo(json.dumps(_document(event, message, at)))
        if event.kind is Kind.REFUSED:
            click.echo(message, err=True)  # file:line:column first, so that editors find the place
        if self._json:
            return
        refused = event.kind is Kind.REFUSED  # its message stands above this line already
        first = "" if refused else message.splitlines()[0] if message else ""
        if event.next:
            first = f"{first} Next: {self._redactor.text(event.next)}".lstrip()
        kind = click.style(f"{event.kind:<9}", fg="red" if to_mend else _COLOURS.get(event.kind))
        click.echo(
            f"{at:%Y-%m-%dT%H:%M:%SZ} {event.environment or '-':<12} {kind} {first}", err=to_mend
        )


class Narrator:
    """Tells the phases and steps of one environment as events: reporter of the engine, listener of the journal."""

    def __init__(self, environment: str, say: Callable[[Event], None]) -> None:
        self._environment, self._say = environment, say

    def recorded(self, entry: Entry, status: EnvironmentStatus) -> None:
        """A phase was entered and that is on record. Phases of rest are told by the loop."""
        if entry.kind is not EntryKind.TRANSITION or entry.to_state in RESTING_PHASES:
            return
        message = f"{entry.from_state} -> {entry.to_state}  {entry.body.get('message', '')}"
        self._event(Kind.PHASE, message.rstrip(), status)

    def step_started(self, step: Step) -> None:
        """Told when it is done."""

    def step_finished(self, step: Step, note: str, seconds: float) -> None:
        """A step's result is durable."""
        self._event(Kind.STEP, f"{step.summary} ({seconds:.1f} s){f'  {note}' if note else ''}")

    def waiting(self, message: str) -> None:
        """Not told: it would be many lines."""

    def note(self, message: str) -> None:
        """A line of its own."""
        self._event(Kind.STEP, message)

    def _event(self, kind: Kind, message: str, status: EnvironmentStatus | None = None) -> None:
        generation = status.generation if status else None
        run = status.run.id if status and status.run else None
        self._say(Event(kind, message, self._environment, generation=generation, run=run))


def _document(event: Event, message: str, at: datetime) -> dict[str, object]:
    known = {
        "environment": event.environment, "next": event.next, "generation": event.generation, "run": event.run,
    }  # fmt: skip
    return {
        "apiVersion": "reconciler/v1",
        "kind": "Event",
        "at": at.isoformat(timespec="milliseconds"),
        "event": event.kind.value,
        "message": message,
        **{key: value for key, value in known.items() if value not in (None, "")},
    }
