"""The practice production as end-to-end tests want it."""

import pytest

from tests.support.production import Practice


@pytest.fixture
def practice(practice: Practice) -> Practice:
    """Broken; `broken_world` is how this test found it, containers and their ids included."""
    practice.broken_world = practice.world()
    return practice
