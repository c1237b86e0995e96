"""The Vercel target: which deployment serves production, and taking it to another one.

Nothing is rebuilt on the way back: production domains are pointed at a deployment that exists.
`rollback` is chosen for an older deployment, `promote` for everything else (forward again, undoing
a rollback, a staged build). The engine builds this target from `spec.vercel`; reading is in
`vercel_production`, asking beforehand in `vercel_preflight`, and the one request that changes
something in `vercel_move`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.core.errors import PreflightError, ReconcilerError, TerminalError, TransientError
from reconciler.core.facts import (
    VERCEL_DEPLOYMENT,
    Fact,
    Goal,
    Observation,
    Resolution,
    Wanted,
)
from reconciler.core.phase import Phase
from reconciler.core.plan import Step
from reconciler.targets.base import Applied, ApplyContext
from reconciler.targets.shared.http import HttpClient, HttpRefusedError
from reconciler.targets.vercel_client import Deployment, Project, VercelClient
from reconciler.targets.vercel_move import Doubt, Move, Pace
from reconciler.targets.vercel_preflight import examine, gather
from reconciler.targets.vercel_production import belongs, pinned, production_fact, way

if TYPE_CHECKING:
    from collections.abc import Sequence

    import httpx

    from reconciler.core.pins import Pins

DEFAULT_API = "https://api.vercel.com"
_NOT_FOUND = {400, 404, 410}


class VercelTarget:
    """Production of one Vercel project.

    Args:
        project: Id or name of the project.
        team: Id (`team_...`) or slug of the team; None for a personal account.
        token: Bearer token; never shown.
        api_url: Where the API answers.
        poll_deadline: Seconds within which a move must be seen done.
        pace: All waiting times, where more than the deadline is to be set.
        transport: Replaces the network, for tests.

    Raises:
        UsageError: Token or address cannot be used.
    """

    name = "vercel"

    def __init__(
        self,
        project: str,
        team: str | None,
        token: str,
        api_url: str = DEFAULT_API,
        *,
        poll_deadline: float = 180.0,
        pace: Pace | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._pace = pace or Pace(deadline=poll_deadline)
        self._doubt = Doubt(made=self._pace.wall())
        self._project = project
        self._team = team
        http = HttpClient(
            api_url,
            service="Vercel",
            token=token,
            transport=transport,
            sleep=self._pace.sleep,
            monotonic=self._pace.monotonic,
        )
        self._client = VercelClient(http, project, team)

    def observe(self) -> Sequence[Fact]:
        """The production deployment. One request, two for a project that uses rolling releases."""
        try:
            project = self._look()
            rolling = self._client.rolling_release(project.id) if project.rolling_release else None
        except ReconcilerError as exc:
            return [Fact(key=VERCEL_DEPLOYMENT, unknown=exc.message)]
        return [production_fact(project, rolling, self._server_ms())]

    def resolve(self, pins: Pins, observed: Observation, goal: Goal) -> Resolution:  # noqa: ARG002
        """Turns an id, host name or URL into an id; asks nobody when it is live already."""
        if pins.vercel is None:
            return Resolution()
        pin, current = pinned(pins.vercel), observed.get(VERCEL_DEPLOYMENT)
        if current.value is not None and pin in {current.value, current.detail}:
            wanted = Wanted(key=VERCEL_DEPLOYMENT, value=current.value, detail=current.detail)
            # Should production be moved away later in this run, going back to it is a rollback.
            return Resolution(wanted=(wanted,), materials={"action": "rollback"})
        project = self._look()
        if pin in {alias.domain for alias in project.production_aliases}:
            raise PreflightError(
                f"{pin} is a production domain: whatever is live answers there, so it pins "
                "nothing.",
                hint="Write a deployment's id or its own host name in spec.vercel.deployment.",
            )
        deployment = self._find(pin, project)
        belongs(deployment, project)
        return Resolution(
            wanted=(Wanted(key=VERCEL_DEPLOYMENT, value=deployment.id, detail=deployment.url),),
            materials={"action": way(deployment, project)},
        )

    def plan(self, phase: Phase, observed: Observation, goal: Goal) -> Sequence[Step]:
        """A preflight in capture and the move in start; nothing when production is as wanted."""
        wanted = goal.wanted.get(VERCEL_DEPLOYMENT)
        current = observed.get(VERCEL_DEPLOYMENT)
        if wanted is None or wanted.value is None or current.value == wanted.value:
            return ()
        materials = goal.materials.get(self.name)
        action = materials.get("action") if isinstance(materials, dict) else None
        action = action if action in {"rollback", "promote"} else "rollback"
        args = {"deployment": wanted.value, "way": action, "from": current.value}
        shown = f"{wanted.value} ({wanted.detail})" if wanted.detail else wanted.value
        if phase is Phase.CAPTURE:
            summary = f"ask Vercel whether production may {action} to {shown}"
            return (self._step(phase, "preflight", summary, args, touches=False),)
        if phase is Phase.START:
            verb = "roll back" if action == "rollback" else "promote"
            summary = f"{verb} Vercel production from {current.value or 'unknown'} to {shown}"
            return (self._step(phase, action, summary, args, touches=True),)
        return ()

    def apply(self, step: Step, context: ApplyContext) -> Applied:
        """Does one step of the plan.

        Raises:
            PreflightError: Vercel would refuse the move.
            StepFailedError: Vercel refused it, or it failed.
            TransientError: It may be tried again; `OutcomeUnknownError` when it was sent.
        """
        wanted = step.args.get("deployment")
        if not isinstance(wanted, str):
            raise TerminalError(f"The step {step.key} names no deployment.")
        if step.action == "preflight":
            return self._preflight(wanted, str(step.args.get("way")))
        move = Move(self._client, self._look, step.action, wanted, context, self._pace, self._doubt)
        fact, how = move.run()
        note = f"production is {wanted}: {how}"
        if step.action == "rollback":
            note += (
                "; from now on new production builds do not go live by themselves, "
                "until a deployment is promoted"
            )
        return Applied(facts=(fact,), note=note)

    def close(self) -> None:
        """Gives the connections back."""
        self._client.http.close()

    def _preflight(self, wanted: str, action: str) -> Applied:
        project = self._look()
        deployment = self._find(wanted, project)
        evidence = gather(self._client, project, deployment, action, self._server_ms())
        problems = examine(evidence, action)
        if problems:
            raise PreflightError(
                " ".join(problems),
                hint="Pin another deployment in spec.vercel.deployment, or settle this in Vercel.",
            )
        now = production_fact(project, evidence.rolling, evidence.now_ms)
        back = (
            f"way back: promote {now.value}"
            if now.value
            else "there is no deployment to come back to"
        )
        plan = f"{evidence.plan} plan" if evidence.plan else "plan not told"
        return Applied(note=f"{wanted} is READY and eligible for {action} ({plan}); {back}")

    def _look(self) -> Project:
        """The project, if it is the configured one.

        Raises:
            TerminalError: It is not there, or is another one.
        """
        try:
            project = self._client.project()
        except HttpRefusedError as exc:
            raise _explained(exc, self._project, self._team) from exc
        if self._project not in {project.id, project.name}:
            raise TerminalError(
                f"Vercel answered with project {project.name} ({project.id}) when asked for "
                f"{self._project}.",
                hint="Correct spec.vercel.project.",
            )
        if (
            self._team is not None
            and self._team.startswith("team_")
            and project.account_id != self._team
        ):
            raise TerminalError(
                f"Vercel project {self._project} is owned by {project.account_id}, not by "
                f"{self._team}.",
                hint="Correct spec.vercel.team.",
            )
        return project

    def _find(self, pin: str, project: Project) -> Deployment:
        try:
            return self._client.deployment(pin)
        except TransientError:
            raise
        except HttpRefusedError as exc:
            if exc.status in _NOT_FOUND:
                raise PreflightError(
                    f"There is no Vercel deployment {pin} that this token may see ({exc.status}).",
                    hint=f"`vercel list {project.name}` shows the deployments there are.",
                ) from exc
            raise _explained(exc, pin, self._team) from exc

    def _server_ms(self) -> float:
        return (self._pace.wall() + self._client.http.clock_offset) * 1000

    def _step(
        self, phase: Phase, action: str, summary: str, args: dict[str, str | None], *, touches: bool
    ) -> Step:
        return Step(
            phase=phase,
            target=self.name,
            action=action,
            subject="production",
            summary=summary,
            args=dict(args),
            touches=touches,
        )


def _explained(exc: HttpRefusedError, what: str, team: str | None) -> TerminalError:
    """A refusal while reading, in words that say what to do."""
    of = f" of team {team}" if team else ""
    hints = {
        401: "Make a new token and put it where spec.vercel.tokenFrom points.",
        403: "Use a token with access to the team, or correct spec.vercel.team.",
        404: "Correct spec.vercel.project or spec.vercel.team.",
    }
    return TerminalError(
        f"Vercel does not show {what}{of}: {exc.reason or exc.message} ({exc.status}).",
        hint=hints.get(exc.status, ""),
    )
