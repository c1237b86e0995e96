"""Faults instead of kills: lost answers, refusals, full disks, servers that die. The same end, each effect once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from reconciler.core.crashpoints import CrashPoint
from reconciler.core.phase import Phase
from reconciler.sandbox.practice_servers import postgres_of
from tests.support.invariants import drops, ledger_holds, no_mixture, watch_drops
from tests.support.mischief import fault
from tests.support.production import Practice

pytestmark = [pytest.mark.crash, pytest.mark.engine, pytest.mark.postgres, pytest.mark.timeout(600)]

APPLY = ("apply", "specs/prod.yaml", "--yes")
ROLLBACK = "/v*/projects/*/rollback/*"
DROPPED = {"public.coupons": 1, "public.orders.discount_cents": 1}


def reached(practice: Practice) -> None:
    """The good release, each effect that cannot be repeated done once, and a ledger that holds."""
    world, good = practice.world(), practice.good_world
    assert (world.commit, world.rows, world.versions) == (good.commit, good.rows, good.versions)
    assert world.services["app"] == good.services["app"]
    assert set(world.aliases.values()) == {good.production}
    assert len([item for item in practice.effects() if "/rollback/" in item["route"]]) == 1
    assert drops(practice) == DROPPED
    assert ledger_holds(practice.root / "states").phase is Phase.STABLE


@pytest.mark.parametrize(
    "what",
    [
        {"kind": "lost-answer", "method": "POST", "path": ROLLBACK, "times": 1},
        {
            "kind": "rate-limited",
            "method": "POST",
            "path": ROLLBACK,
            "times": 2,
            "reset_headers": True,
        },
        {"kind": "rate-limited", "method": "GET", "path": "*", "times": 2, "reset_headers": True},
        {"kind": "error-before", "method": "POST", "path": ROLLBACK, "times": 1, "status": 503},
        {"kind": "error-after", "method": "POST", "path": ROLLBACK, "times": 1, "status": 502},
        {"kind": "error-before", "method": "GET", "path": "*", "times": 2, "status": 500},
        {"kind": "latency", "method": "POST", "path": ROLLBACK, "times": 1, "delay_ms": 17_000},
        {"kind": "slow-aliases", "method": "POST", "path": ROLLBACK, "times": 1, "delay_ms": 1500},
        {"kind": "refused", "method": "*", "path": "*", "times": 1, "delay_ms": 1500},
    ],
    ids=lambda what: f"{what['kind']}-{what['method']}",
)
def test_a_vendor_at_fault_is_outlived(practice: Practice, what: dict[str, Any]) -> None:
    watch_drops(practice)
    fault(practice, **what)
    ended = practice.fork(*APPLY)
    assert ended.code == 0, ended.err
    reached(practice)


_KILL_AND_START = """
import os, signal, time
from pathlib import Path
from reconciler.core.errors import TransientError
from reconciler.sandbox.postgres import PostgresServer

server = PostgresServer(Path({folder!r}))
os.kill(server.pid, signal.SIGKILL)
deadline = time.monotonic() + 20
while True:  # its children end by themselves, and nobody may be waiting for the dead process
    time.sleep(0.2)
    (server.data / "postmaster.pid").unlink(missing_ok=True)
    try:
        server.start()
        break
    except TransientError:
        if time.monotonic() > deadline:
            raise
"""


def test_postgres_killed_in_the_middle_of_a_migration_is_outlived(
    practice: Practice, tmp_path: Path
) -> None:
    watch_drops(practice)
    server = postgres_of(practice.production.places)
    script = tmp_path / "restart.py"
    script.write_text(_KILL_AND_START.format(folder=str(server.folder)))
    version = practice.broken_world.versions[-1]
    at = (
        CrashPoint.MID_EFFECT,
        f"1/restore/database/down/{version}",
        [sys.executable, str(script)],
    )
    ended = practice.fork(*APPLY, do_at=at)
    assert ended.code == 0, ended.err
    reached(practice)


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[None]:
    """Mounts a file system of that size there; needs root, as the private engine does."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def grow(folder: Path) -> None:
    """Gives that disk room."""
    subprocess.run(["mount", "-o", "remount,size=100m", str(folder)], check=True)


def test_a_disk_that_fills_up_during_capture_stalls_and_touches_nothing(practice: Practice) -> None:
    with psycopg.connect(practice.production.dsn) as connection:
        connection.execute(
            "INSERT INTO public.coupons SELECT md5(n::text) || md5((-n)::text), 1 FROM generate_series(1, 20000) n"
        )
    broken = practice.world().production_itself
    captures = practice.root / "states" / "captures"
    with small_disk(captures, 400):
        ended = practice.fork(*APPLY)
        assert ended.code == 3, ended.err
        assert "disk" in ended.err.lower() or "space" in ended.err.lower(), ended.err
        assert practice.world().production_itself == broken
        ledger_holds(practice.root / "states")
        grow(captures)
        watch_drops(practice)
        resumed = practice.fork("resume", "prod", "--reason", "room was made")
        assert resumed.code == 0, resumed.err
        assert practice.world().rows == practice.good_world.rows


@pytest.mark.parametrize("kib", [360, 480, 640, 900])
def test_a_disk_that_fills_up_under_the_ledger_loses_nothing(practice: Practice, kib: int) -> None:
    watch_drops(practice)
    states = practice.root / "states"
    with small_disk(states, kib):
        ended = practice.fork(*APPLY)
        left = practice.world()
        assert ended.code != 0, "the disk was meant to be too small"
        assert "Traceback" not in ended.err
        grow(states)
        again = practice.fork(*APPLY)
        if again.code == 3:  # it had stalled before anything was touched: a human has made room
            again = practice.fork("resume", "prod", "--reason", "room was made")
        assert again.code == 0, again.err
        end = practice.world()
        assert ledger_holds(states).phase is Phase.STABLE
    no_mixture(left, practice.broken_world, end)
    assert end.rows == practice.good_world.rows
    assert len([item for item in practice.effects() if "/rollback/" in item["route"]]) == 1
