"""The certificate: equal facts only, and how long it took."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.core.certificate import Certificate, CheckVerdict, certify, recovery
from reconciler.core.drift import compare
from reconciler.core.entry import Outcome
from reconciler.core.facts import Goal, Wanted
from reconciler.core.spec import RecoveryTargets
from tests.support.records import START, at, effect, goal, observation, run

_WANTED = goal(git__commit="c", database__version=None)


def _certify(drift: Any, **fields: Any) -> Certificate:
    return certify(
        "prod", run(**fields), drift, (CheckVerdict(name="health", kind="http", passed=True),),
        observed_at=at(9), now=at(10), targets=RecoveryTargets(),
    )  # fmt: skip


def test_it_lists_every_fact_with_the_value_that_was_seen() -> None:
    certificate = _certify(compare(_WANTED, observation(git__commit="c", database__version=None)))
    assert [(fact.key, fact.value) for fact in certificate.facts] == [
        ("git.commit", "c"),
        ("database.version", None),
    ]
    assert (certificate.environment, certificate.run, certificate.at) == ("prod", "r1", at(9))
    assert Certificate.model_validate_json(certificate.model_dump_json()) == certificate


@pytest.mark.parametrize(
    "drift",
    [
        compare(_WANTED, observation(git__commit="d", database__version=None)),
        compare(_WANTED, observation(git__commit="c")),
        compare(_WANTED, observation(git__commit="c", database__version="1")),
        compare(
            Goal(wanted={"a.b": Wanted(key="a.b", value="x", pending=True)}), observation(a__b="x")
        ),
    ],
)
def test_it_is_refused_unless_every_fact_is_equal(drift: Any) -> None:
    with pytest.raises(ValueError, match="not observed equal"):
        _certify(drift)


def test_the_recovery_times_are_those_of_the_run() -> None:
    made = run(
        phase_started=at(50),
        outage_started=at(30),
        durations={"capture": 30.0, "stop": 2.0, "restore": 8.0, "start": 10.0},
        effects={
            "1/start/docker/up/services": effect(40, 44),
            "1/start/vercel/move/production": effect(45, 49),
        },
    )
    times = recovery(
        made, at(60), RecoveryTargets.model_validate({"total": "59s", "verify": "1m", "stop": "2s"})
    )
    assert (times.total, times.restored, times.outage, times.split) == (60.0, 50.0, 14.0, 5.0)
    assert times.phases == {
        "capture": 30.0,
        "stop": 2.0,
        "restore": 8.0,
        "start": 10.0,
        "verify": 10.0,
    }
    assert times.targets == {"total": 59.0, "verify": 60.0, "stop": 2.0}
    assert times.missed == ("total",), "exactly on time is on time"


def test_verify_entered_twice_adds_up() -> None:
    times = recovery(
        run(phase_started=at(50), durations={"verify": 7.0}), at(60), RecoveryTargets()
    )
    assert times.phases == {"verify": 17.0}


def test_nothing_touched_means_no_outage() -> None:
    prepared = {"1/capture/docker/logs/app": effect(1, 2, touches=False)}
    assert (
        recovery(run(outage_started=START, effects=prepared), at(9), RecoveryTargets()).outage
        is None
    )
    assert recovery(run(), at(9), RecoveryTargets()).outage is None


def test_traffic_that_moved_only_in_an_earlier_leg_is_no_split_of_this_one() -> None:
    effects = {
        "1/start/docker/up/services": effect(10, 11),
        "1/start/vercel/move/production": effect(12, 13, Outcome.FAILED),
        "2/start/docker/up/services": effect(30, 31),
    }
    assert recovery(run(leg=2, effects=effects), at(40), RecoveryTargets()).split is None
