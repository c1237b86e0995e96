"""Phases, triggers, and the named sets of them. Values are written to the ledger: renaming one is a format change."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """Where an environment stands."""

    NEW = "new"
    STABLE = "stable"
    CAPTURE = "capture"
    APPROVE = "approve"
    STOP = "stop"
    RESTORE = "restore"
    START = "start"
    VERIFY = "verify"
    STALLED = "stalled"


class Trigger(StrEnum):
    """What moves an environment from one phase to the next."""

    MATCHES = "matches"  # first sight, and the vector already equals the goal
    DRIFTED = "drifted"  # the vector differs from the goal
    PREPARED = "prepared"  # capture is complete and verified
    APPROVAL_NEEDED = "approval-needed"
    APPROVED = "approved"
    REJECTED = "rejected"
    STOPPED = "stopped"
    RESTORED = "restored"
    STARTED = "started"
    VERIFIED = "verified"  # the certificate is complete
    COMPENSATE = "compensate"  # take the captured vector as the goal and walk the same path
    STALL = "stall"  # a human must act
    RESUMED = "resumed"  # a human acted, or a new generation came


#: Phases in which a run is under way (a run is everything from leaving stable to stable or stalled).
RUN_PHASES = frozenset(
    {Phase.CAPTURE, Phase.APPROVE, Phase.STOP, Phase.RESTORE, Phase.START, Phase.VERIFY}
)
#: Phases in which production is changed.
TOUCHING_PHASES = frozenset({Phase.STOP, Phase.RESTORE, Phase.START})
#: Phases that end a series of passes: nothing more happens by itself.
RESTING_PHASES = frozenset({Phase.STABLE, Phase.STALLED, Phase.APPROVE})
#: The working phases in the order in which steps are planned and shown.
WORK_ORDER = (Phase.CAPTURE, Phase.STOP, Phase.RESTORE, Phase.START)
