"""One practice production for the end-to-end tests of a worker."""

from tests.support.production import practice, practice_session

__all__ = ["practice", "practice_session"]
