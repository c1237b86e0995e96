"""The status of one environment: what a Kubernetes object keeps under `status`, and what the state file shows.

It is a projection of the ledger (see `core.projection`): it holds nothing that the entries do not say.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from reconciler.core.conditions import Conditions, Reason
from reconciler.core.entry import Outcome
from reconciler.core.facts import Goal, RecoveryPoint
from reconciler.core.phase import Phase
from reconciler.core.pins import Artifact, Pins

#: Recovery points kept in the status; older ones stay in the ledger.
POINTS_KEPT = 10


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Cause(StrEnum):
    """Why a run began."""

    FIRST_SIGHT = "first-sight"
    SPEC = "spec"  # a new generation
    DRIFT = "drift"  # production moved away from an unchanged goal
    ROLLBACK = "rollback"  # `reconciler rollback`
    RESUME = "resume"  # a human resumed a stalled environment


class Effect(_Frozen):
    """An effect of the current run: opened by its intent, closed by its result.

    Attributes:
        opened: When its latest intent became durable (UTC).
        closed: When its result was recorded (UTC).
        outcome: None while no result is recorded.
        touches: Whether it changes production.
    """

    opened: datetime
    closed: datetime | None = None
    outcome: Outcome | None = None
    touches: bool = True


class Failure(_Frozen):
    """Why a run, or one leg of it, did not reach its goal.

    Attributes:
        phase: The phase it happened in.
        reason: Its code.
        message: What happened.
        hint: The next action.
    """

    phase: Phase
    reason: Reason
    message: str
    hint: str = ""


class Run(_Frozen):
    """A run: everything from leaving stable to being stable or stalled.

    Attributes:
        id: Its name, safe in file names and tags.
        cause: Why it began.
        rollback: Whether it goes back to a state that was good before.
        generation: The generation it pursues; pinned for its whole life.
        leg: Counts the goals of this run: it rises when a compensation begins, and when a touched run is resumed.
        compensating: Whether this leg leads back to the captured vector.
        attempt: How often capture was entered in this leg.
        started: When it began (UTC).
        phase_started: When the present phase was entered (UTC).
        durations: Seconds spent in each phase so far.
        pins: Where it goes.
        goal: The resolved goal; None until capture has resolved it.
        before: Values of the vector captured before anything was touched, by fact key.
        before_details: A human's word for some of them.
        before_pins: The pins that lead back there.
        effects: Effects by `leg/step key`.
        artifacts: Everything saved so far.
        checks_before: Names of checks that already failed before anything was touched.
        failure: Why the first leg (or the run) failed.
        outage_started: When production was first touched (UTC).
        approved_by: Who approved it.
        finished: When it came to rest (UTC).
    """

    id: str
    cause: Cause
    rollback: bool
    generation: int
    leg: int = 1
    compensating: bool = False
    attempt: int = 1
    started: datetime
    phase_started: datetime
    durations: Mapping[str, float] = Field(default_factory=dict)
    pins: Pins
    goal: Goal | None = None
    before: Mapping[str, str | None] = Field(default_factory=dict)
    before_details: Mapping[str, str] = Field(default_factory=dict)
    before_pins: Pins = Pins()
    effects: Mapping[str, Effect] = Field(default_factory=dict)
    artifacts: tuple[Artifact, ...] = ()
    checks_before: tuple[str, ...] = ()
    failure: Failure | None = None
    outage_started: datetime | None = None
    approved_by: str | None = None
    finished: datetime | None = None

    @property
    def touched(self) -> bool:
        """Whether a step that changes production may have been begun in this run."""
        return any(effect.touches for effect in self.effects.values())

    @property
    def open_effects(self) -> tuple[str, ...]:
        """Keys of effects whose intent has no result."""
        return tuple(key for key, effect in self.effects.items() if effect.outcome is None)

    def effect(self, step_key: str) -> Effect | None:
        """The effect of a step in the present leg."""
        return self.effects.get(f"{self.leg}/{step_key}")


class Override(_Frozen):
    """A goal that stands in place of the spec's while the spec is unchanged: a rollback sticks.

    Attributes:
        generation: The generation that is held; a newer one ends the override.
        reason: Rollback, Compensated or Rejected.
        message: One sentence for humans.
        pins: What is pursued instead.
        by: Who asked for it.
        at: When (UTC).
    """

    generation: int
    reason: Reason
    message: str
    pins: Pins
    by: str
    at: datetime


class Resolved(_Frozen):
    """The goal last reached or pursued, so that an unchanged spec is not resolved again.

    `HEAD~1` means another commit once HEAD has moved: a generation is resolved once and stays what it was.

    Attributes:
        generation: Its generation.
        pins: Its pins.
        goal: The goal, complete.
    """

    generation: int
    pins: Pins
    goal: Goal


class EnvironmentStatus(_Frozen):
    """Everything known about an environment now."""

    environment: str
    phase: Phase = Phase.NEW
    generation: int = 0
    observed_generation: int = 0
    spec_digest: str | None = None
    spec_path: str | None = None
    queued_digest: str | None = None
    suspended: bool = False
    override: Override | None = None
    resolved: Resolved | None = None
    conditions: Conditions = ()
    observed: Mapping[str, str | None] = Field(default_factory=dict)
    run: Run | None = None
    recovery_points: tuple[RecoveryPoint, ...] = ()
    entries: int = 0
    updated: datetime | None = None

    @property
    def last_known_good(self) -> RecoveryPoint | None:
        """The newest verified vector."""
        return self.recovery_points[0] if self.recovery_points else None

    @property
    def held(self) -> Override | None:
        """The override, if it still speaks about the present generation."""
        override = self.override
        return override if override and override.generation == self.generation else None
