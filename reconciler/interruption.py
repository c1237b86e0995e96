"""The wish to end, heard between two passes: never while services are down. Used by the loop's engine.

It is the engine's clock and the last of the journal's listeners. Both are asked at instants at which everything is on
record, so raising there leaves a run exactly as a crash would, and the next process goes on from it.
"""

from __future__ import annotations

import threading

from reconciler.clock import SystemClock
from reconciler.core.entry import Entry, EntryKind
from reconciler.core.phase import RESTING_PHASES, TOUCHING_PHASES, Phase
from reconciler.core.status import EnvironmentStatus


class Interrupted(BaseException):
    """The process was asked to end. No error: nothing that catches errors may catch it."""


class Interruption(SystemClock):
    """A wish to end that may come at any time, from any thread."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._phase = Phase.NEW

    @property
    def asked(self) -> bool:
        """Whether the process was asked to end."""
        return self._asked.is_set()

    def ask(self) -> None:
        """Asks for the end. Safe in a signal handler."""
        self._asked.set()

    def begin(self, phase: Phase) -> None:
        """Tells the phase an environment is in before the engine takes it up."""
        self._phase = phase

    def recorded(self, entry: Entry, status: EnvironmentStatus) -> None:
        """Listens to the journal.

        Raises:
            Interrupted: A pass is over, another one would follow, and the end was asked for.
        """
        self._phase = status.phase
        between = {Phase.STOP} | (set(Phase) - TOUCHING_PHASES - RESTING_PHASES)
        if self.asked and entry.kind is EntryKind.TRANSITION and status.phase in between:
            raise Interrupted

    def sleep(self, seconds: float) -> None:
        """Waits; while production is not being changed, only until the end is asked for.

        Raises:
            Interrupted: It was.
        """
        if self._phase in TOUCHING_PHASES:
            super().sleep(seconds)
        elif self._asked.wait(seconds):
            raise Interrupted
