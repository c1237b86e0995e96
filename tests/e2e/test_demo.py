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

from reconciler.sandbox.practice_engine import LABEL
from reconciler.sandbox.practice_record import default_name
from tests.support.programs import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine

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


def test_it_says_no_when_the_reconciler_did_not_do_its_work(show: Show) -> None:
    code, out, _ = show.run(RECONCILER_DATABASE_URL="sqlite:////nonexistent/ledger.db")
    assert code == 1
    assert "✗ git rev-parse HEAD" in out
    assert "do not agree" in out


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
