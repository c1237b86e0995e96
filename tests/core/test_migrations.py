"""Versions: their order, their files, and the way between two of them."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.migrations import (
    Route,
    digest,
    down_files,
    fingerprint,
    newest,
    order,
    route,
    up_files,
)

VERSIONS = st.integers(1, 999).map(str)


def test_digits_compare_as_numbers() -> None:
    assert sorted(["10", "9", "20250101000000", "007"], key=order) == [
        "9",
        "10",
        "007",
        "20250101000000",
    ]
    assert newest(["9", "10"]) == "10"
    assert newest([]) is None


def test_the_digest_is_over_sorted_lines() -> None:
    assert digest({"2", "1"}) == hashlib.sha256(b"1\n2").hexdigest()
    assert digest([]) == hashlib.sha256(b"").hexdigest()


def test_a_file_and_its_stored_statements_have_one_fingerprint() -> None:
    file = "CREATE TABLE a (id int);\n\nSELECT 1 ;\n"
    assert fingerprint(file) == fingerprint("CREATE TABLE a (id int)SELECT 1")
    assert fingerprint(file) != fingerprint(file.replace("int", "text"))


def test_up_files_and_the_traps_among_them() -> None:
    found = up_files(
        [
            "2_b.sql",
            "1_a.sql",
            "1_a.down.sql",
            "3_c.up.sql",
            "2_again.sql",
            "seed.sql",
            "4_d.txt",
            "٣_x.sql",
        ]
    )
    assert found.files == {"1": "1_a.sql", "2": "2_again.sql"}
    assert [problem.split()[0] for problem in found.problems] == [
        "1_a.down.sql",
        "2_b.sql",
        "3_c.up.sql",
    ]
    assert (
        up_files(["1_a.sql", "20250101000000_b.sql"])
        .problems[0]
        .startswith("Versions have different")
    )


def test_down_files_take_any_name() -> None:
    found = down_files(["1_a.down.sql", "2_b.sql", "2_c.sql", "x.sql"])
    assert found.files == {"1": "1_a.down.sql", "2": "2_b.sql"}
    assert len(found.problems) == 1


@pytest.mark.parametrize(
    ("wanted", "applied", "files", "reapply", "down", "up"),
    [
        ("2", "1 2 3 4", "", "", "4 3", ""),
        (None, "1 2", "", "", "2 1", ""),
        ("3", "1", "1 2 3 4", "", "", "2 3"),
        ("2", "1 2", "1 2", "", "", ""),
        ("2", "1 2 5", "1 2 3 4 5", "", "5", ""),
        ("9", "8 9 10", "", "", "10", ""),
        ("3", "1 3", "1 2 3", "", "", ""),  # a gap below is left alone
        ("4", "1 2", "1 2 3 4", "3 4", "", "3 4"),
        ("4", "1 2 3", "", "3 4", "", "4"),
        ("2", "1 2 3", "", "2", "3", ""),
    ],
)
def test_routes(  # noqa: PLR0917 - columns of a table
    wanted: str | None, applied: str, files: str, reapply: str, down: str, up: str
) -> None:
    found = route(wanted, applied.split(), files.split(), reapply.split())
    assert found == Route(down=tuple(down.split()), up=tuple(up.split()))


@pytest.mark.parametrize(
    ("wanted", "applied", "files", "words"),
    [
        ("25", "10 20 30 40", "", "nearest are 10, 20, 30, 40"),
        ("5", "", "", "No migration is known at all"),
        ("3", "1 2 4", "1 2 3 4", "gap in the middle"),
        ("4", "1 3", "1 2 3 4", "never applied: 2"),
    ],
)
def test_where_there_is_no_way(wanted: str, applied: str, files: str, words: str) -> None:
    found = route(wanted, applied.split(), files.split())
    assert words in found.problem
    assert not found.down
    assert not found.up


@given(st.sets(VERSIONS), st.sets(VERSIONS), VERSIONS)
def test_a_route_leads_where_it_should(applied: set[str], files: set[str], wanted: str) -> None:
    found = route(wanted, applied, files)
    if found.problem:
        return
    after = (applied - set(found.down)) | set(found.up)
    assert newest(after) == wanted
    assert not set(found.up) & applied
    # Whatever the place at which it was left, the rest of the way is the tail of it.
    left = set(applied)
    for version in found.down:
        assert found.remaining(newest(left)).down[0] == version
        left.remove(version)
    assert found.remaining(newest(left)).down == ()
