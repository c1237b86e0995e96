"""One entry of the ledger, before it has a place in it: what `core` folds and `audit` stores."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from reconciler.core.conditions import Reason
from reconciler.core.phase import Phase, Trigger


class EntryKind(StrEnum):
    """What an entry records."""

    TRANSITION = "transition"
    INTENT = "intent"
    RESULT = "result"
    DECISION = "decision"
    APPROVAL = "approval"
    OBSERVATION = "observation"
    NOTIFICATION = "notification"


class Origin(StrEnum):
    """Through which door the wish came."""

    CLI = "cli"
    GITOPS = "gitops"
    TRIGGER = "trigger"
    API = "api"


class Outcome(StrEnum):
    """How an effect ended."""

    DONE = "done"
    FAILED = "failed"  # known not to have happened, or to have been undone by the other side
    SETTLED = "settled"  # the answer was lost; looking at the world told that it had happened, or no longer matters


class Entry(BaseModel):
    """One entry. `body` is JSON whose shape depends on the kind; `core.projection` is the reader of all of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    environment: str
    at: datetime
    kind: EntryKind
    actor: str
    origin: Origin
    reason: Reason
    generation: int
    run: str | None = None
    from_state: Phase | None = None
    trigger: Trigger | None = None
    to_state: Phase | None = None
    target: str | None = None
    effect: str | None = None
    body: Mapping[str, JsonValue] = Field(default_factory=dict)
