"""The demonstration is what a newcomer runs first: it tells the truth, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reconciler.sandbox.demo_proof import proofs, unchanged
from reconciler.sandbox.practice_engine import LABEL
from reconciler.sandbox.practice_record import default_name
from tests.support.programs import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine
    from tests.support.production import Practice

pytestmark = [
    pytest.mark.engine,
    pytest.mark.postgres,
    pytest.mark.node,
    pytest.mark.e2e,
    pytest.mark.xdist_group("practice"),
]


class Show:
    """One demonstration, in a folder for temporary files of its own."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.folder = folder
        self._engine = engine

    def start(self, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "reconciler.sandbox.demo"],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(self.folder), "NO_COLOR": "1", **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, **variables: str) -> tuple[int, str, str]:
        process = self.start(**variables)
        out, err = process.communicate(timeout=280)
        return process.returncode, out, err

    def leftovers(self, names: set[str]) -> list[str]:
        found = [path.name for path in self.folder.glob("reconciler-*")]
        for name in names:
            by_project = f"label=com.docker.compose.project={name}"
            found += self._engine.docker("ps", "--all", "--quiet", "--filter", by_project).split()
            by_label = f"label={LABEL}={name}"
            found += self._engine.docker("images", "--quiet", "--filter", by_label).split()
        return found


@pytest.fixture
def show(engine: Engine) -> Iterator[Show]:
    # Not pytest's own folder: PostgreSQL's account may not enter that.
    with tempfile.TemporaryDirectory(prefix="rrtest-demo-") as folder:
        Path(folder).chmod(0o755)
        yield Show(Path(folder), engine)


def names_in(text: str) -> set[str]:
    return set(re.findall(r"practice-[0-9a-f]{6}", text))


def test_the_demonstration_proves_itself_and_leaves_nothing(show: Show) -> None:
    code, out, err = show.run()
    assert code == 0, out[-6000:] + err
    titles = re.findall(r"^\d\. (.*)$", out, re.MULTILINE)
    assert len(titles) == 7
    broken, proven = out.split("\n2. ")[1].split("\n3. ")[0], out.split("\n5. ")[1]
    assert '✗ health     500 {"status":"error","release":"1.5.0"' in broken
    assert "Certificate  prod, generation 1" in out
    assert "✗" not in proven
    assert "vercel inspect practice-shop.vercel.app" in proven
    assert "nothing to do" in proven
    assert "Everything agrees" in out
    assert names_in(out)
    assert show.leftovers(names_in(out)) == []


def test_it_does_not_believe_the_reconciler(practice: Practice) -> None:
    """Asked of a production that is still broken, every proof that can fail does."""
    failed = {one.asked for one in proofs(practice.production) if not one.holds}
    assert failed == {
        "git rev-parse HEAD",
        "docker inspect app: image",
        "docker inspect worker: built from",
        "psql: newest migration",
        "psql: tables and columns of 1.5.0",
        "vercel inspect practice-shop.vercel.app",
        "GET /api/health",
    }


def test_a_change_is_noticed_however_small() -> None:
    before = {"ledger entries": "44", "docker inspect app: started": "14:05"}
    after = {"ledger entries": "45"}
    assert [one.holds for one in unchanged(before, before)] == [True, True]
    assert [one.holds for one in unchanged(before, after)] == [False, False]


def test_without_an_engine_it_says_so_and_leaves_nothing(show: Show) -> None:
    code, _, err = show.run(DOCKER_HOST="unix:///nowhere/docker.sock")
    assert code == 1
    assert "Error: The Docker engine cannot be reached." in err
    assert list(show.folder.iterdir()) == []


def test_ctrl_c_clears_up(show: Show) -> None:
    process = show.start()
    assert process.stdout
    for line in process.stdout:
        if line.startswith("2. "):
            break
    (place,) = show.folder.glob("reconciler-demo-*/shop")
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted" in err
    assert "Traceback" not in err
    assert show.leftovers({default_name(place)}) == []
