"""The runner: intents, answers that were lost, and what a target is told of an earlier try."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from reconciler.core.crashpoints import CrashPoint
from reconciler.core.entry import Entry, EntryKind, Outcome
from reconciler.core.errors import (
    OutcomeUnknownError,
    StepFailedError,
    TargetUnavailableError,
)
from reconciler.core.phase import Phase
from tests.support.world import BAD_VECTOR, GOOD, Crash, Stage, crash_at, source
from tests.support.worldtargets import VercelMemory

MOVE = "start/vercel/move/production"


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as made:
        yield made


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[datetime | None]:
    """What the front end's target was told of earlier tries, call by call."""
    seen: list[datetime | None] = []
    change = VercelMemory.apply

    def apply(self: VercelMemory, step: Any, context: Any) -> Any:
        seen.append(context.attempted)
        return change(self, step, context)

    monkeypatch.setattr(VercelMemory, "apply", apply)
    return seen


def _results(stage: Stage, effect: str) -> list[Entry]:
    return [
        entry
        for entry in stage.entries()
        if entry.kind is EntryKind.RESULT and entry.effect and entry.effect.endswith(effect)
    ]


def test_a_first_try_is_told_of_no_earlier_one(stage: Stage, told: list[datetime | None]) -> None:
    stage.engine().converge(source(GOOD))
    assert told == [None]


def test_a_lost_answer_is_followed_by_a_look_and_not_by_a_second_request(
    stage: Stage, told: list[datetime | None]
) -> None:
    stage.world.losing[MOVE] = [OutcomeUnknownError("lost")]
    stage.engine().converge(source(GOOD))
    assert told[0] is None
    assert told[1] is not None
    assert stage.world.effects["move to dpl_good"] == 1


def test_after_a_crash_the_target_is_told_when_the_intent_was_written(
    stage: Stage, told: list[datetime | None]
) -> None:
    with pytest.raises(Crash):
        stage.engine(crash_at(CrashPoint.MID_EFFECT, MOVE)).converge(source(GOOD))
    stage.engine().converge(source(GOOD))
    intents = [entry for entry in stage.entries() if entry.kind is EntryKind.INTENT]
    assert told == [None, next(e.at for e in intents if e.effect == f"1/{MOVE}")]


def test_answers_lost_to_the_end_are_remembered_in_the_next_leg(
    stage: Stage, told: list[datetime | None]
) -> None:
    stage.world.losing[MOVE] = [OutcomeUnknownError("lost")]
    stage.world.failing[MOVE] = [OutcomeUnknownError("lost")] * 5
    queue = stage.world.failing[MOVE]
    stage.world.failing[MOVE] = []

    def trip(key: str) -> None:
        if key == MOVE and stage.world.deployment == "dpl_good" and queue:
            raise queue.pop(0)

    stage.world.trip = trip  # type: ignore[method-assign]
    status = stage.engine().converge(source(GOOD))
    assert status.run is not None
    assert status.run.leg == 2
    assert told[-1] is not None, "the way back looks first: a request may still be travelling"
    assert stage.world.vector() == BAD_VECTOR
    stage.check()


def test_a_transient_failure_is_tried_six_times_and_then_recorded(stage: Stage) -> None:
    stage.world.failing[MOVE] = [TargetUnavailableError("429")] * 6
    status = stage.engine().converge(source(GOOD))
    assert [entry.body["outcome"] for entry in _results(stage, f"1/{MOVE}")] == [Outcome.FAILED]
    assert status.run is not None
    assert status.run.compensating


def test_a_terminal_failure_is_not_tried_again(stage: Stage) -> None:
    stage.world.failing[MOVE] = [StepFailedError("402", hint="pay")]
    stage.engine().converge(source(GOOD))
    (failed,) = _results(stage, f"1/{MOVE}")
    assert (failed.body["outcome"], failed.body["error"], failed.body["hint"]) == (
        "failed",
        "402",
        "pay",
    )


def test_saved_files_are_saved_once_however_often_capture_is_entered(stage: Stage) -> None:
    with pytest.raises(Crash):
        stage.engine(crash_at(CrashPoint.RESULT_DURABLE, "dump/tables")).converge(source(GOOD))
    status = stage.engine().converge(source(GOOD))
    assert status.run is not None
    assert [item.subject for item in status.run.artifacts].count("2") == 1
    assert len(_results(stage, "dump/tables")) == 1


def test_an_intent_that_a_bug_left_open_is_closed_without_claiming_to_know(stage: Stage) -> None:
    stage.world.losing["restore/database/down/3"] = [ZeroDivisionError()]
    status = stage.engine().converge(source(GOOD))
    assert status.phase is Phase.STALLED
    (closed,) = _results(stage, "down/3")
    assert closed.body["outcome"] == Outcome.SETTLED
    assert "not known" in str(closed.body["note"])
    stage.check()
    assert stage.engine().converge(source(GOOD), resume="mended").phase is Phase.STABLE
    assert stage.world.effects["down 3"] == 1
    stage.check()
