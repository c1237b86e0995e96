"""Conditions, as Kubernetes objects carry them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.conditions import (
    Conditions,
    ConditionType,
    Reason,
    find,
    with_condition,
    without,
)
from tests.support.records import at

_sets = st.lists(
    st.tuples(
        st.sampled_from(ConditionType),
        st.sampled_from(["True", "False", "Unknown"]),
        st.sampled_from(Reason),
    ),
    max_size=12,
)


@given(_sets)
def test_each_type_is_there_once_in_a_fixed_order_with_its_last_word(
    sets: list[tuple[ConditionType, str, Reason]],
) -> None:
    conditions: Conditions = ()
    since: dict[ConditionType, tuple[str, int]] = {}
    for second, (kind, status, reason) in enumerate(sets):
        conditions = with_condition(conditions, kind, status, reason, f"word {second}", at(second))  # type: ignore[arg-type]
        if kind not in since or since[kind][0] != status:
            since[kind] = status, second
    assert [condition.type for condition in conditions] == [
        kind for kind in ConditionType if kind in since
    ]
    for condition in conditions:
        status, second = since[condition.type]
        assert (condition.status, condition.last_transition) == (status, at(second))
    for kind, _, reason in sets[-1:]:
        last = find(conditions, kind)
        assert last is not None
        assert (last.reason, last.message) == (reason, f"word {len(sets) - 1}")


def test_the_time_moves_only_with_the_status() -> None:
    first = with_condition((), ConditionType.READY, "True", Reason.VERIFIED, "a", at(1))
    same = with_condition(first, ConditionType.READY, "True", Reason.COMPENSATED, "b", at(2))
    other = with_condition(same, ConditionType.READY, "False", Reason.DRIFT, "c", at(3))
    assert [conditions[0].last_transition for conditions in (first, same, other)] == [
        at(1),
        at(1),
        at(3),
    ]


def test_taking_away_what_is_not_there_is_nothing() -> None:
    ready = with_condition((), ConditionType.READY, "True", Reason.VERIFIED, "", at(1))
    assert without(ready, ConditionType.STALLED, ConditionType.DEGRADED) == ready
    assert without(ready, ConditionType.READY) == ()
    assert find(ready, ConditionType.STALLED) is None
