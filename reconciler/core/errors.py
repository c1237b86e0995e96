"""The error tree. Adapters translate foreign exceptions at their edge; engine and phases catch only its families.

ReconcilerError
├── TransientError          worth trying again, after `retry_after` seconds
│   ├── TargetUnavailableError
│   ├── RateLimitedError
│   └── OutcomeUnknownError     the answer was lost: look before doing anything again
└── TerminalError           a human must act; carries a `hint` with the next action
    ├── SpecInvalidError        exit 2
    ├── UsageError              exit 2
    ├── PreflightError          found in capture, production untouched
    ├── PolicyRefusedError      exit 4
    ├── LeaseHeldError          exit 5
    ├── LeaseLostError
    ├── NoLastKnownGoodError
    ├── CaptureCorruptError
    ├── StepFailedError
    ├── VerifyFailedError
    └── LedgerError

Anything else that is raised is a bug in this program: it is recorded, the environment stalls, the traceback is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reconciler.core.problems import Problem


class ReconcilerError(Exception):
    """Base of all errors this program raises on purpose.

    Args:
        message: One or two sentences for a tired human: what is wrong, without any secret.
        hint: The next action, as an imperative sentence or a command. Empty when there is none.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class TransientError(ReconcilerError):
    """May pass by itself.

    Args:
        message: What could not be done now.
        hint: What a human may do if it does not pass.
        retry_after: Seconds to wait at least, where the other side said so.
    """

    def __init__(self, message: str, *, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class TargetUnavailableError(TransientError):
    """The other side cannot be reached, or answers that it is not ready."""


class RateLimitedError(TransientError):
    """The other side refused because of too many requests; nothing was done."""


class OutcomeUnknownError(TransientError):
    """A change was sent and its answer was lost: the next thing to do is to look, never to send again."""


class TerminalError(ReconcilerError):
    """Will not pass by itself: a human must act."""


class SpecInvalidError(TerminalError):
    """The spec (or another file a human wrote) cannot be accepted; nothing was touched.

    Args:
        problems: Every problem found, each with its place.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class UsageError(TerminalError):
    """The command cannot mean anything as it was given (an unknown environment, a point that does not exist)."""


class PreflightError(TerminalError):
    """Something needed for the way there or back is not in hand. Raised before production is touched."""


class PolicyRefusedError(TerminalError):
    """The spec's policy forbids this step (for example data loss without `allowDataLoss`)."""


class LeaseHeldError(TerminalError):
    """Another process holds the environment's lease.

    Args:
        message: Who holds it, since when, until when.
        holder: The holder's name as recorded.
    """

    def __init__(self, message: str, *, holder: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.holder = holder


class LeaseLostError(TerminalError):
    """Our own lease expired or was taken over: this process must change nothing more."""


class NoLastKnownGoodError(TerminalError):
    """`last-known-good` was asked for and no state has ever been verified."""


class CaptureCorruptError(TerminalError):
    """A saved file does not have the digest that was recorded for it."""


class StepFailedError(TerminalError):
    """A step was refused or failed for a reason that trying again does not change."""


class VerifyFailedError(TerminalError):
    """A check failed, or a fact is not what was wanted."""


class LedgerError(TerminalError):
    """The ledger or the state file cannot be read or written."""
