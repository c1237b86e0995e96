"""The Docker engine is restarted in the middle of a rollback, and takes every container down with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reconciler.core.crashpoints import CrashPoint
from reconciler.core.phase import Phase
from tests.support.invariants import drops, ledger_holds, watch_drops
from tests.support.production import Practice
from tests.support.second_engine import SecondEngine

pytestmark = [
    pytest.mark.crash,
    pytest.mark.engine,
    pytest.mark.postgres,
    pytest.mark.timeout(600),
]

APPLY = ("apply", "specs/prod.yaml", "--yes")


@pytest.fixture(scope="module")
def engine() -> Iterator[SecondEngine]:
    made = SecondEngine()
    yield made
    made.close()


@pytest.fixture(scope="module")
def shop(engine: SecondEngine) -> Iterator[Practice]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", engine.address)
        made = Practice.up()
        yield made
        made.down()


@pytest.mark.parametrize(
    "effect",
    [
        "1/capture/docker/build/worker",
        "1/stop/docker/stop/services",
        "1/restore/docker/retag/app",
        "1/start/docker/up/services",
    ],
)
def test_an_engine_restarted_in_the_middle_is_outlived(
    shop: Practice, engine: SecondEngine, effect: str
) -> None:
    shop.reset_to_broken()
    watch_drops(shop)
    process = engine.process
    ended = shop.fork(*APPLY, do_at=(CrashPoint.MID_EFFECT, effect, engine.restart))
    assert ended.code == 0, ended.err
    assert engine.process != process
    world, good = shop.world(), shop.good_world
    assert (world.commit, world.rows, world.versions) == (good.commit, good.rows, good.versions)
    assert {name: state for name, (_, state, _) in world.services.items()} == {
        name: state for name, (_, state, _) in good.services.items()
    }
    assert world.services["app"] == good.services["app"]
    assert len([item for item in shop.effects() if "/rollback/" in item["route"]]) == 1
    assert drops(shop) == {"public.coupons": 1, "public.orders.discount_cents": 1}
    assert ledger_holds(shop.root / "states").phase is Phase.STABLE
