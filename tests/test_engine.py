"""The engine over a world in memory: where it comes to rest, and that every crash point leads to the same end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reconciler.core.conditions import ConditionType, Reason, find
from reconciler.core.crashpoints import CrashPoint
from reconciler.core.errors import PreflightError, StepFailedError, TargetUnavailableError
from reconciler.core.phase import Phase
from tests.support.world import (
    BAD,
    BAD_VECTOR,
    GOOD,
    GOOD_VECTOR,
    Crash,
    Stage,
    World,
    crash_at,
    source,
)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as made:
        yield made


def test_drift_is_brought_to_the_goal_and_certified(stage: Stage) -> None:
    engine = stage.engine()
    status = engine.converge(source(GOOD))
    assert status.phase is Phase.STABLE
    assert stage.world.vector() == GOOD_VECTOR
    certificate = engine.certificate(status)
    assert certificate is not None
    assert {fact.key for fact in certificate.facts} >= {
        "git.commit",
        "docker.service.app.image",
        "vercel.deployment",
    }
    assert certificate.recovery.outage is not None
    stage.check()


def test_a_pass_without_work_writes_nothing(stage: Stage) -> None:
    stage.engine().converge(source(GOOD))
    before, effects = stage.entries(), stage.world.effects.copy()
    for _ in range(10):
        stage.engine().converge(source(GOOD))
    assert stage.entries() == before
    assert stage.world.effects == effects


def test_first_sight_of_a_matching_production_is_verified_and_becomes_a_recovery_point(
    stage: Stage,
) -> None:
    status = stage.engine().converge(source(BAD))
    assert [entry.to_state for entry in stage.entries() if entry.to_state] == [
        Phase.VERIFY,
        Phase.STABLE,
    ]
    assert status.last_known_good is not None
    assert not stage.world.effects


def test_a_failed_preflight_stalls_and_touches_nothing(stage: Stage) -> None:
    stage.world.failing["capture/docker/save-logs/app"] = [
        PreflightError("no image", hint="build it")
    ]
    status = stage.engine().converge(source(GOOD))
    assert status.phase is Phase.STALLED
    assert status.run is not None
    assert status.run.failure is not None
    assert status.run.failure.hint == "build it"
    assert stage.world.vector() == BAD_VECTOR
    stage.check()
    assert stage.engine().converge(source(GOOD)).phase is Phase.STALLED
    assert stage.engine().converge(source(GOOD), resume="built it").phase is Phase.STABLE
    stage.check()


def test_a_goal_that_cannot_be_resolved_stalls_with_the_reason(stage: Stage) -> None:
    error = PreflightError("there is no commit good")
    stage.world.failing["resolve/git"] = [error, error]
    status = stage.engine().converge(source(GOOD))
    assert status.phase is Phase.STALLED
    assert status.run is not None
    assert status.run.failure is not None
    assert "no commit" in status.run.failure.message


def test_a_failure_half_way_is_compensated_to_the_old_vector(stage: Stage) -> None:
    stage.world.failing["restore/database/down/2"] = [
        StepFailedError("42P01: relation does not exist")
    ]
    engine = stage.engine()
    status = engine.converge(source(GOOD))
    assert status.phase is Phase.STABLE
    assert stage.world.vector() == BAD_VECTOR
    assert find(status.conditions, ConditionType.DEGRADED)
    certificate = engine.certificate(status)
    assert certificate is not None
    assert certificate.compensated
    stage.check()
    effects, count = stage.world.effects.copy(), len(stage.entries())
    assert stage.engine().converge(source(GOOD)).phase is Phase.STABLE
    assert (stage.world.effects, len(stage.entries())) == (effects, count), (
        "a failed generation is not tried again"
    )
    assert stage.engine().converge(source(GOOD), resume="mended").phase is Phase.STABLE
    assert stage.world.vector() == GOOD_VECTOR
    stage.check()


def test_halt_stalls_where_it_is(stage: Stage) -> None:
    stage.world.failing["restore/database/down/2"] = [StepFailedError("no")]
    halting = source(GOOD, policy=", onFailure: halt")
    assert stage.engine().converge(halting).phase is Phase.STALLED
    assert stage.world.versions == [1, 2]
    assert stage.engine().converge(halting, resume="mended").phase is Phase.STABLE
    assert stage.world.vector() == GOOD_VECTOR
    stage.check()


def test_a_compensation_that_fails_stalls(stage: Stage) -> None:
    stage.world.failing["restore/database/down/2"] = [StepFailedError("no")]
    stage.world.failing["restore/database/up/3"] = [StepFailedError("no either")]
    status = stage.engine().converge(source(GOOD))
    assert status.phase is Phase.STALLED
    assert stage.engine().converge(source(GOOD), resume="mended").phase is Phase.STABLE
    assert stage.world.vector() == BAD_VECTOR, (
        "resuming a failed compensation finishes the compensation"
    )
    stage.check()


def test_failing_checks_after_a_changed_spec_are_compensated(stage: Stage) -> None:
    stage.world.failing_checks = lambda world: ["health"] if world.commit == "good" else []
    status = stage.engine().converge(source(GOOD))
    assert stage.world.vector() == BAD_VECTOR
    assert status.run is not None
    assert status.run.failure is not None
    assert status.run.failure.reason is Reason.CHECKS_FAILED
    stage.check()


def test_failing_checks_after_a_rollback_stall_in_the_good_release(stage: Stage) -> None:
    world = stage.world
    stage.engine().converge(source(BAD))
    stage.engine().converge(source(GOOD))
    stage.engine().converge(source(BAD))
    world.failing_checks = lambda now: ["health"] if now.commit == "good" else []
    status = stage.engine().converge(source(GOOD))
    assert status.phase is Phase.STALLED
    assert world.vector() == GOOD_VECTOR, "nobody wants to be taken back to the broken release"


def test_checks_that_failed_before_do_not_keep_a_compensation_from_ending(stage: Stage) -> None:
    stage.world.failing_checks = lambda world: ["health"]
    status = stage.engine().converge(source(GOOD))
    assert status.phase is Phase.STABLE
    assert stage.world.vector() == BAD_VECTOR
    assert status.last_known_good is None, "a state whose checks fail is no recovery point"


def test_a_rollback_sticks_while_the_spec_is_unchanged(stage: Stage) -> None:
    stage.world = World.good()
    point = stage.engine().converge(source(GOOD)).last_known_good
    assert point is not None
    stage.engine().converge(source(BAD))
    status = stage.engine().converge(source(BAD), rollback=stage.back_to(point))
    assert status.phase is Phase.STABLE
    assert stage.world.vector() == GOOD_VECTOR
    for _ in range(3):
        stage.engine().converge(source(BAD))
    assert stage.world.vector() == GOOD_VECTOR
    stage.world.commit = "bad"
    stage.engine().converge(source(BAD))
    assert stage.world.commit == "good", "drift is brought back to the override, not to the spec"
    stage.engine().converge(source({**BAD, "deployment": "dpl_newer"}))
    assert stage.world.deployment == "dpl_newer"
    stage.check()


def test_a_rollback_during_a_run_abandons_it(stage: Stage) -> None:
    stage.world = World.good()
    point = stage.engine().converge(source(GOOD)).last_known_good
    assert point is not None

    with pytest.raises(Crash):
        stage.engine(crash_at(CrashPoint.RESULT_DURABLE, "up/2")).converge(source(BAD))
    stage.engine().converge(source(BAD), rollback=stage.back_to(point))
    assert stage.world.vector() == GOOD_VECTOR
    stage.engine().converge(source(BAD))
    assert stage.world.vector() == GOOD_VECTOR
    stage.check()


def test_transient_failures_are_tried_again(stage: Stage) -> None:
    stage.world.failing["start/vercel/move/production"] = [TargetUnavailableError("429")] * 3
    assert stage.engine().converge(source(GOOD)).phase is Phase.STABLE
    assert stage.world.effects["move to dpl_good"] == 1


def test_what_cannot_be_read_blocks(stage: Stage) -> None:
    stage.world.unreadable = {"vercel"}
    with pytest.raises(TargetUnavailableError, match=r"vercel\.deployment cannot be read"):
        stage.engine().converge(source(GOOD))
    assert stage.world.vector() == BAD_VECTOR


def test_approval_is_waited_for_and_a_rejection_holds_the_generation(stage: Stage) -> None:
    asking = source(GOOD, policy=", approval: always")
    engine = stage.engine()
    assert engine.converge(asking).phase is Phase.APPROVE
    assert engine.converge(asking).phase is Phase.APPROVE
    assert stage.world.vector() == BAD_VECTOR
    with engine.session("prod") as journal:
        engine.reject(journal, "not on a Friday")
    assert engine.converge(asking).phase is Phase.STABLE
    assert stage.world.vector() == BAD_VECTOR
    stage.check()


def _points(world: World) -> list[tuple[CrashPoint, str]]:
    """Every crash point that a run to the good release passes, in order."""
    seen: list[tuple[CrashPoint, str]] = []
    with Stage(world=world) as stage:
        stage.engine(lambda point, effect: seen.append((point, effect))).converge(source(GOOD))
    return seen


def test_each_effect_announces_each_crash_point_once() -> None:
    points = _points(World())
    assert (
        len(points) == len(set(points)) == len({effect for _, effect in points}) * len(CrashPoint)
    )


def _survives(point: CrashPoint, effect: str) -> None:
    with Stage() as stage:
        with pytest.raises(Crash):
            stage.engine(crash_at(point, effect)).converge(source(GOOD))
        status = stage.engine().converge(source(GOOD))
        assert status.phase is Phase.STABLE, (point, effect)
        assert stage.world.vector() == GOOD_VECTOR, (point, effect)
        for once in ("move to dpl_good", "down 3", "down 2"):
            assert stage.world.effects[once] == 1, (point, effect)
        stage.check()


@pytest.mark.parametrize("point", CrashPoint)
@pytest.mark.parametrize("effect", ["start/docker/up/services", "restore/database/down/2"])
def test_a_crash_leads_to_the_same_end(point: CrashPoint, effect: str) -> None:
    _survives(point, effect)


@pytest.mark.crash
def test_every_crash_point_of_every_effect_leads_to_the_same_end() -> None:
    for point, effect in _points(World()):
        _survives(point, effect)


def _broken() -> World:
    """A world in which the way to the good release fails half way."""
    return World(failing={"restore/database/down/2": [StepFailedError("no")]})


@pytest.mark.crash
def test_a_crash_anywhere_in_a_compensation_is_survived() -> None:
    for at in _points(_broken()):
        with Stage(world=_broken()) as stage:
            with pytest.raises(Crash):
                stage.engine(crash_at(*at)).converge(source(GOOD))
            status = stage.engine().converge(source(GOOD))
            assert status.phase is Phase.STABLE, at
            assert stage.world.vector() == BAD_VECTOR, at
            assert stage.world.rows == {1, 2, 3}, at
            stage.check()


def test_a_spec_that_comes_during_a_run_waits_its_turn(stage: Stage) -> None:
    with pytest.raises(Crash):
        stage.engine(crash_at(CrashPoint.RESULT_DURABLE, "stop/services")).converge(source(GOOD))
    newer = source({**GOOD, "deployment": "dpl_newer"})
    status = stage.engine().converge(newer)
    assert (status.phase, status.generation) == (Phase.STABLE, 2)
    assert stage.world.vector() == ("good", "sha256:good", True, (1,), "dpl_newer")
    assert [entry.body.get("decision") for entry in stage.entries()].count("spec-queued") == 1
    assert stage.world.effects["move to dpl_good"] == 1, (
        "the run under way ends with the spec it began with"
    )
    stage.check()
