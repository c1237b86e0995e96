from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.core.errors import SpecInvalidError, TerminalError, UsageError
from reconciler.core.section import SecretRef
from reconciler.project import Config, find_project, inside, load_spec, read_secret

SPEC = """\
apiVersion: reconciler/v1
kind: Environment
metadata: {name: prod}
spec:
  git: {commit: v1}
  docker:
    project: omniops
    compose: [deploy/docker-compose.yml]
  database:
    postgres: {dsnFrom: {env: D}}
    migrations: db/migrations
    migration: "1"
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    (folder / "specs").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "specs/prod.yaml").write_text(SPEC)
    return folder


def problems_of(path: Path) -> list[str]:
    with pytest.raises(SpecInvalidError) as caught:
        load_spec(path)
    return [str(problem).removeprefix(f"{path}:") for problem in caught.value.problems]


def config_problems(root: Path, text: str) -> list[str]:
    config = root / "reconciler.toml"
    config.write_text(text)
    with pytest.raises(SpecInvalidError) as caught:
        find_project(root / "specs/prod.yaml")
    return [str(problem).removeprefix(f"{config}:") for problem in caught.value.problems]


class TestRoot:
    def test_is_the_nearest_folder_with_git(self, root: Path) -> None:
        assert find_project(root / "specs/prod.yaml").root == root

    def test_or_with_a_config(self, root: Path) -> None:
        (root / "specs/reconciler.toml").touch()
        assert find_project(root / "specs/prod.yaml").root == root / "specs"

    def test_a_worktree_has_a_file_called_git(self, tmp_path: Path) -> None:
        (tmp_path / ".git").write_text("gitdir: elsewhere\n")
        assert find_project(tmp_path / "a/b/prod.yaml").root == tmp_path

    def test_or_else_the_folder_of_the_spec(self, tmp_path: Path) -> None:
        assert not any((parent / ".git").exists() for parent in tmp_path.parents)
        assert find_project(tmp_path / "prod.yaml").root == tmp_path

    def test_a_relative_path_will_do(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(root / "specs")
        assert find_project("prod.yaml").root == root
        assert find_project("../specs/prod.yaml").root == root
        assert load_spec("prod.yaml").path == root / "specs/prod.yaml"


class TestConfig:
    def test_everything_has_a_default(self, root: Path) -> None:
        project = find_project(root / "specs/prod.yaml")
        assert project.config == Config()
        assert project.states_dir == root / "states"
        assert project.specs_dir == root / "specs"
        assert project.database_url is None

    def test_everything_can_be_said(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (root / "reconciler.toml").write_text(
            'database = {env = "LEDGER_URL"}\nstates = "/var/lib/reconciler"\n'
            '[defaults]\nspecs = "environments"\n'
        )
        project = find_project(root / "specs/prod.yaml")
        assert project.states_dir == Path("/var/lib/reconciler")
        assert project.specs_dir == root / "environments"

        monkeypatch.delenv("LEDGER_URL", raising=False)
        with pytest.raises(UsageError, match="env LEDGER_URL is empty or missing"):
            _ = project.database_url
        monkeypatch.setenv("LEDGER_URL", "postgresql://me:hunter2@db/ledger")
        assert project.database_url == "postgresql://me:hunter2@db/ledger"
        assert "hunter2" not in repr(project)

    def test_an_address_without_password_may_stand_there(self, root: Path) -> None:
        (root / "reconciler.toml").write_text('database = "sqlite:///states/audit.db"\n')
        assert find_project(root / "x").database_url == "sqlite:///states/audit.db"

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("\n[defaults]\nspec = 'x'\n", ["3:1: defaults.spec: unknown field; did you mean specs?"]),
            ("state = 'x'\n", ["1:1: state: unknown field; did you mean states?"]),
            ("states = 5\n", ["1:1: states: needs text, found the number 5: put it in quotes"]),
            ("states = '../x'\n", ["1:1: states: leads out of the project root"]),
            ("# c\nstates = ['a']\n", ["2:1: states: needs text, found a list"]),
            ("database = {}\n", ["1:1: database: needs exactly one of env, file; found none"]),
            ("database = {evn = 'A'}\n", [
                "1:1: database: needs exactly one of env, file; found none",
                "1:13: database.evn: unknown field; did you mean env?",
            ]),
            ("database = 5\n", ["1:1: database: needs a reference to a secret"]),
            ("defaults = 'x'\n", ['1:1: defaults: needs a mapping (`name: value` lines), found "x"']),
            ("a = 1\na = 2\n", ["2:6: is not valid TOML: Cannot overwrite a value"]),
            ("a =\n", ["1:4: is not valid TOML: Invalid value"]),
            ("a = " + "[" * 5000, ["1:1: is not valid TOML: "]),
            ("database = 'postgresql://me:hunter2@db/x'\n", ["1:13: looks like an address with a password"]),
            ("# ghp_abcdefghijkl\n", ["1:3: looks like a GitHub token"]),
        ],
    )  # fmt: skip
    def test_mistakes_are_told_at_their_place(
        self, root: Path, text: str, expected: list[str]
    ) -> None:
        found = config_problems(root, text)
        assert len(found) == len(expected), found
        for problem, beginning in zip(found, expected, strict=True):
            assert problem.startswith(beginning)
            assert "hunter2" not in problem

    def test_a_config_that_is_no_file(self, root: Path) -> None:
        (root / "reconciler.toml").mkdir()
        with pytest.raises(SpecInvalidError, match="is a folder"):
            find_project(root / "specs/prod.yaml")

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(st.binary() | st.text(st.characters(exclude_categories=["Cs"])).map(str.encode))
    def test_any_config_gets_an_answer(self, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "reconciler.toml").write_bytes(data)
        try:
            find_project(tmp_path / "prod.yaml")
        except SpecInvalidError as exc:
            assert exc.problems  # noqa: PT017  # either answer will do


class TestLoading:
    def test_what_is_known_of_a_spec(self, root: Path) -> None:
        loaded = load_spec(root / "specs/prod.yaml")
        assert loaded.spec.name == "prod"
        assert loaded.text == SPEC
        assert len(loaded.digest) == 64
        assert loaded.project.root == root

    def test_the_example_of_this_repository(self) -> None:
        example = Path(__file__).parents[1] / "specs/prod.yaml"
        assert load_spec(example).spec.name == "prod"

    def test_problems_name_the_file_as_the_user_did(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (root / "specs/prod.yaml").write_text(SPEC.replace("commit", "comit"))
        monkeypatch.chdir(root)
        with pytest.raises(
            SpecInvalidError, match=r"^specs/prod\.yaml:5:3: spec\.git\.commit: is missing"
        ):
            load_spec("specs/prod.yaml")

    def test_no_such_file(self, root: Path) -> None:
        assert problems_of(root / "none.yaml") == ["1:1: cannot be read: No such file or directory"]
        assert problems_of(root / "specs/prod.yaml/x") == ["1:1: cannot be read: Not a directory"]

    def test_a_folder(self, root: Path) -> None:
        assert problems_of(root) == ["1:1: is a folder, not a file"]

    def test_a_pipe_is_not_waited_for(self, root: Path) -> None:
        os.mkfifo(root / "pipe")
        assert problems_of(root / "pipe") == ["1:1: is a pipe, socket or device, not a file"]

    def test_devices_and_sockets(self, root: Path) -> None:
        (root / "zero").symlink_to("/dev/zero")
        assert problems_of(root / "zero") == ["1:1: is a pipe, socket or device, not a file"]
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(root / "s"))
            assert problems_of(root / "s") == ["1:1: is a pipe, socket or device, not a file"]

    def test_a_huge_file_is_not_read(self, root: Path) -> None:
        huge = root / "huge.yaml"
        with huge.open("wb") as file:
            file.truncate(10**12)
        assert problems_of(huge) == ["1:1: has 1000000000000 bytes; 131072 (128 KiB) at most"]

    def test_a_file_without_an_end_that_claims_to_be_empty(self, root: Path) -> None:
        (root / "maps").symlink_to("/proc/self/smaps")
        assert problems_of(root / "maps")

    def test_a_ring_of_links(self, root: Path) -> None:
        (root / "a.yaml").symlink_to("b.yaml")
        (root / "b.yaml").symlink_to("a.yaml")
        assert problems_of(root / "a.yaml") == [
            "1:1: cannot be read: Too many levels of symbolic links"
        ]

    def test_a_linked_spec_is_read(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "elsewhere.yaml").write_text(SPEC)
        (root / "specs/linked.yaml").symlink_to(tmp_path / "elsewhere.yaml")
        assert load_spec(root / "specs/linked.yaml").project.root == root

    def test_a_path_with_a_null_byte(self, root: Path) -> None:
        with pytest.raises(SpecInvalidError):
            load_spec(f"{root}/a\0b")


class TestLinks:
    def test_one_that_leads_out_is_refused_at_its_place(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "outside/migrations").mkdir(parents=True)
        (root / "db").symlink_to(tmp_path / "outside")
        (root / "deploy").symlink_to("/etc")
        found = problems_of(root / "specs/prod.yaml")
        assert [problem.partition(": ")[0] for problem in found] == ["8:15", "10:5", "11:17"]
        assert "spec.docker.compose[0]: deploy/docker-compose.yml leads out" in found[0]
        assert "spec.database.rollbacks: db/rollbacks leads out" in found[1]
        assert "spec.database.migrations: db/migrations leads out" in found[2]

    def test_one_that_stays_inside_is_followed(self, root: Path) -> None:
        (root / "real").mkdir()
        (root / "deploy").symlink_to("real")
        assert load_spec(root / "specs/prod.yaml").spec.docker
        assert inside(root, "deploy/a.yml") == root / "real/a.yml"

    def test_a_ring_is_told(self, root: Path) -> None:
        (root / "deploy").symlink_to("deploy")
        assert problems_of(root / "specs/prod.yaml")

    def test_the_root_may_be_a_link(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "current").symlink_to(root)
        assert load_spec(tmp_path / "current/specs/prod.yaml").project.root == tmp_path / "current"

    def test_inside_refuses(self, root: Path) -> None:
        for path in ("..", "a/../..", "/etc"):
            with pytest.raises(TerminalError, match="leads out"):
                inside(root, path)


class TestSecrets:
    def test_from_the_environment(self, root: Path) -> None:
        assert read_secret(SecretRef(env="A"), root, {"A": "s3cret"}) == "s3cret"
        for environ in ({}, {"A": ""}):
            with pytest.raises(UsageError, match="env A is empty or missing"):
                read_secret(SecretRef(env="A"), root, environ)

    def test_from_a_file(self, root: Path, tmp_path: Path) -> None:
        (root / "token").write_text("s3cret\r\n")
        assert read_secret(SecretRef(file="token"), root) == "s3cret"
        (tmp_path / "token").write_text("other\n")
        assert read_secret(SecretRef(file=str(tmp_path / "token")), root) == "other"

    @pytest.mark.parametrize(
        ("content", "reason"),
        [(b"", "empty"), (b"\n", "empty"), (b"\xff", "UTF-8"), (b"x" * 70_000, "bytes")],
    )
    def test_what_is_no_secret(self, root: Path, content: bytes, reason: str) -> None:
        (root / "token").write_bytes(content)
        with pytest.raises(UsageError, match=reason):
            read_secret(SecretRef(file="token"), root)

    def test_no_file(self, root: Path) -> None:
        with pytest.raises(
            UsageError, match="file token cannot be read: cannot be read: No such file"
        ):
            read_secret(SecretRef(file="token"), root)
