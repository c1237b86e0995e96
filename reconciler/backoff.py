"""How long to wait before the next try."""

from __future__ import annotations

import random

FIRST, LONGEST, ASKED_AT_MOST = 0.5, 8.0, 120.0


def delay(attempt: int, retry_after: float | None = None) -> float:
    """Seconds to wait after a failed attempt (counted from 1): doubling, capped, with jitter.

    What the other side asked for is honoured, up to two minutes, and never shortened.
    """
    base = min(LONGEST, FIRST * 2 ** min(attempt - 1, 16))  # a larger power overflows in the end
    jittered: float = base * random.uniform(0.75, 1.25)  # noqa: S311 - spreads retries, protects nothing
    return max(jittered, min(retry_after or 0.0, ASKED_AT_MOST))
