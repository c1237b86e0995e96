"""Images built from a commit, pulled, and kept; on a real engine."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.errors import PreflightError
from reconciler.core.facts import service_image, service_state
from reconciler.core.phase import WORK_ORDER, Phase
from reconciler.core.pins import ServicePin
from reconciler.sandbox.postgres import free_port
from tests.support.compose_project import Project, pins
from tests.support.engine import Engine
from tests.support.programs import program, wait_for_port

pytestmark = pytest.mark.engine

BUILT = "web: {build: {context: ., args: {TOKEN: }}, command: STARTS}"
DOCKERFILE = "FROM BASE\nARG TOKEN\nCOPY app.txt /\n"


@pytest.fixture
def project(engine: Engine, compose_project: str, tmp_path: Path) -> Iterator[Project]:
    made = Project(engine, compose_project, tmp_path / "app", tmp_path / "states")
    yield made
    made.close()


def released(project: Project, dockerfile: str = DOCKERFILE) -> str:
    """An old commit to build, a new one running."""
    project.compose_file(BUILT)
    project.write("Dockerfile", dockerfile)
    project.write("app.txt", "old")
    old = project.commit("old")
    project.write("app.txt", "new")
    project.write("Dockerfile", DOCKERFILE)
    project.commit("new")
    project.compose("up", "-d", "--build")
    return old


def content(project: Project) -> str:
    (container,) = project.containers("web")
    return str(container.exec_run(["cat", "/app.txt"]).output, "utf-8")


def test_builds_the_commit_and_reuses_what_it_built(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = "canary-77ab"
    monkeypatch.setenv("TOKEN", canary)
    old = released(project)
    project.write("untracked.txt", "not part of any commit")
    target = project.target(services={"web": {"build": True}})

    walk = project.converge(target, pins(old, {"web": "build"}))

    assert content(project) == "old"
    assert project.wrong(target, walk.goal) == []
    assert walk.keys(Phase.CAPTURE)[1:] == ["preflight/services", "build/web", "keep/services"]
    image = project.engine.client.images.get(f"{project.name}-web:reconciler-{old[:12]}")
    assert image.id == project.running_image("web")
    assert image.labels["reconciler.commit"] == old
    assert image.labels["org.opencontainers.image.revision"] == old
    listed = project.containers("web")[0].exec_run(["ls", "/"]).output
    assert b"untracked.txt" not in listed
    assert any("build web" in line for line in walk.context.said)
    assert not any(canary in each for each in [*walk.context.said, walk.goal.model_dump_json()])

    again = project.resolve(
        project.target(services={"web": {"build": True}}), pins(old, {"web": "build"})
    )
    assert again.value(service_image("web")) == image.id, "nothing is pending: it exists"
    assert target.plan(Phase.CAPTURE, project.observe(target), again) == []


def test_no_cache_builds_once_more_and_then_is_content(project: Project) -> None:
    old = released(project)
    cached = pins(old, {"web": "build"})
    fresh = pins(old, {"web": ServicePin(build=True, no_cache=True)})
    target = project.target(services={"web": {"build": True}})
    first = project.converge(target, cached).goal.value(service_image("web"))

    walk = project.converge(target, fresh)

    assert walk.step("build").args["no_cache"] is True
    assert walk.goal.value(service_image("web")) != first
    assert project.wrong(target, walk.goal) == []
    assert project.converge(target, fresh).steps == []


def test_a_failing_build_leaves_production_alone_and_shows_its_last_lines(project: Project) -> None:
    old = released(project, DOCKERFILE + 'RUN echo "no such module: left-pad" && exit 7\n')
    before = [each.attrs for each in project.containers()]
    target = project.target(services={"web": {"build": True}})

    with pytest.raises(PreflightError, match="build of web failed") as caught:
        project.converge(target, pins(old, {"web": "build"}))

    assert "no such module: left-pad" in caught.value.message
    assert "exit code: 7" in caught.value.message
    assert [each.attrs for each in project.containers()] == before


def test_a_healthcheck_that_only_the_built_image_has_decides_the_wanted_state(
    project: Project,
) -> None:
    old = released(project, DOCKERFILE + "HEALTHCHECK --interval=200ms CMD true\n")
    target = project.target(services={"web": {"build": True}})
    assert project.resolve(target, pins(old, {"web": "build"})).wanted[service_state("web")].pending

    walk = project.converge(target, pins(old, {"web": "build"}))

    assert walk.goal.value(service_state("web")) == "healthy"
    assert project.wrong(target, walk.goal) == []


def test_services_built_under_one_name_are_built_once(project: Project) -> None:
    project.compose_file(
        "a: {build: ., image: NAME-both, command: STARTS}\nb: {build: ., image: NAME-both, command: STARTS}"
    )
    project.write("Dockerfile", "FROM BASE\n")
    commit = project.commit()
    target = project.target(services={"a": {"build": True}, "b": {"build": True}})

    walk = project.converge(target, pins(commit, {"a": "build", "b": "build"}))

    assert [key for key in walk.keys(*WORK_ORDER) if key.startswith(("build", "retag"))] == [
        "build/a",
    ]
    assert project.running_image("a") == project.running_image("b")
    assert project.wrong(target, walk.goal) == []


def test_building_needs_a_build_section(project: Project) -> None:
    project.compose_file("web: {image: BASE, command: STARTS}")
    commit = project.commit()

    with pytest.raises(PreflightError, match="give it no build section"):
        project.resolve(
            project.target(services={"web": {"build": True}}), pins(commit, {"web": "build"})
        )


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A real registry on loopback, which every engine trusts."""
    port = free_port()
    config = tmp_path / "registry.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/registry}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    log = tmp_path / "registry.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program("docker-registry"), "serve", str(config)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=os.environ,
        )  # fmt: skip
    try:
        wait_for_port(port, process, log)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def test_a_missing_image_is_pulled_before_anything_stops(project: Project, registry: str) -> None:
    project.compose_file("web: {image: NAME-web, command: STARTS}")
    commit = project.commit()
    wanted = project.image("web:old", "old")
    project.image("web:latest", "new")
    project.compose("up", "-d")
    remote = f"{registry}/{project.name}-web:v1"
    for arguments in (
        ("tag", f"{project.name}-web:old", remote),
        ("push", "-q", remote),
        ("image", "rm", remote, f"{project.name}-web:old"),
    ):
        project.engine.docker(*arguments)
    target = project.target(services={"web": {"image": remote}})

    walk = project.converge(target, pins(commit, {"web": remote}))

    assert "pull/web" in walk.keys(Phase.CAPTURE)
    assert project.running_image("web") == wanted
    assert project.wrong(target, walk.goal) == []
    project.engine.docker("image", "rm", remote)


def test_a_pull_that_fails_leaves_production_alone(project: Project) -> None:
    project.compose_file("web: {image: BASE, command: STARTS}")
    commit = project.commit()
    project.compose("up", "-d")
    before = [each.attrs for each in project.containers()]
    nowhere = f"127.0.0.1:{free_port()}/nowhere:v1"
    target = project.target(services={"web": {"image": nowhere}})
    began = time.monotonic()

    with pytest.raises(Exception, match="nowhere:v1"):
        project.converge(target, pins(commit, {"web": nowhere}))

    assert time.monotonic() - began < 60
    assert [each.attrs for each in project.containers()] == before
