"""Captures: those of the newest runs are kept, and those that something still rests on."""

from __future__ import annotations

from pathlib import Path

from reconciler.core.conditions import Reason
from reconciler.core.pins import DockerPins, Pins, VolumePin
from reconciler.core.status import EnvironmentStatus, Override
from reconciler.phases.keeping import needed_captures, prune_captures
from tests.support.records import START, artifact, run


def _folder(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "saved").write_text("x")
    return root


def test_the_newest_are_kept(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "20250101-1", "20250102-2", "20250103-3")
    assert prune_captures(folder, keep=2) == ["20250101-1"]
    assert sorted(path.name for path in folder.iterdir()) == ["20250102-2", "20250103-3"]
    assert prune_captures(folder / "nowhere") == []


def test_what_an_environment_is_held_at_is_kept_however_old(tmp_path: Path) -> None:
    volumes = {
        "data": VolumePin(path="captures/prod/20250101-1/1/data.tar", sha256="0" * 64, own=True)
    }
    held = Override(
        generation=1, reason=Reason.COMPENSATED, message="", by="ada", at=START,
        pins=Pins(docker=DockerPins(volumes=volumes)),
    )  # fmt: skip
    made = run(artifacts=(artifact("logs", "app", "captures/prod/20250102-2/1/app.log"),))
    status = EnvironmentStatus(environment="prod", override=held, run=made)
    assert needed_captures(status) == {"20250101-1", "20250102-2"}
    folder = _folder(tmp_path, "20250101-1", "20250102-2", "20250103-3", "20250104-4")
    assert prune_captures(folder, keep=1, needed=needed_captures(status)) == ["20250103-3"]
