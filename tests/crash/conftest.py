"""A practice production to crash in, and a loaded process to fork commands from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.production import Practice, practice, practice_session
from tests.support.zygote import Zygote

__all__ = ["practice", "practice_session"]


@pytest.fixture(scope="session")
def zygote(
    practice_session: Practice, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Zygote]:
    made = Zygote(Path(tmp_path_factory.mktemp("zygote")), practice_session.env)
    yield made
    made.close()
