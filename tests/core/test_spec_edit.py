from __future__ import annotations

import difflib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.errors import SpecInvalidError, UsageError
from reconciler.core.loader import parse_spec
from reconciler.core.spec import Spec
from reconciler.core.specedit import set_pins
from tests.core.corpus_cases import HEAD

EXAMPLE = (Path(__file__).parents[2] / "specs/prod.yaml").read_text("utf-8")


def changes(old: str, new: str) -> list[str]:
    diff = difflib.unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm="")
    return [line for line in diff if line[0] in "+-" and not line.startswith(("+++", "---"))]


def test_each_pin_of_the_example_is_one_line_in_a_diff() -> None:
    new = set_pins(
        EXAMPLE,
        {
            "spec.git.commit": "4f9c2e1",
            "spec.docker.services.app.image": "omniops-app:v0.0.8",
            "spec.database.migration": "20251101000000",
            "spec.vercel.deployment": "last-known-good",
        },
    )

    assert changes(EXAMPLE, new) == [
        "-    commit: v0.0.9 # full or short id, tag, branch, HEAD~1, or last-known-good",
        '+    commit: "4f9c2e1" # full or short id, tag, branch, HEAD~1, or last-known-good',
        "-        image: omniops-app:v0.0.9 # an image that exists: tag, digest, id, or last-known-good",
        "+        image: omniops-app:v0.0.8 # an image that exists: tag, digest, id, or last-known-good",
        '-    migration: "20251117000000" # newest migration that shall be applied; quoted, or last-known-good',
        '+    migration: "20251101000000" # newest migration that shall be applied; quoted, or last-known-good',
        "-    deployment: dpl_9KxWmPq2 # id, host name (omniops-abc123.vercel.app), or last-known-good",
        "+    deployment: last-known-good # id, host name (omniops-abc123.vercel.app), or last-known-good",
    ]  # fmt: skip
    spec = parse_spec(new)
    assert isinstance(spec, Spec)
    assert spec.git
    assert spec.git.commit == "4f9c2e1"


@pytest.mark.parametrize(
    ("old", "value", "new"),
    [
        ("v1", "v2", "v2"),
        ("v1", "feature/x~1", "feature/x~1"),
        ("v1", "1234567", '"1234567"'),
        ("v1", "12e4567", '"12e4567"'),
        ("v1", "true", '"true"'),
        ("v1", "on", '"on"'),
        ("v1", "null", '"null"'),
        ("'v1'", "1234567", "'1234567'"),
        ("'v1'", "it's", "'it''s'"),
        ('"v1"', 'a"b', '"a\\"b"'),
        ("v1", "a: b", '"a: b"'),
        ("v1", "a #b", '"a #b"'),
        ("v1", "", '""'),
        ("|-\n      v1", "v2", '"v2"'),
        (">\n      v1\n\n", "v2", '"v2"\n\n'),
        ("1234567", "v2", "v2"),
    ],
)
def test_quotes_are_kept_and_added_where_needed(old: str, value: str, new: str) -> None:
    text = HEAD + f"  git:\n    commit: {old}\n    dirty: refuse # keep\n"
    wanted = HEAD + f"  git:\n    commit: {new}\n    dirty: refuse # keep\n"
    assert set_pins(text, {"spec.git.commit": value}) == wanted


def test_nothing_to_change_changes_nothing() -> None:
    assert set_pins(EXAMPLE, {"spec.git.commit": "v0.0.9"}) == EXAMPLE
    assert set_pins(EXAMPLE, {}) == EXAMPLE


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_byte_order_mark_stay(end: str, mark: str) -> None:
    text = mark + EXAMPLE.replace("\n", end)
    new = set_pins(text, {"spec.git.commit": "v2", "spec.git.new": "x"})
    assert new.startswith(mark + "# yaml")
    assert new.count(end) == text.count(end) + 1
    assert new.replace("\r\n", "").count("\n") == (0 if end == "\r\n" else new.count("\n"))


@pytest.mark.parametrize(
    ("service", "wanted"),
    [
        ("{build: true}", '{image: "a:1"}'),
        ("{ build: true, noCache: true } # why", '{ image: "a:1" } # why'),
        ("\n        build: true # why", '\n        image: "a:1" # why'),
        ("\n        noCache: false\n        build: true # why", '\n        image: "a:1" # why'),
        ("{}", '{image: "a:1"}'),
        ("{image: b}", "{image: a:1}"),
    ],
)  # fmt: skip
def test_an_image_takes_the_place_of_a_build(service: str, wanted: str) -> None:
    text = HEAD + "  docker:\n    services:\n      my.app: {}\n    project: p # last\n"
    before = text.replace("{}", service)
    after = set_pins(before, {'spec.docker.services["my.app"].image': "a:1"})
    assert after == text.replace("{}", wanted)


def test_a_field_is_added_where_its_mapping_is() -> None:
    text = HEAD + "  git:\n    # the pin\n    dirty: stash\n  vercel: {project: p}\n"
    new = set_pins(text, {"spec.git.commit": "v2", "spec.vercel.deployment": "dpl_a"})
    assert new == HEAD + (
        '  git:\n    # the pin\n    commit: "v2"\n    dirty: stash\n'
        '  vercel: {deployment: "dpl_a", project: p}\n'
    )


@pytest.mark.parametrize(
    "path",
    ["spec.vercel.deployment", "spec.git", "spec.git.commit.x", "", "spec..git", "a b", "[0]"],
)
def test_a_path_that_leads_nowhere_is_refused(path: str) -> None:
    with pytest.raises(UsageError):
        set_pins(HEAD + "  git: {commit: v1}\n", {path: "x"})


@pytest.mark.parametrize("text", ["", "a: &x b\n", "a: [", "a: 1\na: 2\n"])
def test_a_text_that_is_not_right_is_refused(text: str) -> None:
    with pytest.raises(SpecInvalidError):
        set_pins(text, {"a": "x"})


@given(
    st.text(st.characters(exclude_categories=("C", "Z")), max_size=40),
    st.sampled_from(["v", "'v'", '"v"']),
)
def test_any_value_reads_back(value: str, old: str) -> None:
    text = HEAD + f"  git: {{commit: {old}, dirty: refuse}} # end\n"
    new = set_pins(text, {"spec.git.commit": value})
    assert new.endswith(", dirty: refuse} # end\n")
    assert set_pins(new, {"spec.git.commit": "v"}).count("\n") == text.count("\n")
