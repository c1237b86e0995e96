"""What stands at the crash points of an effect: nothing, unless a test has put something there beforehand."""

from __future__ import annotations

from reconciler.core.crashpoints import CrashPoint


def installed(point: CrashPoint, effect: str) -> None:
    """Called at every crash point of every effect of every command."""
