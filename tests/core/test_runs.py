"""How a run begins."""

from __future__ import annotations

from datetime import timedelta

import pytest

from reconciler.core.conditions import Reason
from reconciler.core.decide import Begin
from reconciler.core.facts import Fact, Observation
from reconciler.core.loader import parse_spec
from reconciler.core.phase import Phase, Trigger
from reconciler.core.pins import Pins
from reconciler.core.runs import effective, goes_back, new_run
from reconciler.core.spec import Spec
from reconciler.core.status import Cause, EnvironmentStatus, Override, Resolved
from tests.support.records import START, artifact, effect, goal, observation, point, run

_TEXT = b"""\
apiVersion: reconciler/v1
kind: Environment
metadata: {name: prod}
spec: {git: {commit: wanted}}
"""
_BEGIN = Begin(Trigger.DRIFTED, Cause.DRIFT, Reason.DRIFT, "Differs.")
_RESUME = Begin(Trigger.RESUMED, Cause.RESUME, Reason.RESUMED, "Resumed.")


def _spec() -> Spec:
    spec = parse_spec(_TEXT, "prod.yaml")
    assert isinstance(spec, Spec)
    return spec


def _status(**fields: object) -> EnvironmentStatus:
    return EnvironmentStatus.model_validate({"environment": "prod", "generation": 1, **fields})


def _override(reason: Reason, generation: int = 1) -> Override:
    return Override(
        generation=generation, reason=reason, message="", pins=Pins(git="old"), by="ada", at=START
    )


def test_the_spec_is_pursued_unless_its_generation_is_held() -> None:
    assert effective(_status(), _spec(), 1) == (Pins(git="wanted"), True)
    held = _status(override=_override(Reason.ROLLBACK))
    assert effective(held, _spec(), 1) == (Pins(git="old"), True)
    assert effective(held, _spec(), 2) == (Pins(git="wanted"), True), "a newer generation ends it"


def test_a_goal_is_fresh_until_it_was_pursued_for_this_generation() -> None:
    reached = Resolved(generation=1, pins=Pins(git="wanted"), goal=goal())
    assert effective(_status(resolved=reached), _spec(), 1)[1] is False
    assert effective(_status(resolved=reached), _spec(), 2)[1] is True
    stalled = _status(phase=Phase.STALLED, run=run(pins=Pins(git="wanted")), resolved=None)
    assert effective(stalled, _spec(), 1)[1] is False


def test_what_could_not_be_read_is_not_captured_as_absent() -> None:
    observed = Observation.of(
        START, [Fact(key="git.commit", value="now"), Fact(key="database.version", unknown="down")]
    )
    begun = new_run(_status(), _BEGIN, Pins(), None, observed, START)
    assert begun.before == {"git.commit": "now"}


def test_the_state_of_the_tree_is_not_part_of_the_way_back() -> None:
    begun = new_run(
        _status(), _BEGIN, Pins(), None, observation(git__dirty="dirty", git__commit="now"), START
    )
    assert begun.before == {"git.commit": "now"}


def test_run_ids_are_safe_and_differ_by_environment_and_instant() -> None:
    made = {
        new_run(_status(environment=name), _BEGIN, Pins(), None, observation(), when).id
        for name in ("prod", "staging")
        for when in (START, START + timedelta(microseconds=1))
    }
    assert len(made) == 4
    assert all(set(name) <= set("0123456789abcdef-") for name in made)


def test_resuming_a_run_that_touched_production_keeps_its_way_back() -> None:
    old = run(
        before={"git.commit": "first"},
        effects={"1/restore/git/checkout/worktree": effect(1, 2)},
        artifacts=(artifact("volume-backup", "data", "a"),),
        checks_before=("health",),
        outage_started=START,
    )
    status = _status(phase=Phase.STALLED, run=old)
    again = new_run(
        status, _RESUME, Pins(), None, observation(git__commit="mixed"), START + timedelta(hours=1)
    )
    assert again.id != old.id
    assert (again.leg, again.before, again.effects) == (2, old.before, old.effects)
    assert (again.artifacts, again.checks_before, again.outage_started) == (
        old.artifacts,
        ("health",),
        START,
    )
    assert not again.compensating


def test_resuming_a_failed_compensation_goes_on_compensating() -> None:
    old = run(effects={"1/restore/git/checkout/worktree": effect(1, 2)}, compensating=True, leg=2)
    status = _status(phase=Phase.STALLED, run=old, override=_override(Reason.COMPENSATED))
    assert new_run(status, _RESUME, Pins(), None, observation(), START).compensating


def test_resuming_a_run_that_touched_nothing_captures_anew() -> None:
    old = run(
        before={"git.commit": "first"},
        effects={"1/capture/docker/logs/app": effect(1, 2, touches=False)},
    )
    status = _status(phase=Phase.STALLED, run=old)
    again = new_run(status, _RESUME, Pins(), None, observation(git__commit="now"), START)
    assert (again.leg, again.before, again.effects) == (1, {"git.commit": "now"}, {})


@pytest.mark.parametrize(
    ("wanted", "back"),
    [
        ({"git__commit": "good"}, True),
        ({"git__commit": "good", "docker__service__app__state": "healthy"}, True),
        ({"git__commit": "other"}, False),
        ({"git__commit": "good", "vercel__deployment": "new"}, False),
    ],
)
def test_a_run_is_a_rollback_when_its_goal_was_verified_before(
    wanted: dict[str, str],
    back: bool,  # noqa: FBT001
) -> None:
    status = _status(
        recovery_points=(point("p2", git__commit="bad"), point("p1", git__commit="good"))
    )
    assert goes_back(status, goal(**wanted)) is back


def test_a_goal_that_is_not_resolved_is_no_rollback() -> None:
    assert not goes_back(_status(recovery_points=(point("p", git__commit="c"),)), None)
