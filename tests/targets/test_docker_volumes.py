"""Volumes restored through the docker target, with the real store of volumes."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.errors import PreflightError
from reconciler.core.facts import volume_restored
from reconciler.core.phase import Phase
from reconciler.core.pins import VolumePin
from reconciler.targets.docker import DockerTarget
from reconciler.targets.docker_host import DockerHost
from reconciler.targets.volumes import VolumeStore
from tests.support.compose_project import Project, pins
from tests.support.engine import Engine

pytestmark = pytest.mark.engine

SERVICES = """
store: {image: BASE, command: STARTS, volumes: ["data:/data"]}
web: {image: BASE, command: STARTS, depends_on: [store]}
"""


@pytest.fixture
def project(engine: Engine, compose_project: str, tmp_path: Path) -> Iterator[Project]:
    made = Project(engine, compose_project, tmp_path / "app", tmp_path / "states")
    yield made
    made.close()


def archive(project: Project, text: str) -> VolumePin:
    path = project.root / "local" / "data.tar.gz"
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("kept.txt")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text.encode()))
    return VolumePin(path="local/data.tar.gz", sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def target(project: Project, pin: VolumePin) -> DockerTarget:
    host = DockerHost()
    base = project.engine.base_image
    image = project.image_id(base)
    store = VolumeStore(host.client, project.name, lambda: image, states=project.states)
    declared = {"data": {"restore": pin.path, "sha256": pin.sha256}}
    return project.target(host=host, store=store, volumes=declared)


def kept(project: Project) -> str:
    (store,) = project.containers("store")
    return str(store.exec_run(["cat", "/data/kept.txt"]).output, "utf-8")


@pytest.mark.parametrize("rest", ["volumes: {data: {}}", "volumes: {data: {name: NAME-custom}}"])
def test_a_volume_is_restored_and_its_old_content_can_come_back(
    project: Project, rest: str
) -> None:
    project.compose_file(SERVICES, rest)
    commit = project.commit()
    project.compose("up", "-d")
    project.containers("store")[0].exec_run(["sh", "-c", "echo -n now >/data/kept.txt"])
    web = project.started("web")
    pin = archive(project, "then")

    walk = project.converge(target(project, pin), pins(commit, volumes={"data": pin}))

    assert kept(project) == "then"
    assert walk.keys(Phase.STOP, Phase.RESTORE, Phase.START) == [
        "stop/services",
        "backup-volume/data",
        "restore-volume/data",
        "up/services",
    ]
    assert project.started("web") == web, "who does not mount it is not touched"
    fresh = target(project, pin)
    assert project.wrong(fresh, walk.goal) == []
    assert fresh.plan(Phase.STOP, project.observe(fresh), walk.goal) == []
    backup = next(
        each for _, applied in walk.made for each in applied.artifacts if each.subject == "data"
    )
    own = VolumePin(path=backup.path, sha256=backup.sha256, own=True)

    back = project.converge(target(project, pin), pins(commit, volumes={"data": own}), before=walk)

    assert kept(project) == "now"
    for saved in back.context.artifacts:
        data = (project.states / saved.path).read_bytes()
        assert hashlib.sha256(data).hexdigest() == saved.sha256, "nothing saved is overwritten"
    assert back.goal.value(volume_restored("data")) == backup.sha256
    assert project.wrong(target(project, pin), back.goal) == []


def test_a_damaged_archive_is_found_before_anything_stops(project: Project) -> None:
    project.compose_file(SERVICES, "volumes: {data: {}}")
    commit = project.commit()
    project.compose("up", "-d")
    before = [each.attrs for each in project.containers()]
    pin = archive(project, "then")
    (project.root / pin.path).write_bytes(b"cut")

    with pytest.raises(PreflightError, match=r"data\.tar\.gz has the digest"):
        project.converge(target(project, pin), pins(commit, volumes={"data": pin}))

    assert [each.attrs for each in project.containers()] == before


def test_a_volume_the_compose_file_does_not_have_is_refused(project: Project) -> None:
    project.compose_file("store: {image: BASE, command: STARTS}")
    commit = project.commit()
    pin = archive(project, "then")

    with pytest.raises(PreflightError, match="restores the volume data"):
        project.resolve(target(project, pin), pins(commit, volumes={"data": pin}))
