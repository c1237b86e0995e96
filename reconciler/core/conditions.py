"""Conditions: named True/False/Unknown with a reason, a message and a time, as Kubernetes objects carry them.

`Ready` sums up. `Reconciling`, `Stalled`, `Degraded` and `Suspended` are present only while true. `lastTransitionTime`
moves only when the status of a condition changes (Kubernetes API conventions, "typical status properties").
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict


class ConditionType(StrEnum):
    """The conditions an environment may carry."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    DEGRADED = "Degraded"
    SUSPENDED = "Suspended"


class Reason(StrEnum):
    """Why something is so. Written to the ledger: values outlive wordings."""

    VERIFIED = "Verified"
    PROGRESSING = "Progressing"
    SPEC_CHANGED = "SpecChanged"
    SPEC_QUEUED = "SpecQueued"
    DRIFT = "Drift"
    ROLLBACK = "Rollback"
    FIRST_SIGHT = "FirstSight"
    RETRY = "Retry"
    COMPENSATED = "Compensated"
    REJECTED = "Rejected"
    APPROVED = "Approved"
    APPROVAL_NEEDED = "ApprovalNeeded"
    PREFLIGHT_FAILED = "PreflightFailed"
    POLICY_REFUSED = "PolicyRefused"
    STEP_FAILED = "StepFailed"
    CHECKS_FAILED = "ChecksFailed"
    NOT_CONVERGED = "NotConverged"
    COMPENSATION_FAILED = "CompensationFailed"
    INTERNAL_ERROR = "InternalError"
    SUSPENDED = "Suspended"
    RESUMED = "Resumed"
    PREPARED = "Prepared"
    PHASE_DONE = "PhaseDone"


Status = Literal["True", "False", "Unknown"]


class Condition(BaseModel):
    """One condition.

    Attributes:
        type: Its name.
        status: True, False or Unknown.
        reason: One CamelCase word.
        message: One sentence for a human.
        last_transition: When the status last changed (UTC).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    type: ConditionType
    status: Status
    reason: Reason
    message: str = ""
    last_transition: datetime


Conditions = tuple[Condition, ...]


def find(conditions: Sequence[Condition], kind: ConditionType) -> Condition | None:
    """The condition of a type, or None when absent."""
    return next((condition for condition in conditions if condition.type is kind), None)


def with_condition(  # noqa: PLR0917 - the fields of a condition
    conditions: Sequence[Condition],
    kind: ConditionType,
    status: Status,
    reason: Reason,
    message: str,
    at: datetime,
) -> Conditions:
    """The conditions with one set; its transition time is kept while its status stays the same."""
    old = find(conditions, kind)
    since = old.last_transition if old and old.status == status else at
    new = Condition(type=kind, status=status, reason=reason, message=message, last_transition=since)
    others = (condition for condition in conditions if condition.type is not kind)
    return tuple(
        sorted((*others, new), key=lambda condition: list(ConditionType).index(condition.type))
    )


def without(conditions: Sequence[Condition], *kinds: ConditionType) -> Conditions:
    """The conditions without those of the given types."""
    return tuple(condition for condition in conditions if condition.type not in kinds)
