"""One move of production on Vercel: sent at most once, then followed by reading until it is true.

Vercel offers neither an idempotency key nor a compare-and-swap, so the order is: look, send once,
look until production is there. Every doubt (a crash, a lost answer) is settled by looking, never by
sending. Called by the Vercel target.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reconciler.core.crashpoints import CrashPoint
from reconciler.core.errors import (
    OutcomeUnknownError,
    StepFailedError,
    TargetUnavailableError,
    TransientError,
)
from reconciler.targets.shared.http import HttpRefusedError
from reconciler.targets.vercel_production import production_fact

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconciler.core.facts import Fact
    from reconciler.targets.base import ApplyContext
    from reconciler.targets.vercel_client import AliasRequest, Project, VercelClient

#: Seconds between looks, growing from the first to the second.
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 1.0
#: Seconds by which Vercel's clock and ours may differ beyond what the answers' `Date` header shows.
CLOCK_SKEW = 60.0
#: Seconds in which production must be seen moved once Vercel says that the move succeeded.
ARRIVAL_GRACE = 30.0
_QUEUED = 202
_CONFLICT = 409

_MEANING = {
    402: "The Hobby plan reaches only the immediately previous production deployment.",
    403: "The token may not move production of this project.",
    404: "Vercel does not know this deployment or project.",
    409: "Another move may be under way, or production is already there.",
    410: "The deployment was deleted.",
    422: "It is not eligible: it must be READY, built for production and, for a rollback, served.",
}
_HINT = {
    402: "Upgrade the plan, or pin the previous production deployment in spec.vercel.deployment.",
    403: "Use a token whose owner may deploy to production, then run `reconciler resume`.",
}


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a move is waited for, in seconds.

    Attributes:
        deadline: Until production has moved.
        settle: After a request whose answer is lost (or whose sender died), until its absence
            proves that it never arrived.
        monotonic: Seconds that only go forward.
        wall: Seconds since the epoch.
        sleep: Waits between two attempts of one read.
    """

    deadline: float = 180.0
    settle: float = 10.0
    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep


@dataclass(slots=True)
class Doubt:
    """From when on a request may be travelling whose end nobody has seen.

    Attributes:
        made: When this process began, in seconds since the epoch. Those before it sent nothing
            later.
        unsure: When this process last lost an answer; None when it knows the end of all it sent.
    """

    made: float
    unsure: float | None = None

    def since(self, attempted: float) -> float | None:
        """When the last such request can have been sent; None when there can be none."""
        if self.unsure is not None:
            return self.unsure
        return self.made if attempted <= self.made else None


@dataclass(slots=True)
class Move:
    """Takes production to one deployment.

    Attributes:
        client: Speaks to Vercel.
        look: Reads the project and checks whose it is.
        action: `rollback` or `promote`.
        wanted: Id of the deployment.
        context: What the runner lends.
        pace: How long to wait.
        doubt: What may still be travelling; lives as long as the process.
    """

    client: VercelClient
    look: Callable[[], Project]
    action: str
    wanted: str
    context: ApplyContext
    pace: Pace
    doubt: Doubt
    _since: float | None = field(default=None, init=False)
    _until: float = field(default=0.0, init=False)

    def run(self) -> tuple[Fact, str]:
        """Makes it so, or finds it so.

        Returns:
            The production fact, and how it came about.

        Raises:
            StepFailedError: Vercel refused, or the move failed.
            OutcomeUnknownError: It was sent, and where production is cannot be read.
            TransientError: Nothing was sent; it may be tried again.
        """
        self._until = self.pace.monotonic() + self.pace.deadline
        project = self.look()
        if fact := self._arrived(project):
            return fact, "already there, found by looking"
        if self.context.attempted is not None:
            return self._resume(project)
        return self._begin(project, "")

    def _resume(self, project: Project) -> tuple[Fact, str]:
        """Looks for a trace of the earlier attempt; sends only when its absence is certain."""
        attempted = self.context.attempted
        begun = attempted.timestamp() if attempted else 0.0
        self._since = (begun + self.client.http.clock_offset - CLOCK_SKEW) * 1000
        if self._trace(project):
            return self._follow(), "sent before, found by looking"
        sent = self.doubt.since(begun)
        left = 0.0 if sent is None else self.pace.settle - (self.pace.wall() - sent)
        if left > 0:
            self.context.progress(
                "Waiting to see whether the interrupted request arrived at Vercel"
            )
            if fact := self._settle(left):
                return fact, "sent before, found by looking"
            project = self.look()
        self.doubt.unsure = None
        return self._begin(project, "the earlier attempt never arrived; ")

    def _begin(self, project: Project, prefix: str) -> tuple[Fact, str]:
        request = project.last_alias_request
        if request is not None and request.active:
            if request.to_deployment_id == self.wanted:
                self._since = request.requested_at
                return self._follow(), "somebody else had asked for the same move"
            self._refuse_while_moving(project, request)
        # From here on our own request is told from older ones by Vercel's clock alone.
        last = request.requested_at if request else None
        self._since = None if last is None else last + 1
        self.context.progress(f"Asking Vercel to {self.action} production to {self.wanted}")
        self.context.at(CrashPoint.MID_EFFECT)
        self.context.guard()
        try:
            status = self.client.move(
                self.action, project.id, self.wanted, f"reconciler run {self.context.run}"
            )
        except OutcomeUnknownError as exc:
            self.doubt.unsure = self.pace.wall()
            self.context.at(CrashPoint.APPLIED_UNREAD)
            self.context.progress("The answer was lost: looking whether the request arrived")
            return self._after_loss(exc), prefix + "the answer was lost, found by looking"
        except HttpRefusedError as exc:
            return self._refused(exc), prefix + "somebody else had made the same move"
        self.context.at(CrashPoint.APPLIED_UNREAD)
        if status == _QUEUED:
            raise StepFailedError(
                f"Vercel only queued the move to {self.wanted} behind an active rolling release "
                "(202); production has not changed yet, and will when that release ends.",
                hint="Abort or complete that release in Vercel, then run `reconciler resume`.",
            )
        return self._follow(), prefix + "moved"

    def _after_loss(self, cause: OutcomeUnknownError) -> Fact:
        fact = self._settle(self.pace.settle)
        self.doubt.unsure = None
        if fact is not None:
            return fact
        raise TargetUnavailableError(
            f"{cause.message} Vercel shows no trace of the request after {self.pace.settle:g} s, "
            "so it never arrived.",
            retry_after=cause.retry_after,
        ) from cause

    def _refused(self, exc: HttpRefusedError) -> Fact:
        """A refusal is final, unless production is there already or somebody is just moving it."""
        if exc.status == _CONFLICT:
            project = self.look()
            if fact := self._arrived(project):
                return fact
            request = project.last_alias_request
            if request is not None and request.active:
                if request.to_deployment_id == self.wanted:
                    self._since = request.requested_at
                    return self._follow()
                self._refuse_while_moving(project, request)
        meaning = _MEANING.get(exc.status, "")
        raise StepFailedError(
            f"Vercel refused to {self.action} production to {self.wanted}: "
            f"{exc.reason or exc.message} ({exc.status}). {meaning}".rstrip(),
            hint=_HINT.get(exc.status, "Look at the project in Vercel's dashboard."),
        ) from exc

    def _refuse_while_moving(self, project: Project, request: AliasRequest) -> None:
        if production_fact(project, None, self._server_ms()).known:
            return  # active by name only: it has been stuck for longer than any move takes
        raise TargetUnavailableError(
            f"Vercel is still moving production to {request.to_deployment_id}, and does one move "
            "at a time.",
            retry_after=5.0,
        )

    def _settle(self, seconds: float) -> Fact | None:
        """Looks for a trace for a while and follows it; None when there certainly is none.

        Raises:
            OutcomeUnknownError: The world could not be read when the time was over.
        """
        until = self.pace.monotonic() + seconds
        pause = FIRST_PAUSE
        while True:
            over = self.pace.monotonic() >= until
            try:
                project = self.look()
            except TransientError as exc:
                if over:
                    raise OutcomeUnknownError(
                        "Whether Vercel took the request is not known, and it cannot be read "
                        f"now: {exc.message}",
                        hint="Look at the project in Vercel's dashboard.",
                        retry_after=exc.retry_after,
                    ) from exc
            else:
                if self._trace(project) or self._arrived(project):
                    return self._follow()
                if over:
                    return None
            pause = self._wait(pause)

    def _follow(self) -> Fact:
        """Looks until production is there.

        Raises:
            StepFailedError: The move failed, was skipped, or production went elsewhere.
            OutcomeUnknownError: Not seen within the deadline.
        """
        pause, last_seen = FIRST_PAUSE, "nothing could be read"
        grace_until: float | None = None
        while True:
            try:
                project = self.look()
                if fact := self._arrived(project):
                    return fact
                request = self._trace(project)
                last_seen = self._describe(project, request)
                if request is not None and not request.active:
                    if grace_until is None:
                        grace_until = self.pace.monotonic() + ARRIVAL_GRACE
                    self._ended(project, request, over=self.pace.monotonic() >= grace_until)
            except TransientError as exc:
                last_seen = exc.message
            if self.pace.monotonic() >= self._until:
                raise OutcomeUnknownError(
                    f"Vercel has not moved production to {self.wanted} within "
                    f"{self.pace.deadline:g} s: {last_seen}.",
                    hint="Look at Vercel's dashboard; the move may still end by itself.",
                )
            self.context.progress(f"Vercel: {last_seen}")
            pause = self._wait(pause)

    def _ended(self, project: Project, request: AliasRequest, *, over: bool) -> None:
        """Raises when a move that has ended cannot bring production there any more."""
        if request.job_status == "failed":
            names = self.client.failed_aliases(request.type or self.action, project.id)
            which = f": {', '.join(names)}" if names else " (which ones could not be read)"
            raise StepFailedError(
                f"Vercel could not move all domains to {self.wanted}{which}.",
                hint="Look at these domains in Vercel's dashboard, then run `reconciler resume`.",
            )
        if over or request.job_status not in {"succeeded", "skipped"}:
            raise StepFailedError(
                f"Vercel calls the {request.type or 'move'} to {self.wanted} "
                f"{request.job_status}, but production is {self._describe(project, None)}.",
                hint="Somebody else may have moved production since; look at Vercel's dashboard.",
            )

    def _arrived(self, project: Project) -> Fact | None:
        """The production fact, when project, domains and a look-up by domain agree on it."""
        fact = production_fact(project, None, self._server_ms())
        if fact.value != self.wanted:
            return None
        domains = project.production_aliases
        if domains:
            try:
                behind = self.client.deployment(domains[0].domain)
            except HttpRefusedError:
                return fact  # the token may not ask by domain; the project's own word stands
            if behind.id != self.wanted:
                return None
        return fact

    def _trace(self, project: Project) -> AliasRequest | None:
        """Our own request in the project's record, or None."""
        request = project.last_alias_request
        if request is None or request.to_deployment_id != self.wanted:
            return None
        if self._since is not None and (request.requested_at or 0) < self._since:
            return request if request.active else None
        return request

    def _describe(self, project: Project, request: AliasRequest | None) -> str:
        if request is not None and request.active:
            return f"{request.type or 'move'} to {self.wanted} is {request.job_status}"
        fact = production_fact(project, None, self._server_ms())
        return fact.unknown or fact.value or "absent"

    def _server_ms(self) -> float:
        return (self.pace.wall() + self.client.http.clock_offset) * 1000

    def _wait(self, pause: float) -> float:
        self.context.sleep(pause)
        return min(pause * 1.5, LONGEST_PAUSE)
