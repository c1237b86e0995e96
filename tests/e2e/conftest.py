"""One practice production for the end-to-end tests of a worker."""

import pytest

from tests.support.production import Practice, practice_session

__all__ = ["practice", "practice_session"]


@pytest.fixture
def practice(practice_session: Practice) -> Practice:
    """The practice production, broken; `broken_world` is how this test found it, containers and their ids included."""
    practice_session.reset_to_broken()
    practice_session.broken_world = practice_session.world()
    return practice_session
