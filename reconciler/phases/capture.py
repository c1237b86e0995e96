"""Capture: everything for the way there *and back* is made ready and checked while production still runs untouched."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from reconciler.core.conditions import Reason
from reconciler.core.decide import needs_approval, services_down
from reconciler.core.drift import Comparison, compare
from reconciler.core.entry import EntryKind
from reconciler.core.errors import (
    CaptureCorruptError,
    LeaseLostError,
    LedgerError,
    PolicyRefusedError,
    ReconcilerError,
    TargetUnavailableError,
)
from reconciler.core.facts import DATABASE_VERSION, Observation, target_of
from reconciler.core.phase import Phase, Trigger
from reconciler.core.pins import Artifact
from reconciler.core.plan import Plan
from reconciler.core.status import Run
from reconciler.phases.base import Failed, Moved, PhaseResult, Work, failure_of
from reconciler.phases.goal import database_is_open, resolved, with_database
from reconciler.phases.runner import run_steps
from reconciler.targets.together import plan, seen_again

_CHUNK = 1 << 20


def run(work: Work, observed: Observation) -> PhaseResult:
    """Saves evidence, resolves the goal, prepares, verifies what was saved, and asks policy."""
    try:
        _make_folder(work)
        _save_evidence(work, observed)
        observed = _resolve_goal(work, observed)
        run_steps(
            work, Phase.CAPTURE, plan(work.targets, observed, work.goal, (Phase.CAPTURE,)).steps
        )
        verify_artifacts(work.states, _needed(work))
        way = plan(work.targets, observed, work.goal, (Phase.STOP, Phase.RESTORE, Phase.START))
        _check_policy(work, way)
    except (LeaseLostError, LedgerError):
        raise  # this process may or can record nothing more
    except ReconcilerError as exc:
        return Failed(failure_of(Phase.CAPTURE, exc))
    body = {"plan": [step.model_dump(mode="json") for step in way.steps], "downtime": way.downtime}
    if needs_approval(work.spec.policy, work.run, data_loss=way.data_loss):
        message = f"Waiting for approval: reconciler approve {work.run.id} --reason ..."
        return Moved(Trigger.APPROVAL_NEEDED, Reason.APPROVAL_NEEDED, message, body)
    return Moved(
        Trigger.PREPARED, Reason.PREPARED, "Everything for the way there and back is in hand.", body
    )


def verify_artifacts(states: Path, artifacts: Iterable[Artifact]) -> None:
    """Reads every saved file again and compares its digest.

    Raises:
        CaptureCorruptError: A file is missing, short or altered.
    """
    for artifact in artifacts:
        digest, size = hashlib.sha256(), 0
        try:
            with (states / artifact.path).open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
        except OSError as exc:
            raise CaptureCorruptError(
                f"The saved file {artifact.path} cannot be read: {exc.strerror}."
            ) from exc
        if (digest.hexdigest(), size) != (artifact.sha256, artifact.size):
            raise CaptureCorruptError(
                f"The saved file {artifact.path} is not what was written.",
                hint="Check the disk under the state folder, then `reconciler resume`.",
            )


def _needed(work: Work) -> list[Artifact]:
    """What this leg has saved, and what its way rests on; an old log that was lost keeps nobody from going back.

    Of the dumps only the database target knows which it needs: its preflight reads them again.
    """
    pins, here = work.run.pins, str(work.captures.relative_to(work.states))
    paths = {pin.path for pin in (pins.docker.volumes if pins.docker else {}).values() if pin.own}
    return [
        item
        for item in work.run.artifacts
        if item.path in paths or item.path.startswith(f"{here}/")
    ]


def _make_folder(work: Work) -> None:
    try:
        for folder in (
            *reversed(work.captures.relative_to(work.states).parents[:-1]),
            work.captures,
        ):
            (work.states / folder).mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as exc:
        raise TargetUnavailableError(
            f"The folder for captures cannot be made: {exc.strerror}.",
            hint="Free disk space or fix permissions.",
        ) from exc


def _save_evidence(work: Work, observed: Observation) -> None:
    """What was seen, and which checks failed already: a compensation cannot be asked for more than there was.

    Once production is touched what fails may be our own doing, so what a resumed run finds excuses nothing.
    """
    run = work.run
    if run.compensating or (run.attempt > 1 and run.touched):
        return
    facts = [
        fact.model_dump(mode="json", exclude_defaults=True)
        for _, fact in sorted(observed.facts.items())
    ]
    checks = work.checker.once()
    body = {
        "decision": "evidence",
        "facts": facts,
        "checks": [check.model_dump(mode="json") for check in checks],
        "checksBefore": list(run.checks_before)
        if run.touched
        else [check.name for check in checks if not check.passed],
    }
    work.journal.write(EntryKind.DECISION, Reason.PROGRESSING, body)


def _resolve_goal(work: Work, observed: Observation) -> Observation:
    run = work.run
    if run.goal is None:
        goal = resolved(work.targets, run.pins, observed, waiting=run.touched)
    elif database_is_open(run.goal, observed, again=run.attempt > 1):
        goal = with_database(work.targets, run.pins, observed, run.goal)
    else:
        goal = run.goal
    if goal is not run.goal:
        work.journal.write(
            EntryKind.DECISION,
            Reason.PROGRESSING,
            {"decision": "resolved", "goal": goal.model_dump(mode="json")},
        )
    observed = seen_again(work.targets, work.clock, observed, work.goal)
    unknown = [
        fact for fact in compare(work.goal, observed).unknown if not _may_wait(run, observed, fact)
    ]
    if unknown:
        raise TargetUnavailableError(
            f"{unknown[0].key} cannot be read: {unknown[0].why}.",
            hint="Repair the connection, then `reconciler resume`.",
        )
    return observed


def _may_wait(run: Run, observed: Observation, fact: Comparison) -> bool:
    """Whether a fact is of a database that is read once services are up: this run stopped them, or began without it."""
    began_without = DATABASE_VERSION not in run.before
    return (
        target_of(fact.key) == "database"
        and services_down(observed)
        and (run.touched or began_without)
    )


def _check_policy(work: Work, way: Plan) -> None:
    # A volume that is replaced was backed up whole. What a migration destroys is dumped, but the dump may not fit
    # a schema that has moved on: only that needs leave.
    losing = [step.summary for step in way.steps if step.data_loss and step.target == "database"]
    if losing and not work.spec.policy.allow_data_loss and not work.run.compensating:
        raise PolicyRefusedError(
            f"This destroys data and policy.allowDataLoss is false: {'; '.join(losing)}.",
            hint="If that is meant, set spec.policy.allowDataLoss: true. What is destroyed is dumped first.",
        )
