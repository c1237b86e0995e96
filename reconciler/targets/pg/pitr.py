"""What a driver that can take the whole database back in time offers besides."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from reconciler.targets.base import ApplyContext


@runtime_checkable
class TimeTraveller(Protocol):
    """A driver with point-in-time recovery."""

    def can_travel(self, time: int) -> None:
        """Makes sure that a Unix time can be gone back to.

        Raises:
            PreflightError: It cannot, and why.
        """

    def travel(self, time: int, context: ApplyContext) -> None:
        """Restores the database in place and waits until it serves again."""
