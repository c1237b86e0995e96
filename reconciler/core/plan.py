"""Steps and plans: a change described before it is made. Dry run, progress, approval and audit all read this data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from reconciler.core.phase import WORK_ORDER, Phase


class Step(BaseModel):
    """One change (or one preparation), as data.

    Attributes:
        phase: The phase it belongs to.
        target: The target that applies it.
        action: The verb, in the target's own vocabulary (`checkout`, `retag`, `down`, `rollback`).
        subject: What it is done to. `(phase, target, action, subject)` names the effect and must be the same when the
            step is planned again after a crash; put whatever may vary into `args`.
        summary: One line for humans, without secrets.
        args: What the target needs to do it. References and digests only, never secrets.
        irreversible: Cannot be undone by this program alone.
        data_loss: Destroys data (which is dumped or backed up first).
        once: A recorded result is final for this leg of the run: never done again, because doing it later would mean
            something else (a backup taken after the restore began).
        touches: Whether production is changed. Preparations (`capture`, a backup) say False.
        downtime: Expected seconds of outage caused by it; 0 when none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    phase: Phase
    target: str
    action: str
    subject: str
    summary: str
    args: Mapping[str, JsonValue] = Field(default_factory=dict)
    irreversible: bool = False
    data_loss: bool = False
    once: bool = False
    touches: bool = True
    downtime: float = 0.0

    @property
    def key(self) -> str:
        """The effect key, stable across plans of the same run leg."""
        return f"{self.phase}/{self.target}/{self.action}/{self.subject}"


class Plan(BaseModel):
    """Steps in the order in which they will be applied."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    steps: tuple[Step, ...] = ()

    def of(self, phase: Phase) -> tuple[Step, ...]:
        """The steps of one phase."""
        return tuple(step for step in self.steps if step.phase is phase)

    @property
    def touches_production(self) -> bool:
        """Whether anything in it changes production."""
        return any(step.touches for step in self.steps)

    @property
    def data_loss(self) -> bool:
        """Whether anything in it destroys data."""
        return any(step.data_loss for step in self.steps)

    @property
    def downtime(self) -> float:
        """Expected seconds of outage."""
        return sum(step.downtime for step in self.steps)

    @classmethod
    def ordered(cls, steps: Iterable[Step]) -> Plan:
        """A plan from steps of several targets: by phase, and inside a phase in the order given."""
        rank = {phase: index for index, phase in enumerate(WORK_ORDER)}
        return cls(steps=tuple(sorted(steps, key=lambda step: rank[step.phase])))
