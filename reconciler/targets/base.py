"""What a target is, and what it is given while it applies a step. Structural typing: no base class is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from reconciler.core.crashpoints import CrashPoint
from reconciler.core.facts import Fact, Goal, Observation, Resolution
from reconciler.core.phase import Phase
from reconciler.core.pins import Artifact, Pins
from reconciler.core.plan import Step


class ApplyContext(Protocol):
    """What the runner lends a target while one step is applied."""

    @property
    def run(self) -> str:
        """Id of the run, safe in file names and tags (lower-case letters, digits, dashes)."""

    @property
    def captures(self) -> Path:
        """This run's folder for artifacts (exists, mode 0700). Files are written 0600, fsynced, then reported."""

    @property
    def states(self) -> Path:
        """The state folder, to which `Artifact.path` is relative."""

    @property
    def attempted(self) -> datetime | None:
        """When this same effect was begun before without a recorded result (UTC); None when never.

        Set after a crash, a lost answer or a transient failure: look at the world before doing anything.
        """

    @property
    def artifacts(self) -> Sequence[Artifact]:
        """Everything this run has saved so far, oldest first."""

    def at(self, point: CrashPoint) -> None:
        """Announces a crash point. Each apply announces MID_EFFECT and APPLIED_UNREAD around its change."""

    def guard(self) -> None:
        """Call right before anything irrevocable. Raises LeaseLostError when this process may no longer act."""

    def progress(self, message: str) -> None:
        """Tells the person watching what is being waited for."""

    def sleep(self, seconds: float) -> None:
        """Waits; ends early with an exception when the command is interrupted."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What a step made.

    Attributes:
        facts: Facts that are now true (an image id that was built, the new version).
        artifacts: Files that were saved.
        note: One line for the history (`already done, found by looking`).
    """

    facts: Sequence[Fact] = ()
    artifacts: Sequence[Artifact] = ()
    note: str = ""


class Target(Protocol):
    """One system. `observe` and `resolve` only read; `plan` is pure; only `apply` changes anything."""

    @property
    def name(self) -> str:
        """`git`, `docker`, `database` or `vercel`."""

    def observe(self) -> Sequence[Fact]:
        """Reads the world. What cannot be read comes back as an unknown fact, with the reason, never as an error."""

    def resolve(self, pins: Pins, observed: Observation, goal: Goal) -> Resolution:
        """Turns pins into wanted facts and materials. Reads only.

        Args:
            pins: Where to go.
            observed: The world now.
            goal: What the targets before this one (in TARGET_ORDER) have resolved; docker finds the commit here.

        Raises:
            TerminalError: A pin cannot be met (no such commit, image, migration, deployment).
            TransientError: It cannot be found out now.
        """

    def plan(self, phase: Phase, observed: Observation, goal: Goal) -> Sequence[Step]:
        """The steps of one phase. Pure; empty when the facts are already as wanted."""

    def apply(self, step: Step, context: ApplyContext) -> Applied:
        """Does one step. Safe to repeat.

        Raises:
            TransientError: May be tried again (it will be called again with `attempted` set).
            TerminalError: Will not pass by itself.
        """


TargetMap = Mapping[str, Target]
