"""Every crash point of every effect of the full rollback: a real SIGKILL, the same command again, the same end."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.core.crashpoints import CrashPoint
from reconciler.core.phase import Phase
from tests.support.invariants import drops, ledger_holds, no_mixture, watch_drops
from tests.support.production import Practice, World
from tests.support.zygote import read_points

pytestmark = [
    pytest.mark.crash,
    pytest.mark.engine,
    pytest.mark.postgres,
    pytest.mark.timeout(1200),
]

SHARDS = 6
APPLY = ("apply", "specs/prod.yaml", "--yes")
DROPPED = {"public.coupons": 1, "public.orders.discount_cents": 1}


def fault_free(practice: Practice, folder: Path) -> tuple[list[tuple[CrashPoint, str]], World]:
    """The crash points of an undisturbed run, and where it ends."""
    watch_drops(practice)
    record = folder / "points"
    ended = practice.fork(*APPLY, record=record)
    assert ended.code == 0, ended.err
    return list(read_points(record)), practice.world()


@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_kill_at_any_point_leads_to_the_same_end(
    shard: int, practice: Practice, tmp_path: Path
) -> None:
    points, end = fault_free(practice, tmp_path)
    effects = {effect for _, effect in points}
    registry = {(point, effect) for point in CrashPoint for effect in effects}
    assert set(points) == registry, "every effect announces every point of the registry"
    assert len(points) == len(registry) > 80, "all points, each once"
    assert {effect.split("/")[2] for effect in effects} == {"git", "docker", "database", "vercel"}
    for point, effect in points[shard::SHARDS]:
        practice.reset_to_broken()
        watch_drops(practice)
        _kill_and_go_on(practice, (point, effect), end)


def _kill_and_go_on(practice: Practice, at: tuple[CrashPoint, str], end: World) -> None:
    killed = practice.fork(*APPLY, kill_at=at)
    assert killed.killed, (at, killed)
    no_mixture(practice.world(), practice.broken_world, end)
    ended = practice.fork(*APPLY)
    assert ended.code == 0, (at, ended.err[-3000:])
    assert practice.world().release == end.release, at
    rollbacks = [effect for effect in practice.effects() if "/rollback/" in effect["route"]]
    assert len(rollbacks) == 1, (at, rollbacks)
    assert drops(practice) == DROPPED, at
    status = ledger_holds(practice.root / "states")
    assert status.phase is Phase.STABLE, at
    before = practice.ledger()
    again = practice.fork(*APPLY)
    assert again.code == 0, (at, again.err)
    assert practice.ledger() == before, (at, "a pass without work writes nothing")
