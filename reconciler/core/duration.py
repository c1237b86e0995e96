"""Durations as humans write them: `500ms`, `30s`, `15m`, `1h30m`. Used by the spec."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

#: Accepted form, for Python and for JSON Schema (ECMA 262). Too long a span is refused beyond it.
DURATION_PATTERN = r"^(?=[0-9])(?:[0-9]{1,9}h)?(?:[0-9]{1,9}m)?(?:[0-9]{1,9}s)?(?:[0-9]{1,9}ms)?$"

#: Whoever writes more than a year has mistaken the unit.
LONGEST_MILLISECONDS = 366 * 24 * 3_600_000

_PARTS = re.compile(
    r"(?=[0-9])(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?(?:([0-9]{1,9})ms)?"
)
_UNITS = ((3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms"))


@dataclass(frozen=True, order=True, slots=True)
class Duration:
    """A span of time, exact to the millisecond, never negative.

    Attributes:
        milliseconds: The whole span.
    """

    milliseconds: int

    def __post_init__(self) -> None:
        if not 0 <= self.milliseconds <= LONGEST_MILLISECONDS:
            raise ValueError("a duration lies between 0ms and 366 days")

    @classmethod
    def parse(cls, text: str) -> Duration:
        """The duration a text names.

        Args:
            text: Hours, minutes, seconds, milliseconds, in this order, each at most once.

        Raises:
            ValueError: The text has another form, or names more than 366 days.
        """
        match = _PARTS.fullmatch(text)
        if match is None:
            raise ValueError("needs a duration such as 500ms, 30s, 15m or 1h30m")
        total = sum(
            int(part) * factor
            for part, (factor, _) in zip(match.groups(), _UNITS, strict=True)
            if part
        )
        if total > LONGEST_MILLISECONDS:
            raise ValueError("is longer than 366 days: is the unit right?")
        return cls(total)

    @classmethod
    def of(cls, seconds: float) -> Duration:
        """A duration from seconds, rounded to the millisecond."""
        return cls(round(seconds * 1000))

    @property
    def seconds(self) -> float:
        """The span in seconds."""
        return self.milliseconds / 1000

    @property
    def timedelta(self) -> timedelta:
        """The span for arithmetic with datetimes."""
        return timedelta(milliseconds=self.milliseconds)

    def __bool__(self) -> bool:
        """False for no time at all."""
        return self.milliseconds > 0

    def __str__(self) -> str:
        """The shortest text that `parse` reads back as the same duration."""
        text, rest = "", self.milliseconds
        for factor, unit in _UNITS:
            count, rest = divmod(rest, factor)
            text += f"{count}{unit}" if count else ""
        return text or "0s"
