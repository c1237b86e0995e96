"""Plans: steps as data, in the order of the phases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reconciler.core.phase import WORK_ORDER, Phase
from reconciler.core.plan import Plan, Step

_steps = st.lists(
    st.builds(
        lambda phase, subject, touches, loss, downtime: Step(
            phase=phase, target="docker", action="do", subject=subject, summary=f"do {subject}", touches=touches,
            data_loss=loss, downtime=downtime,
        ),
        st.sampled_from(WORK_ORDER), st.sampled_from("abcd"), st.booleans(), st.booleans(), st.sampled_from([0.0, 1.5]),
    ), max_size=12,
)  # fmt: skip


@given(_steps)
def test_steps_are_ordered_by_phase_and_inside_a_phase_as_given(steps: list[Step]) -> None:
    plan = Plan.ordered(steps)
    for phase in WORK_ORDER:
        assert plan.of(phase) == tuple(step for step in steps if step.phase is phase)
    assert plan.steps == tuple(step for phase in WORK_ORDER for step in plan.of(phase))
    assert plan.touches_production == any(step.touches for step in steps)
    assert plan.data_loss == any(step.data_loss for step in steps)
    assert plan.downtime == sum(step.downtime for step in steps)


@given(_steps)
def test_a_plan_survives_being_written_down(steps: list[Step]) -> None:
    plan = Plan.ordered(steps)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_the_effect_key_is_the_name_of_the_change_and_not_of_its_details() -> None:
    step = Step(
        phase=Phase.RESTORE, target="database", action="down", subject="2", summary="take down 2"
    )
    assert step.key == "restore/database/down/2"
    assert step.model_copy(update={"args": {"path": "x"}, "summary": "otherwise"}).key == step.key


def test_a_phase_that_does_no_work_has_no_place_in_a_plan() -> None:
    step = Step(phase=Phase.VERIFY, target="git", action="do", subject="x", summary="do x")
    with pytest.raises(KeyError):
        Plan.ordered([step])


def test_an_empty_plan_touches_nothing() -> None:
    assert not Plan().touches_production
    assert Plan().downtime == 0


def test_steps_take_no_unknown_fields() -> None:
    with pytest.raises(ValidationError):
        Step.model_validate(
            {
                "phase": "stop",
                "target": "t",
                "action": "a",
                "subject": "s",
                "summary": "",
                "sudo": 1,
            }
        )
