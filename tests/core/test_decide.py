"""Decisions, as tables of cases."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.conditions import Reason
from reconciler.core.decide import (
    Begin,
    Rest,
    after_failure,
    at_rest,
    blocking,
    changed_since_capture,
    compensation_verdict,
    needs_approval,
    services_down,
    verify_again,
)
from reconciler.core.drift import compare
from reconciler.core.facts import Fact, Goal, Observation, Wanted
from reconciler.core.phase import RUN_PHASES, TOUCHING_PHASES, Phase, Trigger
from reconciler.core.spec import Policy
from reconciler.core.status import Cause, EnvironmentStatus, Failure, Run
from reconciler.core.table import TABLE
from tests.support.records import START, effect, goal, observation, run

EQUAL = compare(goal(git__commit="c"), observation(git__commit="c"))
DIFFERS = compare(goal(git__commit="c"), observation(git__commit="d"))
UNKNOWN = compare(goal(git__commit="c"), observation())
PENDING = compare(Goal(wanted={"a.b": Wanted(key="a.b", pending=True)}), observation(a__b="x"))
TOUCHED = {"1/stop/docker/stop/app": effect(1, 2)}
PREPARED = {"1/capture/docker/logs/app": effect(1, 2, touches=False)}


def _policy(**fields: Any) -> Policy:
    return Policy.model_validate(fields)


@pytest.mark.parametrize(
    ("phase", "drift", "fresh", "resume", "expected"),
    [
        (Phase.NEW, EQUAL, True, False, (Trigger.MATCHES, Cause.FIRST_SIGHT)),
        (Phase.NEW, EQUAL, False, False, (Trigger.MATCHES, Cause.FIRST_SIGHT)),
        (Phase.NEW, DIFFERS, True, False, (Trigger.DRIFTED, Cause.FIRST_SIGHT)),
        (Phase.NEW, None, True, False, (Trigger.DRIFTED, Cause.FIRST_SIGHT)),
        (Phase.STABLE, EQUAL, False, False, None),
        (Phase.STABLE, EQUAL, False, True, None),
        (Phase.STABLE, EQUAL, True, False, (Trigger.MATCHES, Cause.SPEC)),
        (Phase.STABLE, DIFFERS, False, False, (Trigger.DRIFTED, Cause.DRIFT)),
        (Phase.STABLE, DIFFERS, True, False, (Trigger.DRIFTED, Cause.SPEC)),
        (Phase.STABLE, UNKNOWN, False, False, (Trigger.DRIFTED, Cause.DRIFT)),
        (Phase.STALLED, DIFFERS, False, False, None),
        (Phase.STALLED, EQUAL, False, False, None),
        (Phase.STALLED, None, False, False, None),
        (Phase.STALLED, DIFFERS, True, False, (Trigger.RESUMED, Cause.SPEC)),
        (Phase.STALLED, EQUAL, False, True, (Trigger.RESUMED, Cause.RESUME)),
        (Phase.STALLED, None, True, True, (Trigger.RESUMED, Cause.RESUME)),
    ],
)
def test_what_to_do_at_rest(
    phase: Phase,
    drift: Any,
    fresh: bool,  # noqa: FBT001
    resume: bool,  # noqa: FBT001
    expected: Any,
) -> None:
    status = EnvironmentStatus(environment="prod", phase=phase)
    found = at_rest(status, drift, fresh=fresh, resume=resume)
    if expected is None:
        assert isinstance(found, Rest)
    else:
        assert isinstance(found, Begin)
        assert (found.trigger, found.cause) == expected
        assert (phase, found.trigger) in {(move.source, move.trigger) for move in TABLE}
    assert found.message


@pytest.mark.parametrize("phase", sorted(RUN_PHASES))
def test_a_run_under_way_is_not_begun_again(phase: Phase) -> None:
    with pytest.raises(AssertionError):
        at_rest(EnvironmentStatus(environment="prod", phase=phase), EQUAL, fresh=True, resume=True)


def _after(
    made: Run,
    phase: Phase,
    *,
    whole: bool = False,
    reason: Reason = Reason.STEP_FAILED,
    **policy: Any,
) -> Trigger:
    failure = Failure(phase=phase, reason=reason, message="no")
    return after_failure(made, phase, _policy(**policy), whole=whole, failure=failure)


@pytest.mark.parametrize("phase", sorted(TOUCHING_PHASES | {Phase.CAPTURE, Phase.VERIFY}))
def test_a_run_that_touched_production_goes_back(phase: Phase) -> None:
    assert _after(run(effects=TOUCHED), phase) is Trigger.COMPENSATE
    assert _after(run(effects=TOUCHED, rollback=True), phase) is Trigger.COMPENSATE
    assert _after(run(effects=TOUCHED), phase, whole=True) is Trigger.COMPENSATE


@pytest.mark.parametrize("phase", sorted(RUN_PHASES - {Phase.APPROVE}))
def test_whatever_follows_a_failure_is_a_legal_move(phase: Phase) -> None:
    legal = {move.trigger for move in TABLE if move.source is phase}
    for made in (
        run(),
        run(effects=TOUCHED),
        run(effects=TOUCHED, compensating=True),
        run(effects=PREPARED),
    ):
        for whole in (False, True):
            for mode in ("compensate", "halt"):
                assert _after(made, phase, whole=whole, onFailure=mode) in legal


@pytest.mark.parametrize(
    ("made", "phase", "how"),
    [
        (run(), Phase.STOP, {}),
        (run(effects=PREPARED), Phase.VERIFY, {}),
        (run(), Phase.CAPTURE, {}),
        (run(effects=PREPARED), Phase.CAPTURE, {}),
        (run(effects=TOUCHED, compensating=True), Phase.RESTORE, {}),
        (run(effects=TOUCHED), Phase.RESTORE, {"onFailure": "halt"}),
        (run(effects=TOUCHED), Phase.RESTORE, {"reason": Reason.INTERNAL_ERROR}),
        (run(effects=TOUCHED, rollback=True), Phase.VERIFY, {"whole": True}),
    ],
)
def test_a_human_is_asked(made: Run, phase: Phase, how: dict[str, Any]) -> None:
    assert _after(made, phase, **how) is Trigger.STALL


def test_an_intent_alone_counts_as_touched() -> None:
    assert (
        _after(run(effects={"1/stop/docker/stop/app": effect(1)}), Phase.STOP) is Trigger.COMPENSATE
    )


@pytest.mark.parametrize(
    ("attempt", "most", "drift", "again"),
    [(1, 3, DIFFERS, True), (3, 3, DIFFERS, False), (1, 1, DIFFERS, False), (1, 3, UNKNOWN, False),
     (1, 1, PENDING, True), (2, 1, PENDING, False)],
)  # fmt: skip
def test_another_walk(attempt: int, most: int, drift: Any, again: bool) -> None:  # noqa: FBT001
    assert verify_again(run(attempt=attempt), _policy(maxAttempts=most), drift) is again


@pytest.mark.parametrize(
    ("approval", "made", "loss", "asked"),
    [
        ("never", run(), True, False),
        ("always", run(), False, True),
        ("data-loss", run(), True, True),
        ("data-loss", run(), False, False),
        ("always", run(approved_by="ada"), True, False),
        ("always", run(compensating=True), True, False),
    ],
)
def test_when_a_human_must_say_yes(approval: str, made: Run, loss: bool, asked: bool) -> None:  # noqa: FBT001
    assert needs_approval(_policy(approval=approval), made, data_loss=loss) is asked


def test_a_compensation_is_not_asked_for_more_than_there_was() -> None:
    assert compensation_verdict(["health", "redis"], ["redis", "other"]) == ("health",)


def _seen(state: str, **unknown: str) -> Observation:
    facts = [Fact(key="docker.service.app.state", value=state)]
    return Observation.of(
        START,
        [*facts, *(Fact(key=key.replace("__", "."), unknown=why) for key, why in unknown.items())],
    )


@pytest.mark.parametrize("state", ["exited", "dead", "missing", None])
def test_only_a_database_may_wait_and_only_for_services_that_are_down(state: str | None) -> None:
    down = _seen(state or "", database__version="refused")
    wanted = goal(docker__service__app__state="healthy")
    assert services_down(down)
    assert blocking(wanted, down) is None
    assert blocking(None, down) is not None
    assert blocking(None, down, waiting=True) is None
    for key in ("vercel__deployment", "git__commit"):
        assert blocking(wanted, _seen("exited", **{key: "no"}), waiting=True) is not None
    up = _seen("healthy", database__version="refused")
    assert blocking(wanted, up, waiting=True) is not None
    assert not services_down(up)


@given(
    st.dictionaries(
        st.sampled_from(["git.commit", "database.version", "vercel.deployment"]), st.booleans()
    )
)
def test_what_can_be_read_does_not_block(known: dict[str, bool]) -> None:
    facts = [
        Fact(key=key, value="x") if is_known else Fact(key=key, unknown="no")
        for key, is_known in known.items()
    ]
    found = blocking(None, Observation.of(START, facts))
    assert (found is None) == all(known.values())
    assert found is None or not found.known


@pytest.mark.parametrize(
    ("made", "seen", "changed"),
    [
        (run(before={"git.commit": "a"}), observation(git__commit="a"), False),
        (run(before={"git.commit": "a"}), observation(git__commit="b"), True),
        (run(before={"git.commit": "a"}), observation(git__commit=None), True),
        (
            run(before={"docker.service.app.state": "healthy"}),
            observation(docker__service__app__state="exited"),
            False,
        ),
        (run(before={"git.head": "refs/heads/main"}), observation(git__head=None), False),
        (run(before={"git.commit": "a"}, effects=TOUCHED), observation(git__commit="b"), False),
        (run(before={"git.commit": "a"}, compensating=True), observation(git__commit="b"), False),
        (
            run(before={"git.commit": "a"}),
            observation(git__commit="a", vercel__deployment="new"),
            False,
        ),
    ],
)
def test_a_capture_that_no_longer_fits(made: Run, seen: Observation, changed: bool) -> None:  # noqa: FBT001
    found = changed_since_capture(made, seen)
    assert (found is not None) is changed
    if found:
        assert "git.commit" in found.message
        assert "resume" in found.hint
