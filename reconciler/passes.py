"""The passes of one run of the engine: look, compare, decide, let one phase do its work, move, and again.

A restart after a crash is nothing special: the phase and the open effects are on record, and the next pass goes on from
there. A pass that finds nothing to do writes nothing.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable

from reconciler.audit.journal import Journal
from reconciler.audit.queries import spec_text
from reconciler.backoff import delay
from reconciler.core.conditions import Reason
from reconciler.core.decide import (
    Begin,
    Rest,
    after_failure,
    at_rest,
    blocking,
    changed_since_capture,
    services_down,
)
from reconciler.core.drift import compare
from reconciler.core.entry import EntryKind
from reconciler.core.errors import (
    LeaseLostError,
    LedgerError,
    ReconcilerError,
    TargetUnavailableError,
    TerminalError,
    TransientError,
)
from reconciler.core.facts import Fact, Goal, Observation
from reconciler.core.phase import RUN_PHASES, TOUCHING_PHASES, Phase, Trigger
from reconciler.core.pins import Pins
from reconciler.core.runs import effective, new_run
from reconciler.core.spec import Spec
from reconciler.core.status import Cause, EnvironmentStatus, Failure, Override
from reconciler.core.vectors import compensation_pins, settled
from reconciler.phases import capture, restore, start, stop, verify
from reconciler.phases.base import Failed, Moved, Work
from reconciler.phases.goal import resolved
from reconciler.phases.keeping import needed_captures, prune_captures
from reconciler.phases.runner import LEFT, settle
from reconciler.phases.telling import Unbroken
from reconciler.setting import Setting, SpecSource
from reconciler.targets.together import as_it_is_now, observe, seen_again

_LOOKS = 4  # looks at an environment at rest before something that cannot be read is reported
_LOOKS_IN_RUN = 8  # the same inside a run, where giving up means a human must act


class Passes:
    """The passes of one `converge`."""

    def __init__(
        self, setting: Setting, journal: Journal, source: SpecSource, *, resume: str | None
    ) -> None:
        self._set, self._journal, self._source, self._resume = setting, journal, source, resume
        self._work: Work | None = None

    def until_rest(self) -> EnvironmentStatus:
        """Passes until nothing more happens by itself."""
        while self._pass():
            pass
        return self._journal.status

    def abandon(self, rollback: Override) -> None:
        """Ends a run under way: a human wants to be elsewhere, so its goal is no longer worth reaching."""
        status = self._journal.status
        if status.phase is Phase.APPROVE:
            self._journal.move(Trigger.REJECTED, Reason.ROLLBACK, {"message": rollback.message})
        elif status.phase in RUN_PHASES and not self._work_of(status).run.compensating:
            failure = Failure(
                phase=status.phase, reason=Reason.ROLLBACK, message=f"Abandoned: {rollback.message}"
            )
            self._fail(self._work_of(status), failure, keep_override=True)

    def _work_of(self, status: EnvironmentStatus) -> Work:
        return self._equipped(self._pinned_spec(status))

    def _pass(self) -> bool:
        """One pass. Returns whether another one is wanted at once."""
        status = self._journal.status
        if status.phase is Phase.APPROVE:
            return False
        if status.phase not in RUN_PHASES:
            return self._begin()
        work = self._work_of(status)
        try:
            return self._continue(work, status)
        except (LeaseLostError, LedgerError):
            raise
        except ReconcilerError as exc:
            return self._fail(
                work,
                Failure(
                    phase=status.phase,
                    reason=Reason.STEP_FAILED,
                    message=exc.message,
                    hint=exc.hint,
                ),
            )
        except Exception as exc:  # noqa: BLE001 - a bug of ours: recorded, stalled, the traceback kept
            return self._bug(work, exc)

    def _continue(self, work: Work, status: EnvironmentStatus) -> bool:
        if status.phase is Phase.VERIFY:
            return self._finish(work, verify.run(work, observe(work.targets, work.clock)))
        observed = self._readable(work)
        if status.phase is Phase.CAPTURE:
            return self._finish(work, capture.run(work, observed))
        if status.phase is Phase.STOP and (changed := changed_since_capture(work.run, observed)):
            return self._fail(work, changed)
        return self._touch(work, observed)

    def _touch(self, work: Work, observed: Observation) -> bool:
        """Stop, restore and start in one go: between them nothing is looked at twice while services are down."""
        runs = {Phase.STOP: stop.run, Phase.RESTORE: restore.run, Phase.START: start.run}
        while (phase := self._journal.status.phase) in TOUCHING_PHASES:
            result, observed = runs[phase](work, observed)
            if not self._finish(work, result) or isinstance(result, Failed):
                break
        return self._more()

    def _finish(self, work: Work, result: Moved | Failed) -> bool:
        if isinstance(result, Failed):
            return self._fail(work, result.failure, whole=result.whole)
        self._journal.move(
            result.trigger, result.reason, {"message": result.message, **(result.body or {})}
        )
        if self._journal.status.phase is Phase.STABLE:
            status = self._journal.status
            prune_captures(
                work.states / "captures" / work.spec.name, needed=needed_captures(status)
            )
        return self._more()

    def _more(self) -> bool:
        """Whether another pass is wanted at once: the run goes on, or another goal has been waiting for its end."""
        status = self._journal.status
        if status.phase in RUN_PHASES:
            return status.phase is not Phase.APPROVE
        if self._source.digest != status.spec_digest:
            return True
        return effective(status, self._source.spec, status.generation)[1]

    def _readable(self, work: Work) -> Observation:
        """A look in which nothing that blocks is unknown; taken again for a while before that counts as failure."""

        def blocks(observed: Observation) -> Fact | None:
            return blocking(work.run.goal, observed, waiting=work.run.touched)

        return self._look(
            work, _LOOKS_IN_RUN, blocks, hint="Repair the connection, then `reconciler resume`."
        )

    def _look(
        self, work: Work, looks: int, blocks: Callable[[Observation], Fact | None], *, hint: str
    ) -> Observation:
        for attempt in range(1, looks + 1):
            observed = observe(work.targets, work.clock)
            unknown = blocks(observed)
            if unknown is None:
                return observed
            why = f"{unknown.key} cannot be read: {unknown.unknown}"
            if attempt == looks:
                raise TargetUnavailableError(f"{why}.", hint=hint)
            work.reporter.waiting(why)
            work.clock.sleep(delay(attempt))
        raise AssertionError("unreachable")

    def _begin(self) -> bool:
        """An environment at rest: is there anything to do?"""
        accept(
            self._journal, self._source
        )  # a spec that came while a run was under way has waited until now
        status = self._journal.status
        spec = self._source.spec
        work = self._equipped(spec)
        if status.held and status.held.reason is Reason.REJECTED and self._resume is None:
            return False
        pins, fresh = effective(status, spec, status.generation)
        if status.phase is Phase.STALLED and not fresh and self._resume is None:
            return False
        stuck = status.phase is Phase.STALLED and status.run is not None and status.run.touched
        waiting = stuck or self._resume is not None
        observed = self._observed(work, waiting=waiting)
        goal = self._goal(status, work, pins, observed, fresh=fresh, waiting=waiting)
        if goal:
            observed = seen_again(work.targets, work.clock, observed, goal)
        drift = compare(goal, observed) if goal else None
        match at_rest(status, drift, fresh=fresh, resume=self._resume is not None):
            case Rest():
                return False
            case Begin() as begin:
                run = new_run(status, begin, pins, goal, observed, work.clock.now())
                if status.held and status.held.reason is Reason.ROLLBACK:
                    run = run.model_copy(
                        update={"cause": Cause.ROLLBACK if fresh else begin.cause, "rollback": True}
                    )
                message = self._resume or begin.message
                body = {"message": message, "run": run.model_dump(mode="json")}
                self._resume = None
                self._journal.move(begin.trigger, begin.reason, body, run=run.id)
        return True

    def _goal(
        self,
        status: EnvironmentStatus,
        work: Work,
        pins: Pins,
        observed: Observation,
        *,
        fresh: bool,
        waiting: bool,
    ) -> Goal | None:
        old = status.run if status.phase is Phase.STALLED and not fresh else None
        if old is None and not fresh and status.resolved is not None:
            try:
                return as_it_is_now(work.targets, pins, observed, status.resolved.goal)
            except TransientError:
                if waiting and services_down(observed):
                    return status.resolved.goal
                raise
        if old is not None and old.touched and old.goal is not None:
            pins = settled(pins, old.goal)
        try:
            return resolved(work.targets, pins, observed, waiting=waiting)
        except TerminalError:
            return None  # capture meets it again, records it and stalls

    def _observed(self, work: Work, *, waiting: bool) -> Observation:
        """A look in which nothing is unknown, or an error that says what cannot be read.

        Args:
            work: The equipment.
            waiting: Whether a database may wait for services that are down: a human asked to go on, or we stopped them.
        """

        def blocks(observed: Observation) -> Fact | None:
            if waiting:
                return blocking(None, observed, waiting=True)
            return next((fact for fact in observed.facts.values() if not fact.known), None)

        return self._look(
            work,
            _LOOKS,
            blocks,
            hint="Nothing was touched. `reconciler doctor` checks what is missing.",
        )

    def _fail(
        self, work: Work, failure: Failure, *, whole: bool = False, keep_override: bool = False
    ) -> bool:
        """Records why a run failed, and what follows: the way back, or a human."""
        status, run = self._journal.status, work.run
        settle(work, f"{run.leg}/", note=LEFT)
        trigger = after_failure(run, status.phase, work.spec.policy, whole=whole, failure=failure)
        body: dict[str, object] = {"message": failure.message, "hint": failure.hint}
        if trigger is Trigger.COMPENSATE:
            pins, now = compensation_pins(work.run), work.clock.now()
            back = work.run.model_copy(
                update={
                    "leg": run.leg + 1, "attempt": 1, "compensating": True, "pins": pins, "goal": None,
                    "failure": failure, "phase_started": now,
                }
            )  # fmt: skip
            held = Override(
                generation=status.generation,
                reason=Reason.COMPENSATED,
                message=f"Generation {run.generation} failed and is not tried again: {failure.message}",
                pins=pins,
                by=self._set.actor,
                at=now,
            )
            body["run"] = back.model_dump(mode="json")
            if not keep_override:
                body["override"] = held.model_dump(mode="json")
        else:
            body["failure"] = failure.model_dump(mode="json")
        self._journal.move(trigger, failure.reason, body)
        return self._more()

    def _bug(self, work: Work, exc: Exception) -> bool:
        trace = work.redactor.text("".join(traceback.format_exception(exc)))
        path = work.captures / "traceback.txt"
        kept = f"The traceback is in {path}."
        try:
            work.captures.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.write_text(trace, encoding="utf-8", errors="backslashreplace")
        except OSError as failed:
            kept = f"The traceback could not be kept ({failed.strerror})."
        failure = Failure(
            phase=self._journal.status.phase,
            reason=Reason.INTERNAL_ERROR,
            message=f"A bug in reconciler stopped this run ({type(exc).__name__}).",
            hint=f"Look with `reconciler plan`, then `reconciler resume`. {kept}",
        )
        return self._fail(work, failure)

    def _pinned_spec(self, status: EnvironmentStatus) -> Spec:
        """The spec the present run began with."""
        assert status.run is not None
        if self._source.digest == status.spec_digest:
            return self._source.spec
        path, text = spec_text(self._set.database, status.environment, status.run.generation)
        return self._set.parse(text, path)

    def _equipped(self, spec: Spec) -> Work:
        if self._work is None or self._work.spec != spec:
            equipment = self._set.equip(spec)
            self._work = Work(
                journal=self._journal,
                spec=spec,
                targets=equipment.targets,
                checker=equipment.checker,
                clock=self._set.clock,
                states=self._set.states,
                redactor=self._set.redactor,
                reporter=Unbroken(self._set.reporter),
                probe=self._set.probe,
            )
        return self._work


def accept(journal: Journal, source: SpecSource) -> None:
    """Records a changed spec: as the new generation, or, while a run is under way, as waiting its turn."""
    status = journal.status
    if source.digest == status.spec_digest:
        return
    body = {"digest": source.digest, "path": str(source.path), "text": source.text}
    if status.phase in RUN_PHASES:
        if source.digest != status.queued_digest:
            journal.write(
                EntryKind.DECISION, Reason.SPEC_QUEUED, {"decision": "spec-queued", **body}
            )
        return
    journal.write(
        EntryKind.DECISION,
        Reason.SPEC_CHANGED,
        {"decision": "spec-accepted", **body},
        generation=status.generation + 1,
    )
