"""Every crash point of every effect of the full rollback: a real SIGKILL, the same command again, the same end."""

from __future__ import annotations

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
Point = tuple[CrashPoint, str]
APPLY = ("apply", "specs/prod.yaml", "--yes")
DROPPED = {"public.coupons": 1, "public.orders.discount_cents": 1}


@pytest.fixture(scope="module")
def undisturbed(
    practice_session: Practice, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Point], World]:
    """The crash points of an undisturbed run, and where it ends."""
    practice_session.reset_to_broken()
    record = tmp_path_factory.mktemp("undisturbed") / "points"
    ended = practice_session.fork(*APPLY, record=record)
    assert ended.code == 0, ended.err
    return check_registry(list(read_points(record))), practice_session.world()


def check_registry(points: list[Point]) -> list[Point]:
    """All points of all effects, each once: counted against the registry, so that none is forgotten."""
    effects = {effect for _, effect in points}
    registry = {(point, effect) for point in CrashPoint for effect in effects}
    assert set(points) == registry, "every effect announces every point of the registry"
    assert len(points) == len(registry) > 80
    assert {effect.split("/")[2] for effect in effects} == {"git", "docker", "database", "vercel"}
    assert {effect.split("/")[1] for effect in effects} == {"capture", "stop", "restore", "start"}
    return points


def in_capture(at: Point) -> bool:
    return "/capture/" in at[1]


def test_kills_at_every_point_of_capture_touch_nothing_and_are_survived(
    undisturbed: tuple[list[Point], World], practice: Practice
) -> None:
    """One rollback, killed at each point of each preparation in turn: each restart gets one point further."""
    points, end = undisturbed
    mine = [at for at in points if in_capture(at)]
    watch_drops(practice)
    found = practice.world().production_itself
    for at in mine:
        killed = practice.fork(*APPLY, kill_at=at)
        assert killed.killed, (at, killed)
    assert practice.world().production_itself == found
    _goes_on_to(practice, end, "after capture")
    before = practice.ledger()
    for _ in range(10):
        assert practice.fork(*APPLY).code == 0
    assert practice.ledger() == before, "passes without work write nothing"


@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_kill_at_any_point_after_capture_leads_to_the_same_end(
    shard: int, undisturbed: tuple[list[Point], World], practice: Practice
) -> None:
    points, end = undisturbed
    mine = [at for at in points if not in_capture(at)]
    for at in mine[shard::SHARDS]:
        practice.reset_to_broken()
        watch_drops(practice)
        killed = practice.fork(*APPLY, kill_at=at)
        assert killed.killed, (at, killed)
        no_mixture(practice.world(), practice.broken_world, end)
        _goes_on_to(practice, end, at)


def _goes_on_to(practice: Practice, end: World, after: object) -> None:
    """The same command again ends where the undisturbed one did, with each effect done once (O1 to O5, O7)."""
    ended = practice.fork(*APPLY)
    assert ended.code == 0, (after, ended.err[-3000:])
    assert practice.world().release == end.release, after
    rollbacks = [effect for effect in practice.effects() if "/rollback/" in effect["route"]]
    assert len(rollbacks) == 1, (after, rollbacks)
    assert drops(practice) == DROPPED, after
    assert ledger_holds(practice.root / "states").phase is Phase.STABLE, after
