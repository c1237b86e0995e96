"""Applies steps: intent, effect, result, with every instant named at which a crash must be survivable.

The same code serves the first try, the next one after a transient failure and the one after a crash: an intent
without a result means that the target is told when it was begun (`attempted`) and looks before it does anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from reconciler.backoff import delay
from reconciler.core.conditions import Reason
from reconciler.core.crashpoints import TARGET_POINTS, CrashPoint
from reconciler.core.entry import EntryKind, Outcome
from reconciler.core.errors import LeaseLostError, LedgerError, ReconcilerError, TransientError
from reconciler.core.facts import Fact
from reconciler.core.phase import Phase
from reconciler.core.pins import Artifact
from reconciler.core.plan import Step
from reconciler.core.status import Run
from reconciler.phases.base import Work
from reconciler.targets.base import Applied

#: Tries of one step before a transient failure counts as a lasting one.
ATTEMPTS = 6
#: Why an intent is closed without an answer.
LOOKED = "its answer was lost; the world was looked at and it need not be done again"
LEFT = "left open when this leg of the run ended; whether it happened is not known, and the next leg looks first"


@dataclass(frozen=True, slots=True)
class _Context:
    """What a target is lent while it applies a step (see `targets.base.ApplyContext`)."""

    work: Work = field(repr=False)
    effect: str
    attempted: datetime | None
    announced: set[CrashPoint] = field(default_factory=set)

    @property
    def run(self) -> str:
        return self.work.run.id

    @property
    def captures(self) -> Path:
        return self.work.captures

    @property
    def states(self) -> Path:
        return self.work.states

    @property
    def artifacts(self) -> Sequence[Artifact]:
        return self.work.run.artifacts

    def at(self, point: CrashPoint) -> None:
        if (
            point not in self.announced
        ):  # an effect of several parts passes each point once, at its first part
            self.announced.add(point)
            self.work.probe(point, self.effect)

    def guard(self) -> None:
        self.work.journal.guard()

    def progress(self, message: str) -> None:
        self.work.reporter.waiting(self.work.redactor.text(message))

    def sleep(self, seconds: float) -> None:
        self.work.clock.sleep(seconds)


def run_steps(work: Work, phase: Phase, steps: Sequence[Step]) -> list[Fact]:
    """Applies the steps of a phase in order, after settling what an earlier try left open.

    Returns:
        The facts the steps have made true.

    Raises:
        ReconcilerError: A step failed for good; its result is recorded.
    """
    settle(work, f"{work.run.leg}/{phase}/", keep={_effect_key(work, step) for step in steps})
    made: list[Fact] = []
    for step in steps:
        made.extend(_apply(work, step).facts)
    return made


def settle(
    work: Work, prefix: str, keep: frozenset[str] | set[str] = frozenset(), note: str = LOOKED
) -> None:
    """Closes intents without a result which are not tried again.

    Args:
        work: The run.
        prefix: Only effects whose key begins so.
        keep: Effects that are about to be tried again.
        note: Why they are closed.
    """
    for key in work.run.open_effects:
        if key.startswith(prefix) and key not in keep:
            _, _, target, _ = key.split("/", 3)
            body = {"outcome": Outcome.SETTLED, "note": note}
            work.journal.write(EntryKind.RESULT, Reason.RETRY, body, target=target, effect=key)


def _effect_key(work: Work, step: Step) -> str:
    return f"{work.run.leg}/{step.key}"


def _apply(work: Work, step: Step) -> Applied:
    key = _effect_key(work, step)
    known = work.run.effects.get(key)
    if known and step.once and known.outcome is Outcome.DONE:
        return Applied(note="done before")
    attempted = _attempted(work.run, step)
    began = work.clock.monotonic()
    if known is None or known.outcome is not None:
        work.probe(CrashPoint.BEFORE_INTENT, key)
        work.journal.write(
            EntryKind.INTENT,
            Reason.PROGRESSING,
            {"step": step.model_dump(mode="json")},
            target=step.target,
            effect=key,
        )
        work.probe(CrashPoint.INTENT_DURABLE, key)
    work.reporter.step_started(step)
    try:
        applied = _attempts(work, step, key, attempted)
    except (LeaseLostError, LedgerError):
        raise  # this process may or can record nothing more; the next one looks first
    except ReconcilerError as exc:
        body = {
            "outcome": Outcome.FAILED,
            "error": exc.message,
            "hint": exc.hint,
            "seconds": _since(work, began),
        }
        work.journal.write(
            EntryKind.RESULT, Reason.STEP_FAILED, body, target=step.target, effect=key
        )
        raise
    work.probe(CrashPoint.ANSWER_READ, key)
    seconds = _since(work, began)
    body = {
        "outcome": Outcome.DONE,
        "facts": [fact.model_dump(mode="json") for fact in applied.facts],
        "artifacts": [artifact.model_dump(mode="json") for artifact in applied.artifacts],
        "note": applied.note,
        "seconds": seconds,
    }
    work.journal.write(EntryKind.RESULT, Reason.PHASE_DONE, body, target=step.target, effect=key)
    work.probe(CrashPoint.RESULT_DURABLE, key)
    work.reporter.step_finished(step, applied.note, seconds)
    return applied


def _attempted(run: Run, step: Step) -> datetime | None:
    """When this change was last begun in any leg of the run without being known to be done.

    A failure counts too: after the last of several lost answers nobody knows what is still on its way.
    """
    effects = [effect for key, effect in run.effects.items() if key.partition("/")[2] == step.key]
    newest = max(effects, key=lambda effect: effect.opened, default=None)
    return newest.opened if newest and newest.outcome is not Outcome.DONE else None


def _attempts(work: Work, step: Step, key: str, attempted: datetime | None) -> Applied:
    target = work.targets[step.target]
    for attempt in range(1, ATTEMPTS + 1):
        work.journal.guard()
        begun = work.clock.now()
        context = _Context(work, key, attempted)
        try:
            applied = target.apply(step, context)
        except TransientError as exc:
            if attempt == ATTEMPTS:
                raise
            attempted = attempted or begun
            wait = delay(attempt, exc.retry_after)
            work.reporter.waiting(
                f"{work.redactor.text(exc.message)} Trying again in {wait:.0f} s."
            )
            work.clock.sleep(wait)
        else:
            for point in TARGET_POINTS:  # a step that only read has no instant of its own
                context.at(point)
            return applied
    raise AssertionError("unreachable")


def _since(work: Work, began: float) -> float:
    return round(work.clock.monotonic() - began, 3)
