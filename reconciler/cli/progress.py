"""Live progress on stderr: which phase, which step, how long, and what is being waited for."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

import click

from reconciler.core.entry import Entry, EntryKind, Outcome
from reconciler.core.phase import Phase
from reconciler.core.plan import Step
from reconciler.core.status import EnvironmentStatus

_WORTH_TELLING = 0.1  # seconds
_NOW_AND_THEN = 2.0  # seconds between two lines about waiting on a stream that is no terminal
_MARKS = {Phase.STABLE: ("●", "green"), Phase.STALLED: ("■", "red"), Phase.APPROVE: ("◆", "yellow")}


class Progress:
    """A line for each phase and each step. On a terminal the line being worked on is kept up to date.

    Args:
        stream: Where to write; stderr in commands.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._began = time.monotonic()
        self._waiting, self._said = "", 0.0

    def recorded(self, entry: Entry, status: EnvironmentStatus) -> None:
        """Listens to the journal: phases are shown once they are on record."""
        if entry.kind is EntryKind.TRANSITION and entry.to_state:
            mark, colour = _MARKS.get(entry.to_state, ("▸", "cyan"))
            leg = (
                " (back)"
                if status.run and status.run.compensating and entry.to_state is not Phase.STABLE
                else ""
            )
            self._line(
                click.style(f"{mark} {entry.to_state}{leg}", fg=colour, bold=True),
                str(entry.body.get("message", "")),
            )
        elif entry.kind is EntryKind.RESULT and entry.body.get("outcome") == Outcome.FAILED:
            self._line(click.style("  ✗ failed", fg="red"), str(entry.body.get("error", "")))

    def step_started(self, step: Step) -> None:
        """A step's intent is durable."""
        self._said = time.monotonic()
        self._show(f"  … {step.summary}")

    def step_finished(self, step: Step, note: str, seconds: float) -> None:
        """A step's result is durable."""
        self._line(
            f"  ✓ {step.summary}",
            " ".join(filter(None, (note, f"{seconds:.1f} s" if seconds >= _WORTH_TELLING else ""))),
        )

    def waiting(self, message: str) -> None:
        """What is being waited for: kept on one line on a terminal, said now and then on a plain stream."""
        if message != self._waiting:
            self._waiting = message
            self._show(f"    waiting: {message.strip()}")

    def note(self, message: str) -> None:
        """A line of its own."""
        self._line(f"  {message}", "")

    def close(self) -> None:
        """Takes the unfinished line away."""
        if self._live:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _line(self, text: str, detail: str) -> None:
        self._waiting, self._said = "", time.monotonic()
        elapsed = click.style(f"{time.monotonic() - self._began:6.1f}s", dim=True)
        tail = click.style(f"  {detail}", dim=True) if detail else ""
        self.close()
        click.echo(f"{elapsed} {text}{tail}", file=self._stream)

    def _show(self, text: str) -> None:
        if self._live:
            width = shutil.get_terminal_size().columns
            elapsed = f"{time.monotonic() - self._began:6.1f}s"
            self._stream.write("\r\x1b[K" + f"{elapsed} {text}"[: width - 1])
            self._stream.flush()
        elif text.lstrip().startswith("waiting") and time.monotonic() - self._said > _NOW_AND_THEN:
            self._said = time.monotonic()
            click.echo(f"        {text}", file=self._stream)
