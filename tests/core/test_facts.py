"""Facts, observations and goals: what is unknown stays unknown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reconciler.core import facts as f
from reconciler.core.facts import Fact, Goal, Observation, Wanted
from tests.support.records import START, observation

_keys = st.sampled_from(
    ["git.commit", "docker.service.app.image", "database.version", "vercel.deployment"]
)


def test_what_nobody_observed_is_unknown_and_has_no_value() -> None:
    fact = observation().get("git.commit")
    assert not fact.known
    assert fact.value is None
    assert observation().value("git.commit") is None


def test_known_to_be_absent_is_not_unknown() -> None:
    assert observation(database__version=None).get("database.version").known


@given(st.dictionaries(_keys, st.text(max_size=5)), st.dictionaries(_keys, st.text(max_size=5)))
def test_merged_facts_replace_those_of_the_same_key_and_no_others(
    old: dict[str, str], new: dict[str, str]
) -> None:
    merged = Observation.of(
        START, [Fact(key=key, value=value) for key, value in old.items()]
    ).merged(Fact(key=key, value=value) for key, value in new.items())
    assert {key: fact.value for key, fact in merged.facts.items()} == {**old, **new}
    assert merged.at == START


def test_the_facts_of_a_target_come_in_key_order() -> None:
    seen = observation(
        docker__service__b__image="2", git__commit="c", docker__service__a__image="1"
    )
    assert [fact.value for fact in seen.of_target("docker")] == ["1", "2"]


def test_completing_a_goal_fills_what_was_pending_and_nothing_else() -> None:
    image, other = f.service_image("app"), f.service_image("worker")
    goal = Goal(
        wanted={
            image: Wanted(key=image, pending=True, detail="built from good"),
            other: Wanted(key=other, value="sha256:old"),
        }
    )
    done = goal.completed(
        [Fact(key=image, value="sha256:new"), Fact(key=other, value="sha256:new")]
    )
    assert done.wanted[image] == Wanted(key=image, value="sha256:new", detail="built from good")
    assert done.value(other) == "sha256:old"
    assert goal.wanted[image].pending, "the goal before is another value"


def test_facts_do_not_change_and_take_no_unknown_fields() -> None:
    fact = Fact(key="git.commit", value="c")
    with pytest.raises(ValidationError):
        fact.value = "d"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Fact.model_validate({"key": "git.commit", "valeu": "c"})


@pytest.mark.parametrize(
    ("key", "target"),
    [
        (f.GIT_COMMIT, "git"),
        (f.service_image("a.b"), "docker"),
        (f.volume_restored("v"), "docker"),
        (f.DATABASE_APPLIED, "database"),
        (f.VERCEL_DEPLOYMENT, "vercel"),
    ],
)
def test_each_key_begins_with_its_target(key: str, target: str) -> None:
    assert f.target_of(key) == target
    assert target in f.TARGET_ORDER
