"""Verify: the vector is observed again and compared fact by fact, the checks are run, the soak is waited out.

Only here is the certificate made, and `stable` is granted by nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reconciler.core import facts as f
from reconciler.core.certificate import CheckVerdict, certify
from reconciler.core.conditions import Reason
from reconciler.core.decide import compensation_verdict, verify_again
from reconciler.core.drift import Comparison, Drift, Verdict, compare
from reconciler.core.facts import Observation, RecoveryPoint
from reconciler.core.phase import Phase, Trigger
from reconciler.core.runs import way_back
from reconciler.core.status import Failure, Resolved, Run
from reconciler.phases.base import Failed, Moved, PhaseResult, Work
from reconciler.phases.runner import settle
from reconciler.targets.together import observe

_LOOK_AGAIN = 0.25  # seconds between two looks while something may still settle


def run(work: Work, observed: Observation) -> PhaseResult:
    """Compares, checks, soaks, certifies."""
    observed, drift = _settled(work, observed)
    if not drift.equal:
        return _not_there(work, drift, observed)
    checks = work.checker.until_passed(work.run.checks_before if work.run.compensating else ())
    failed = _counting(work, checks)
    if not failed and work.spec.verify.soak and not work.run.compensating:
        checks = (*checks, *work.checker.soak())
        failed = _counting(work, checks)
    if failed:
        return Failed(_checks_failed(failed), whole=True)
    if work.clock.now() > observed.at:
        observed = observe(
            work.targets, work.clock
        )  # a check or the soak took time: certify what is true after them
        drift = compare(work.goal, observed)
        if not drift.equal:
            return _not_there(work, drift, observed)
    settle(work, f"{work.run.leg}/")
    return _stable(work, observed, drift, checks)


def _settled(work: Work, observed: Observation) -> tuple[Observation, Drift]:
    """Looks until every fact is equal, or differs in a way that does not settle by itself, or time is up."""
    deadline = work.clock.monotonic() + work.spec.verify.timeout.seconds
    while True:
        drift = compare(work.goal, observed)
        wrong = [fact for fact in drift.facts if fact.verdict is not Verdict.EQUAL]
        if (
            not wrong
            or not all(_may_settle(fact) for fact in wrong)
            or work.clock.monotonic() >= deadline
        ):
            return observed, drift
        work.reporter.waiting(
            f"{wrong[0].key}: {wrong[0].why or f'is {wrong[0].observed}, wanted {wrong[0].wanted}'}"
        )
        work.clock.sleep(_LOOK_AGAIN)
        observed = observe(work.targets, work.clock)


def _may_settle(fact: Comparison) -> bool:
    """Health, an alias on the move, and what could not be read may come right by themselves; a wrong image does not."""
    return (
        fact.verdict is Verdict.UNKNOWN
        or fact.key.endswith(".state")
        or fact.key == f.VERCEL_DEPLOYMENT
    )


def _not_there(work: Work, drift: Drift, observed: Observation) -> PhaseResult:
    wrong = [fact for fact in drift.facts if fact.verdict is not Verdict.EQUAL]
    listed = "; ".join(_difference(fact) for fact in wrong[:5])
    if verify_again(work.run, work.spec.policy, drift):
        update = {"attempt": work.run.attempt + 1, "phase_started": work.clock.now()}
        update |= _late_way_back(work.run, observed)
        again = work.run.model_copy(update=update)
        return Moved(
            Trigger.DRIFTED,
            Reason.NOT_CONVERGED,
            f"Not there yet: {listed}.",
            {"run": again.model_dump(mode="json")},
        )
    return Failed(
        Failure(
            phase=Phase.VERIFY,
            reason=Reason.NOT_CONVERGED,
            message=f"After {work.run.attempt} attempts production is still not as wanted: {listed}.",
            hint="Find out who else changes it, then `reconciler resume`.",
        )
    )


def _late_way_back(run: Run, observed: Observation) -> dict[str, Any]:
    """What is seen only now and is still as it was before the run: all of it, or a database that could not be read."""
    seen = way_back(observed)
    if not run.touched:
        return seen
    steps = [key.partition("/")[2] for key in run.effects]
    if any(step.startswith("restore/database/") or "/restore-volume/" in step for step in steps):
        return {}
    late = {key: value for key, value in seen["before"].items() if f.target_of(key) == "database"}
    return {"before": {**late, **run.before}}


def _difference(fact: Comparison) -> str:
    if fact.verdict is Verdict.UNKNOWN:
        return f"{fact.key} cannot be read ({fact.why})"
    return f"{fact.key} is {fact.observed or 'absent'}, wanted {fact.wanted or 'absent'}"


def _counting(work: Work, checks: Sequence[CheckVerdict]) -> list[CheckVerdict]:
    """The failed checks that count. After a compensation those that failed before the run began do not."""
    failed = [check for check in checks if not check.passed]
    if not work.run.compensating:
        return failed
    counting = compensation_verdict([check.name for check in failed], work.run.checks_before)
    return [check for check in failed if check.name in counting]


def _checks_failed(failed: Sequence[CheckVerdict]) -> Failure:
    listed = "; ".join(f"{check.name}: {check.detail}" for check in failed)
    return Failure(
        phase=Phase.VERIFY, reason=Reason.CHECKS_FAILED, message=f"Checks failed: {listed}."
    )


def _stable(
    work: Work, observed: Observation, drift: Drift, checks: tuple[CheckVerdict, ...]
) -> Moved:
    run, status = work.run, work.journal.status
    certificate = certify(
        status.environment,
        run,
        drift,
        checks,
        observed_at=observed.at,
        now=work.clock.now(),
        targets=work.spec.policy.recovery_targets,
    )
    known = {key: fact for key, fact in observed.facts.items() if fact.known}
    vector = {key: fact.value for key, fact in sorted(known.items()) if key != f.GIT_DIRTY}
    body: dict[str, object] = {
        "certificate": certificate.model_dump(mode="json"),
        "observed": vector,
        "resolved": Resolved(generation=run.generation, pins=run.pins, goal=work.goal).model_dump(
            mode="json"
        ),
        "degraded": run.compensating,
    }
    newest = status.last_known_good
    if all(check.passed for check in checks) and (newest is None or dict(newest.vector) != vector):
        point = RecoveryPoint(
            id=f"rp-{run.id}",
            at=observed.at,
            run=run.id,
            generation=run.generation,
            vector=vector,
            details={
                key: fact.detail
                for key, fact in sorted(known.items())
                if fact.detail and key in work.goal.wanted
            },
        )
        body["recoveryPoint"] = point.model_dump(mode="json")
    if run.compensating:
        why = status.held.message if status.held else "the goal was not reached"
        return Moved(
            Trigger.VERIFIED,
            Reason.COMPENSATED,
            f"Back on the vector from before the run. {why}",
            body,
        )
    return Moved(
        Trigger.VERIFIED,
        Reason.VERIFIED,
        f"{len(drift.facts)} facts equal, {len(checks)} checks passed.",
        body,
    )
