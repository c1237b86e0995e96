"""The test bench itself: the real parts are there, and a skip counts as a failure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import redis

from tests.support.programs import MissingPartError, program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.engine import Engine
    from tests.support.programs import VercelCli

pytestmark = pytest.mark.process

pytest_plugins = ["pytester"]


@pytest.mark.e2e
def test_redis_answers(redis_server: str) -> None:
    with redis.Redis.from_url(redis_server) as client:
        assert client.ping()
        assert client.dbsize() == 0


@pytest.mark.node
def test_the_vercel_cli_is_the_pinned_one(vercel_cli: VercelCli) -> None:
    answer = vercel_cli.run("--version", api="http://127.0.0.1:1", token="scratch")
    assert answer.returncode == 0, answer.stderr
    assert "64.0.2" in answer.stdout + answer.stderr


@pytest.mark.engine
def test_compose_builds_starts_and_removes(
    engine: Engine, compose_project: str, tmp_path: Path
) -> None:
    tmp_path.joinpath("Dockerfile").write_text(
        f'FROM {engine.base_image}\nRUN echo built > /made\nCMD ["sleep", "600"]\n'
    )
    service = {"build": ".", "image": f"{compose_project}:1", "init": True}
    tmp_path.joinpath("compose.yaml").write_text(json.dumps({"services": {"app": service}}))
    compose = ("compose", "--project-name", compose_project, "--project-directory", str(tmp_path))
    try:
        engine.docker(*compose, "up", "--detach", "--build")
        assert engine.docker(*compose, "exec", "-T", "app", "cat", "/made") == "built\n"
        assert engine.docker(*compose, "ps", "--services").split() == ["app"]
    finally:
        engine.docker(*compose, "down", "--timeout", "1", "--volumes", check=False)
        engine.docker("image", "rm", f"{compose_project}:1", check=False)


def test_a_missing_program_is_named_with_its_remedy() -> None:
    with pytest.raises(MissingPartError, match=r"tools/parts\.py no-such-program"):
        program("no-such-program")


def test_a_skip_counts_as_failed(pytester: pytest.Pytester, pytestconfig: pytest.Config) -> None:
    conftest = pytestconfig.rootpath / "tests" / "conftest.py"
    pytester.makeconftest(conftest.read_text(encoding="utf-8"))
    pytester.makepyfile(
        """
        import pytest

        def test_in_the_middle(): pytest.skip("no engine")

        @pytest.mark.skip(reason="not today")
        def test_by_mark(): pass

        @pytest.mark.xfail(strict=True, reason="known")
        def test_expected(): assert False
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1, errors=1, xfailed=1)
    result.stdout.fnmatch_lines(["*skipped, which counts as failed*no engine*"])
    pytester.makepyfile(test_whole="import pytest\npytest.importorskip('no_such_module')\n")
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "test_whole.py")
    result.assert_outcomes(errors=1)
