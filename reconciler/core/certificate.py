"""The certificate: the ground on which `stable` is granted, fact by fact, with the recovery times beside it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from reconciler.core.drift import Drift, Verdict
from reconciler.core.entry import Outcome
from reconciler.core.spec import RecoveryTargets
from reconciler.core.status import Run


class CheckVerdict(BaseModel):
    """One check as it stood when the certificate was made.

    Attributes:
        name: Its name in the spec.
        kind: http, tcp, command, sql, redis or container.
        passed: Whether it passed.
        detail: What was seen, in one line.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    name: str
    kind: str
    passed: bool
    detail: str = ""


class CertifiedFact(BaseModel):
    """One fact, wanted and observed equal."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    key: str
    value: str | None
    detail: str = ""


class Recovery(BaseModel):
    """How long the way took, in seconds, against what was promised.

    Attributes:
        total: From the beginning of the run to stable.
        restored: From the beginning of the run until everything was up again (verify entered).
        outage: From the first touch of production until the services were up again; None when nothing was touched.
        phases: Seconds in each phase.
        split: How long front end and back end were of different releases; None when not both moved.
        targets: What the spec promises, in seconds, by `total` or phase.
        missed: The names of targets that were not met.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    total: float
    restored: float
    outage: float | None = None
    phases: Mapping[str, float] = Field(default_factory=dict)
    split: float | None = None
    targets: Mapping[str, float] = Field(default_factory=dict)
    missed: tuple[str, ...] = ()


class Certificate(BaseModel):
    """What an auditor needs to believe that production is what was wanted.

    Attributes:
        environment: Its name.
        run: The run that earned it.
        generation: The spec generation it speaks about.
        at: When the last fact was observed (UTC).
        compensated: The facts are those from before the run: the goal was not reached and the old vector is back.
        facts: Every wanted fact, observed equal.
        checks: Every check.
        recovery: How long it took.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    environment: str
    run: str
    generation: int
    at: datetime
    compensated: bool
    facts: tuple[CertifiedFact, ...]
    checks: tuple[CheckVerdict, ...]
    recovery: Recovery


def certify(
    environment: str,
    run: Run,
    drift: Drift,
    checks: tuple[CheckVerdict, ...],
    *,
    observed_at: datetime,
    now: datetime,
    targets: RecoveryTargets,
) -> Certificate:
    """Makes the certificate of a run.

    Raises:
        ValueError: A fact was not observed equal. Nothing may be certified then.
    """
    wrong = [fact.key for fact in drift.facts if fact.verdict is not Verdict.EQUAL]
    if wrong:
        raise ValueError(f"not observed equal: {', '.join(wrong)}")
    return Certificate(
        environment=environment,
        run=run.id,
        generation=run.generation,
        at=observed_at,
        compensated=run.compensating,
        facts=tuple(
            CertifiedFact(
                key=fact.key, value=fact.observed, detail=fact.detail or fact.observed_detail
            )
            for fact in drift.facts
        ),
        checks=checks,
        recovery=recovery(run, now, targets),
    )


def recovery(run: Run, now: datetime, targets: RecoveryTargets) -> Recovery:
    """The recovery times of a run that is about to become stable."""
    phases = {
        **run.durations,
        "verify": run.durations.get("verify", 0.0) + (now - run.phase_started).total_seconds(),
    }
    total = (now - run.started).total_seconds()
    promised = {
        name: span.seconds
        for name in type(targets).model_fields
        if (span := getattr(targets, name)) is not None
    }
    measured = {**phases, "total": total}
    return Recovery(
        total=total,
        restored=(run.phase_started - run.started).total_seconds(),
        outage=_outage(run),
        phases=phases,
        split=_split(run),
        targets=promised,
        missed=tuple(name for name, limit in promised.items() if measured.get(name, 0.0) > limit),
    )


def _outage(run: Run) -> float | None:
    if run.outage_started is None or not run.touched:
        return None
    return ((_started(run, "docker") or run.phase_started) - run.outage_started).total_seconds()


def _split(run: Run) -> float | None:
    docker, vercel = _started(run, "docker"), _started(run, "vercel")
    return abs((vercel - docker).total_seconds()) if docker and vercel else None


def _started(run: Run, target: str) -> datetime | None:
    """When a target's part of start was done, in the present leg."""
    done = (
        effect.closed
        for key, effect in run.effects.items()
        if key.startswith(f"{run.leg}/start/{target}/")
        and effect.closed
        and effect.outcome is Outcome.DONE
    )
    return max(done, default=None)
