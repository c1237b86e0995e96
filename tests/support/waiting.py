"""Waiting for a condition with a deadline, instead of sleeping for luck."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def wait_for(look: Callable[[], T | None], *, seconds: float = 20, what: str = "") -> T:
    """Look until there is something to see; gives it.

    Args:
        look: Gives the thing, or something false while it is not there.
        seconds: How long to look.
        what: Names the thing in the error.

    Raises:
        AssertionError: It did not come in time.
    """
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not seen in {seconds} s: {what or look}"
        time.sleep(0.01)
    return found
