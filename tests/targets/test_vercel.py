"""The Vercel target against the practice API over real HTTP, and against answers it cannot give.

Effects are counted in the practice API's own log: whatever goes wrong, production is moved once.
"""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from reconciler.core.crashpoints import TARGET_POINTS, CrashPoint
from reconciler.core.errors import (
    LeaseLostError,
    OutcomeUnknownError,
    PreflightError,
    ReconcilerError,
    StepFailedError,
    TargetUnavailableError,
    TerminalError,
    TransientError,
)
from reconciler.core.facts import VERCEL_DEPLOYMENT, Fact, Goal, Observation, Wanted
from reconciler.core.phase import Phase
from reconciler.core.pins import Artifact, Pins
from reconciler.core.plan import Step
from reconciler.sandbox.faults import Fault, FaultKind
from reconciler.sandbox.server import ApiServer
from reconciler.sandbox.store import now_ms
from reconciler.sandbox.vercel_api import VercelApi
from reconciler.sandbox.vercel_state import Settings, new_state
from reconciler.targets.vercel import VercelTarget
from reconciler.targets.vercel_move import Pace
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from reconciler.targets.base import Applied, Target

pytestmark = pytest.mark.process

TOKEN = "vercel_token_abcdefghijklmnop"
MOVES = "/v*/projects/*/*/*"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class Crash(BaseException):
    """The process dies here."""


@dataclass
class Context:
    """What a runner lends, with one place at which the process may die."""

    attempted: datetime | None = None
    crash_at: CrashPoint | None = None
    guard_hook: Callable[[], None] = lambda: None
    sleep_hook: Callable[[], None] = lambda: None
    run: str = "run-1"
    captures: Path = Path("/nowhere")
    states: Path = Path("/nowhere")
    artifacts: Sequence[Artifact] = ()
    points: list[CrashPoint] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def at(self, point: CrashPoint) -> None:
        self.points.append(point)
        if point is self.crash_at:
            raise Crash

    def guard(self) -> None:
        self.guard_hook()

    def progress(self, message: str) -> None:
        self.said.append(message)

    def sleep(self, seconds: float) -> None:
        self.sleep_hook()
        time.sleep(min(seconds, 0.02))


@dataclass
class World:
    """A practice Vercel with four production deployments; the last one serves."""

    api: VercelApi
    server: ApiServer
    team: str
    old: str
    good: str
    bad: str

    def target(
        self,
        *,
        token: str = TOKEN,
        team: str | None = None,
        deadline: float = 5.0,
        settle: float = 0.3,
    ) -> VercelTarget:
        return VercelTarget(
            "omniops",
            team or self.team,
            token,
            self.server.url,
            pace=Pace(
                deadline=deadline,
                settle=settle,
                sleep=lambda seconds: time.sleep(min(seconds, 0.02)),
            ),
        )

    def fault(self, kind: FaultKind, method: str = "POST", path: str = MOVES, **more: Any) -> None:
        self.api.faults.add(Fault(kind=kind, method=method, path=path, **more))

    def moves(self) -> list[tuple[str, str]]:
        """Every move that took effect: its kind, and where to."""
        return [
            (effect.route.split("/")[4], effect.ids["deployment"])
            for effect in self.api.effects()
            if not effect.repeat
        ]

    @property
    def live(self) -> str | None:
        return self.api.state().projects[0].production


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    settings = Settings(alias_delay_ms=30, alias_step_ms=10, build_ms=0)
    state = new_state(now=now_ms() - 10_000, settings=settings)
    api = VercelApi(token=TOKEN, path=tmp_path / "vercel.json", initial=state)
    ids = [api.deploy(sha=f"{n}" * 40) for n in (1, 2, 3)]
    with ApiServer(api) as server:
        yield World(api, server, state.teams[0].id, *ids)


def look(target: Target) -> Fact:
    (fact,) = target.observe()
    return fact


def observed(target: Target) -> Observation:
    return Observation.of(NOW, target.observe())


def goal_of(target: Target, pin: str) -> Goal:
    answer = target.resolve(Pins(vercel=pin), observed(target), Goal())
    return Goal(
        wanted={want.key: want for want in answer.wanted}, materials={"vercel": answer.materials}
    )


def step_to(target: Target, pin: str, phase: Phase = Phase.START) -> Step:
    (step,) = target.plan(phase, observed(target), goal_of(target, pin))
    return step


def go(target: Target, pin: str, context: Context | None = None) -> Applied:
    return target.apply(step_to(target, pin), context or Context())


# observing


def test_production_is_read_with_its_host_name(world: World) -> None:
    fact = look(world.target())
    assert fact.value == world.bad
    assert fact.detail.endswith(".vercel.app")


def test_a_team_may_be_named_by_its_slug(world: World) -> None:
    assert look(world.target(team="acme")).value == world.bad


def test_nothing_deployed_yet_is_known_to_be_absent(tmp_path: Path) -> None:
    api = VercelApi(token=TOKEN, path=tmp_path / "v.json", initial=new_state(now=now_ms()))
    with ApiServer(api) as server:
        fact = look(VercelTarget("omniops", "acme", TOKEN, server.url))
    assert fact.known
    assert fact.value is None


def test_moving_aliases_are_unknown_not_a_guess(world: World) -> None:
    target = world.target()
    world.fault(FaultKind.SLOW_ALIASES, delay_ms=2_000)
    with pytest.raises(Crash):
        go(target, world.good, Context(crash_at=CrashPoint.APPLIED_UNREAD))
    fact = look(target)
    assert not fact.known
    assert "aliases are moving" in str(fact.unknown)
    assert world.good in str(fact.unknown)


def test_a_lasting_disagreement_equals_no_deployment(world: World) -> None:
    target = world.target()
    world.fault(FaultKind.ALIAS_FAILS, alias="www.omniops.example")
    with pytest.raises(StepFailedError, match=r"www\.omniops\.example"):
        go(target, world.good)
    fact = look(target)
    assert fact.known
    assert fact.value not in {None, world.good, world.bad}
    assert "www.omniops.example" in fact.detail


@pytest.mark.parametrize(
    "options", [{"token": "wrong_token"}, {"team": "team_other"}, {"team": "others"}]
)
def test_what_may_not_be_read_is_unknown_with_the_reason(
    world: World, options: dict[str, Any]
) -> None:
    fact = look(world.target(**options))
    assert "403" in str(fact.unknown)
    assert TOKEN not in str(fact.unknown)


def test_an_api_that_is_away_is_unknown(world: World) -> None:
    target = world.target()
    world.server.pause()
    assert "no connection" in str(look(target).unknown)


def test_trouble_while_reading_is_survived(world: World) -> None:
    world.fault(FaultKind.RATE_LIMITED, "GET", "*")
    world.fault(FaultKind.ERROR_BEFORE, "GET", "*")
    world.fault(FaultKind.LOST_ANSWER, "GET", "*")
    assert look(world.target()).value == world.bad


def test_looking_changes_nothing(world: World) -> None:
    target = world.target()
    before = world.api.state()
    goal_of(target, world.good)
    target.apply(step_to(target, world.good, Phase.CAPTURE), Context())
    assert world.api.state() == before


# resolving


def test_a_deployment_may_be_named_by_id_host_or_url(world: World) -> None:
    target = world.target()
    url = goal_of(target, world.good).wanted[VERCEL_DEPLOYMENT].detail
    for pin in (world.good, url, f"https://{url}/path?query=1"):
        want = goal_of(target, pin).wanted[VERCEL_DEPLOYMENT]
        assert (want.value, want.detail) == (world.good, url)


def test_no_pin_wants_nothing(world: World) -> None:
    target = world.target()
    assert target.resolve(Pins(), observed(target), Goal()).wanted == ()


def test_what_is_live_already_needs_no_request(world: World) -> None:
    target = world.target()
    now = observed(target)
    world.server.stop()
    live = now.get(VERCEL_DEPLOYMENT)
    for pin in (live.value, live.detail):
        answer = target.resolve(Pins(vercel=pin), now, Goal())
        assert answer.wanted[0].value == world.bad


def test_a_production_domain_pins_nothing(world: World) -> None:
    with pytest.raises(PreflightError, match="production domain"):
        goal_of(world.target(), "https://omniops.example")


def test_a_deployment_that_does_not_exist(world: World) -> None:
    with pytest.raises(PreflightError, match=r"no Vercel deployment dpl_nothing.*404"):
        goal_of(world.target(), "dpl_nothing")


def test_a_project_that_does_not_exist(world: World) -> None:
    target = VercelTarget("other", world.team, TOKEN, world.server.url)
    with pytest.raises(TerminalError, match="404"):
        target.resolve(Pins(vercel=world.good), Observation.of(NOW, []), Goal())


# planning


def test_there_is_nothing_to_do_when_production_is_as_wanted(world: World) -> None:
    target = world.target()
    goal = goal_of(target, world.bad)
    assert [target.plan(phase, observed(target), goal) for phase in Phase] == [()] * len(Phase)


def test_the_plan_prepares_in_capture_and_moves_in_start(world: World) -> None:
    target = world.target()
    now, goal = observed(target), goal_of(target, world.good)
    (prepare,) = target.plan(Phase.CAPTURE, now, goal)
    (move,) = target.plan(Phase.START, now, goal)
    assert (prepare.key, prepare.touches) == ("capture/vercel/preflight/production", False)
    assert (move.key, move.touches, move.downtime) == ("start/vercel/rollback/production", True, 0)
    assert world.good in move.summary
    assert world.bad in move.summary
    assert not move.data_loss
    for phase in (Phase.STOP, Phase.RESTORE, Phase.VERIFY):
        assert target.plan(phase, now, goal) == ()


def test_back_is_a_rollback_and_forward_again_a_promote(world: World) -> None:
    target = world.target()
    assert step_to(target, world.good).action == "rollback"
    go(target, world.good)
    assert step_to(target, world.old).action == "rollback"
    assert step_to(target, world.bad).action == "promote"


def test_a_staged_build_is_promoted(world: World) -> None:
    go(world.target(), world.good)  # switches automatic assignment off
    staged = world.api.deploy(sha="4" * 40)
    target = world.target()
    go(target, staged)
    assert world.moves() == [("rollback", world.good), ("promote", staged)]
    assert look(target).value == staged


def test_planning_again_in_the_middle_of_a_move_names_the_same_effect(world: World) -> None:
    target = world.target()
    before = step_to(target, world.good)
    world.fault(FaultKind.SLOW_ALIASES, delay_ms=50)
    with pytest.raises(Crash):
        target.apply(before, Context(crash_at=CrashPoint.APPLIED_UNREAD))
    while not look(target).known:
        answer = target.resolve(Pins(vercel=world.good), observed(target), Goal())
        assert answer.materials == {"action": before.action}
    assert look(target).value == world.good


# preflight


def preflight(target: Target, pin: str) -> Applied:
    return target.apply(step_to(target, pin, Phase.CAPTURE), Context())


def test_an_eligible_deployment_passes_and_the_way_back_is_named(world: World) -> None:
    note = preflight(world.target(), world.good).note
    assert "eligible for rollback" in note
    assert world.bad in note


def test_a_failed_build_is_refused(world: World) -> None:
    broken = world.api.deploy(error="it broke")
    with pytest.raises(PreflightError, match=r"is ERROR.*\(422\)"):
        preflight(world.target(), broken)


def test_a_preview_is_refused(world: World) -> None:
    preview = world.api.deploy(production=False)
    with pytest.raises(PreflightError, match=r"built for preview.*\(422\)"):
        preflight(world.target(), preview)


def test_hobby_reaches_the_previous_deployment_and_no_other(world: World) -> None:
    world.api.configure(b'{"plan": "hobby"}')
    target = world.target()
    assert "hobby" in preflight(target, world.good).note
    with pytest.raises(PreflightError, match=r"upgrade to pro \(402\)") as caught:
        preflight(target, world.old)
    assert world.good in caught.value.message


def test_hobby_after_a_rollback_comes_back_by_promote(world: World) -> None:
    world.api.configure(b'{"plan": "hobby"}')
    target = world.target()
    go(target, world.good)
    preflight(target, world.bad)
    go(target, world.bad)
    assert look(target).value == world.bad


def test_another_move_under_way_is_waited_for(world: World) -> None:
    target = world.target()
    step = step_to(target, world.good, Phase.CAPTURE)
    world.fault(FaultKind.SLOW_ALIASES, delay_ms=2_000)
    with pytest.raises(Crash):
        go(target, world.old, Context(crash_at=CrashPoint.APPLIED_UNREAD))
    with pytest.raises(TargetUnavailableError, match="409") as caught:
        target.apply(step, Context())
    assert caught.value.retry_after


# moving


def test_a_rollback_moves_production_once_and_says_what_follows_from_it(world: World) -> None:
    target, context = world.target(), Context()
    applied = go(target, world.good, context)
    assert world.moves() == [("rollback", world.good)]
    assert [fact.value for fact in applied.facts] == [world.good]
    assert look(target).value == world.good
    assert "do not go live by themselves" in applied.note
    assert context.points == list(TARGET_POINTS)
    assert any("is in-progress" in line or "is pending" in line for line in context.said)


def test_doing_it_twice_equals_doing_it_once(world: World) -> None:
    target = world.target()
    step = step_to(target, world.good)
    target.apply(step, Context())
    again = target.apply(step, Context(attempted=datetime.now(UTC)))
    assert "found by looking" in again.note
    assert world.moves() == [("rollback", world.good)]


def test_there_and_back(world: World) -> None:
    target = world.target()
    go(target, world.good)
    note = go(target, world.bad).note
    assert world.moves() == [("rollback", world.good), ("promote", world.bad)]
    assert look(target).value == world.bad
    assert "by themselves" not in note


def test_a_lost_lease_sends_nothing(world: World) -> None:
    def lost() -> None:
        raise LeaseLostError("somebody else holds it")

    with pytest.raises(LeaseLostError):
        go(world.target(), world.good, Context(guard_hook=lost))
    assert world.moves() == []


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (FaultKind.LOST_ANSWER, {}),
        (FaultKind.ERROR_AFTER, {}),
        (FaultKind.ERROR_AFTER, {"status": 504}),
        (FaultKind.LATENCY, {"delay_ms": 300}),
        (FaultKind.SLOW_ALIASES, {"delay_ms": 150}),
    ],
)
def test_one_attempt_is_enough_when_the_request_took_effect(
    world: World, kind: FaultKind, more: dict[str, Any]
) -> None:
    target = world.target()
    world.fault(kind, **more)
    go(target, world.good)
    assert world.moves() == [("rollback", world.good)]
    assert len(world.api.effects()) == 1
    assert look(target).value == world.good


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (FaultKind.RATE_LIMITED, {}),
        (FaultKind.RATE_LIMITED, {"reset_headers": False}),
        (FaultKind.ERROR_BEFORE, {}),
        (FaultKind.ERROR_BEFORE, {"status": 503}),
    ],
)
def test_a_request_that_took_no_effect_is_transient_and_done_by_the_next_attempt(
    world: World, kind: FaultKind, more: dict[str, Any]
) -> None:
    target, begun = world.target(settle=0.3 if "error" in kind else 20), datetime.now(UTC)
    step = step_to(target, world.good)
    world.fault(kind, **more)
    with pytest.raises(TransientError) as caught:
        target.apply(step, Context())
    assert not isinstance(caught.value, OutcomeUnknownError)
    assert world.moves() == []
    before = time.monotonic()
    target.apply(step, Context(attempted=begun))
    assert time.monotonic() - before < 5, "nothing can be travelling, so nothing is waited for"
    assert world.moves() == [("rollback", world.good)]


def test_a_connection_refused_at_the_last_moment_is_transient(world: World) -> None:
    target, begun = world.target(), datetime.now(UTC)
    step = step_to(target, world.good)

    def away() -> None:
        world.server.pause()
        wait_for(lambda: not _listens(world.server.port), what="the server away")

    with pytest.raises(TransientError, match="no connection") as caught:
        target.apply(step, Context(guard_hook=away))
    assert not isinstance(caught.value, OutcomeUnknownError)
    world.server.resume()
    target.apply(step, Context(attempted=begun))
    assert world.moves() == [("rollback", world.good)]


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_trouble_while_following_is_survived(world: World) -> None:
    target = world.target()
    step = step_to(target, world.good)
    for kind in (FaultKind.RATE_LIMITED, FaultKind.ERROR_BEFORE, FaultKind.LOST_ANSWER):
        world.fault(kind, "GET", "*", skip=1, times=5)
    target.apply(step, Context())
    assert world.moves() == [("rollback", world.good)]


def test_an_outcome_that_cannot_be_read_is_unknown_and_settled_by_looking(world: World) -> None:
    target, begun = world.target(settle=0.05), datetime.now(UTC)
    step = step_to(target, world.good)
    world.fault(FaultKind.LOST_ANSWER)
    world.fault(FaultKind.ERROR_BEFORE, "GET", "/v9/projects/*", skip=1, times=None)
    with pytest.raises(OutcomeUnknownError):
        target.apply(step, Context())
    world.api.faults.clear()
    applied = target.apply(step, Context(attempted=begun))
    assert "found by looking" in applied.note
    assert world.moves() == [("rollback", world.good)]


@pytest.mark.parametrize("point", TARGET_POINTS)
@pytest.mark.parametrize("slow", [0, 150])
def test_a_crash_at_any_point_ends_in_one_effect(
    world: World, point: CrashPoint, slow: int
) -> None:
    target, begun = world.target(), datetime.now(UTC)
    step = step_to(target, world.good)
    if slow:
        world.fault(FaultKind.SLOW_ALIASES, delay_ms=slow)
    with pytest.raises(Crash):
        target.apply(step, Context(crash_at=point))
    target = world.target()
    target.apply(step, Context(attempted=begun))
    assert len(world.api.effects()) == 1
    assert world.moves() == [("rollback", world.good)]
    assert look(target).value == world.good


def test_a_request_still_travelling_when_its_sender_died_is_not_sent_again(world: World) -> None:
    target, begun = world.target(settle=3.0), datetime.now(UTC)
    step = step_to(target, world.good)
    late = httpx.Client()
    project = world.api.state().projects[0].id

    def arrives() -> None:
        if not world.api.effects():
            late.post(
                f"{world.server.url}/v1/projects/{project}/rollback/{world.good}",
                headers={"authorization": f"Bearer {TOKEN}"},
                json={},
            )

    context = Context(attempted=begun, sleep_hook=arrives)
    target = world.target(settle=3.0)  # another process
    with late:
        target.apply(step, context)
    assert len(world.api.effects()) == 1


def test_the_same_move_by_somebody_else_is_joined(world: World) -> None:
    target = world.target()
    step = step_to(target, world.good)
    world.fault(FaultKind.SLOW_ALIASES, delay_ms=100)
    with pytest.raises(Crash):
        go(world.target(), world.good, Context(crash_at=CrashPoint.APPLIED_UNREAD))
    applied = target.apply(step, Context())
    assert "somebody else" in applied.note
    assert len(world.api.effects()) == 1


def test_another_move_by_somebody_else_is_not_crossed(world: World) -> None:
    target = world.target()
    step = step_to(target, world.good)
    world.fault(FaultKind.SLOW_ALIASES, delay_ms=2_000)
    with pytest.raises(Crash):
        go(world.target(), world.old, Context(crash_at=CrashPoint.APPLIED_UNREAD))
    with pytest.raises(TargetUnavailableError, match="one move at a time"):
        target.apply(step, Context())
    assert world.moves() == [("rollback", world.old)]


def test_a_failed_alias_is_named_and_the_way_back_stays_open(world: World) -> None:
    target = world.target()
    world.fault(FaultKind.ALIAS_FAILS, alias="omniops.example")
    with pytest.raises(StepFailedError, match=r"could not move all domains.*: omniops\.example"):
        go(target, world.good)
    go(target, world.bad)
    assert look(target).value == world.bad


def test_a_split_production_resolves_to_what_the_project_itself_named(world: World) -> None:
    target = world.target()
    world.fault(FaultKind.ALIAS_FAILS)
    with pytest.raises(StepFailedError):
        go(target, world.good)
    split = look(target).value
    assert split is not None
    assert goal_of(target, split).value(VERCEL_DEPLOYMENT) == world.bad


def test_a_promote_that_is_only_queued_is_not_taken_for_done(world: World) -> None:
    target = world.target()
    go(target, world.good)
    world.fault(FaultKind.QUEUED)
    with pytest.raises(StepFailedError, match="202"):
        go(target, world.bad)


def test_hobby_refusal_at_the_last_moment_is_explained(world: World) -> None:
    target = world.target()
    step = step_to(target, world.old)
    world.api.configure(b'{"plan": "hobby"}')
    with pytest.raises(StepFailedError, match=r"upgrade to pro \(402\)") as caught:
        target.apply(step, Context())
    assert caught.value.hint
    assert world.moves() == []


def test_a_move_that_takes_too_long_is_joined_by_the_next_attempt(world: World) -> None:
    target, begun = world.target(deadline=0.05), datetime.now(UTC)
    step = step_to(target, world.good)
    world.fault(FaultKind.SLOW_ALIASES, delay_ms=200)
    with pytest.raises(OutcomeUnknownError, match=r"within 0\.05 s"):
        target.apply(step, Context())
    world.target().apply(step, Context(attempted=begun))
    assert len(world.api.effects()) == 1


def test_the_token_is_in_nothing_that_is_shown(world: World) -> None:
    target = world.target()
    step = step_to(target, world.good)
    context = Context()
    shown = [step.model_dump_json(), *context.said, target.apply(step, context).note]
    world.fault(FaultKind.ERROR_BEFORE, "*", "*", times=None)
    with pytest.raises(ReconcilerError) as caught:
        target.apply(step_to_any(world.bad), Context())
    assert TOKEN not in "".join([*shown, caught.value.message, caught.value.hint, repr(target)])


def step_to_any(deployment: str, action: str = "rollback") -> Step:
    return Step(
        phase=Phase.START,
        target="vercel",
        action=action,
        subject="production",
        summary="move",
        args={"deployment": deployment, "way": action},
    )


# answers the practice API does not give


@dataclass
class Scripted:
    """A project and deployments as JSON; a POST changes the project as told."""

    project: dict[str, Any]
    deployments: dict[str, dict[str, Any]]
    rolling: dict[str, Any] | None = None
    answer: httpx.Response | None = None
    after: dict[str, Any] = field(default_factory=dict)
    posts: list[str] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if request.method == "POST":
            self.posts.append(path)
            self.project.update(self.after)
            return self.answer or httpx.Response(201)
        if path.endswith("/rolling-release"):
            return httpx.Response(200, json={"rollingRelease": self.rolling})
        if "/teams/" in path:
            return httpx.Response(200, json={"id": "team_a", "slug": "acme", **self.team})
        if path == "/v6/deployments":
            return httpx.Response(200, json={"deployments": [], "pagination": None})
        if "/deployments/" in path:
            found = self.deployments.get(path.rsplit("/", 1)[1])
            missing = {"error": {"code": "not_found", "message": "gone"}}
            return httpx.Response(200, json=found) if found else httpx.Response(404, json=missing)
        if path.endswith("/aliases"):
            return httpx.Response(500)
        return httpx.Response(200, json=self.project)

    team: dict[str, Any] = field(default_factory=dict)

    def target(self, project: str = "web", team: str | None = "team_a") -> VercelTarget:
        pace = Pace(deadline=0.3, settle=0.05, sleep=lambda _: None)
        transport = httpx.MockTransport(self)
        return VercelTarget(project, team, TOKEN, pace=pace, transport=transport)


def ref(number: int) -> dict[str, Any]:
    return {"id": f"dpl_{number}", "url": f"w{number}.vercel.app", "createdAt": number}


def deployment(number: int, **more: Any) -> dict[str, Any]:
    return {
        **ref(number),
        "projectId": "prj_1",
        "ownerId": "team_a",
        "target": "production",
        "readyState": "READY",
        "readySubstate": "PROMOTED",
        **more,
    }


def alias(domain: str, number: int, **more: Any) -> dict[str, Any]:
    return {
        "domain": domain,
        "environment": "production",
        "target": "PRODUCTION",
        "deployment": ref(number),
        **more,
    }


def scripted(**more: Any) -> Scripted:
    project = {
        "id": "prj_1",
        "name": "web",
        "accountId": "team_a",
        "targets": {"production": ref(2), "staging": None},
        "alias": [alias("web.example", 2), alias("www.web.example", 1, redirect="web.example")],
        **more,
    }
    known = {f"dpl_{n}": deployment(n) for n in (1, 2, 3)}
    return Scripted(project, {**known, "web.example": deployment(2)})


def test_redirects_previews_and_empty_domains_do_not_count() -> None:
    world = scripted()
    world.project["alias"] += [
        alias("preview.example", 1, environment="preview", target="PREVIEW"),
        {**alias("new.example", 1), "deployment": None},
    ]
    assert look(world.target()).value == "dpl_2"


def test_domains_speak_when_the_project_names_nothing() -> None:
    world = scripted(targets={"production": None})
    assert look(world.target()).value == "dpl_2"


def test_a_project_without_targets_or_aliases() -> None:
    assert look(scripted(targets=None, alias=[]).target()).value is None


@pytest.mark.parametrize("status", ["pending", "in-progress"])
def test_a_move_that_never_ends_does_not_block_for_ever(status: str) -> None:
    def known(age: float) -> bool:
        request = {**request_for(status), "requestedAt": (time.time() - age) * 1000}
        return look(scripted(lastAliasRequest=request).target()).known

    assert not known(5)
    assert known(3600)


def test_domains_that_still_settle_are_unknown_and_later_split() -> None:
    def fact(age: float) -> Fact:
        request = {
            "fromDeploymentId": "dpl_2",
            "toDeploymentId": "dpl_1",
            "jobStatus": "succeeded",
            "requestedAt": (time.time() - age) * 1000,
            "type": "rollback",
        }
        return look(scripted(lastAliasRequest=request, alias=[alias("a", 1)]).target())

    assert not fact(2).known
    assert fact(120).value == "mixed:dpl_2+dpl_1"


@pytest.mark.parametrize(
    "body", [{"id": "prj_1"}, {"id": 5, "accountId": []}, [], "text", {"error": {}}]
)
def test_an_answer_of_another_shape_is_unknown(body: object) -> None:
    target = VercelTarget(
        "web",
        None,
        TOKEN,
        transport=httpx.MockTransport(lambda _: httpx.Response(200, text=json.dumps(body))),
    )
    assert "not as documented" in str(look(target).unknown)


def test_another_project_or_owner_than_configured_is_refused() -> None:
    assert "when asked for shop" in str(look(scripted().target(project="shop")).unknown)
    assert "not by team_b" in str(look(scripted().target(team="team_b")).unknown)
    assert look(scripted().target(project="prj_1", team=None)).value == "dpl_2"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"projectId": "prj_9"}, "belongs to project prj_9"),
        ({"ownerId": "team_b"}, "owned by team_b"),
        ({"team": {"id": "team_b"}}, "owned by team_a, team_b"),
        ({"projectId": None, "ownerId": None}, "may not see which project"),
    ],
)
def test_a_deployment_of_somebody_else_is_refused(change: dict[str, Any], words: str) -> None:
    world = scripted()
    world.deployments["dpl_1"] = deployment(1, **change)
    with pytest.raises(PreflightError, match=words):
        goal_of(world.target(), "dpl_1")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"deletedAt": 5}, r"deleted.*\(410\)"),
        ({"readyState": "BLOCKED"}, r"is BLOCKED.*\(422\)"),
        ({"target": "staging"}, r"built for staging.*\(422\)"),
        ({"readySubstate": None}, r"never served production.*\(422\)"),
    ],
)
def test_each_reason_to_be_refused_is_one_sentence_with_its_code(
    change: dict[str, Any], words: str
) -> None:
    world = scripted()
    world.deployments["dpl_1"] = deployment(1, **change)
    with pytest.raises(PreflightError, match=words):
        preflight(world.target(), "dpl_1")


def test_all_reasons_are_told_at_once() -> None:
    world = scripted()
    world.team = {"membership": {"role": "VIEWER"}}
    world.deployments["dpl_1"] = deployment(1, readyState="ERROR", target=None)
    with pytest.raises(PreflightError) as caught:
        preflight(world.target(), "dpl_1")
    for words in ("is ERROR", "built for preview", "role VIEWER"):
        assert words in caught.value.message


ROLLING = {
    "state": "ACTIVE",
    "startedAt": 1,
    "updatedAt": 2,
    "currentDeployment": {"id": "dpl_2"},
    "canaryDeployment": {"id": "dpl_3"},
}


def test_a_rolling_release_splits_production() -> None:
    world = scripted(rollingRelease={"target": "production"})
    assert look(world.target()).value == "dpl_2"
    world.rolling = ROLLING
    fact = look(world.target())
    assert fact.value == "mixed:dpl_2+dpl_3"
    assert "rolling release" in fact.detail


def test_a_rollback_may_end_a_rolling_release_but_a_promote_would_queue() -> None:
    world = scripted(rollingRelease={"target": "production"})
    world.rolling = ROLLING
    assert "eligible" in preflight(world.target(), "dpl_1").note
    for pin in ("dpl_3", "dpl_2"):
        with pytest.raises(PreflightError, match="queued"):
            preflight(world.target(), pin)


def test_a_promote_of_what_went_live_meanwhile_is_done() -> None:
    world = scripted()
    world.after = {"targets": {"production": ref(3)}, "alias": [alias("web.example", 3)]}
    world.deployments["web.example"] = deployment(3)
    message = "The provided deploymentId (dpl_3) is already the current production deployment."
    world.answer = httpx.Response(409, json={"error": {"code": "conflict", "message": message}})
    applied = world.target().apply(step_to_any("dpl_3", "promote"), Context())
    assert "somebody else" in applied.note
    assert len(world.posts) == 1


@pytest.mark.parametrize("status", [400, 402, 403, 404, 409, 410, 422])
def test_a_refusal_is_final_and_repeats_what_vercel_said(status: int) -> None:
    world = scripted()
    world.answer = httpx.Response(status, json={"error": {"code": "no", "message": "Because."}})
    with pytest.raises(StepFailedError, match=rf"Because\. \({status}\)") as caught:
        world.target().apply(step_to_any("dpl_1"), Context())
    assert caught.value.hint
    assert len(world.posts) == 1


def request_for(status: str) -> dict[str, Any]:
    return {
        "fromDeploymentId": "dpl_2",
        "toDeploymentId": "dpl_1",
        "jobStatus": status,
        "requestedAt": time.time() * 1000,
        "type": "rollback",
    }


def test_failed_aliases_that_cannot_be_listed_do_not_hide_the_failure() -> None:
    world = scripted()
    world.after = {"lastAliasRequest": request_for("failed")}
    with pytest.raises(StepFailedError, match="could not be read"):
        world.target().apply(step_to_any("dpl_1"), Context())


def test_an_unknown_end_of_a_move_is_a_failure() -> None:
    world = scripted()
    world.after = {"lastAliasRequest": request_for("evaporated")}
    with pytest.raises(StepFailedError, match="evaporated"):
        world.target().apply(step_to_any("dpl_1"), Context())


def test_success_is_not_believed_before_every_domain_agrees() -> None:
    world = scripted()
    world.after = {
        "lastAliasRequest": request_for("succeeded"),
        "targets": {"production": ref(1)},
        "alias": [alias("web.example", 1)],
    }
    with pytest.raises(OutcomeUnknownError):  # the domain itself still answers with dpl_2
        world.target().apply(step_to_any("dpl_1"), Context())
    world.deployments["web.example"] = deployment(1)
    applied = world.target().apply(step_to_any("dpl_1"), Context(attempted=datetime.now(UTC)))
    assert applied.facts[0].value == "dpl_1"
    assert len(world.posts) == 1


def test_an_older_failure_is_not_mistaken_for_ours() -> None:
    world = scripted(lastAliasRequest={**request_for("failed"), "requestedAt": 1000})
    world.after = {
        "lastAliasRequest": request_for("succeeded"),
        "targets": {"production": ref(1)},
        "alias": [alias("web.example", 1)],
    }
    world.deployments["web.example"] = deployment(1)
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    applied = world.target().apply(step_to_any("dpl_1"), Context(attempted=long_ago))
    assert applied.facts[0].value == "dpl_1"
    assert len(world.posts) == 1


def test_the_goal_of_a_run_survives_production_moving_away() -> None:
    target = scripted().target()
    goal = Goal(
        wanted={VERCEL_DEPLOYMENT: Wanted(key=VERCEL_DEPLOYMENT, value="dpl_1")},
        materials={"vercel": {"action": "rollback"}},
    )
    (step,) = target.plan(Phase.START, Observation.of(NOW, []), goal)
    assert step.action == "rollback"
