"""Capture: evidence, preparations and what is saved, before anything is touched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from sqlalchemy import Connection

from reconciler.core.conditions import Reason
from reconciler.core.crashpoints import CrashPoint
from reconciler.core.entry import Entry
from reconciler.core.errors import LedgerError, PreflightError, StepFailedError
from reconciler.core.phase import Phase
from tests.support.world import (
    BAD_VECTOR,
    GOOD,
    GOOD_VECTOR,
    Crash,
    Source,
    Stage,
    World,
    crash_at,
    parse,
    source,
)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as made:
        yield made


def _evidence(stage: Stage) -> list[Entry]:
    return [entry for entry in stage.entries() if entry.body.get("decision") == "evidence"]


def _saved(stage: Stage, part: str) -> Path:
    status = stage.status()
    assert status.run is not None
    return next(stage.folder / item.path for item in status.run.artifacts if part in item.path)


def test_what_was_seen_and_which_checks_failed_is_written_before_anything_else(
    stage: Stage,
) -> None:
    stage.world.failing_checks = lambda world: ["health"] if world.commit == "bad" else []
    stage.engine().converge(source(GOOD))
    (evidence,) = _evidence(stage)
    assert evidence.body["checksBefore"] == ["health"]
    facts = evidence.body["facts"]
    assert isinstance(facts, list)
    assert {"key": "git.commit", "value": "bad"} in facts
    first = next(index for index, entry in enumerate(stage.entries()) if entry.effect)
    assert stage.entries().index(evidence) < first


def test_a_run_that_began_as_matching_saves_evidence_before_it_touches_anything(
    stage: Stage,
) -> None:
    stage.world = World.good()

    def by_hand(_world: World) -> list[str]:
        if not _evidence(stage):
            stage.world.commit = "by hand"
        return []

    stage.world.failing_checks = by_hand
    status = stage.engine().converge(source(GOOD))
    assert status.phase is Phase.STABLE
    assert stage.world.vector() == GOOD_VECTOR
    (evidence,) = _evidence(stage)
    facts = evidence.body["facts"]
    assert isinstance(facts, list)
    assert {"key": "git.commit", "value": "by hand"} in facts
    assert status.run is not None
    assert status.run.before["git.commit"] == "by hand"
    stage.check()


def test_checks_that_fail_in_a_mixture_excuse_nothing_later(stage: Stage) -> None:
    halting = source(GOOD, policy=", onFailure: halt")
    stage.world.failing["restore/database/down/2"] = [StepFailedError("no")]
    stage.engine().converge(halting)
    stage.world.failing_checks = lambda world: ["health"] if not all(world.running.values()) else []
    stage.world.failing["start/vercel/move/production"] = [StepFailedError("no")]
    with pytest.raises(Crash):
        stage.engine(crash_at(CrashPoint.BEFORE_INTENT, "down/2")).converge(halting, resume="again")
    status = stage.status()
    assert status.run is not None
    assert status.run.checks_before == ()


@pytest.mark.parametrize("harm", ["gone", "altered", "short"])
def test_a_saved_file_that_is_not_what_was_written_stalls_before_anything_is_touched(
    stage: Stage, harm: str
) -> None:
    with pytest.raises(Crash):
        stage.engine(crash_at(CrashPoint.RESULT_DURABLE, "dump/tables")).converge(source(GOOD))
    path = _saved(stage, "table-dump")
    match harm:
        case "gone":
            path.unlink()
        case "altered":
            path.write_text("x" * path.stat().st_size, encoding="utf-8")
        case _:
            path.write_text("", encoding="utf-8")
    status = stage.engine().converge(source(GOOD))
    assert status.phase is Phase.STALLED
    assert status.run is not None
    assert status.run.failure is not None
    assert status.run.failure.reason is Reason.PREFLIGHT_FAILED
    assert stage.world.vector() == BAD_VECTOR
    stage.check()


def test_data_is_not_destroyed_without_leave(stage: Stage) -> None:
    text = source(GOOD).text.replace("allowDataLoss: true", "allowDataLoss: false")
    careful = Source(parse(text, "prod.yaml"), text, digest="careful")
    status = stage.engine().converge(careful)
    assert status.run is not None
    assert status.run.failure is not None
    assert status.run.failure.reason is Reason.POLICY_REFUSED
    assert "allowDataLoss" in status.run.failure.hint
    assert stage.world.vector() == BAD_VECTOR


def test_a_ledger_that_fails_in_capture_ends_the_process_and_not_the_run(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, broken = stage.database.writing, [True]

    def full() -> AbstractContextManager[Connection]:
        if stage.status().phase is Phase.CAPTURE and broken:
            broken.clear()
            raise LedgerError("database or disk is full")
        return writing()

    monkeypatch.setattr(stage.database, "writing", full)
    with pytest.raises(LedgerError):
        stage.engine().converge(source(GOOD))
    assert stage.status().phase is Phase.CAPTURE
    assert stage.engine().converge(source(GOOD)).phase is Phase.STABLE
    stage.check()


def test_the_plan_is_on_record_before_production_is_touched(stage: Stage) -> None:
    stage.engine().converge(source(GOOD))
    prepared = next(entry for entry in stage.entries() if entry.to_state is Phase.STOP)
    steps = prepared.body["plan"]
    assert isinstance(steps, list)
    assert [f"{step['action']} {step['subject']}" for step in steps if isinstance(step, dict)] == [
        "stop services", "checkout worktree", "retag services", "down 3", "down 2", "up services", "move production",
    ]  # fmt: skip


def test_the_reason_of_a_failed_preparation_reaches_the_human(stage: Stage) -> None:
    stage.world.failing["capture/database/dump/tables"] = [
        PreflightError("disk too small", hint="free 3 GB")
    ]
    status = stage.engine().converge(source(GOOD))
    assert status.run is not None
    assert status.run.failure is not None
    assert (status.run.failure.message, status.run.failure.hint) == ("disk too small", "free 3 GB")
