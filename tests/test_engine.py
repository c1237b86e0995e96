"""The engine over a world in memory: where it comes to rest, and that every crash point leads to the same end."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler.audit.queries import spec_text
from reconciler.core.conditions import ConditionType, Reason, find
from reconciler.core.crashpoints import CrashPoint
from reconciler.core.entry import Entry, EntryKind
from reconciler.core.errors import (
    LeaseLostError,
    PreflightError,
    StepFailedError,
    TargetUnavailableError,
)
from reconciler.core.facts import Goal, Observation, Resolution
from reconciler.core.phase import Phase
from reconciler.core.pins import Pins
from reconciler.core.status import EnvironmentStatus
from reconciler.look import look
from tests.support.world import (
    BAD,
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
from tests.support.worldtargets import GitMemory, targets_of


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


def test_a_resumed_walk_that_cannot_be_prepared_is_no_reason_to_leave_a_mixture(
    stage: Stage,
) -> None:
    stage.world.failing["restore/database/down/2"] = [RuntimeError("a bug")]
    assert stage.engine().converge(source(GOOD)).phase is Phase.STALLED
    assert stage.world.versions == [1, 2]
    stage.world.failing["capture/docker/save-logs/app"] = [PreflightError("no image")]
    status = stage.engine().converge(source(GOOD), resume="mended")
    assert status.phase is Phase.STABLE
    assert stage.world.vector() == BAD_VECTOR
    degraded = find(status.conditions, ConditionType.DEGRADED)
    assert degraded is not None
    assert "no image" in degraded.message
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


def test_a_rollback_that_stalled_is_tried_again_when_it_is_asked_for_again(stage: Stage) -> None:
    stage.world = World.good()
    point = stage.engine().converge(source(GOOD)).last_known_good
    assert point is not None
    stage.engine().converge(source(BAD))
    stage.world.failing["capture/docker/save-logs/app"] = [PreflightError("disk full")]
    status = stage.engine().converge(source(BAD), rollback=stage.back_to(point))
    assert status.phase is Phase.STALLED
    status = stage.engine().converge(source(BAD), rollback=stage.back_to(point))
    assert status.phase is Phase.STABLE
    assert stage.world.vector() == GOOD_VECTOR
    stage.check()


def test_a_rollback_holds_back_a_spec_that_is_still_waiting_its_turn(stage: Stage) -> None:
    stage.world = World.good()
    point = stage.engine().converge(source(GOOD)).last_known_good
    assert point is not None
    with pytest.raises(Crash):
        stage.engine(crash_at(CrashPoint.RESULT_DURABLE, "stop/services")).converge(source(BAD))
    worse = source({**BAD, "deployment": "dpl_worse"})
    stage.engine().converge(worse, rollback=stage.back_to(point))
    assert stage.world.vector() == GOOD_VECTOR
    status = stage.engine().converge(worse)
    assert status.held is not None
    assert stage.world.vector() == GOOD_VECTOR
    assert not stage.world.effects["move to dpl_worse"]
    stage.check()


@pytest.mark.parametrize("what", ["a failing step", "failing checks"])
def test_words_that_move_mean_after_a_stall_what_they_meant_before(stage: Stage, what: str) -> None:
    history = {"bad": "good", "good": "older"}
    relative = source({**GOOD, "commit": "HEAD~1"}, policy=", onFailure: halt")
    observe_commit = GitMemory.resolve

    def resolve(self: GitMemory, pins: Pins, observed: Observation, goal: Goal) -> Resolution:
        if pins.git == "HEAD~1":
            pins = pins.model_copy(update={"git": history[self.world.commit]})
        return observe_commit(self, pins, observed, goal)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GitMemory, "resolve", resolve)
        if what == "a failing step":
            stage.world.failing["restore/database/down/2"] = [StepFailedError("no")]
        else:
            stage.world.failing_checks = lambda world: ["health"]
        assert stage.engine().converge(relative).phase is Phase.STALLED
        assert stage.world.commit == "good"
        stage.world.failing_checks = lambda world: []
        assert stage.engine().converge(relative, resume="mended").phase is Phase.STABLE
    assert stage.world.vector() == GOOD_VECTOR
    stage.check()


def test_resuming_what_is_stable_changes_nothing(stage: Stage) -> None:
    stage.engine().converge(source(GOOD))
    before = stage.status()
    stage.engine().converge(source(GOOD), resume="just so")
    assert stage.status() == before


def test_a_suspended_environment_is_left_alone_but_can_be_rolled_back(stage: Stage) -> None:
    stage.world = World.good()
    point = stage.engine().converge(source(GOOD)).last_known_good
    assert point is not None
    stage.engine().converge(source(BAD))
    body = {"decision": "suspended", "message": "by hand until six"}
    with stage.engine().session("prod") as journal:
        journal.write(EntryKind.DECISION, Reason.SUSPENDED, body)
    before = stage.entries()
    stage.world.commit = "by hand"
    assert stage.engine().converge(source({**BAD, "deployment": "dpl_newer"})).suspended
    assert stage.entries() == before
    stage.engine().converge(source(BAD), rollback=stage.back_to(point))
    assert stage.world.vector() == GOOD_VECTOR


def test_after_a_rejection_the_wanted_vector_is_the_one_that_runs(stage: Stage) -> None:
    asking = source(GOOD, policy=", approval: always")
    engine = stage.engine()
    engine.converge(asking)
    with engine.session("prod") as journal:
        engine.reject(journal, "not on a Friday")
    seen = look(stage.status(), asking.spec, asking.digest, targets_of(stage.world), stage.clock)
    assert seen.drift.equal
    assert seen.drift.facts


class Hangup:
    """A terminal that went away."""

    def recorded(self, entry: Entry, status: EnvironmentStatus) -> None:
        raise BrokenPipeError

    def __getattr__(self, name: str) -> Callable[..., None]:
        def tell(*_: object) -> None:
            raise BrokenPipeError

        return tell


def test_a_terminal_that_went_away_holds_up_nothing(stage: Stage) -> None:
    stage.listeners = (Hangup(),)
    engine = stage.engine()
    setting = replace(engine._set, reporter=Hangup())
    assert type(engine)(setting).converge(source(GOOD)).phase is Phase.STABLE
    assert stage.world.vector() == GOOD_VECTOR
    stage.check()


def test_a_bug_stalls_and_keeps_its_traceback_without_secrets(stage: Stage) -> None:
    stage.redactor.learn("hunter2hunter2")
    stage.world.failing["restore/database/down/2"] = [ZeroDivisionError("hunter2hunter2")]
    status = stage.engine().converge(source(GOOD))
    assert status.phase is Phase.STALLED
    assert status.run is not None
    assert status.run.failure is not None
    assert status.run.failure.reason is Reason.INTERNAL_ERROR
    (trace,) = stage.folder.rglob("traceback.txt")
    assert "ZeroDivisionError" in trace.read_text()
    assert str(trace) in status.run.failure.hint
    written = trace.read_text() + "".join(entry.model_dump_json() for entry in stage.entries())
    assert "hunter2" not in written


def test_a_bug_whose_traceback_cannot_be_kept_stalls_all_the_same(stage: Stage) -> None:
    def no_captures(key: str) -> None:
        if key == "stop/docker/stop/services":
            shutil.rmtree(stage.folder / "captures")
            (stage.folder / "captures").write_text("in the way")
            raise ZeroDivisionError

    stage.world.trip = no_captures  # type: ignore[method-assign]
    status = stage.engine().converge(source(GOOD))
    assert status.phase is Phase.STALLED
    assert status.run is not None
    assert status.run.failure is not None
    assert "could not be kept" in status.run.failure.hint


def test_a_lease_that_is_lost_half_way_changes_nothing_more(stage: Stage) -> None:
    def slow(key: str) -> None:
        if key == "restore/database/down/3":
            stage.clock.time += timedelta(
                minutes=5
            )  # the process stood still, and so did its renewal

    stage.world.trip = slow  # type: ignore[method-assign]
    with pytest.raises(LeaseLostError):
        stage.engine().converge(source(GOOD))
    assert stage.world.versions == [1, 2, 3]
    before = stage.status()
    stage.check(resting=False)
    stage.world.trip = lambda key: None  # type: ignore[method-assign]
    assert stage.engine().converge(source(GOOD)).phase is Phase.STABLE
    assert stage.status().entries > before.entries
    stage.check()


def test_somebody_who_fights_back_is_not_fought_for_ever(stage: Stage) -> None:
    real = stage.world.failing_checks

    def fighter(world: World) -> list[str]:
        world.commit = "theirs"
        return real(world)

    stage.world.failing_checks = fighter
    stage.engine().converge(source(GOOD))
    assert len(stage.entries()) < 300
    stage.check()


def test_the_plan_of_a_stalled_environment_is_the_way_that_resume_would_go(stage: Stage) -> None:
    stage.engine().converge(source(BAD))
    halting = source(GOOD, policy=", onFailure: halt")
    stage.world.failing["restore/database/down/2"] = [StepFailedError("no")]
    stage.engine().converge(halting)
    seen = look(stage.status(), halting.spec, halting.digest, targets_of(stage.world), stage.clock)
    assert seen.goal.value("git.commit") == "good"
    assert [step.subject for step in seen.plan.steps if step.target == "database"] == [
        "tables",
        "2",
    ]


def test_passwords_that_are_also_names_do_not_lead_astray(stage: Stage) -> None:
    words = (
        "docker",
        "database",
        "production",
        "sha256:good",
        "dpl_good",
        "restore",
        "services",
        "volume",
        "running",
    )
    stage.redactor.learn(*words)
    stage.world.failing["restore/database/down/2"] = [StepFailedError("production said no")]
    status = stage.engine().converge(source(GOOD))
    assert status.phase is Phase.STABLE
    assert status.run is not None
    assert status.run.failure is not None
    assert status.run.failure.message == "[redacted] said no"
    assert stage.world.vector() == BAD_VECTOR
    assert stage.world.rows == {1, 2, 3}
    assert stage.engine().converge(source(GOOD), resume="again").phase is Phase.STABLE
    assert stage.world.vector() == GOOD_VECTOR
    stage.check()


def test_a_spec_is_pinned_as_it_was_written(stage: Stage) -> None:
    headers = "{url: 'http://localhost/', headers: {X-Token: {env: HEALTH_TOKEN}}}"
    verify = f"verify: {{timeout: 1s, checks: [{{name: health, http: {headers}}}]}}"
    text = source(GOOD).text.replace("verify: {timeout: 1s}", verify)
    with_header = Source(parse(text, "prod.yaml"), text, digest="with header")
    with pytest.raises(Crash):
        stage.engine(crash_at(CrashPoint.RESULT_DURABLE, "stop/services")).converge(with_header)
    assert spec_text(stage.database, "prod", 1)[1] == text
    assert stage.engine().converge(source(BAD)).phase is Phase.STABLE
    stage.check()
