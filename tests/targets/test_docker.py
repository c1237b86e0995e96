"""The docker target on a real engine: what changes is changed, and nothing else is touched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.errors import PreflightError
from reconciler.core.facts import (
    DATABASE_VERSION,
    Fact,
    Wanted,
    service_config,
    service_image,
    service_state,
)
from reconciler.core.phase import WORK_ORDER, Phase
from tests.support.compose_project import Project, pins
from tests.support.engine import Engine
from tests.support.waiting import wait_for

pytestmark = pytest.mark.engine

WEB_AND_STORE = """
web:
  image: NAME-web
  command: STARTS
  environment: {COLOUR: blue}
  depends_on: [store]
store: {image: BASE, command: STARTS}
"""


@pytest.fixture
def project(engine: Engine, compose_project: str, tmp_path: Path) -> Iterator[Project]:
    made = Project(engine, compose_project, tmp_path / "app", tmp_path / "states")
    yield made
    made.close()


def two_releases(project: Project) -> tuple[str, str, str]:
    """An old and a new release of `web`, the new one running; gives the old commit and both image ids."""
    project.compose_file(WEB_AND_STORE)
    old_commit = project.commit("old")
    old = project.image("web:v1", "old")
    project.compose_file(WEB_AND_STORE.replace("blue", "green"))
    project.commit("new")
    new = project.image("web:latest", "new")
    project.compose("up", "-d")
    return old_commit, old, new


def test_goes_back_to_an_image_and_its_commit(project: Project) -> None:
    commit, old, new = two_releases(project)
    store = project.started("store")
    target = project.target(services={"web": {"image": f"{project.name}-web:v1"}})

    walk = project.converge(target, pins(commit, {"web": f"{project.name}-web:v1"}))

    assert project.running_image("web") == old
    assert "COLOUR=blue" in project.environment("web")
    assert project.started("store") == store, "a service that does not change is not touched"
    assert project.wrong(target, walk.goal) == []
    assert walk.keys() == [
        "save-logs/services",
        "preflight/services",
        "keep/services",
        "stop/services",
        "retag/web",
        "up/services",
    ]
    kept = project.image_id(f"{project.name}-web:reconciler-before-{walk.context.run}")
    assert kept == new, "the replaced image keeps a name"


def test_a_plain_compose_up_afterwards_changes_nothing(project: Project) -> None:
    commit, _, _ = two_releases(project)
    target = project.target(services={"web": {"image": f"{project.name}-web:v1"}})
    project.converge(target, pins(commit, {"web": f"{project.name}-web:v1"}))
    before = [(each.id, each.attrs["State"]["StartedAt"]) for each in project.containers()]

    project.compose("up", "-d")

    after = [(each.id, each.attrs["State"]["StartedAt"]) for each in project.containers()]
    assert sorted(after) == sorted(before)
    labels = project.containers("web")[0].labels
    assert labels["com.docker.compose.project.config_files"] == str(
        project.root / "docker-compose.yml"
    )


def test_a_matching_project_has_an_empty_plan_and_looking_changes_nothing(project: Project) -> None:
    project.compose_file(WEB_AND_STORE)
    commit = project.commit()
    project.image("web:latest", "one")
    project.compose("up", "-d")
    before = [each.attrs for each in project.containers()]
    target = project.target(services={"web": {"image": f"{project.name}-web:latest"}})

    walk = project.converge(target, pins(commit, {"web": f"{project.name}-web:latest"}))

    assert walk.steps == []
    assert project.wrong(target, walk.goal) == []
    assert [each.attrs for each in project.containers()] == before


def test_a_changed_env_file_or_command_recreates_only_that_service(project: Project) -> None:
    services = """
web: {image: BASE, command: STARTS, env_file: [web.env]}
cron: {image: BASE, command: ["sh", "-c", "sleep 1 & wait; STARTS-NOT"], init: true, stop_grace_period: 1s}
store: {image: BASE, command: STARTS}
"""
    services = services.replace('"sleep 1 & wait; STARTS-NOT"', '"sleep 1000"')
    project.write("web.env", "LEVEL=info\n")
    project.compose_file(services)
    old = project.commit("old")
    project.write("web.env", "LEVEL=debug\n")
    project.compose_file(services.replace("sleep 1000", "sleep 2000"))
    project.commit("new")
    project.compose("up", "-d")
    store = project.started("store")
    target = project.target()

    walk = project.converge(target, pins(old))

    assert walk.step("stop").args["levels"] == [["cron", "web"]]
    assert "LEVEL=info" in project.environment("web")
    assert project.started("store") == store
    assert project.wrong(target, walk.goal) == []
    assert project.labels() == walk.configs()


def test_services_appear_and_vanish(project: Project) -> None:
    project.compose_file(
        "kept: {image: BASE, command: STARTS}\nold: {image: BASE, command: STARTS}"
    )
    commit = project.commit("old")
    project.compose_file(
        "kept: {image: BASE, command: STARTS}\nnew: {image: BASE, command: STARTS}"
    )
    project.commit("new")
    project.compose("up", "-d")
    kept = project.started("kept")
    target = project.target()

    walk = project.converge(target, pins(commit))

    assert sorted(project.labels()) == ["kept", "old"]
    assert project.started("kept") == kept
    assert project.wrong(target, walk.goal) == []
    assert walk.goal.wanted[service_state("new")] == Wanted(key=service_state("new"))


def test_services_of_inactive_profiles_are_left_alone(project: Project) -> None:
    project.compose_file(
        "web: {image: BASE, command: STARTS, environment: {V: 1}}\n"
        "debug: {image: BASE, command: STARTS, profiles: [tools]}"
    )
    commit = project.commit("old")
    project.write(
        "docker-compose.yml",
        (project.root / "docker-compose.yml").read_text().replace("V: 1", "V: 2"),
    )
    project.commit("new")
    project.compose("--profile", "tools", "up", "-d")
    debug = project.started("debug")
    target = project.target()

    walk = project.converge(target, pins(commit))

    assert project.started("debug") == debug
    assert service_state("debug") not in walk.goal.wanted
    with_profile = project.target(profiles=["tools"])
    goal = project.resolve(with_profile, pins(commit))
    assert goal.value(service_state("debug")) == "running"
    assert project.wrong(with_profile, goal) == []


def test_dependents_stop_first_and_start_last(project: Project) -> None:
    services = """
web: {image: BASE, command: STARTS, depends_on: {api: {condition: service_healthy}}, environment: {V: 1}}
api:
  image: BASE
  command: ["sh", "-c", "trap 'exit 0' TERM; sleep 0.3; touch /ok; while :; do sleep 0.05; done"]
  environment: {V: 1}
  depends_on: {job: {condition: service_completed_successfully}}
  healthcheck: {test: [CMD, test, -e, /ok], interval: 200ms, timeout: 2s, retries: 30}
job: {image: BASE, command: [sh, -c, "echo done"], environment: {V: 1}}
"""
    project.compose_file(services)
    old = project.commit("old")
    project.compose_file(services.replace("V: 1", "V: 2"))
    project.commit("new")
    project.compose("up", "-d")
    target = project.target()

    walk = project.converge(target, pins(old))

    assert walk.step("stop").args["levels"] == [["web"], ["api"]]
    assert project.wrong(target, walk.goal) == []
    assert walk.goal.value(service_state("api")) == "healthy"
    assert walk.goal.value(service_state("job")) == "completed"
    assert project.started("job") < project.started("api") < project.started("web")


def test_inline_secrets_reach_a_container_that_only_compose_can_start(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "from-the-shell")
    monkeypatch.setitem(project.engine.env, "KEY", "from-the-shell")
    services = "web: {image: BASE, command: STARTS, secrets: [key], environment: {V: 1}}"
    secrets = "secrets: {key: {environment: KEY}}"
    project.compose_file(services, secrets)
    old = project.commit("old")
    project.compose_file(services.replace("V: 1", "V: 2"), secrets)
    project.commit("new")
    project.compose("up", "-d")

    walk = project.converge(target := project.target(), pins(old))

    (web,) = project.containers("web")
    assert web.exec_run(["cat", "/run/secrets/key"]).output == b"from-the-shell"
    assert walk.step("up").args["by_compose"] == ["web"]
    assert project.wrong(target, walk.goal) == []
    assert "from-the-shell" not in walk.goal.model_dump_json()


def test_a_completed_one_shot_service_is_not_run_again(project: Project) -> None:
    services = """
web: {image: BASE, command: STARTS, environment: {V: 1}, depends_on: {job: {condition: service_completed_successfully}}}
job: {image: BASE, command: [sh, -c, "echo ran"]}
"""
    project.compose_file(services)
    old = project.commit("old")
    project.compose_file(services.replace("V: 1", "V: 2"))
    project.commit("new")
    project.compose("up", "-d")
    job = project.started("job")

    walk = project.converge(target := project.target(), pins(old))

    assert project.started("job") == job
    assert project.wrong(target, walk.goal) == []


def test_replicas_count_as_one_service(project: Project) -> None:
    services = "web: {image: NAME-web, command: STARTS, deploy: {replicas: 3}}"
    project.compose_file(services)
    commit = project.commit()
    first = project.image("web:v1", "one")
    second = project.image("web:latest", "two")
    project.compose("up", "-d")
    target = project.target(services={"web": {"image": first}})
    project.containers("web")[1].kill()  # exit code 0 would mean that it is done

    def state() -> str:
        return next(str(f.value) for f in target.observe() if f.key == service_state("web"))

    # The engine answers before the container has gone.
    wait_for(lambda: state().startswith("exited"), what="the worst replica to speak")

    walk = project.converge(target, pins(commit, {"web": first}))

    assert {each.attrs["Image"] for each in project.containers("web")} == {first} != {second}
    assert len(project.containers("web")) == 3
    assert project.wrong(target, walk.goal) == []


def test_a_mixture_of_images_is_no_image(project: Project) -> None:
    project.compose_file("web: {image: NAME-web, command: STARTS, deploy: {replicas: 2}}")
    project.commit()
    old = project.image("web:latest", "one")
    project.compose("up", "-d", "--scale", "web=1")
    new = project.image("web:latest", "two")
    project.compose("up", "-d", "--no-recreate")

    facts = {fact.key: fact.value for fact in project.target().observe()}

    assert facts[service_image("web")] == f"mixed:{','.join(sorted([old, new]))}"


def test_services_the_spec_names_are_down_while_the_database_changes(project: Project) -> None:
    project.compose_file(WEB_AND_STORE.replace("NAME-web", "BASE"))
    commit = project.commit()
    project.compose("up", "-d")
    store = project.started("store")
    target = project.target(services={"web": {"image": project.engine.base_image}})
    observed = project.observe(target, Fact(key=DATABASE_VERSION, value="2"))
    goal = project.resolve(target, pins(commit, {"web": project.engine.base_image}), observed)
    wanted = {**goal.wanted, DATABASE_VERSION: Wanted(key=DATABASE_VERSION, value="1")}
    goal = goal.model_copy(update={"wanted": wanted})
    assert [s.action for phase in WORK_ORDER for s in target.plan(phase, observed, goal)] == [
        "save-logs",
        "preflight",
        "stop",
        "up",
    ]

    stopped = project.run(target, Phase.STOP, observed, goal)
    back = project.run(
        target, Phase.START, stopped.merged([Fact(key=DATABASE_VERSION, value="1")]), goal
    )

    assert stopped.value(service_state("web")) == "completed"
    assert back.value(service_state("web")) == "running"
    assert project.started("store") == store


def test_only_what_is_down_or_sick_is_brought_back(project: Project) -> None:
    project.compose_file(WEB_AND_STORE.replace("NAME-web", "BASE"))
    commit = project.commit()
    project.compose("up", "-d")
    project.containers("web")[0].pause()
    store = project.started("store")
    target = project.target()

    walk = project.converge(target, pins(commit))

    assert walk.keys(Phase.STOP, Phase.RESTORE, Phase.START) == ["stop/services", "up/services"]
    assert project.started("store") == store
    assert project.wrong(target, walk.goal) == []
    project.containers("store")[0].remove(force=True)
    walk = project.converge(target, pins(commit))
    assert walk.keys(Phase.STOP, Phase.RESTORE, Phase.START) == ["up/services"]
    assert project.wrong(target, walk.goal) == []


def test_a_project_that_was_taken_down_comes_back(project: Project) -> None:
    project.compose_file(WEB_AND_STORE.replace("NAME-web", "BASE"))
    commit = project.commit()
    project.compose("up", "-d")
    goal = project.resolve(project.target(), pins(commit))
    project.compose("down", "-t", "1")
    target = project.target()  # another process, which only has the recorded goal

    observed = project.observe(target)

    assert observed.get(service_state("store")).known
    assert observed.value(service_state("store")) is None
    assert [s.action for s in target.plan(Phase.START, observed, goal)] == ["up"]


def test_a_reference_that_was_moved_meanwhile_is_pointed_back(project: Project) -> None:
    commit, old, _ = two_releases(project)
    target = project.target(services={"web": {"image": old}})
    goal = project.converge(target, pins(commit, {"web": old})).goal
    project.image("web:latest", "other")
    store = project.started("store")
    project.containers("web")[0].remove(force=True)

    project.run(target, Phase.START, project.observe(target), goal)

    assert project.running_image("web") == old
    assert project.started("store") == store
    assert project.wrong(target, goal) == []


def test_services_not_well_before_are_brought_up_but_not_waited_for(project: Project) -> None:
    project.compose_file(
        'bad: {image: BASE, command: [sh, -c, "exit 3"], environment: {V: 1}}\nweb: {image: BASE, command: STARTS}'
    )
    commit = project.commit()
    target = project.target()

    walk = project.converge(target, pins(commit, best_effort=["bad"]))

    assert service_state("bad") not in walk.goal.wanted
    assert walk.goal.value(service_config("bad")) == project.labels()["bad"]
    assert project.wrong(target, walk.goal) == []


def test_applying_a_step_twice_equals_once(project: Project) -> None:
    commit, old, _ = two_releases(project)
    target = project.target(services={"web": {"image": old}})

    walk = project.converge(target, pins(commit, {"web": old}))
    before = [each.attrs for each in project.containers()]
    for step in walk.steps:
        if step.phase is not Phase.STOP and not step.once:
            target.apply(step, walk.context)

    assert [each.attrs for each in project.containers()] == before


def test_digests_and_conflicting_pins_are_refused_before_anything_is_touched(
    project: Project,
) -> None:
    one, two = project.image("web:v1", "one"), project.image("web:v2", "two")
    project.compose_file(f"web: {{image: '{one}', command: STARTS}}")
    commit = project.commit()
    target = project.target(services={"web": {"image": two}})

    with pytest.raises(PreflightError, match="start web by digest"):
        project.resolve(target, pins(commit, {"web": two}))
    assert project.resolve(target, pins(commit, {"web": one})).value(service_image("web")) == one

    project.compose_file(
        "a: {image: NAME-web:v1, command: STARTS}\nb: {image: NAME-web:v1, command: STARTS}"
    )
    commit = project.commit()
    with pytest.raises(PreflightError, match="a and b are both started from"):
        project.resolve(target, pins(commit, {"a": one, "b": two}))
    shared = project.resolve(target, pins(commit, {"a": two}))
    assert shared.value(service_image("b")) == two, "the reference is re-pointed for both"


def test_a_missing_image_names_its_service(project: Project) -> None:
    project.compose_file("web: {image: NAME-nowhere:1, command: STARTS}")
    commit = project.commit()

    with pytest.raises(PreflightError, match=r"nowhere:1 of the service web is not on the engine"):
        project.resolve(project.target(), pins(commit))
    with pytest.raises(PreflightError, match="no longer on the engine"):
        project.resolve(project.target(), pins(commit, {"web": "sha256:" + "0" * 64}))


def test_a_pinned_service_that_the_commit_does_not_have_is_refused(project: Project) -> None:
    project.compose_file("web: {image: BASE, command: STARTS}")
    commit = project.commit()
    target = project.target(services={"wbe": {"image": "x:1"}})

    with pytest.raises(PreflightError, match=r"the compose files at .* have none of that name"):
        project.resolve(target, pins(commit, {"wbe": "x:1"}))


def test_uncommitted_changes_that_matter_are_refused_in_capture(project: Project) -> None:
    project.compose_file("web: {image: BASE, command: STARTS}")
    commit = project.commit()
    project.compose_file("web: {image: BASE, command: STARTS, environment: {V: 9}}")
    project.compose("up", "-d")

    with pytest.raises(
        PreflightError, match=r"Uncommitted changes .* change how web would be started"
    ):
        project.converge(project.target(), pins(commit))


def test_evidence_holds_logs_and_state_but_no_environment(project: Project) -> None:
    canary = "canary-5e2f1a"
    project.write("local/app.secret", f"TOKEN={canary}\n")
    project.compose_file(
        "web: {image: BASE, env_file: [local/app.secret], environment: {V: 1}, "
        "command: [sh, -c, \"echo started with $$TOKEN; trap 'exit 0' TERM; while :; do sleep 0.05; done\"]}"
    )
    commit = project.commit("old")
    text = (project.root / "docker-compose.yml").read_text()
    project.write("docker-compose.yml", text.replace("V: 1", "V: 2"))
    project.commit("new")
    project.compose("up", "-d")
    target = project.target()

    walk = project.converge(target, pins(commit))

    assert f"TOKEN={canary}" in project.environment("web")
    saved = {each.kind: each for _, applied in walk.made for each in applied.artifacts}
    record = json.loads((project.states / saved["containers"].path).read_text())
    assert record["state"]["Status"] == "running"
    assert "started with" in (project.states / saved["logs"].path).read_text()
    for file in (
        each for each in project.states.rglob("*") if each.is_file() and not each.is_symlink()
    ):
        assert canary not in file.read_text(), file
    assert all((project.states / each.path).stat().st_mode & 0o077 == 0 for each in saved.values())
    said = [
        walk.goal.model_dump_json(),
        *(step.model_dump_json() for step in walk.steps),
        *walk.context.said,
    ]
    assert not any(canary in text for text in said)
