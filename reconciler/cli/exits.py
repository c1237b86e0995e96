"""Exit codes, and which error leads to which."""

from __future__ import annotations

from enum import IntEnum

from reconciler.core.errors import (
    LeaseHeldError,
    PolicyRefusedError,
    ReconcilerError,
    SpecInvalidError,
    UsageError,
)


class Exit(IntEnum):
    """What a command's exit code says."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    STALLED = 3  # a human must act
    REFUSED = 4  # by policy
    HELD = 5  # by another run
    INTERRUPTED = 130


def exit_of(error: ReconcilerError) -> Exit:
    """The exit code of an error that ended a command."""
    match error:
        case SpecInvalidError() | UsageError():
            return Exit.USAGE
        case PolicyRefusedError():
            return Exit.REFUSED
        case LeaseHeldError():
            return Exit.HELD
        case _:
            return Exit.FAILED
