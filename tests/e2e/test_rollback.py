"""The whole rollback on real parts: what a user sees, and what Git, Docker, PostgreSQL and Vercel say independently."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import tarfile
import time
from pathlib import Path

import pytest

from tests.support.invariants import drops, ledger_holds, watch_drops
from tests.support.mischief import (
    commit_broken_build,
    commit_change,
    down_file,
    fault,
    forget_earlier_heads,
    plant_canaries,
)
from tests.support.production import Ended, Practice

pytestmark = [pytest.mark.e2e, pytest.mark.engine, pytest.mark.postgres]

SPEC = "specs/prod.yaml"


def apply(practice: Practice, code: int = 0) -> Ended:
    return practice.run("apply", SPEC, "--yes").ok(code)


def edit_spec(practice: Practice, old: str, new: str) -> None:
    text = practice.spec.read_text()
    assert old in text
    practice.spec.write_text(text.replace(old, new))


def files_under(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file()
        and not path.is_symlink()  # a view of a commit links to what lies around the project
        and not path.name.endswith(("-shm", "-wal"))
    }


def test_apply_takes_all_four_systems_back_and_proves_it(practice: Practice) -> None:
    watch_drops(practice)
    ended = apply(practice)
    world = practice.world()
    good = practice.good_world
    assert world.commit == good.commit
    assert world.services["app"][0] == good.services["app"][0]
    assert world.versions == good.versions
    assert world.rows == good.rows
    assert world.production == good.production
    assert set(world.aliases.values()) == {good.production}
    health = practice.production.health()
    assert health is not None
    assert health[0] == 200
    for proof in (good.commit, good.services["app"][0], good.versions[-1], good.production):
        assert str(proof) in ended.out, "the certificate names what was verified"
    assert drops(practice) == {"public.coupons": 1, "public.orders.discount_cents": 1}
    ledger_holds(practice.root / "states")


def test_a_second_apply_changes_nothing(practice: Practice) -> None:
    apply(practice)
    world, ledger, effects = practice.world(), practice.ledger(), practice.effects()
    files, git = files_under(practice.root), practice.reflog()
    since = time.time()
    practice.run("apply", SPEC, "--yes").ok()
    assert practice.container_events(since) == {}
    assert practice.world() == world
    assert (practice.ledger(), practice.effects(), practice.reflog()) == (ledger, effects, git)
    assert files_under(practice.root) == files


def test_plan_lists_every_change_and_touches_nothing(practice: Practice) -> None:
    files, since = files_under(practice.root), time.time()
    ended = practice.run("plan", SPEC, "--exit-code").ok(1)
    assert practice.world() == practice.broken_world
    assert practice.container_events(since) == {}
    new = {name for name in files_under(practice.root) if name not in files}
    assert all(name.startswith("states/cache/") for name in new), new
    for words in ("stop app", "DATA LOSS", "check out", "Vercel", "Expected downtime"):
        assert words in ended.out
    steps = json.loads(practice.run("plan", SPEC, "-o", "json").ok().out)["steps"]
    assert [step["phase"] for step in steps] == sorted(
        (step["phase"] for step in steps), key=["capture", "stop", "restore", "start"].index
    )
    assert {step["subject"] for step in steps if step["data_loss"]} == set(
        practice.broken_world.versions
    ) - set(practice.good_world.versions)


def test_history_reads_as_a_story_and_cannot_be_changed(practice: Practice) -> None:
    apply(practice)
    story = practice.run("history", "prod", "--run", "last").ok().out
    for words in (
        "tester",
        "new -> capture",
        "capture took",
        "done: take down migration",
        "verify -> stable",
    ):
        assert words in story, story
    connection = sqlite3.connect(practice.root / "states" / "audit.db")
    for statement in ("UPDATE ledger SET actor = 'nobody'", "DELETE FROM ledger"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    connection.close()


def untouched(practice: Practice, ended: Ended, *words: str) -> None:
    """Stalled in capture: exit 3, a message with the next action, and production as it was."""
    assert practice.world().production_itself == practice.broken_world.production_itself
    for word in (*words, "Next:", "Production was not touched"):
        assert word in ended.err, ended.err
    ledger_holds(practice.root / "states")


def test_a_missing_image_is_found_in_capture(practice: Practice) -> None:
    edit_spec(practice, "-app:1.4.0", "-app:9.9.9")
    untouched(practice, apply(practice, 3), "9.9.9")


def test_a_missing_commit_is_found_in_capture(practice: Practice) -> None:
    edit_spec(practice, practice.good_world.commit, "0123456789abcdef0123456789abcdef01234567")
    untouched(practice, apply(practice, 3), "0123456")


def test_a_build_that_fails_is_found_in_capture(practice: Practice) -> None:
    broken = commit_broken_build(practice)
    edit_spec(practice, practice.good_world.commit, broken)
    ended = apply(practice, 3)
    assert practice.world().containers == practice.broken_world.containers
    assert "build" in ended.err


def test_an_archive_that_is_not_the_declared_one_is_found_in_capture_and_the_right_one_is_restored(
    practice: Practice, tmp_path: Path
) -> None:
    docker, project = practice.production.engine.docker, practice.production.record.name
    inside = ("exec", f"{project}-app-1", "cat", "/srv/uploads/invoice-1.txt")
    archive = practice.root / "specs" / "uploads.tar.gz"
    docker("cp", f"{project}-app-1:/srv/uploads", str(tmp_path))
    tmp_path.joinpath("uploads", "invoice-1.txt").write_text("paid\n")
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "uploads", ".")
    volume = '    volumes: {uploads: {restore: specs/uploads.tar.gz, sha256: "%s"}}\n'
    edit_spec(practice, "\n  database:", "\n" + volume % ("0" * 64) + "\n  database:")
    untouched(practice, apply(practice, 3), "uploads.tar.gz has the digest")
    edit_spec(practice, "0" * 64, hashlib.sha256(archive.read_bytes()).hexdigest())
    apply(practice)
    assert docker(*inside) == "paid"
    assert practice.world().rows == practice.good_world.rows


def test_an_absent_down_file_is_found_in_capture(practice: Practice) -> None:
    version = practice.broken_world.versions[-1]
    commit = commit_change(practice, lambda root: down_file(root, version).unlink())
    forget_earlier_heads(practice)  # where HEAD stood before would be looked through too
    ended = apply(practice, 3)
    assert practice.world().containers == practice.broken_world.containers
    assert practice.world().versions == practice.broken_world.versions
    assert version in ended.err
    assert "rollbacks" in ended.err
    assert practice.world().commit == commit


def test_a_down_file_that_fails_in_its_second_statement_is_found_in_capture(
    practice: Practice,
) -> None:
    version = practice.broken_world.versions[-1]

    def spoil(root: Path) -> None:
        path = down_file(root, version)
        path.write_text(path.read_text() + "\nALTER TABLE public.nothing DROP COLUMN here;\n")

    commit_change(practice, spoil)
    ended = apply(practice, 3)
    assert practice.world().containers == practice.broken_world.containers
    assert practice.world().schema == practice.broken_world.schema
    assert practice.world().rows == practice.broken_world.rows
    assert "42P01" in ended.err


def test_data_loss_is_refused_by_policy(practice: Practice) -> None:
    edit_spec(practice, "allowDataLoss: true", "allowDataLoss: false")
    ended = apply(practice, 4)
    assert practice.world().production_itself == practice.broken_world.production_itself
    assert "allowDataLoss" in ended.err


def test_an_ineligible_deployment_is_found_in_capture(practice: Practice) -> None:
    never = practice.production.vercel.call(
        "POST",
        "/v13/deployments",
        {"name": "practice-shop", "target": "staging", "gitSource": {"sha": "f" * 40, "ref": "x"}},
    )
    assert isinstance(never, dict)
    edit_spec(practice, str(practice.good_world.production), str(never["id"]))
    ended = apply(practice, 3)
    assert practice.world().containers == practice.broken_world.containers
    assert practice.world().production == practice.broken_world.production
    assert "Production was not touched" in ended.err


def test_what_fails_late_is_compensated_and_the_old_vector_is_back_row_by_row(
    practice: Practice,
) -> None:
    fault(practice, kind="alias-fails", method="POST", path="/v*/rollback/*", times=1)
    ended = apply(practice, 1)
    world, old = practice.world(), practice.broken_world
    assert world.release == old.release, (
        "schema, rows, images, commit and deployment are those from before"
    )
    assert world.branch == old.branch
    assert "vector from before the run" in ended.out
    assert "Then: change the spec, or reconciler resume prod" in ended.err
    for proof in (old.commit, old.services["app"][0], old.versions[-1], old.production):
        assert str(proof) in ended.out
    ledger_holds(practice.root / "states")
    ledger = practice.ledger()
    held = practice.run("apply", SPEC, "--yes").ok(3)
    assert "Held" in held.err
    assert practice.ledger() == ledger, "a failed generation is not tried again"
    practice.run("resume", "prod", "--reason", "the alias is mended").ok()
    assert practice.world().commit == practice.good_world.commit
    ledger_holds(practice.root / "states")


def test_a_rollback_by_command_sticks_against_the_bad_spec(practice: Practice) -> None:
    apply(practice)
    good = practice.world().release
    practice.production.break_()
    bad_spec(practice)
    practice.run("apply", SPEC, "--yes")  # the bad release, verified or not, is where production is
    practice.run("rollback", "prod", "--yes", "--reason", "customers cannot pay").ok()
    assert practice.world().release == good
    for _ in range(2):
        practice.run("apply", SPEC, "--yes").ok(3)
        assert practice.world().release == good
    watching = practice.start("watch", "specs", "--interval", "300ms")
    try:
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            time.sleep(0.3)
            assert practice.world().commit == good["commit"]
    finally:
        watching.terminate()
        watching.communicate(timeout=30)
    assert practice.world().release == good


def bad_spec(practice: Practice) -> None:
    """The spec that asks for the release that runs, bad as it is."""
    bad = practice.broken_world
    text = practice.spec.read_text()
    text = text.replace(practice.good_world.commit, bad.commit)
    text = text.replace("-app:1.4.0", "-app:1.5.0").replace(
        practice.good_world.versions[-1], bad.versions[-1]
    )
    text = text.replace(str(practice.good_world.production), str(bad.production))
    head, _, tail = text.partition("    checks:")
    practice.spec.write_text(
        head + "    checks: []\n\n  policy:" + tail.partition("\n  policy:")[2]
    )


def test_a_second_apply_at_the_same_time_is_held_off(practice: Practice) -> None:
    first = practice.start("apply", SPEC, "--yes")
    try:
        deadline = time.monotonic() + 30
        while not practice.ledger() and time.monotonic() < deadline:
            time.sleep(0.01)
        second = practice.run("apply", SPEC, "--yes").ok(5)
        assert f"pid {first.pid}" in second.err
    finally:
        _, err = first.communicate(timeout=120)
    assert first.returncode == 0, err


def test_no_secret_is_written_anywhere(practice: Practice) -> None:
    canaries = plant_canaries(practice)
    ended = apply(practice)
    outputs = [ended.out, ended.err]
    for command in (
        ("history", "prod"),
        ("history", "prod", "-o", "json"),
        ("history", "prod", "-o", "csv"),
        ("status", "prod", "-o", "json"),
        ("plan", SPEC, "-o", "json"),
    ):
        seen = practice.run(*command)
        outputs += [seen.out, seen.err]
    for canary in canaries:
        assert not any(canary in text for text in outputs), canary
        for path in (practice.root / "states").rglob("*"):
            if path.is_file() and not path.is_symlink():
                assert canary.encode() not in path.read_bytes(), (path, canary)
    assert (practice.root / "states" / "captures").stat().st_mode & 0o077 == 0
