"""The state machine: no move outside of the table, every phase reachable, every phase a way to rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.machine import IllegalMoveError, fire, legal
from reconciler.core.phase import (
    RESTING_PHASES,
    RUN_PHASES,
    TOUCHING_PHASES,
    WORK_ORDER,
    Phase,
    Trigger,
)
from reconciler.core.table import TABLE

_MOVES = {(move.source, move.trigger): move.dest for move in TABLE}


def _reachable(start: Phase) -> set[Phase]:
    found, new = {start}, [start]
    while new:
        phase = new.pop()
        for move in TABLE:
            if move.source is phase and move.dest not in found:
                found.add(move.dest)
                new.append(move.dest)
    return found


@given(st.lists(st.sampled_from(Trigger), max_size=60))
def test_random_triggers_never_leave_the_table(triggers: list[Trigger]) -> None:
    phase = Phase.NEW
    for trigger in triggers:
        if (phase, trigger) in _MOVES:
            after = fire(phase, trigger)
            assert after is _MOVES[phase, trigger]
            phase = after
        else:
            with pytest.raises(IllegalMoveError):
                fire(phase, trigger)


@pytest.mark.parametrize("phase", Phase)
def test_legal_says_exactly_what_may_fire(phase: Phase) -> None:
    assert set(legal(phase)) == {trigger for source, trigger in _MOVES if source is phase}


def test_the_table_is_unambiguous_and_uses_every_trigger() -> None:
    assert len(_MOVES) == len(TABLE)
    assert {move.trigger for move in TABLE} == set(Trigger)
    assert all(move.why for move in TABLE)


def test_every_phase_is_reachable_and_from_each_one_gets_to_stable_and_to_a_human() -> None:
    assert _reachable(Phase.NEW) == set(Phase)
    for phase in Phase:
        assert {Phase.STABLE, Phase.STALLED} <= _reachable(phase), phase


def test_stable_is_entered_only_with_a_certificate_or_untouched() -> None:
    assert {(move.source, move.trigger) for move in TABLE if move.dest is Phase.STABLE} == {
        (Phase.VERIFY, Trigger.VERIFIED),
        (Phase.APPROVE, Trigger.REJECTED),
    }


def test_nothing_is_touched_that_was_not_captured() -> None:
    before_stop = {move.source for move in TABLE if move.dest is Phase.STOP}
    assert before_stop == {Phase.CAPTURE, Phase.APPROVE}
    for phase in TOUCHING_PHASES - {Phase.STOP}:
        assert {move.source for move in TABLE if move.dest is phase} <= TOUCHING_PHASES


def test_the_named_sets_fit_together() -> None:
    assert TOUCHING_PHASES < RUN_PHASES
    assert {Phase.APPROVE} == RESTING_PHASES & RUN_PHASES, "waiting for a human is part of a run"
    assert set(WORK_ORDER) == TOUCHING_PHASES | {Phase.CAPTURE}
    assert set(Phase) == RUN_PHASES | {Phase.NEW, Phase.STABLE, Phase.STALLED}
