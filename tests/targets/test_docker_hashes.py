"""Config hashes: what is computed for a commit is what a plain `docker compose up -d` of that commit writes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.errors import PreflightError
from reconciler.core.facts import service_config
from reconciler.targets.compose_command import ComposeCommand
from reconciler.targets.compose_view import Views
from reconciler.targets.docker_host import DockerHost
from reconciler.targets.shared.repository import Repository
from tests.support.compose_project import Project, pins
from tests.support.engine import Engine

pytestmark = pytest.mark.engine

CONSTRUCTS = """
plain:
  image: BASE
  command: STARTS
  environment: {A: "x$$y", B: "${FROM_DOTENV}", D: "${PWD}/d", C: }
  labels: {l: "${FROM_DOTENV:-x}"}
env:
  image: BASE
  command: STARTS
  env_file: [app.env, {path: missing.env, required: false}, deep/er.secret]
outside: {image: BASE, command: STARTS, env_file: ../shared.env}
binds:
  image: BASE
  command: STARTS
  volumes:
    ["./data:/data", "./conf/a.conf:/a.conf:ro", "data:/v", "../beside:/b", "/anon", {type: tmpfs, target: /t}]
extended: {extends: {file: parts/common.yml, service: base}, environment: {OWN: 1}}
locally: {extends: {service: plain}}
built: {build: {context: ./b, args: {X: "1"}, target: final}, command: STARTS, image: NAME-built}
named: {build: ./b, command: STARTS}
profiled: {image: BASE, command: STARTS, profiles: [extra], platform: linux/amd64}
checked:
  image: BASE
  command: STARTS
  healthcheck: {test: [CMD, "true"], interval: 300ms, timeout: 1s, start_period: 1s}
needy:
  image: BASE
  command: STARTS
  depends_on: {job: {condition: service_completed_successfully}, checked: {condition: service_started, restart: true}}
job: {image: BASE, command: [sh, -c, ":"], restart: "no"}
secretive: {image: BASE, command: STARTS, secrets: [s1, {source: s2, target: /run/x}], configs: [c1]}
limited:
  image: BASE
  command: STARTS
  ulimits: {nofile: 1024}
  deploy: {replicas: 2, resources: {limits: {memory: 50M}}}
  logging: {driver: json-file, options: {max-size: 1m}}
netted:
  image: BASE
  command: STARTS
  networks: {back: {aliases: [n]}}
  extra_hosts: ["a:1.2.3.4"]
  tmpfs: /run
  sysctls: {net.core.somaxconn: 1024}
various:
  {image: BASE, command: STARTS, attach: false, tty: true, user: "0", hostname: hh, cap_add: [NET_ADMIN], init: true,
  stop_grace_period: 2s, restart: unless-stopped, labels: ["a=b$$c"], x-own: 1}
"""
REST = """
secrets: {s1: {file: ./s1.secret}, s2: {environment: S2}}
configs: {c1: {file: ./conf/a.conf}}
volumes: {data: {name: NAME-own}}
networks: {back: {}, default: {}}
"""


@pytest.fixture
def project(engine: Engine, compose_project: str, tmp_path: Path) -> Iterator[Project]:
    made = Project(engine, compose_project, tmp_path / "srv" / "app", tmp_path / "states")
    yield made
    made.close()


def everything(project: Project) -> None:
    """A project with most constructs of the Compose format, and the files beside it that Git does not hold."""
    project.write(".env", "FROM_DOTENV=va$$lue\n")
    project.write("app.env", 'SECRET=\'can"ary$X\'\nQ="a b"\n')
    project.write("deep/er.secret", "DEEP=1\n")
    project.write("s1.secret", "s")
    project.write("../shared.env", "SHARED=1\n")
    project.write("../beside/x", "")
    project.write("conf/a.conf", "a")
    project.write("b/Dockerfile", "FROM BASE AS final\nARG X\n")
    project.write(
        "parts/common.yml", "services: {base: {image: BASE, command: STARTS, env_file: own.env}}"
    )
    project.write("parts/own.env", "PART=1\n")
    project.compose_file(CONSTRUCTS, REST)


def test_hashes_equal_those_of_a_plain_compose(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S2", "from the shell")
    for name, value in (("S2", "from the shell"), ("PWD", str(project.root))):
        monkeypatch.setitem(project.engine.env, name, value)
    everything(project)
    commit = project.commit()
    project.compose("--profile", "extra", "up", "-d", "--build", "--quiet-pull")
    project.write("docker-compose.yml", "services: {other: {image: BASE}}")  # the tree is elsewhere
    project.write("app.env", "SECRET=other\n")
    project.write("conf/a.conf", "b")
    project.commit("later")
    target = project.target(profiles=["extra"])

    goal = project.resolve(target, pins(commit))

    labels = project.labels()
    assert len(labels) == 16
    assert {name: goal.value(service_config(name)) for name in labels} == labels
    project.checkout(commit)
    fresh = project.target(profiles=["extra"])
    again = project.resolve(fresh, pins(commit))
    assert {name: again.value(service_config(name)) for name in labels} == labels
    assert project.wrong(fresh, again) == []


def test_services_sharing_namespaces_match_though_compose_hashes_container_ids(
    project: Project,
) -> None:
    services = """
main: {image: BASE, command: STARTS, environment: {V: 1}}
side: {image: BASE, command: STARTS, network_mode: "service:main"}
pids: {image: BASE, command: STARTS, pid: "service:main"}
files: {image: BASE, command: STARTS, volumes_from: ["main:ro"]}
alone: {image: BASE, command: STARTS}
"""
    project.compose_file(services)
    old = project.commit("old")
    project.compose("up", "-d")
    target = project.target()
    assert project.wrong(target, project.resolve(target, pins(old))) == []
    assert project.wrong(project.target(), project.resolve(target, pins(old))) == [], "remembered"
    project.compose_file(services.replace("V: 1", "V: 2"))
    project.commit("new")
    project.compose("up", "-d")
    alone = project.started("alone")

    walk = project.converge(target := project.target(), pins(old))

    assert walk.step("stop").args["levels"] == [["files", "pids", "side"], ["main"]]
    assert project.wrong(target, walk.goal) == []
    assert project.started("alone") == alone
    before = project.labels()
    project.compose("up", "-d")
    assert project.labels() == before, "a plain up finds nothing to do"


def test_several_files_and_env_files_are_merged_in_order(project: Project) -> None:
    project.write("stage.secret", "LEVEL=stage\n")
    project.write(
        "a.yml", "services: {web: {image: BASE, command: STARTS, environment: {L: '${LEVEL}'}}}"
    )
    project.write("b.yml", "services: {web: {environment: {M: '1'}}}")
    commit = project.commit()
    project.compose("-f", "a.yml", "-f", "b.yml", "--env-file", "stage.secret", "up", "-d")
    target = project.target(compose=["a.yml", "b.yml"], envFiles=["stage.secret"])

    walk = project.converge(target, pins(commit))

    assert walk.steps == []
    assert project.wrong(target, walk.goal) == []


def test_compose_files_in_a_folder_mean_what_they_mean_to_compose(project: Project) -> None:
    project.write(
        "deploy/compose.yml",
        "services: {web: {image: BASE, command: STARTS, env_file: web.env, volumes: ['./data:/d', '../src:/s']}}",
    )
    project.write("deploy/web.env", "A=1\n")
    project.write("src/x", "")
    commit = project.commit()
    project.compose("-f", "deploy/compose.yml", "up", "-d")
    project.write("deploy/web.env", "A=2\n")
    project.commit("later")
    target = project.target(compose=["deploy/compose.yml"])

    walk = project.converge(target, pins(commit))

    assert walk.steps == []
    assert project.wrong(target, walk.goal) == []


def test_a_project_reached_by_a_symlink_is_still_read_at_its_commit(project: Project) -> None:
    project.compose_file("web: {image: BASE, command: STARTS, environment: {V: 1}}")
    commit = project.commit()
    project.compose_file("web: {image: BASE, command: STARTS, environment: {V: 2}}")
    project.commit("later")
    link = project.root.parent / "link"
    link.symlink_to(project.root)
    views = Views(project.states / "cache", link, Repository(project.root))

    view = views.at(commit)

    assert view.tree == Path(f"{view.prefix}{link}")
    assert "V: 1" in (view.tree / "docker-compose.yml").read_text()


def test_a_view_holds_what_lies_beside_the_repository_but_not_what_anybody_may_put_there(
    project: Project,
) -> None:
    project.compose_file("web: {image: BASE, command: STARTS}")
    commit = project.commit()
    beside = project.root.parent
    (beside / "shared.env").write_text("A=1\n")
    repository = Repository(project.root)

    ours = Views(project.states / "one", project.root, repository).at(commit)
    beside.chmod(0o1777)
    everybodys = Views(project.states / "two", project.root, repository).at(commit)

    assert (ours.tree.parent / "shared.env").read_text() == "A=1\n"
    assert not (everybodys.tree.parent / "shared.env").exists()


def test_without_git_the_working_tree_counts(project: Project) -> None:
    project.compose_file("web: {image: BASE, command: STARTS}")
    project.compose("up", "-d")
    shutil.rmtree(project.root / ".git")
    target = project.target(git=False)

    goal = project.resolve_without_git(target)

    assert goal.value(service_config("web")) == project.labels()["web"]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("app.env", "OK=1\nBAD LINE canary-77=3\n"),
        ("app.env", 'A="unterminated canary-77\nB=c\n'),
        (".env", "OK=1\n$FOO=canary-77\n"),
        ("app.env", "OK=1\nexport canary-77 $x=\n"),
    ],
)
def test_a_broken_env_file_is_named_and_not_quoted(project: Project, file: str, text: str) -> None:
    project.compose_file("web: {image: BASE, env_file: app.env}")
    project.write("app.env", "A=1\n")
    project.write(file, text)
    commit = project.commit()

    with pytest.raises(PreflightError, match=r"cannot be read \(line \d") as caught:
        project.resolve(project.target(), pins(commit))

    assert "canary-77" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("services: {web: {imagee: x}}", "Additional property imagee is not allowed"),
        (
            "services: {web: {image: 'x:${V:?must be set}'}}",
            "required variable V is missing a value",
        ),
        ("services:\n  web:\n   image: x\n  b: : c\n", "yaml: "),
        ("services: {web: {image: x, env_file: nowhere.env}}", "nowhere.env not found"),
    ],
)
def test_what_compose_refuses_is_told_in_its_words(
    project: Project, text: str, message: str
) -> None:
    project.write("docker-compose.yml", text)
    commit = project.commit()
    project.write("docker-compose.yml", "services: {web: {image: BASE}}")
    project.commit("mended")

    with pytest.raises(PreflightError, match=message) as caught:
        project.resolve(project.target(), pins(commit))

    assert str(project.states) not in caught.value.message, (
        "paths are the project's, not the scratch tree's"
    )


def test_views_are_reused_and_bounded(project: Project) -> None:
    commits = []
    for number in range(9):
        project.compose_file(f"web: {{image: BASE, environment: {{V: {number}}}}}")
        commits.append(project.commit(str(number)))
    target = project.target()

    for commit in commits:
        project.resolve(target, pins(commit))

    kept = [each.name for each in (project.states / "cache" / project.name / "views").iterdir()]
    assert len(kept) <= 6
    assert commits[-2] in kept
    assert commits[0] not in kept


def test_foreign_compose_variables_do_not_leak_in(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPOSE_FILE", "/nowhere.yml")
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", "other")

    environment = ComposeCommand(DockerHost(), project.root, str).environment()

    assert "COMPOSE_FILE" not in environment
    assert "COMPOSE_PROJECT_NAME" not in environment
    assert environment["PWD"] == str(project.root)
