"""The story: a tired human reads it from top to bottom and knows what happened."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.entry import EntryKind
from reconciler.core.errors import StepFailedError
from reconciler.core.story import tell
from tests.support.records import entry
from tests.support.world import BAD, GOOD, Stage, source


def _story(stage: Stage) -> str:
    return "\n".join(tell(stage.entries()))


def test_a_run_is_told_from_wish_to_proof() -> None:
    with Stage() as stage:
        stage.engine().converge(source(GOOD))
        lines = _story(stage).splitlines()
    wanted = [
        "tester gave prod generation 1 (specs/prod.yaml)",
        "run 20251118-030000-",
        "because: FirstSight (first-sight), by tester through cli",
        "new -> capture",
        "done: save-logs app",
        "capture -> stop",
        "done: stop services",
        "done: down 3",
        "start -> verify",
        "verify -> stable",
        "= git.commit  good",
    ]
    place = 0
    for words in wanted:
        found = [number for number, line in enumerate(lines) if words in line and number >= place]
        assert found, words
        place = found[0]
    assert all(line == line.rstrip() for line in lines)


def test_a_failure_is_told_with_its_reason_and_the_way_back() -> None:
    with Stage() as stage:
        stage.world.failing["restore/database/down/2"] = [
            StepFailedError("42P01: no table", hint="mend the script")
        ]
        stage.engine().converge(source(GOOD))
        text = _story(stage)
    assert "FAILED: down 2" in text
    assert "42P01: no table" in text
    assert "restore -> capture (back)   42P01" in text
    assert "Back on the vector from before the run." in text
    assert "goal resolved" in text
    assert "next: mend the script" in text


def test_each_phase_is_told_with_its_time() -> None:
    with Stage() as stage:
        stage.engine().converge(source(GOOD))
        assert "capture took 0.0" in _story(stage)


def test_human_decisions_are_told_with_who_and_why() -> None:
    with Stage() as stage:
        asking = source(GOOD, policy=", approval: always")
        stage.engine().converge(asking)
        with stage.engine().session("prod") as journal:
            stage.engine().reject(journal, "not on a Friday")
        assert "rejected by tester: not on a Friday" in _story(stage)


def test_two_environments_do_not_mix_their_times() -> None:
    with Stage() as one:
        one.engine().converge(source(GOOD))
        one.engine().converge(source(BAD))
        mixed = [
            *one.entries(),
            *(each.model_copy(update={"environment": "other"}) for each in one.entries()),
        ]
        assert not [line for line in tell(mixed) if "took -" in line]


@pytest.mark.parametrize("kind", EntryKind)
def test_an_entry_of_which_nothing_is_known_is_told_all_the_same(kind: EntryKind) -> None:
    assert list(tell([entry(kind, body={"path": "p"})])) is not None


_KEYS = (
    "message",
    "decision",
    "outcome",
    "seconds",
    "certificate",
    "step",
    "run",
    "hint",
    "checksBefore",
)
_VALUES = (
    st.none()
    | st.booleans()
    | st.text(max_size=3)
    | st.integers()
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(st.text(max_size=3), st.integers(), max_size=1)
)


@given(st.sampled_from(EntryKind), st.dictionaries(st.sampled_from(_KEYS), _VALUES))
def test_no_entry_stops_the_story(kind: EntryKind, body: dict[str, object]) -> None:
    told = list(tell([entry(kind, body={"path": "p", **body})]))
    assert all(isinstance(line, str) for line in told)
