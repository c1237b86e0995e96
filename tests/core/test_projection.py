"""The projection: what a status says of the entries that led to it."""

from __future__ import annotations

import pytest

from reconciler.core.conditions import ConditionType, Reason, find
from reconciler.core.entry import Entry, EntryKind, Outcome
from reconciler.core.facts import Goal, Wanted
from reconciler.core.phase import Phase, Trigger
from reconciler.core.pins import Pins
from reconciler.core.projection import fold, project
from reconciler.core.status import POINTS_KEPT, EnvironmentStatus, Override
from tests.support.records import START, at, entry, goal, point, run


def _move(source: Phase, trigger: Trigger, dest: Phase, seconds: float, **body: object) -> Entry:
    return entry(
        EntryKind.TRANSITION,
        seconds,
        run="r1",
        from_state=source,
        trigger=trigger,
        to_state=dest,
        body=body,
    )


def _begun(**fields: object) -> list[Entry]:
    body = run(**fields).model_dump(mode="json")
    return [_move(Phase.NEW, Trigger.DRIFTED, Phase.CAPTURE, 0, run=body)]


def _spec(generation: int, digest: str) -> Entry:
    body = {"decision": "spec-accepted", "digest": digest, "path": "specs/prod.yaml", "text": "..."}
    return entry(EntryKind.DECISION, generation=generation, body=body)


def test_no_entries_mean_an_environment_never_seen() -> None:
    assert fold([], "prod") == EnvironmentStatus(environment="prod")


def test_each_entry_counts_and_dates() -> None:
    status = fold([_spec(1, "a"), *_begun()], "prod")
    assert (status.entries, status.updated, status.generation, status.spec_digest) == (
        2,
        START,
        1,
        "a",
    )


def test_the_time_of_every_phase_is_kept_when_the_next_leg_begins() -> None:
    entries = _begun()
    entries.append(_move(Phase.CAPTURE, Trigger.PREPARED, Phase.STOP, 10))
    entries.append(_move(Phase.STOP, Trigger.STOPPED, Phase.RESTORE, 12))
    stale = fold(entries, "prod").run
    assert stale is not None
    back = stale.model_copy(update={"leg": 2, "compensating": True, "phase_started": at(15)})
    body = back.model_dump(mode="json")
    entries.append(_move(Phase.RESTORE, Trigger.COMPENSATE, Phase.CAPTURE, 15, run=body))
    entries.append(_move(Phase.CAPTURE, Trigger.PREPARED, Phase.STOP, 16))
    status = fold(entries, "prod")
    assert status.run is not None
    assert status.run.durations == {"capture": 11.0, "stop": 2.0, "restore": 3.0}
    assert status.run.leg == 2
    assert status.run.outage_started == at(10), (
        "the outage began with the first touch of the first leg"
    )


def test_another_run_begins_with_no_time_spent() -> None:
    entries = [*_begun(), _move(Phase.CAPTURE, Trigger.STALL, Phase.STALLED, 5)]
    body = run(id="r2", started=at(9), phase_started=at(9)).model_dump(mode="json")
    entries.append(_move(Phase.STALLED, Trigger.RESUMED, Phase.CAPTURE, 9, run=body))
    status = fold(entries, "prod")
    assert status.run is not None
    assert (status.run.id, status.run.durations) == ("r2", {})


def test_a_clock_that_was_set_back_takes_no_time_away() -> None:
    entries = [*_begun(), _move(Phase.CAPTURE, Trigger.STALL, Phase.STALLED, -5)]
    status = fold(entries, "prod")
    assert status.run is not None
    assert status.run.durations == {"capture": 0.0}


def test_an_effect_is_opened_by_its_intent_and_closed_by_its_result() -> None:
    step = {"touches": True}
    intent = entry(
        EntryKind.INTENT, 1, run="r1", effect="1/stop/docker/stop/app", body={"step": step}
    )
    status = fold([*_begun(), intent], "prod")
    assert status.run is not None
    assert status.run.touched
    assert status.run.open_effects == ("1/stop/docker/stop/app",)
    body = {"outcome": "done", "facts": [], "artifacts": []}
    result = entry(EntryKind.RESULT, 2, run="r1", effect="1/stop/docker/stop/app", body=body)
    after = project(status, result).run
    assert after is not None
    assert after.open_effects == ()
    assert after.effects["1/stop/docker/stop/app"].outcome is Outcome.DONE


def test_facts_of_results_complete_the_goal_and_artifacts_add_up() -> None:
    key = "docker.service.app.image"
    pending = Goal(wanted={key: Wanted(key=key, pending=True)})
    resolved = entry(
        EntryKind.DECISION, body={"decision": "resolved", "goal": pending.model_dump(mode="json")}
    )
    artifact = {"kind": "logs", "subject": "app", "path": "p", "sha256": "0", "size": 1}
    made = {"key": key, "value": "sha256:new"}
    entries = [*_begun(), resolved]
    for number in (1, 2):
        name = f"1/capture/docker/build/{number}"
        entries.append(entry(EntryKind.INTENT, 1, effect=name, body={"step": {"touches": False}}))
        body = {"outcome": "done", "facts": [made], "artifacts": [artifact]}
        entries.append(entry(EntryKind.RESULT, 2, effect=name, body=body))
    status = fold(entries, "prod")
    assert status.run is not None
    assert status.run.goal is not None
    assert status.run.goal.value(key) == "sha256:new"
    assert not status.run.goal.wanted[key].pending
    assert len(status.run.artifacts) == 2
    assert not status.run.touched


def test_a_result_without_an_intent_says_nothing() -> None:
    stray = entry(EntryKind.RESULT, 1, effect="1/stop/docker/stop/app", body={"outcome": "done"})
    before = fold(_begun(), "prod")
    assert project(before, stray).run == before.run


def test_only_the_newest_recovery_points_are_kept() -> None:
    entries = [
        _move(
            Phase.VERIFY,
            Trigger.VERIFIED,
            Phase.STABLE,
            n,
            recoveryPoint=point(f"p{n}").model_dump(mode="json"),
        )
        for n in range(POINTS_KEPT + 3)
    ]
    status = fold(entries, "prod")
    assert [kept.id for kept in status.recovery_points] == [f"p{n}" for n in range(12, 2, -1)]
    assert status.last_known_good is not None
    assert status.last_known_good.id == "p12"


def _override(generation: int) -> Entry:
    held = Override(
        generation=generation,
        reason=Reason.ROLLBACK,
        message="back",
        pins=Pins(),
        by="ada",
        at=START,
    )
    body = {"decision": "override", "override": held.model_dump(mode="json")}
    return entry(EntryKind.DECISION, generation=1, body=body)


def test_an_override_ends_with_a_newer_generation_but_not_with_the_one_it_speaks_about() -> None:
    assert fold([_spec(1, "a"), _override(1)], "prod").held is not None
    assert fold([_spec(1, "a"), _override(1), _spec(2, "b")], "prod").held is None
    waiting = fold([_spec(1, "a"), _override(2)], "prod")
    assert waiting.held is None
    assert project(waiting, _spec(2, "b")).held is not None


def test_a_queued_spec_waits_and_is_forgotten_when_one_is_accepted() -> None:
    queued = entry(
        EntryKind.DECISION, body={"decision": "spec-queued", "digest": "b", "path": "p", "text": ""}
    )
    status = fold([_spec(1, "a"), queued], "prod")
    assert (status.spec_digest, status.queued_digest) == ("a", "b")
    assert project(status, _spec(2, "b")).queued_digest is None


def test_suspending_and_ending_it_leave_the_other_conditions_alone() -> None:
    suspended = entry(EntryKind.DECISION, body={"decision": "suspended", "message": "by hand"})
    ended = entry(EntryKind.DECISION, body={"decision": "unsuspended"})
    status = fold([*_begun(), suspended], "prod")
    condition = find(status.conditions, ConditionType.SUSPENDED)
    assert status.suspended
    assert condition is not None
    assert condition.message == "by hand"
    status = project(status, ended)
    assert not status.suspended
    assert [condition.type for condition in status.conditions] == [
        ConditionType.READY,
        ConditionType.RECONCILING,
    ]


@pytest.mark.parametrize(
    ("dest", "types"),
    [
        (Phase.STABLE, ["Ready"]),
        (Phase.STALLED, ["Ready", "Stalled"]),
        (Phase.VERIFY, ["Ready", "Reconciling"]),
    ],
)
def test_the_conditions_of_a_phase(dest: Phase, types: list[str]) -> None:
    status = fold([*_begun(), _move(Phase.CAPTURE, Trigger.PREPARED, dest, 1)], "prod")
    assert [condition.type.value for condition in status.conditions] == types
    ready = find(status.conditions, ConditionType.READY)
    assert ready is not None
    assert ready.status == {"stable": "True", "stalled": "False"}.get(dest.value, "Unknown")


def test_a_run_that_rests_is_finished_and_its_generation_observed() -> None:
    status = fold([*_begun(), _move(Phase.CAPTURE, Trigger.STALL, Phase.STALLED, 5)], "prod")
    assert status.run is not None
    assert status.run.finished == at(5)
    assert status.observed_generation == 1


def test_a_decision_nobody_knows_changes_nothing_but_the_count() -> None:
    before = fold(_begun(), "prod")
    odd = entry(
        EntryKind.DECISION,
        body={"decision": "resolved-otherwise", "goal": goal().model_dump(mode="json")},
    )
    after = project(before, odd)
    assert after.entries == before.entries + 1
    assert after.model_copy(update={"entries": before.entries}) == before
