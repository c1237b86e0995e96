"""The rollback state file: whole or not there, readable by anybody, written again when it was deleted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from reconciler.audit import statefile
from reconciler.audit.statefile import StateFile, document, write_state_file
from reconciler.core.crashpoints import CrashPoint
from reconciler.core.errors import LedgerError
from reconciler.core.phase import Phase
from tests.support.world import BAD_VECTOR, GOOD, GOOD_VECTOR, Crash, Stage, crash_at, source


def _stage() -> Stage:
    stage = Stage()
    stage.listeners = (StateFile(stage.folder),)
    return stage


def _read(stage: Stage) -> Any:
    """The file as any reader of YAML 1.2 sees it."""
    parser = YAML(typ="safe", pure=True)
    parser.version = "1.2"
    return parser.load((stage.folder / "prod.yaml").read_text(encoding="utf-8"))


def test_it_says_what_the_ledger_says_and_survives_being_read() -> None:
    with _stage() as stage:
        status = stage.engine().converge(source(GOOD))
        state = _read(stage)
        assert state == document(status)
        assert (state["kind"], state["metadata"]["name"]) == ("EnvironmentState", "prod")
        assert state["status"]["phase"] == "stable"
        assert state["status"]["lastKnownGood"]["vector"]["git.commit"] == "good"
        assert state["status"]["ledgerEntries"] == len(stage.entries())


@pytest.mark.parametrize(
    "value",
    [
        "no",
        "1e3",
        "0o17",
        "1_000",
        "null",
        "~",
        "2025-11-18",
        "0123456",
        "- a",
        "# b",
        "a: b",
        "é\u2028",
        "*x",
    ],
)
def test_text_that_looks_like_something_else_stays_text(value: str) -> None:
    with _stage() as stage:
        stage.world.deployment = value
        stage.world.commit = value
        stage.engine().converge(source({**GOOD, "deployment": "dpl_good"}))
        assert _read(stage)["status"]["run"]["before"]["vercel.deployment"] == value


def test_absent_values_of_a_vector_are_kept_and_empty_sections_are_not() -> None:
    with _stage() as stage:
        stage.engine().converge(source(GOOD))
        state = _read(stage)["status"]
        assert state["observed"]["docker.volume.data.restored"] is None
        assert "held" not in state
        assert "suspended" not in state


def test_a_deleted_file_is_written_again_by_the_next_command_that_acts() -> None:
    with _stage() as stage:
        stage.engine().converge(source(GOOD))
        path = stage.folder / "prod.yaml"
        before, entries = path.read_bytes(), stage.entries()
        stage.engine().converge(source(GOOD))
        assert path.read_bytes() == before
        path.unlink()
        stage.engine().converge(source(GOOD))
        assert path.read_bytes() == before
        assert stage.entries() == entries, "writing it again is nothing to record"


def test_a_pass_without_work_does_not_write_it() -> None:
    with _stage() as stage:
        stage.engine().converge(source(GOOD))
        path = stage.folder / "prod.yaml"
        before = path.stat()
        stage.engine().converge(source(GOOD))
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_it_is_not_written_while_services_are_down() -> None:
    with _stage() as stage:
        with pytest.raises(Crash):
            stage.engine(crash_at(CrashPoint.BEFORE_INTENT, "up/services")).converge(source(GOOD))
        assert _read(stage)["status"]["phase"] == "capture"
        assert stage.status().phase is Phase.START


def test_a_write_that_fails_leaves_the_old_file_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    with _stage() as stage:
        status = stage.engine().converge(source(GOOD))
        before = (stage.folder / "prod.yaml").read_bytes()

        def full(self: Path, *_: object, **__: object) -> int:
            self.touch()
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_text", full)
        with pytest.raises(LedgerError, match="No space left"):
            write_state_file(stage.folder, status)
        assert (stage.folder / "prod.yaml").read_bytes() == before
        assert not [path for path in stage.folder.iterdir() if path.name.startswith(".")]


def test_a_file_that_cannot_be_written_is_said_when_all_is_done_and_not_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def denied(folder: Path, status: object) -> Path:
        raise LedgerError("The state file cannot be written: Permission denied.")

    with _stage() as stage:
        assert stage.world.vector() == BAD_VECTOR
        monkeypatch.setattr(statefile, "write_state_file", denied)
        with pytest.raises(LedgerError, match="Permission denied"):
            stage.engine().converge(source(GOOD))
        assert stage.world.vector() == GOOD_VECTOR
        assert stage.status().phase is Phase.STABLE
