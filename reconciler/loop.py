"""The loop of `reconciler watch`: wake-ups from files, from the timer and from the start become "reconcile this name".

Level-triggered: a wake-up carries a name and nothing else, so it does not matter how many there were or whether one was
lost. One worker attends to one environment at a time; an error of one delays that one alone. Called by `cli.watch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from reconciler.audit.glance import Holding
from reconciler.audit.processes import alive
from reconciler.backoff import LONGEST, delay
from reconciler.core.clock import Clock
from reconciler.core.conditions import Reason
from reconciler.core.drift import Drift
from reconciler.core.errors import (
    LeaseHeldError,
    ReconcilerError,
    TargetUnavailableError,
    TerminalError,
    TransientError,
    UsageError,
)
from reconciler.core.phase import RUN_PHASES, Phase
from reconciler.core.status import EnvironmentStatus
from reconciler.look import Look
from reconciler.project import LoadedSpec
from reconciler.specfolder import SETTLE, Contents, SpecFolder
from reconciler.wakeups import Wakeups

#: Failures in a row that are followed by a quick try; after them the timer is quick enough.
_QUICK_TRIES = 6
_LOOKS_AT_MOVING = 10  # of `once`, at production that does not stand still
_FOLDER = ""  # the wake-up that means "look at the folder"; no environment has this name


class Kind(StrEnum):
    """What an event tells. Written by `watch -o json`: renaming one is a format change."""

    WATCHING = "watching"
    SPEC = "spec"  # a spec is new, or says something else than before
    REFUSED = "refused"  # a file cannot be accepted
    GONE = "gone"  # the spec of an environment is no longer there
    PHASE = "phase"
    STEP = "step"
    STABLE = "stable"
    HELD = "held"  # stable, and the spec's generation is not brought back
    STALLED = "stalled"
    APPROVAL = "approval"
    SUSPENDED = "suspended"
    BUSY = "busy"  # another process works on it
    ERROR = "error"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth a line.

    Attributes:
        kind: What it tells.
        message: One or two sentences.
        environment: Whom it is about; None for the loop itself.
        next: The next action of a human, where there is one.
        generation: The spec generation, where one is meant.
        run: The run, where one is meant.
    """

    kind: Kind
    message: str
    environment: str | None = None
    next: str = ""
    generation: int | None = None
    run: str | None = None


class Room(Protocol):
    """One environment, ready to be looked at and acted on."""

    def glance(self) -> tuple[EnvironmentStatus, Holding | None]:
        """Its status, and who holds it."""

    def look(self, status: EnvironmentStatus) -> Look:
        """One look without any intent to act."""

    def converge(self, status: EnvironmentStatus) -> EnvironmentStatus:
        """Passes until it rests."""


@dataclass(slots=True)
class _Standing:
    """What the loop remembers of an environment.

    Attributes:
        said: What it said last.
        failures: How often in a row it failed.
        moving: The drift it saw last and has not yet seen again.
    """

    said: Event | None = None
    failures: int = 0
    moving: Drift | None = None


@dataclass(slots=True)
class Loop:
    """Keeps the environments of a folder of specs as they shall be.

    Attributes:
        folder: The specs.
        enter: Makes the room of a spec.
        say: Told each event. It must not raise.
        clock: Tells whether a lease has expired.
        interval: Seconds between two looks at an environment at rest.
        steady: Seconds for which drift must stay the same before it is repaired: somebody may be at work there.
        bug: Told an exception nobody expected; gives one sentence about it.
    """

    folder: SpecFolder
    enter: Callable[[LoadedSpec], Room]
    say: Callable[[Event], None]
    clock: Clock
    interval: float
    bug: Callable[[Exception], str]
    steady: float = 2.0
    wakeups: Wakeups = field(default_factory=Wakeups)
    _contents: Contents = field(default_factory=lambda: Contents({}, {}, settled=True))
    _standings: dict[str, _Standing] = field(default_factory=dict)

    def run(self) -> None:
        """Attends to wake-ups until they are closed."""
        self.wakeups.wake(_FOLDER)
        while (name := self.wakeups.next()) is not None:
            if name == _FOLDER:
                self.wakeups.wake(_FOLDER, SETTLE if not self.look() else self.interval)
            elif name in self._contents.specs:
                self.wakeups.wake(name, self.reconcile(name))

    def changed(self) -> None:
        """Something has happened in the folder."""
        self.wakeups.wake(_FOLDER)

    def once(self) -> dict[str, Event | None]:
        """Attends to each environment once.

        Returns:
            Where each environment stands, and under a file's name what is wrong with it.
        """
        while not self.look():
            self.clock.sleep(SETTLE)
        for name in sorted(self._contents.specs):
            for _ in range(_LOOKS_AT_MOVING):
                wait = self.reconcile(name)
                if not self._standings[name].moving:
                    break
                self.clock.sleep(wait)
            else:
                moving = Event(Kind.ERROR, "Production keeps changing; nothing was touched.", name)
                self._tell(name, moving)
        refused = {
            where: Event(Kind.REFUSED, "\n".join(refusal.lines), refusal.environment)
            for where, refusal in self._contents.refused.items()
        }
        return {name: self._standings[name].said for name in self._contents.specs} | refused

    def look(self) -> bool:
        """Looks at the folder and wakes whoever is meant by a change. Returns whether every file is at rest."""
        try:
            now = self.folder.look()
        except UsageError as exc:
            self._tell(_FOLDER, Event(Kind.ERROR, exc.message))
            return True
        before, self._contents = self._contents, now
        for event in _changes(before, now):
            self.say(event)
        for name, source in now.specs.items():
            if name not in before.specs or before.specs[name].digest != source.digest:
                self._standings[name] = _Standing()
                self.wakeups.wake(name)
        for name in [known for known in self._standings if known not in now.specs]:
            del self._standings[name]
        return now.settled

    def reconcile(self, name: str) -> float:
        """Attends to one environment.

        Returns:
            Seconds after which to do it again.
        """
        standing = self._standings.setdefault(name, _Standing())
        try:
            event = self._attempt(self._contents.specs[name], standing)
        except LeaseHeldError as exc:
            standing.said = standing.said or Event(Kind.BUSY, exc.message, name)  # quietly
            return min(self.interval, LONGEST)
        except ReconcilerError as exc:
            self._tell(name, Event(Kind.ERROR, exc.message, name, next=exc.hint))
            return self._wait_after_failure(standing, exc)
        except Exception as exc:  # noqa: BLE001 - a bug of ours must not end the care for the other environments
            self._tell(name, Event(Kind.ERROR, self.bug(exc), name))
            return self._wait_after_failure(standing, exc)
        standing.failures = 0
        if event is None:
            return self.steady
        self._tell(name, event)
        return self.interval

    def _attempt(self, source: LoadedSpec, standing: _Standing) -> Event | None:
        """Looks at an environment, and acts if there is something to do; None when it is to be looked at again."""
        before, standing.moving = standing.moving, None
        room = self.enter(source)
        status, holding = room.glance()
        if holding and holding.expires > self.clock.now() and alive(holding.process):
            raise LeaseHeldError(
                f"{status.environment} is being worked on by {holding.holder}.",
                holder=holding.holder,
            )
        if _waits_for_a_human(status, source):
            return resting(status)
        if status.phase not in RUN_PHASES and (seen := _look(room, status)):
            if seen.drift.equal and not seen.fresh:
                return resting(status)
            if self.steady and not seen.fresh and seen.drift != before:
                standing.moving = seen.drift
                return None
        return resting(room.converge(status))

    def _wait_after_failure(self, standing: _Standing, exc: Exception) -> float:
        standing.failures = min(standing.failures + 1, _QUICK_TRIES + 1)
        asked = exc.retry_after if isinstance(exc, TransientError) else None
        wait = delay(standing.failures, asked)
        return wait if standing.failures <= _QUICK_TRIES else max(wait, self.interval)

    def _tell(self, name: str, event: Event) -> None:
        """Says something once, not again until something else was said about the same environment."""
        standing = self._standings.setdefault(name, _Standing())
        if standing.said != event:
            standing.said = event
            self.say(event)


def _waits_for_a_human(status: EnvironmentStatus, source: LoadedSpec) -> bool:
    """Whether nothing may be done until a human decides or the spec changes."""
    known = source.digest == status.spec_digest
    if status.suspended:
        return True
    if status.phase is Phase.APPROVE:
        return known or source.digest == status.queued_digest  # else it is recorded as waiting
    rejected = status.held is not None and status.held.reason is Reason.REJECTED
    return known and (status.phase is Phase.STALLED or rejected)


def _look(room: Room, status: EnvironmentStatus) -> Look | None:
    """One look; None when the goal cannot be resolved, which the run's capture explains and records.

    Raises:
        TransientError: Something cannot be read.
    """
    try:
        seen = room.look(status)
    except UsageError:
        raise
    except TerminalError:
        return None
    for key, fact in sorted(seen.observed.facts.items()):
        if not fact.known:
            raise TargetUnavailableError(
                f"{key} cannot be read: {fact.unknown}",
                hint="Nothing was touched; it is tried again. `reconciler doctor` checks what is missing.",
            )
    return seen


def resting(status: EnvironmentStatus) -> Event:
    """How an environment stands, for a line that is said once."""
    name, run = status.environment, status.run.id if status.run else None
    failure = status.run.failure if status.run else None

    def event(kind: Kind, message: str, following: str = "") -> Event:
        return Event(kind, message, name, following, status.generation, run)

    resume = f"reconciler resume {name} --reason ..."
    if status.suspended:
        return event(Kind.SUSPENDED, "Suspended: nothing is changed.", resume)
    if status.phase is Phase.STALLED:
        why = f"{failure.message} (in {failure.phase}, {failure.reason})" if failure else ""
        hint = failure.hint if failure else ""
        if hint and "resume" not in hint:
            hint = f"{hint.rstrip('.')}, then {resume}"
        return event(Kind.STALLED, f"A human must act: {why}", hint or resume)
    if status.phase is Phase.APPROVE:
        decide = f"reconciler approve (or reject) {run} --reason ..."
        return event(Kind.APPROVAL, "Waits for approval; production is not touched.", decide)
    if status.held:
        return event(Kind.HELD, status.held.message, f"change the spec, or {resume}")
    facts = len(status.resolved.goal.wanted) if status.resolved else 0
    return event(Kind.STABLE, f"As generation {status.generation} wants it: {facts} facts equal.")


def _changes(before: Contents, now: Contents) -> Iterator[Event]:
    """What is new in the folder since the last look."""
    for where, refusal in now.refused.items():
        if before.refused.get(where) != refusal:
            left = refusal.environment or "every environment"
            yield Event(
                Kind.REFUSED,
                "\n".join(refusal.lines),
                refusal.environment,
                next=f"mend it; until then {left} is left as it is",
            )
    refused = {refusal.environment for refusal in now.refused.values()}
    for name, source in before.specs.items():
        if name not in now.specs and name not in refused:
            yield Event(Kind.GONE, f"{source.path} is gone; {name} is left as it is.", name)
    for name, source in now.specs.items():
        old = before.specs.get(name)
        if old is None or old.digest != source.digest:
            yield Event(Kind.SPEC, str(source.path), name)
