"""A production that is one Git repository, and the command line as a user calls it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commandline import Repo


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repo]:
    """A repository with three commits, checked out at the newest; the present folder is its root."""
    made = Repo.create(tmp_path / "shop")
    monkeypatch.chdir(made.root)
    monkeypatch.setenv("RECONCILER_ACTOR", "ada@desk")
    yield made
    made.stop_all()
