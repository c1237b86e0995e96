"""Projection: the status of an environment as a fold over its entries. Pure; the same code makes and rebuilds it.

Bodies of entries are written by `core.records` and read here; nothing else knows their shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter

from reconciler.core import conditions as cond
from reconciler.core.conditions import ConditionType, Reason
from reconciler.core.entry import Entry, EntryKind, Outcome
from reconciler.core.facts import Fact, Goal, RecoveryPoint
from reconciler.core.phase import Phase, Trigger
from reconciler.core.pins import Artifact
from reconciler.core.status import (
    POINTS_KEPT,
    Effect,
    EnvironmentStatus,
    Failure,
    Override,
    Resolved,
    Run,
)

_FACTS = TypeAdapter(tuple[Fact, ...])
_ARTIFACTS = TypeAdapter(tuple[Artifact, ...])
_Body = Mapping[str, Any]


def fold(entries: Iterable[Entry], environment: str) -> EnvironmentStatus:
    """The status an environment has after all of its entries."""
    status = EnvironmentStatus(environment=environment)
    for entry in entries:
        status = project(status, entry)
    return status


def project(status: EnvironmentStatus, entry: Entry) -> EnvironmentStatus:
    """The status after one more entry."""
    changed = _READERS[entry.kind](status, entry, entry.body)
    return changed.model_copy(update={"entries": status.entries + 1, "updated": entry.at})


def _decision(status: EnvironmentStatus, entry: Entry, body: _Body) -> EnvironmentStatus:
    match body.get("decision"):
        case "spec-accepted":
            return status.model_copy(
                update={
                    "generation": entry.generation,
                    "spec_digest": body["digest"],
                    "spec_path": body["path"],
                    "queued_digest": None,
                    # A rollback asked for while this spec was waiting its turn speaks about it already.
                    "override": status.override
                    if status.override and status.override.generation == entry.generation
                    else None,
                }
            )
        case "spec-queued":
            return status.model_copy(update={"queued_digest": body["digest"]})
        case "override":
            return status.model_copy(update={"override": Override.model_validate(body["override"])})
        case "released":
            return status.model_copy(update={"override": None})
        case "resolved" if status.run:
            goal = Goal.model_validate(body["goal"])
            return _with_run(status, goal=goal)
        case "evidence" if status.run:
            return _with_run(status, checks_before=tuple(body["checksBefore"]))
        case "suspended":
            conditions = cond.with_condition(
                status.conditions,
                ConditionType.SUSPENDED,
                "True",
                Reason.SUSPENDED,
                body.get("message", ""),
                entry.at,
            )
            return status.model_copy(update={"suspended": True, "conditions": conditions})
        case "unsuspended":
            conditions = cond.without(status.conditions, ConditionType.SUSPENDED)
            return status.model_copy(update={"suspended": False, "conditions": conditions})
    return status


def _transition(status: EnvironmentStatus, entry: Entry, body: _Body) -> EnvironmentStatus:
    assert entry.to_state is not None
    status = status.model_copy(update={"phase": entry.to_state})
    durations = _durations(status.run, entry) if status.run and entry.from_state else {}
    if "run" in body:  # a run begins, or its next leg or attempt does
        run = Run.model_validate(body["run"])
        if status.run and status.run.id == run.id:
            run = run.model_copy(update={"durations": durations})
        status = status.model_copy(update={"run": run})
    elif status.run:
        update: dict[str, object] = {"phase_started": entry.at, "durations": durations}
        if entry.to_state is Phase.STOP:
            update["outage_started"] = status.run.outage_started or entry.at
        status = _with_run(status, **update)
    if "failure" in body:
        status = _with_run(status, failure=Failure.model_validate(body["failure"]))
    status = _with_outcome(status, body)
    if entry.to_state in (Phase.STABLE, Phase.STALLED):
        status = status.model_copy(update={"observed_generation": entry.generation})
        if status.run:
            status = _with_run(status, finished=entry.at)
    return status.model_copy(update={"conditions": _conditions(status, entry, body)})


def _durations(run: Run, entry: Entry) -> Mapping[str, float]:
    """Seconds spent in each phase, the one that ends now included. A wall clock that was set back counts as no time."""
    assert entry.from_state is not None
    spent = max(0.0, (entry.at - run.phase_started).total_seconds())
    phase = entry.from_state.value
    return {**run.durations, phase: run.durations.get(phase, 0.0) + spent}


def _with_outcome(status: EnvironmentStatus, body: _Body) -> EnvironmentStatus:
    """What a transition says beyond the phase: another goal, a reached goal, a place to go back to."""
    if "override" in body:
        status = status.model_copy(update={"override": Override.model_validate(body["override"])})
    if "resolved" in body:
        status = status.model_copy(update={"resolved": Resolved.model_validate(body["resolved"])})
    if "observed" in body:
        status = status.model_copy(update={"observed": body["observed"]})
    if "recoveryPoint" in body:
        point = RecoveryPoint.model_validate(body["recoveryPoint"])
        status = status.model_copy(
            update={"recovery_points": (point, *status.recovery_points)[:POINTS_KEPT]}
        )
    return status


def _conditions(status: EnvironmentStatus, entry: Entry, body: _Body) -> cond.Conditions:
    message = str(body.get("message", ""))
    kept = status.conditions
    if entry.to_state is Phase.STABLE:
        kept = cond.without(
            kept, ConditionType.RECONCILING, ConditionType.STALLED, ConditionType.DEGRADED
        )
        if body.get("degraded"):
            kept = cond.with_condition(
                kept, ConditionType.DEGRADED, "True", entry.reason, message, entry.at
            )
        if entry.trigger is Trigger.REJECTED or body.get("degraded"):
            return cond.with_condition(
                kept, ConditionType.READY, "False", entry.reason, message, entry.at
            )
        return cond.with_condition(
            kept, ConditionType.READY, "True", Reason.VERIFIED, message, entry.at
        )
    if entry.to_state is Phase.STALLED:
        kept = cond.without(kept, ConditionType.RECONCILING)
        kept = cond.with_condition(
            kept, ConditionType.STALLED, "True", entry.reason, message, entry.at
        )
        return cond.with_condition(
            kept, ConditionType.READY, "False", entry.reason, message, entry.at
        )
    kept = cond.without(kept, ConditionType.STALLED)
    kept = cond.with_condition(
        kept, ConditionType.RECONCILING, "True", entry.reason, message, entry.at
    )
    return cond.with_condition(
        kept, ConditionType.READY, "Unknown", Reason.PROGRESSING, message, entry.at
    )


def _intent(status: EnvironmentStatus, entry: Entry, body: _Body) -> EnvironmentStatus:
    if status.run is None or entry.effect is None:
        return status
    effect = Effect(opened=entry.at, touches=bool(body["step"]["touches"]))
    return _with_run(status, effects={**status.run.effects, entry.effect: effect})


def _result(status: EnvironmentStatus, entry: Entry, body: _Body) -> EnvironmentStatus:
    run = status.run
    if run is None or entry.effect is None or entry.effect not in run.effects:
        return status
    effect = run.effects[entry.effect].model_copy(
        update={"outcome": Outcome(body["outcome"]), "closed": entry.at}
    )
    goal = run.goal.completed(_FACTS.validate_python(body.get("facts", ()))) if run.goal else None
    artifacts = (*run.artifacts, *_ARTIFACTS.validate_python(body.get("artifacts", ())))
    return _with_run(
        status, effects={**run.effects, entry.effect: effect}, goal=goal, artifacts=artifacts
    )


def _approval(status: EnvironmentStatus, entry: Entry, body: _Body) -> EnvironmentStatus:
    return (
        _with_run(status, approved_by=entry.actor)
        if status.run and body.get("verdict") == "approved"
        else status
    )


def _nothing(status: EnvironmentStatus, _entry: Entry, _body: _Body) -> EnvironmentStatus:
    return status


def _with_run(status: EnvironmentStatus, **update: object) -> EnvironmentStatus:
    assert status.run is not None
    return status.model_copy(update={"run": status.run.model_copy(update=update)})


_READERS: Mapping[EntryKind, Callable[[EnvironmentStatus, Entry, _Body], EnvironmentStatus]] = {
    EntryKind.DECISION: _decision,
    EntryKind.TRANSITION: _transition,
    EntryKind.INTENT: _intent,
    EntryKind.RESULT: _result,
    EntryKind.APPROVAL: _approval,
    EntryKind.OBSERVATION: _nothing,
    EntryKind.NOTIFICATION: _nothing,
}
