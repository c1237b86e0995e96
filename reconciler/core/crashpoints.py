"""The instants of an effect at which a crash must be survivable, in one place so that tests can walk them all."""

from __future__ import annotations

from enum import StrEnum


class CrashPoint(StrEnum):
    """Where in an effect the process is. The runner announces the outer four, the target the inner two."""

    BEFORE_INTENT = "before-intent"
    INTENT_DURABLE = "intent-durable"
    MID_EFFECT = "mid-effect"  # announced by the target: part of the change may be made, or it is about to be sent
    APPLIED_UNREAD = "applied-unread"  # announced by the target: the change is made, its answer not yet looked at
    ANSWER_READ = "answer-read"
    RESULT_DURABLE = "result-durable"


#: Announced by `phases.runner` around `Target.apply`.
RUNNER_POINTS = (
    CrashPoint.BEFORE_INTENT,
    CrashPoint.INTENT_DURABLE,
    CrashPoint.ANSWER_READ,
    CrashPoint.RESULT_DURABLE,
)
#: Announced inside `Target.apply`.
TARGET_POINTS = (CrashPoint.MID_EFFECT, CrashPoint.APPLIED_UNREAD)
