"""Backup and restore of volumes on a real engine; kills at every announced point, then once more."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import secrets
import signal
import subprocess
import sys
import tarfile
import textwrap
import tracemalloc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import docker.errors
import docker.types
import pytest
import zstandard

from reconciler.core.crashpoints import CrashPoint
from reconciler.core.errors import (
    CaptureCorruptError,
    LeaseLostError,
    PreflightError,
    StepFailedError,
    TargetUnavailableError,
)
from reconciler.core.facts import volume_restored
from reconciler.targets.volumes import TOKEN, VolumeStore
from tests.support.programs import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from docker import DockerClient

    from reconciler.core.pins import Artifact
    from tests.support.engine import Engine

pytestmark = pytest.mark.engine
PROJECT_LABEL = "com.docker.compose.project"


class Crash(BaseException):
    """The process dies here."""


@dataclass
class Context:
    """What a runner lends; dies at the n-th point when told to."""

    states: Path
    die_at: int = 0
    guard_hook: Callable[[], None] = lambda: None
    run: str = "run-1"
    attempted: datetime | None = None
    artifacts: Sequence[Artifact] = ()
    points: list[CrashPoint] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @property
    def captures(self) -> Path:
        return self.states / "captures"

    def at(self, point: CrashPoint) -> None:
        self.points.append(point)
        if len(self.points) == self.die_at:
            raise Crash

    def guard(self) -> None:
        self.guard_hook()

    def progress(self, message: str) -> None:
        self.said.append(message)

    def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing is waited for")


@dataclass
class World:
    """A Compose project's volume on a real engine."""

    client: DockerClient
    project: str
    image: str
    states: Path

    @property
    def volume(self) -> str:
        return f"{self.project}_data"

    def store(self, project: str | None = None) -> VolumeStore:
        return VolumeStore(
            lambda: self.client, project or self.project, lambda: self.image, states=self.states
        )

    def context(self, **more: Any) -> Context:
        return Context(self.states, **more)

    def make(self, name: str | None = None, **labels: str) -> None:
        marks = {PROJECT_LABEL: self.project, "com.docker.compose.volume": "data", **labels}
        self.client.volumes.create(name or self.volume, labels=marks)

    def put(self, data: bytes) -> None:
        with self.mounted() as container:
            assert container.put_archive("/v", data)

    def listing(self) -> dict[str, tuple[Any, ...]]:
        """Everything in the volume as the engine reads it: type, mode, owner, time, link, digest."""
        with self.mounted() as container:
            pieces, _ = container.get_archive("/v/.")
            stream = io.BytesIO(b"".join(pieces))
        found: dict[str, tuple[Any, ...]] = {}
        with tarfile.open(fileobj=stream) as archive:
            for each in archive:
                content = archive.extractfile(each) if each.isfile() else None
                found[each.name.removeprefix("./")] = (
                    each.type,
                    each.mode & 0o7777,
                    each.uid,
                    each.gid,
                    each.mtime if not each.isdir() else None,
                    each.linkname,
                    hashlib.sha256(content.read()).hexdigest() if content else None,
                )
        return found

    def mounted(self, volume: str | None = None, **more: Any) -> Mounted:
        return Mounted(self, volume or self.volume, more)

    def leftovers(self) -> list[str]:
        """Helper containers that nobody removed."""
        found = self.client.containers.list(
            all=True, filters={"label": "reconciler.helper", "volume": self.volume}
        )
        return [str(each.name) for each in found]


@dataclass
class Mounted:
    """A container of the test's own that mounts a volume."""

    world: World
    volume: str
    more: dict[str, Any]

    def __enter__(self) -> Any:
        mount = docker.types.Mount("/v", self.volume, type="volume", no_copy=True)
        self.container = self.world.client.containers.create(
            self.world.image, mounts=[mount], **{"command": ["sleep", "1000"], **self.more}
        )
        return self.container

    def __exit__(self, *_: object) -> None:
        self.container.remove(force=True)


@pytest.fixture
def world(engine: Engine, tmp_path: Path) -> Iterator[World]:
    project = f"rrtest-{secrets.token_hex(4)}"
    (tmp_path / "states" / "captures").mkdir(parents=True, mode=0o700)
    made = World(engine.client, project, engine.base_image, tmp_path / "states")
    yield made
    for container in engine.client.containers.list(all=True, filters={"volume": made.volume}):
        container.remove(force=True)
    for volume in engine.client.volumes.list():
        if str(volume.name).startswith(project):
            volume.remove(force=True)


def tar(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        root = tarfile.TarInfo("./")
        root.type, root.mode, root.uid, root.gid = tarfile.DIRTYPE, 0o700, 70, 71
        archive.addfile(root)
        folder = tarfile.TarInfo("./base")
        folder.type, folder.mode, folder.uid = tarfile.DIRTYPE, 0o750, 1000
        archive.addfile(folder)
        for name, data in files.items():
            info = tarfile.TarInfo(f"./base/{name}")
            info.size, info.mode, info.uid, info.gid, info.mtime = len(data), 0o640, 70, 71, 1e9
            archive.addfile(info, io.BytesIO(data))
        for name, kind, target in (
            ("hard", tarfile.LNKTYPE, f"./base/{next(iter(files))}"),
            ("soft", tarfile.SYMTYPE, f"base/{next(iter(files))}"),
        ):
            info = tarfile.TarInfo(f"./{name}")
            info.type, info.linkname, info.uid, info.gid = kind, target, 70, 71
            info.mode, info.mtime = 0o640, 1e9
            archive.addfile(info)
    return stream.getvalue()


OLD = tar(precious=b"as it was", extra=b"x" * 5000)
NEW = tar(restored=b"as it shall be", big=os.urandom(3_000_000))


def archive(folder: Path, data: bytes, name: str = "backup.tar.zst") -> tuple[Path, str]:
    path = folder / name
    packed = data if name.endswith(".tar") else zstandard.ZstdCompressor().compress(data)
    if name.endswith(".gz"):
        packed = subprocess.run(["gzip", "-c"], input=data, stdout=-1, check=True).stdout
    path.write_bytes(packed)
    return path, hashlib.sha256(packed).hexdigest()


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.zst"])
def test_a_restore_brings_everything_back_and_leaves_nothing_else(
    world: World, tmp_path: Path, name: str
) -> None:
    world.make(note="kept")
    world.put(OLD)
    path, digest = archive(tmp_path, NEW, name)
    store, context = world.store(), world.context()
    assert store.check_archive(path, digest).members == 6
    fact = store.restore(world.volume, path, digest, context)
    assert (fact.key, fact.value) == (volume_restored(world.volume), digest)
    found = world.listing()
    assert set(found) == {".", "base", "base/restored", "base/big", "hard", "soft"}
    assert found["."][1:4] == (0o700, 70, 71)
    assert found["base"][1:4] == (0o750, 1000, 0)
    assert found["base/restored"][1:5] == (0o640, 70, 71, 1e9)
    assert found["soft"][5] == "base/restored"
    linked = {found["hard"][0], found["base/restored"][0]}
    assert linked == {tarfile.LNKTYPE, tarfile.REGTYPE}
    labels = world.client.volumes.get(world.volume).attrs["Labels"]
    assert labels["note"] == "kept"
    assert labels[PROJECT_LABEL] == world.project
    assert store.observe(world.volume).value == digest
    assert world.leftovers() == []
    assert context.points[-1] is CrashPoint.APPLIED_UNREAD


def test_an_archive_without_the_folder_itself_leaves_its_owner_as_it_was(
    world: World, tmp_path: Path
) -> None:
    world.make()
    world.store().restore(world.volume, *archive(tmp_path, OLD), world.context())
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as made:
        made.addfile(tarfile.TarInfo("alone"))
    world.store().restore(world.volume, *archive(tmp_path, stream.getvalue()), world.context())
    assert world.listing()["."][1:4] == (0o700, 70, 71)
    assert set(world.listing()) == {".", "alone"}


def test_restoring_twice_changes_nothing_the_second_time(world: World, tmp_path: Path) -> None:
    world.make()
    path, digest = archive(tmp_path, NEW)
    world.store().restore(world.volume, path, digest, world.context())
    token = world.client.volumes.get(world.volume).attrs["Labels"][TOKEN]
    context = world.context()
    assert world.store().restore(world.volume, path, digest, context).value == digest
    assert world.client.volumes.get(world.volume).attrs["Labels"][TOKEN] == token
    assert context.points == []


def test_another_archive_replaces_the_first(world: World, tmp_path: Path) -> None:
    world.make()
    for data in (OLD, NEW):
        path, digest = archive(tmp_path, data)
        world.store().restore(world.volume, path, digest, world.context())
        assert world.store().observe(world.volume).value == digest
    assert "base/precious" not in world.listing()


def test_a_volume_that_never_was_is_made_as_compose_would(world: World, tmp_path: Path) -> None:
    path, digest = archive(tmp_path, NEW)
    world.store().restore(world.volume, path, digest, world.context())
    labels = world.client.volumes.get(world.volume).attrs["Labels"]
    assert labels[PROJECT_LABEL] == world.project
    assert labels["com.docker.compose.volume"] == "data"


def test_observing_a_volume_that_is_not_there_or_never_restored(world: World) -> None:
    assert world.store().observe(world.volume).value is None
    world.make()
    fact = world.store().observe(world.volume)
    assert fact.known
    assert fact.value is None


def test_a_volume_made_anew_is_not_taken_for_restored(world: World, tmp_path: Path) -> None:
    path, digest = archive(tmp_path, NEW)
    world.store().restore(world.volume, path, digest, world.context())
    world.client.volumes.get(world.volume).remove()
    assert world.store().observe(world.volume).value is None
    world.make()
    assert world.store().observe(world.volume).value is None


def test_an_engine_that_is_away_is_unknown() -> None:
    # Over TCP: the SDK leaves sockets of the other kind open when nobody answers.
    client = docker.DockerClient(base_url="tcp://127.0.0.1:1", version="1.41")
    store = VolumeStore(lambda: client, "p", lambda: "x")
    assert "cannot be reached" in str(store.observe("v").unknown)
    with pytest.raises(TargetUnavailableError):
        store.exists("v")
    client.close()


# what is refused


def test_a_volume_in_use_is_left_alone(world: World, tmp_path: Path) -> None:
    world.make()
    world.put(OLD)
    path, digest = archive(tmp_path, NEW)
    with world.mounted(name=f"{world.project}-db") as container:
        with pytest.raises(StepFailedError, match=f"in use by {world.project}-db"):
            world.store().restore(world.volume, path, digest, world.context())
        container.start()
        with pytest.raises(StepFailedError, match=f"in use by {world.project}-db"):
            world.store().backup(world.volume, world.states / "b.tar.zst", world.context())
    assert "base/precious" in world.listing()


@pytest.mark.parametrize(
    ("label", "words"), [(None, "external to Compose"), ("other", "Compose project other")]
)
def test_a_volume_of_somebody_else_is_left_alone(
    world: World, tmp_path: Path, label: str | None, words: str
) -> None:
    labels = {PROJECT_LABEL: label} if label else {}
    world.client.volumes.create(world.volume, labels=labels)
    world.put(OLD)
    path, digest = archive(tmp_path, NEW)
    with pytest.raises(PreflightError, match=words):
        world.store().check_volume(world.volume)
    with pytest.raises(PreflightError, match=words):
        world.store().restore(world.volume, path, digest, world.context())
    assert "base/precious" in world.listing()


def test_a_volume_that_lies_elsewhere_is_left_alone(world: World, tmp_path: Path) -> None:
    options = {"type": "none", "o": "bind", "device": str(tmp_path)}
    labels = {PROJECT_LABEL: world.project}
    world.client.volumes.create(world.volume, driver_opts=options, labels=labels)
    with pytest.raises(PreflightError, match="not kept on the engine's own disk"):
        world.store().check_volume(world.volume)


def test_an_archive_of_another_digest_touches_nothing(world: World, tmp_path: Path) -> None:
    world.make()
    world.put(OLD)
    path, digest = archive(tmp_path, NEW)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(PreflightError, match="has the digest"):
        world.store().check_archive(path, digest)
    with pytest.raises(CaptureCorruptError, match="was not touched"):
        world.store().restore(world.volume, path, digest, world.context())
    assert "base/precious" in world.listing()
    assert world.client.volumes.list(filters={"name": f"{world.volume}.restoring"}) == []


def test_an_archive_that_changes_on_the_way_is_never_called_restored(
    world: World, tmp_path: Path
) -> None:
    world.make()
    path, digest = archive(tmp_path, NEW, "a.tar")

    def change() -> None:
        with path.open("r+b") as file:
            file.seek(5000)
            file.write(b"changed")

    context = world.context(guard_hook=change)
    with pytest.raises(CaptureCorruptError, match="changed while"):
        world.store().restore(world.volume, path, digest, context)
    assert world.store().observe(world.volume).value is None


def test_a_lost_lease_removes_nothing(world: World, tmp_path: Path) -> None:
    world.make()
    world.put(OLD)
    path, digest = archive(tmp_path, NEW)

    def lost() -> None:
        raise LeaseLostError("somebody else holds it")

    with pytest.raises(LeaseLostError):
        world.store().restore(world.volume, path, digest, world.context(guard_hook=lost))
    assert "base/precious" in world.listing()


# crashes


def test_a_crash_at_any_point_then_once_more_ends_the_same(world: World, tmp_path: Path) -> None:
    path, digest = archive(tmp_path, NEW)
    counted = world.context()
    world.make(note="kept")
    world.store().restore(world.volume, path, digest, counted)
    wanted = world.listing()
    for point in range(1, len(counted.points) + 1):
        world.client.volumes.get(world.volume).remove()
        world.make(note="kept")
        world.put(OLD)
        with pytest.raises(Crash):
            world.store().restore(world.volume, path, digest, world.context(die_at=point))
        restored = world.store().observe(world.volume).value
        assert restored == (digest if point == len(counted.points) else None)
        world.store().restore(world.volume, path, digest, world.context())
        assert world.store().observe(world.volume).value == digest
        assert world.listing() == wanted
        labels = world.client.volumes.get(world.volume).attrs["Labels"]
        assert labels["note"] == "kept"
        assert world.leftovers() == []
    assert world.client.volumes.list(filters={"name": f"{world.volume}.restoring"}) == []


KILLED = """
import os, signal, sys
from pathlib import Path
import docker
from reconciler.targets.volumes import VolumeStore

class Context:
    run, attempted, artifacts, said = "r", None, (), 0
    states = captures = Path(sys.argv[5])
    def at(self, point): pass
    def guard(self): pass
    def sleep(self, seconds): pass
    def progress(self, message): pass

class Reader:
    # dies after so many pieces of the archive
    def __init__(self, read, pieces):
        self.read_, self.left = read, pieces
    def read(self, size, /):
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.read_(size)

from reconciler.targets import volumes
original = volumes.unpacked
def dying(source):
    kind, content = original(source)
    return kind, Reader(content.read, int(sys.argv[6]))
volumes.unpacked = dying
client = docker.from_env(timeout=60)
store = VolumeStore(lambda: client, sys.argv[1], lambda: sys.argv[2], states=None)
store.restore(f"{sys.argv[1]}_data", Path(sys.argv[3]), sys.argv[4], Context())
"""


@pytest.mark.crash
@pytest.mark.parametrize("pieces", [0, 1, 2])
def test_killed_in_the_middle_of_filling_then_once_more(
    world: World, engine: Engine, tmp_path: Path, pieces: int
) -> None:
    world.make(note="kept")
    world.put(OLD)
    path, digest = archive(tmp_path, NEW)
    argv = [world.project, world.image, str(path), digest, str(world.states), str(pieces)]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), *argv],
        env=engine.env,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert world.store().observe(world.volume).value is None
    world.store().restore(world.volume, path, digest, world.context())
    assert world.store().observe(world.volume).value == digest
    assert {"base/restored", "base/big"} < set(world.listing())
    assert "base/precious" not in world.listing()
    assert world.client.volumes.get(world.volume).attrs["Labels"]["note"] == "kept"
    assert world.leftovers() == []


# backups


def test_a_backup_is_whole_private_and_comes_back(world: World, tmp_path: Path) -> None:
    world.make()
    world.put(OLD)
    before = world.listing()
    dest = world.states / "captures" / "data.tar.zst"
    store, context = world.store(), world.context()
    artifact = store.backup(world.volume, dest, context)
    assert (artifact.kind, artifact.subject) == ("volume-backup", world.volume)
    assert artifact.path == "captures/data.tar.zst"
    assert artifact.size == dest.stat().st_size
    assert artifact.sha256 == hashlib.sha256(dest.read_bytes()).hexdigest()
    assert dest.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in dest.parent.iterdir()] == [dest.name]
    assert context.points == [CrashPoint.MID_EFFECT, CrashPoint.APPLIED_UNREAD]
    path, digest = archive(tmp_path, NEW)
    store.restore(world.volume, path, digest, world.context())
    store.restore(world.volume, dest, artifact.sha256, world.context())
    assert world.listing() == before
    assert store.observe(world.volume).value == artifact.sha256


def test_an_empty_volume_can_be_backed_up(world: World) -> None:
    world.make()
    artifact = world.store().backup(world.volume, world.states / "e.tar.zst", world.context())
    assert artifact.meta["members"] == "1"


def test_a_volume_with_absolute_links_and_a_fifo_survives_the_way_there_and_back(
    world: World,
) -> None:
    world.make()
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as made:
        for name, kind, target in (
            ("python", tarfile.SYMTYPE, "/usr/bin/python3"),
            ("queue", tarfile.FIFOTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            made.addfile(info)
    world.put(stream.getvalue())
    before = world.listing()
    dest = world.states / "captures" / "data.tar.zst"
    artifact = world.store().backup(world.volume, dest, world.context())
    world.store().check_archive(dest, artifact.sha256)
    world.client.volumes.get(world.volume).remove()
    world.store().restore(world.volume, dest, artifact.sha256, world.context())
    assert world.listing() == before


def test_a_backup_of_nothing_is_refused(world: World) -> None:
    with pytest.raises(StepFailedError, match="There is no volume"):
        world.store().backup(world.volume, world.states / "x.tar.zst", world.context())


def test_a_full_disk_says_how_much_is_needed_and_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.make()
    world.put(NEW)
    written, real = 0, os.write

    def full(descriptor: int, data: bytes) -> int:
        nonlocal written
        written += len(data)
        if written > 1_000_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr("reconciler.targets.volume_backup.os.write", full)
    dest = world.states / "captures" / "data.tar.zst"
    with pytest.raises(PreflightError, match=r"it needs 3 MiB, \d+ MiB are free"):
        world.store().backup(world.volume, dest, world.context())
    assert list(dest.parent.iterdir()) == []
    assert world.leftovers() == []


def test_a_crash_while_backing_up_leaves_no_half_file_behind_for_good(world: World) -> None:
    world.make()
    world.put(OLD)
    dest = world.states / "captures" / "data.tar.zst"
    for point in (1, 2):
        with pytest.raises(Crash):
            world.store().backup(world.volume, dest, world.context(die_at=point))
    dest.with_name(dest.name + ".part").write_bytes(b"half")
    artifact = world.store().backup(world.volume, dest, world.context())
    assert artifact.sha256 == hashlib.sha256(dest.read_bytes()).hexdigest()
    assert [path.name for path in dest.parent.iterdir()] == [dest.name]


def test_memory_does_not_grow_with_the_volume(world: World, tmp_path: Path) -> None:
    world.make()
    path, digest = archive(tmp_path, tar(big=os.urandom(60_000_000)), "a.tar.gz")
    tracemalloc.start()
    try:
        world.store().check_archive(path, digest)
        world.store().restore(world.volume, path, digest, world.context())
        world.store().backup(world.volume, world.states / "b.tar.zst", world.context())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 24_000_000
