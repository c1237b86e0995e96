"""What can go wrong between the first stop and the last health check, on a real engine."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.crashpoints import CrashPoint
from reconciler.core.errors import (
    OutcomeUnknownError,
    PreflightError,
    StepFailedError,
    TargetUnavailableError,
)
from reconciler.core.facts import service_image, service_state
from reconciler.core.phase import Phase
from reconciler.sandbox.postgres import free_port
from reconciler.targets.docker import DockerTarget
from reconciler.targets.docker_host import DockerHost
from tests.support.compose_project import Context, Project, pins
from tests.support.engine import Engine

pytestmark = pytest.mark.engine


@pytest.fixture
def project(engine: Engine, compose_project: str, tmp_path: Path) -> Iterator[Project]:
    made = Project(engine, compose_project, tmp_path / "app", tmp_path / "states")
    yield made
    made.close()


def broken(project: Project, service: str, *, timeout: float = 10.0) -> StepFailedError:
    """The error of a walk to a commit whose `web` is the given one."""
    project.compose_file(service)
    commit = project.commit("goal")
    project.compose_file("web: {image: BASE, command: STARTS}")
    project.commit("now")
    project.compose("up", "-d")
    with pytest.raises(StepFailedError) as caught:
        project.converge(project.target(timeout=timeout), pins(commit))
    return caught.value


def test_an_unhealthy_start_tells_health_and_last_lines_without_secrets(project: Project) -> None:
    project.write(".env", "PASSWORD=canary-90ff\n")
    error = broken(
        project,
        """
web:
  image: BASE
  environment: {PASSWORD: "${PASSWORD}"}
  command: [sh, -c, "echo connecting with $$PASSWORD; echo refused; trap 'exit 0' TERM; while :; do sleep 0.05; done"]
  healthcheck: {test: [CMD-SHELL, "echo no database at $$PASSWORD; exit 1"], interval: 100ms, retries: 2}
""",
    )

    assert "web is unhealthy" in error.message
    assert "healthcheck: no database" in error.message
    assert "refused" in error.message
    assert "canary-90ff" not in error.message + error.hint
    assert "docker logs" in error.hint


def test_a_service_that_ends_at_once_is_not_waited_for_in_vain(project: Project) -> None:
    began = time.monotonic()

    error = broken(
        project,
        """
web:
  image: BASE
  command: [sh, -c, "echo cannot find config; sleep 0.3; exit 4"]
  healthcheck: {test: [CMD, "true"], interval: 60s}
""",
        timeout=60,
    )

    assert "web is exited(4)" in error.message
    assert "cannot find config" in error.message
    assert time.monotonic() - began < 30


def test_a_crash_loop_is_recognised(project: Project) -> None:
    error = broken(
        project,
        'web: {image: BASE, restart: always, command: [sh, -c, "echo boom; exit 1"], '
        "healthcheck: {test: [CMD, 'true'], interval: 60s}}",
        timeout=60,
    )

    assert "web is restarting" in error.message
    assert "boom" in error.message


def test_a_service_that_stays_starting_fails_at_the_deadline(project: Project) -> None:
    error = broken(
        project,
        "web: {image: BASE, command: STARTS, healthcheck: {test: [CMD, 'false'], interval: 60s}}",
        timeout=1,
    )

    assert "web is not healthy after 1 s" in error.message


def test_a_one_shot_service_that_fails_names_itself(project: Project) -> None:
    error = broken(
        project,
        """
web: {image: BASE, command: STARTS, depends_on: {job: {condition: service_completed_successfully}}}
job: {image: BASE, command: [sh, -c, "echo no such table; exit 2"]}
""",
    )

    assert "job is exited(2)" in error.message
    assert "no such table" in error.message


def test_a_port_that_is_taken_is_told(project: Project) -> None:
    port = free_port()
    blocker = project.engine.client.containers.run(
        project.engine.base_image, ["sh", "-c", "sleep 600"], detach=True, init=True,
        ports={"80/tcp": ("127.0.0.1", port)}, labels={"com.docker.compose.project": project.name},
    )  # fmt: skip

    error = broken(
        project, f"web: {{image: BASE, command: STARTS, ports: ['127.0.0.1:{port}:80']}}"
    )

    blocker.remove(force=True)
    assert "start" in error.message
    assert "port is already allocated" in error.message


def test_a_first_process_that_ignores_its_stop_signal_is_told_beforehand(project: Project) -> None:
    stubborn = "web: {image: BASE, command: [sh, -c, 'sleep 1000'], stop_grace_period: 1s, environment: {V: 1}}"
    project.compose_file(stubborn)
    old = project.commit("old")
    project.compose_file(stubborn.replace("V: 1", "V: 2"))
    project.commit("new")
    project.compose("up", "-d")
    target = project.target()

    walk = project.converge(target, pins(old))

    step = walk.step("stop")
    assert "web ignores its stop signal and will be killed after 1 s" in step.summary
    assert step.downtime == pytest.approx(1.0)
    assert "web ignores its stop signal" in walk.note("preflight")
    assert project.wrong(target, walk.goal) == []


def test_an_unreachable_engine_is_unknown_and_never_absent(
    project: Project, tmp_path: Path
) -> None:
    project.compose_file("web: {image: BASE, command: STARTS}")
    project.commit()
    host = DockerHost(f"unix://{tmp_path}/nothing.sock")
    target = project.target(host=host, services={"web": {"image": "x:1"}})

    facts = {fact.key: fact for fact in target.observe()}

    assert set(facts) >= {service_image("web"), service_state("web"), "docker.engine"}
    assert all(
        "cannot be reached: No such file or directory" in str(fact.unknown)
        for fact in facts.values()
    )
    with pytest.raises(TargetUnavailableError, match="cannot be reached"):
        project.resolve(target, pins())


def test_a_context_names_the_engine_for_sdk_and_command_alike(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = project.engine.env.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    config = tmp_path / "docker-config"
    (config / "cli-plugins").mkdir(parents=True)
    plugins = Path(project.engine.env.get("DOCKER_CONFIG", Path.home() / ".docker")) / "cli-plugins"
    for plugin in plugins.iterdir() if plugins.exists() else ():
        (config / "cli-plugins" / plugin.name).symlink_to(plugin)
    monkeypatch.setenv("DOCKER_CONFIG", str(config))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setitem(project.engine.env, "DOCKER_CONFIG", str(config))
    project.engine.docker("context", "create", "production", "--docker", f"host={address}")
    project.compose_file("web: {image: BASE, command: STARTS}")
    commit = project.commit()
    host = DockerHost(context="production")
    target = project.target(host=host, context="production")

    walk = project.converge(target, pins(commit))

    assert project.wrong(target, walk.goal) == []
    assert host.where == "context production"
    project.engine.docker("context", "use", "production")
    current = DockerHost()
    assert current.where == "context production"
    assert current.client().ping()
    current.close()
    with pytest.raises(PreflightError, match="no Docker context named staging"):
        DockerHost(context="staging").client()


def test_an_engine_behind_ssh_is_reached_by_sdk_and_command(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Stands for ssh and the other machine: runs the last argument here, as sshd would there.
    script = tmp_path / "bin" / "ssh"
    script.parent.mkdir()
    address = project.engine.env.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    script.write_text(
        f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\nunset DOCKER_HOST\n'
        f"export DOCKER_HOST={address}\nfor last; do :; done\nexec sh -c 'exec docker system dial-stdio'\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    project.compose_file("web: {image: BASE, command: STARTS}")
    commit = project.commit()
    host = DockerHost("ssh://me@far.example:2222")
    target = project.target(host=host)

    walk = project.converge(target, pins(commit))

    assert project.wrong(target, walk.goal) == []
    assert host.where == "ssh://far.example:2222"
    assert not host.local
    calls = (tmp_path / "calls").read_text().splitlines()
    assert any(call.startswith("-l me -p 2222") for call in calls)


class Killed(BaseException):
    """Stands for kill -9: nothing of ours runs any more, except what the engine was asked already."""


def replaced(project: Project) -> tuple[DockerTarget, str, str]:
    project.compose_file(
        "web: {image: NAME-web, command: STARTS}\nstore: {image: BASE, command: STARTS}"
    )
    commit = project.commit()
    wanted = project.image("web:v1", "old")
    project.image("web:latest", "new")
    project.compose("up", "-d")
    return project.target(services={"web": {"image": wanted}}), commit, wanted


@pytest.mark.parametrize("point", [CrashPoint.MID_EFFECT, CrashPoint.APPLIED_UNREAD])
@pytest.mark.parametrize("action", ["keep", "stop", "retag", "up"])
def test_killed_anywhere_the_next_process_ends_in_the_same_place(
    project: Project, action: str, point: CrashPoint
) -> None:
    target, commit, wanted = replaced(project)
    goal = project.resolve(target, pins(commit, {"web": wanted}))
    store = project.started("store")

    def die(now: CrashPoint) -> None:
        if now is point:
            raise Killed

    def walk(target: DockerTarget, *, killed: bool) -> list[str]:
        observed, done = project.observe(target), []
        for phase in (Phase.CAPTURE, Phase.STOP, Phase.RESTORE, Phase.START):
            for step in target.plan(phase, observed, goal):
                context = Context(project.states)
                if killed and step.action == action:
                    context.on_point = die
                applied = target.apply(step, context)
                done.append(step.action)
                observed = observed.merged(applied.facts if phase is not Phase.CAPTURE else ())
        return done

    with pytest.raises(Killed):
        walk(target, killed=True)
    after = walk(project.target(services={"web": {"image": wanted}}), killed=False)

    fresh = project.target(services={"web": {"image": wanted}})
    assert project.wrong(fresh, goal) == []
    assert project.running_image("web") == wanted
    assert project.started("store") == store
    assert walk(fresh, killed=False) == []
    assert [each.name for each in project.containers("web")] == [f"{project.name}-web-1"]
    assert "up" in after or (action, point) == ("up", CrashPoint.APPLIED_UNREAD)


def test_a_container_left_half_recreated_by_a_killed_compose_gets_its_name(
    project: Project,
) -> None:
    project.compose_file("web: {image: BASE, command: STARTS}")
    commit = project.commit()
    project.compose("up", "-d")
    (web,) = project.containers("web")
    web.stop(timeout=1)
    web.rename(f"{web.id[:12]}_{web.name}")
    target = project.target()

    walk = project.converge(target, pins(commit))

    assert [each.name for each in project.containers("web")] == [f"{project.name}-web-1"]
    assert project.wrong(target, walk.goal) == []


def test_another_compose_at_work_on_the_same_containers_is_outlived(project: Project) -> None:
    target, commit, wanted = replaced(project)
    goal = project.resolve(target, pins(commit, {"web": wanted}))
    project.engine.client.images.get(wanted).tag(f"{project.name}-web", "latest")
    observed = project.observe(target)
    rival = threading.Thread(target=lambda: project.compose("up", "-d", check=False))
    rival.start()

    project.run(target, Phase.START, observed, goal)

    rival.join()
    assert project.wrong(target, goal) == []


def test_a_lease_lost_before_a_stop_stops_nothing(project: Project) -> None:
    target, commit, wanted = replaced(project)
    observed = project.observe(target)
    goal = project.resolve(target, pins(commit, {"web": wanted}), observed)
    before = [each.attrs for each in project.containers()]

    class Lost(Context):
        def guard(self) -> None:
            raise OutcomeUnknownError("lost")

    for phase in (Phase.STOP, Phase.RESTORE, Phase.START):
        for step in target.plan(phase, observed, goal):
            with pytest.raises(OutcomeUnknownError):
                target.apply(step, Lost(project.states))

    assert [each.attrs for each in project.containers()] == before
    assert project.image_id(f"{project.name}-web") != wanted
