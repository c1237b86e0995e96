from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.problems import (
    Problem,
    did_you_mean,
    format_path,
    in_reading_order,
    parse_path,
)


def test_it_reads_like_a_compilers_message() -> None:
    problem = Problem("specs/prod.yaml", 5, 17, "spec.git.commit", "is missing")
    assert str(problem) == "specs/prod.yaml:5:17: spec.git.commit: is missing"
    assert str(Problem("f", 1, 1, "", "is empty")) == "f:1:1: is empty"


def test_order_is_that_of_the_file_and_each_is_told_once() -> None:
    late, early = Problem("f", 10, 1, "b", "x"), Problem("f", 9, 80, "a", "x")
    assert in_reading_order([late, early, late]) == [early, late]


@pytest.mark.parametrize(
    ("location", "path"),
    [(("spec", "git", "commit"), "spec.git.commit"), (("checks", 0, "name"), "checks[0].name"),
     (("services", "my.app", "image"), 'services["my.app"].image'), ((), ""),
     (("a\nb",), '["a\\nb"]'), (("", "x"), '[""].x')],
)  # fmt: skip
def test_paths(location: tuple[str | int, ...], path: str) -> None:
    assert format_path(location) == path
    assert parse_path(path) == location


@given(st.lists(st.text(max_size=20) | st.integers(0, 10**6)))
def test_any_location_reads_back(location: list[str | int]) -> None:
    assert parse_path(format_path(tuple(location))) == tuple(location)


def test_a_long_key_does_not_bury_the_message() -> None:
    assert len(format_path(("spec", "x" * 10_000))) < 100


@pytest.mark.parametrize("path", ["a b", "a[", "a[b]", "..", 'a["b]', "[-1]"])
def test_what_is_no_path(path: str) -> None:
    with pytest.raises(ValueError, match="not a path"):
        parse_path(path)


@pytest.mark.parametrize(
    ("word", "meant"),
    [("comit", "commit"), ("env_files", "envFiles"), ("EnvFiles", "envFiles"), ("env-files", "envFiles"),
     ("kubernetes", None), ("x" * 100_000, None)],
)  # fmt: skip
def test_guessing(word: str, meant: str | None) -> None:
    assert did_you_mean(word, ["commit", "dirty", "envFiles", "git"]) == meant
