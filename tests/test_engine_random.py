"""Random worlds: failures, crashes, restarts, changed specs, rollbacks and human decisions in any order.

Whatever happened, the ledger holds at every instant, nothing happens that must never happen (see `worldparts`), and
once the causes are mended the environment comes to rest where it is wanted, and ten more passes change nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.core import facts as f
from reconciler.core.conditions import Reason
from reconciler.core.crashpoints import CrashPoint
from reconciler.core.drift import compare
from reconciler.core.entry import Entry, EntryKind
from reconciler.core.errors import (
    OutcomeUnknownError,
    ReconcilerError,
    StepFailedError,
    TargetUnavailableError,
)
from reconciler.core.phase import RESTING_PHASES, Phase, Trigger
from reconciler.core.status import EnvironmentStatus
from reconciler.targets.together import observe
from tests.support.world import BAD, GOOD, Crash, Source, Stage, World, source
from tests.support.worldparts import VOLUME
from tests.support.worldtargets import targets_of

_OTHER = {"commit": "other", "image": "app:other", "version": "2", "deployment": "dpl_other"}
_ARCHIVE = f"{{{VOLUME}: {{restore: archive, sha256: {'ab' * 32}}}}}"
_SPECS: tuple[Callable[[], Source], ...] = (
    lambda: source(GOOD),
    lambda: source(BAD),
    lambda: source(_OTHER),
    lambda: source(GOOD, policy=", onFailure: halt"),
    lambda: source(GOOD, policy=", approval: always"),
    lambda: source(_OTHER, volumes=_ARCHIVE),
    lambda: source({**GOOD, "version": "3"}, volumes=_ARCHIVE, policy=", onFailure: halt"),
)
_STEPS = (
    "capture/docker/save-logs/app", "capture/database/dump/tables", "stop/docker/stop/services",
    "restore/git/checkout/worktree", "restore/docker/back-up-volume/data", "restore/docker/restore-volume/data",
    "restore/docker/retag/services", "restore/database/down/3", "restore/database/down/2", "restore/database/up/2",
    "restore/database/up/3", "restore/database/restore-rows/3", "start/docker/up/services",
    "start/vercel/move/production",
)  # fmt: skip
_OTHERS = ("observe/docker", "resolve/git", "resolve/docker", "checks")
_LIMIT = 3000  # entries, far more than any story here needs


class BugError(Exception):
    """What a bug in a target would raise."""


class Endless(BaseException):
    """The environment does not come to rest."""


class Bound:
    """Stops a run that does not end."""

    def recorded(self, entry: Entry, status: EnvironmentStatus) -> None:
        if status.entries > _LIMIT:
            raise Endless


_KINDS: dict[str, Callable[[], Exception]] = {
    "transient": lambda: TargetUnavailableError("not now"),
    "terminal": lambda: StepFailedError("refused"),
    "lost": lambda: OutcomeUnknownError("the answer was lost"),
    "bug": lambda: BugError("a bug"),
}


@dataclass
class Player:
    """Plays a story on a stage."""

    stage: Stage
    wanted: Source = field(default_factory=lambda: source(GOOD))

    def converge(self, crash: int | None = None, **how: object) -> None:
        left = [crash if crash is not None else -1]

        def probe(point: CrashPoint, effect: str) -> None:
            left[0] -= 1
            if left[0] == -1 and crash is not None:
                raise Crash

        with suppress(Crash, ReconcilerError, BugError):
            self.stage.engine(probe).converge(self.wanted, **how)  # type: ignore[arg-type]

    # --- what may happen ------------------------------------------------------------------------

    def apply(self, crash: int | None) -> None:
        self.converge(crash)

    def resume(self, crash: int | None) -> None:
        self.converge(crash, resume="a human said so")

    def rollback(self, number: int, crash: int | None) -> None:
        points = self.stage.status().recovery_points
        if points:
            self.converge(crash, rollback=self.stage.back_to(points[number % len(points)]))

    def spec(self, number: int) -> None:
        self.wanted = _SPECS[number]()

    def fail(self, step: str, kind: str, times: int, lost: bool) -> None:  # noqa: FBT001
        world = self.stage.world
        queues = world.losing if lost else world.failing
        queues.setdefault(step, []).extend(_KINDS[kind]() for _ in range(times))

    def blind(self, target: str, looks: int) -> None:
        self.stage.world.blind[target] = looks

    def sick(self, commit: str) -> None:
        self.stage.world.failing_checks = lambda world: ["health"] if world.commit == commit else []

    def by_hand(self, what: str) -> None:
        world = self.stage.world
        match what:
            case "commit":
                world.commit = "hand"
            case "deployment":
                world.deployment = "dpl_hand"
            case _:
                world.running["worker"] = False

    def decide(self, approve: bool) -> None:  # noqa: FBT001
        if self.stage.status().phase is not Phase.APPROVE:
            return
        engine = self.stage.engine()
        with engine.session("prod") as journal:
            if approve:
                body = {"verdict": "approved", "message": "yes"}
                journal.write(EntryKind.APPROVAL, Reason.APPROVED, body)
                journal.move(Trigger.APPROVED, Reason.APPROVED, {"message": "yes"})
            else:
                engine.reject(journal, "no")

    # --- what must hold -------------------------------------------------------------------------

    def check(self) -> None:
        phase = self.stage.status().phase
        self.stage.check(resting=phase in RESTING_PHASES)

    def mend(self) -> None:
        """Takes every cause away, then lets humans act until the environment is stable."""
        world = self.stage.world
        world.failing.clear()
        world.losing.clear()
        world.blind.clear()
        world.failing_checks = lambda world: []
        self.converge()
        # A stopped container with the database in it is started when a human asks.
        self.resume(None)
        for _ in range(6):
            self.check()
            match self.stage.status().phase:
                case Phase.STABLE:
                    break
                case Phase.APPROVE:
                    self.decide(approve=True)
                    self.converge()
                case _:
                    self.resume(None)
        assert self.stage.status().phase is Phase.STABLE

    def rests_where_it_is_wanted(self) -> None:
        stage = self.stage
        status, effects = stage.status(), stage.world.effects.copy()
        if not (status.held and status.held.reason is Reason.REJECTED):
            assert status.resolved is not None
            goal = status.resolved.goal
            drift = compare(goal, observe(targets_of(stage.world), stage.clock))
            assert drift.equal, drift
            if status.held is None:
                section = self.wanted.spec
                assert section.git
                assert section.database
                assert goal.value(f.GIT_COMMIT) == section.git.commit
                assert goal.value(f.DATABASE_VERSION) == section.database.migration
        for _ in range(10):
            self.converge()
        assert stage.world.effects == effects
        assert stage.status() == status, "ten more passes write nothing"
        stage.check()


_crash = st.none() | st.integers(0, 70)
_OPS = st.one_of(
    st.tuples(st.just("apply"), _crash),
    st.tuples(st.just("apply"), _crash),
    st.tuples(st.just("resume"), _crash),
    st.tuples(st.just("rollback"), st.integers(0, 3), _crash),
    st.tuples(st.just("spec"), st.integers(0, len(_SPECS) - 1)),
    st.tuples(
        st.just("fail"),
        st.sampled_from(_STEPS + _OTHERS),
        st.sampled_from(sorted(_KINDS)),
        st.sampled_from((1, 1, 2, 6, 12)),
        st.booleans(),
    ),
    st.tuples(st.just("blind"), st.sampled_from(f.TARGET_ORDER), st.sampled_from((1, 3, 9, 20))),
    st.tuples(st.just("sick"), st.sampled_from(("good", "bad", "other", ""))),
    st.tuples(st.just("by_hand"), st.sampled_from(("commit", "deployment", "service"))),
    st.tuples(st.just("decide"), st.booleans()),
)


def _play(story: list[tuple[object, ...]], *, contained: bool) -> None:
    with Stage(listeners=(Bound(),), world=World(contained=contained)) as stage:
        (stage.folder / "archive").write_text("1,2", encoding="utf-8")
        player = Player(stage)
        for name, *values in story:
            getattr(player, str(name))(*values)
            player.check()
        player.mend()
        player.rests_where_it_is_wanted()


#: Random worlds a run looks at; more of them with RECONCILER_TEST_WORLDS.
WORLDS = int(os.environ.get("RECONCILER_TEST_WORLDS", "60"))


@given(st.lists(_OPS, min_size=1, max_size=12), st.booleans())
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_whatever_happens_it_comes_to_rest_where_it_is_wanted(
    story: list[tuple[object, ...]],
    contained: bool,  # noqa: FBT001
) -> None:
    _play(story, contained=contained)


@pytest.mark.crash
@given(st.lists(_OPS, min_size=3, max_size=25), st.booleans())
@settings(
    max_examples=WORLDS, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
def test_long_stories(story: list[tuple[object, ...]], contained: bool) -> None:  # noqa: FBT001
    _play(story, contained=contained)
