from __future__ import annotations

import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.duration import DURATION_PATTERN, LONGEST_MILLISECONDS, Duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("30s", 30), ("15m", 900), ("1h30m", 5400), ("1h", 3600), ("90m", 5400),
     ("1h2m3s4ms", 3723.004), ("0s", 0), ("007s", 7)],
)  # fmt: skip
def test_forms(text: str, seconds: float) -> None:
    assert Duration.parse(text).seconds == seconds
    assert Duration.parse(text).timedelta == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    ["", "5", "s", "5 s", "1.5h", "-5s", "5S", "1m1h", "1s1s", "1d", "5sec", "1h 30m", " 5s", "5s\n",
     "9" * 30 + "s", "٣s", "1e3s"],
)  # fmt: skip
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="needs a duration"):
        Duration.parse(text)


def test_spans_nobody_means_are_refused() -> None:
    with pytest.raises(ValueError, match="366 days"):
        Duration.parse("8785h")
    with pytest.raises(ValueError, match="366 days"):
        Duration(-1)


@given(st.integers(0, LONGEST_MILLISECONDS))
def test_its_text_reads_back(milliseconds: int) -> None:
    span = Duration(milliseconds)
    assert Duration.parse(str(span)) == span
    assert re.search(DURATION_PATTERN, str(span))
    assert Duration.of(span.seconds) == span
    assert bool(span) == (milliseconds > 0)


@given(st.from_regex(DURATION_PATTERN, fullmatch=True).filter(lambda text: not text.endswith("\n")))
def test_the_pattern_for_editors_says_the_same(text: str) -> None:
    try:
        Duration.parse(text)
    except ValueError as exc:
        assert "366 days" in str(exc)  # noqa: PT017  # the only reason beyond the pattern


@given(st.text("0123456789hms", max_size=8))
def test_what_the_pattern_refuses_is_refused(text: str) -> None:
    if re.search(DURATION_PATTERN, text) is None:
        with pytest.raises(ValueError, match="needs a duration"):
            Duration.parse(text)


def test_they_can_be_ordered() -> None:
    assert Duration.parse("59s") < Duration.parse("1m") == Duration.parse("60s")
