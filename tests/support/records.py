"""Runs, effects and entries in one line each, for tests of what is computed from them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from reconciler.core.conditions import Reason
from reconciler.core.entry import Entry, EntryKind, Origin, Outcome
from reconciler.core.facts import Fact, Goal, Observation, RecoveryPoint, Wanted
from reconciler.core.pins import Artifact, Pins
from reconciler.core.status import Cause, Effect, Run

START = datetime(2025, 11, 18, 3, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """So many seconds after three in the morning."""
    return START + timedelta(seconds=seconds)


def observation(**values: str | None) -> Observation:
    """What was seen; `__` in a name stands for a dot."""
    return Observation.of(
        START, [Fact(key=key.replace("__", "."), value=value) for key, value in values.items()]
    )


def goal(**values: str | None) -> Goal:
    """What is wanted; `__` in a name stands for a dot."""
    wanted = [Wanted(key=key.replace("__", "."), value=value) for key, value in values.items()]
    return Goal(wanted={want.key: want for want in wanted})


def run(**fields: Any) -> Run:
    """A run that began at START."""
    made: dict[str, Any] = {
        "id": "r1", "cause": Cause.SPEC, "rollback": False, "generation": 1,
        "started": START, "phase_started": START, "pins": Pins(),
    }  # fmt: skip
    return Run(**made | fields)


def effect(
    opened: float,
    closed: float | None = None,
    outcome: Outcome | None = Outcome.DONE,
    **fields: Any,
) -> Effect:
    """An effect; open when it was never closed."""
    ended = None if closed is None else at(closed)
    return Effect(opened=at(opened), closed=ended, outcome=outcome if ended else None, **fields)


def artifact(kind: str, subject: str, path: str) -> Artifact:
    """A saved file."""
    return Artifact(kind=kind, subject=subject, path=path, sha256="0" * 64, size=1)


def point(name: str, **vector: str | None) -> RecoveryPoint:
    """A recovery point; `__` in a name stands for a dot."""
    values = {key.replace("__", "."): value for key, value in vector.items()}
    return RecoveryPoint(id=name, at=START, run=name, generation=1, vector=values)


def entry(kind: EntryKind, seconds: float = 0.0, **fields: Any) -> Entry:
    """An entry of the environment `prod`."""
    made: dict[str, Any] = {
        "environment": "prod", "at": at(seconds), "kind": kind, "actor": "ada@laptop", "origin": Origin.CLI,
        "reason": Reason.PROGRESSING, "generation": 1, "body": {},
    }  # fmt: skip
    return Entry(**made | fields)
