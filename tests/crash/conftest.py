"""A practice production to crash in."""

from tests.support.production import practice, practice_session

__all__ = ["practice", "practice_session"]
