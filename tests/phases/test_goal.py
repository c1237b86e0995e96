"""A database that runs as one of the containers: it cannot be asked while they are down, and nobody gets stuck."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reconciler.core.conditions import ConditionType, find
from reconciler.core.errors import StepFailedError, TargetUnavailableError
from reconciler.core.phase import Phase
from tests.support.world import BAD, BAD_VECTOR, GOOD, GOOD_VECTOR, Source, Stage, World, source
from tests.support.worldparts import SERVICES, VOLUME

RESTORE = "restore/docker/restore-volume/data"


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage(world=World(contained=True)) as made:
        yield made


def _with_volume(stage: Stage, content: str, policy: str = "") -> Source:
    """The good release, with a volume restored from an archive that holds these migrations."""
    (stage.folder / "archive").write_text(content, encoding="utf-8")
    return source(GOOD, policy, volumes=f"{{{VOLUME}: {{restore: archive, sha256: {'ab' * 32}}}}}")


def test_its_own_image_may_change_together_with_its_migrations(stage: Stage) -> None:
    assert stage.engine().converge(source(GOOD)).phase is Phase.STABLE
    assert stage.world.vector() == GOOD_VECTOR
    assert stage.world.effects["down 3"] == stage.world.effects["down 2"] == 1
    stage.check()


@pytest.mark.parametrize("content", ["1", "1,2", "1,2,3"])
def test_migrations_are_brought_to_the_goal_from_wherever_the_restored_volume_stands(
    stage: Stage, content: str
) -> None:
    assert stage.engine().converge(_with_volume(stage, content)).phase is Phase.STABLE
    assert stage.world.vector() == GOOD_VECTOR
    stage.check()


def test_a_restored_volume_older_than_the_goal_is_brought_forward(stage: Stage) -> None:
    (stage.folder / "archive").write_text("1", encoding="utf-8")
    volumes = f"{{{VOLUME}: {{restore: archive, sha256: {'ab' * 32}}}}}"
    stage.engine().converge(source({**GOOD, "version": "2"}, volumes=volumes))
    assert stage.world.versions == [1, 2]
    stage.check()


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_failure_while_it_is_down_is_compensated(stage: Stage, attempts: int) -> None:
    stage.world.failing[RESTORE] = [StepFailedError("the archive is damaged")]
    status = stage.engine().converge(_with_volume(stage, "1", f", maxAttempts: {attempts}"))
    assert status.phase is Phase.STABLE
    assert find(status.conditions, ConditionType.DEGRADED)
    assert stage.world.vector() == BAD_VECTOR
    assert stage.world.rows == {1, 2, 3}
    stage.check()


def test_an_environment_that_stalled_while_it_was_down_can_be_resumed(stage: Stage) -> None:
    stage.world.failing[RESTORE] = [StepFailedError("no")]
    halting = _with_volume(stage, "1", ", onFailure: halt")
    assert stage.engine().converge(halting).phase is Phase.STALLED
    assert not any(stage.world.running.values())
    assert stage.engine().converge(halting, resume="mended").phase is Phase.STABLE
    assert stage.world.vector() == GOOD_VECTOR
    stage.check()


def test_production_that_fell_over_with_it_can_be_rolled_back_by_a_human(stage: Stage) -> None:
    stage.world = World.good()
    stage.world.contained = True
    point = stage.engine().converge(source(GOOD)).last_known_good
    assert point is not None
    stage.engine().converge(source(BAD))
    stage.world.running = dict.fromkeys(SERVICES, False)
    with pytest.raises(TargetUnavailableError, match="database"):
        stage.engine().converge(source(BAD))
    status = stage.engine().converge(source(BAD), rollback=stage.back_to(point))
    assert status.phase is Phase.STABLE
    assert stage.world.vector() == GOOD_VECTOR
    stage.check()


def test_a_database_that_is_nobodys_container_blocks_a_human_too(stage: Stage) -> None:
    stage.engine().converge(source(BAD))
    stage.world.failing["capture/docker/save-logs/app"] = [StepFailedError("no")]
    stage.engine().converge(source(GOOD))
    stage.world.unreadable = {"database"}
    with pytest.raises(TargetUnavailableError, match="database"):
        stage.engine().converge(source(GOOD), resume="again")
    assert stage.world.vector() == BAD_VECTOR


def test_verify_grants_nothing_while_it_cannot_be_read(stage: Stage) -> None:
    up = stage.world.serve

    def serve(service: str, image: str | None) -> None:
        up(service, image)
        if image is not None:
            stage.world.unreadable = {"database"}

    stage.world.serve = serve  # type: ignore[method-assign]
    status = stage.engine().converge(source(GOOD))
    assert status.phase is Phase.STALLED
    assert status.last_known_good is None
    stage.check()


def test_a_container_with_the_database_that_was_stopped_is_started_when_a_human_asks(
    stage: Stage,
) -> None:
    stage.engine().converge(source(GOOD))
    stage.world.running["worker"] = False
    with pytest.raises(TargetUnavailableError, match="database"):
        stage.engine().converge(source(GOOD))
    assert stage.engine().converge(source(GOOD), resume="start it").phase is Phase.STABLE
    assert stage.world.vector() == GOOD_VECTOR
    stage.check()


def test_what_could_be_read_only_after_the_services_were_up_comes_back_too(stage: Stage) -> None:
    stage.engine().converge(source(BAD))
    stage.world.running = dict.fromkeys(SERVICES, False)
    stage.world.failing["capture/docker/save-logs/app"] = [StepFailedError("no")]
    good = source(GOOD)
    with pytest.raises(TargetUnavailableError):
        stage.engine().converge(good)
    stage.world.failing = {"restore/database/down/2": [StepFailedError("no")]}
    status = stage.engine().converge(good, resume="start what can be started")
    assert status.phase is Phase.STABLE
    assert status.run is not None
    assert status.run.compensating
    assert stage.world.versions == [1, 2, 3]
    assert stage.world.rows == {1, 2, 3}
    stage.check()


def test_the_same_while_a_generation_is_held(stage: Stage) -> None:
    point = stage.engine().converge(source(GOOD)).last_known_good
    assert point is not None
    stage.engine().converge(source(GOOD), rollback=stage.back_to(point))
    stage.world.running["worker"] = False
    assert stage.engine().converge(source(GOOD), resume="start it").held is None
    assert stage.world.vector() == GOOD_VECTOR
    stage.check()
