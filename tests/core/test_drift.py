"""Comparison: only what was observed equal is equal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.drift import Verdict, compare, fact_order
from reconciler.core.facts import TARGET_ORDER, Fact, Goal, Observation, Wanted
from tests.support.records import START, goal, observation

_keys = st.sampled_from(
    [
        "git.commit",
        "docker.service.app.image",
        "docker.service.app.state",
        "database.version",
        "vercel.deployment",
    ]
)
_values = st.none() | st.sampled_from(["a", "b", ""])
_facts = st.lists(
    st.builds(lambda key, value, why: Fact(key=key, value=None if why else value, unknown=why), _keys, _values,
              st.none() | st.just("unreachable")), unique_by=lambda fact: fact.key,
)  # fmt: skip
_wanted = st.lists(
    st.builds(
        lambda key, value, pending: Wanted(key=key, value=value, pending=pending),
        _keys,
        _values,
        st.booleans(),
    ),
    unique_by=lambda want: want.key,
)


@given(_wanted, _facts)
def test_equal_means_observed_known_not_pending_and_the_same(
    wanted: list[Wanted], facts: list[Fact]
) -> None:
    seen = Observation.of(START, facts)
    drift = compare(Goal(wanted={want.key: want for want in wanted}), seen)
    assert [fact.key for fact in drift.facts] == fact_order(want.key for want in wanted)
    for want, fact in (
        (want, next(f for f in drift.facts if f.key == want.key)) for want in wanted
    ):
        observed = seen.get(want.key)
        assert (fact.verdict is Verdict.EQUAL) == (
            not want.pending and observed.known and observed.value == want.value
        )
        if want.pending:
            assert fact.verdict is Verdict.PENDING
        elif not observed.known:
            assert fact.verdict is Verdict.UNKNOWN
            assert fact.why
    assert drift.equal == all(fact.verdict is Verdict.EQUAL for fact in drift.facts)
    parts = (*drift.having(Verdict.EQUAL), *drift.unknown, *drift.differing)
    assert sorted(fact.key for fact in parts) == sorted(fact.key for fact in drift.facts), (
        "each is in one of them"
    )


def test_wanted_absent_and_absent_is_equal_but_not_observed_is_not() -> None:
    assert compare(goal(database__version=None), observation(database__version=None)).equal
    assert not compare(goal(database__version=None), observation()).equal


def test_what_nobody_asked_for_is_none_of_our_business() -> None:
    assert compare(
        goal(git__commit="c"), observation(git__commit="c", vercel__deployment="x")
    ).equal


@given(
    st.permutations(
        ["vercel.deployment", "git.commit", "docker.b", "docker.a", "zzz.other", "database.version"]
    )
)
def test_the_order_is_that_of_the_targets_whatever_comes_in(keys: list[str]) -> None:
    assert fact_order(keys) == [
        "git.commit", "docker.a", "docker.b", "database.version", "vercel.deployment", "zzz.other"
    ]  # fmt: skip
    assert TARGET_ORDER == ("git", "docker", "database", "vercel")
