"""The reconciler itself: takes an environment's lease and passes until it rests (stable, stalled, or waiting)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from reconciler.audit.journal import Journal
from reconciler.audit.lease import Holder, Lease
from reconciler.audit.queries import certificate_of, status_of
from reconciler.audit.statefile import StateFile
from reconciler.core.certificate import Certificate
from reconciler.core.conditions import Reason
from reconciler.core.entry import EntryKind
from reconciler.core.phase import Phase, Trigger
from reconciler.core.status import EnvironmentStatus, Override
from reconciler.core.vectors import pins_from_vector
from reconciler.passes import Passes, accept
from reconciler.setting import Setting, SpecSource


class Engine:
    """Reconciles one environment at a time."""

    def __init__(self, setting: Setting) -> None:
        self._set = setting

    def converge(
        self, source: SpecSource, *, resume: str | None = None, rollback: Override | None = None
    ) -> EnvironmentStatus:
        """Passes until the environment rests.

        Args:
            source: The spec as it is now. A run under way keeps the one it began with.
            resume: Why a human resumes a stalled environment; None when nobody does.
            rollback: A goal to put in place of the spec's, first of all.

        Returns:
            The status it rests in: stable, stalled, or waiting for approval. While it is suspended, where it stands.

        Raises:
            LeaseHeldError: Another process works on it.
            ReconcilerError: Something cannot be read, and nothing was begun. (Inside a run, errors end in its status.)
        """
        with self.session(source.spec.name) as journal:
            if journal.status.suspended and resume is None and rollback is None:
                return journal.status
            accept(journal, source)
            if resume is not None and journal.status.phase is Phase.STABLE and journal.status.held:
                journal.write(
                    EntryKind.DECISION, Reason.RESUMED, {"decision": "released", "message": resume}
                )
            if rollback is not None:
                # Whoever asks for it wants to go on, whatever it was that stalled; and not to see again what runs now,
                # be it still waiting its turn.
                resume = resume or rollback.message
                waiting = source.digest != journal.status.spec_digest
                generation = journal.status.generation + waiting
                rollback = rollback.model_copy(update={"generation": generation})
            passes = Passes(self._set, journal, source, resume=resume)
            if rollback is not None:
                body = {
                    "decision": "override",
                    "override": rollback.model_dump(mode="json"),
                    "message": rollback.message,
                }
                journal.write(EntryKind.DECISION, rollback.reason, body)
                passes.abandon(rollback)
            return passes.until_rest()

    def reject(self, journal: Journal, reason: str) -> None:
        """Ends a run that waits for approval, and holds its generation."""
        status = journal.status
        assert status.run is not None
        held = Override(
            generation=status.generation,
            reason=Reason.REJECTED,
            message=f"Generation {status.generation} was rejected: {reason}",
            pins=pins_from_vector(status.run.before),
            by=self._set.actor,
            at=self._set.clock.now(),
        )
        journal.write(
            EntryKind.APPROVAL, Reason.REJECTED, {"verdict": "rejected", "message": reason}
        )
        body = {"message": held.message, "override": held.model_dump(mode="json")}
        journal.move(Trigger.REJECTED, Reason.REJECTED, body)

    def certificate(self, status: EnvironmentStatus) -> Certificate | None:
        """The certificate that the present run earned, if it rests in stable."""
        if status.phase is not Phase.STABLE or status.run is None:
            return None
        return certificate_of(self._set.database, status.run.id)

    @contextmanager
    def session(self, environment: str) -> Iterator[Journal]:
        """The environment's journal, under its lease. For decisions of humans too (approve, reject, suspend).

        Raises:
            LeaseHeldError: Another process works on it.
        """
        setting = self._set
        with Lease(setting.database, environment, Holder.me(setting.actor), setting.clock) as lease:
            status = status_of(setting.database, environment)
            for listener in setting.listeners:
                if isinstance(listener, StateFile):
                    listener.restore(status)
            yield Journal(
                setting.database,
                lease,
                status,
                actor=setting.actor,
                origin=setting.origin,
                redactor=setting.redactor,
                clock=setting.clock,
                listeners=setting.listeners,
            )
