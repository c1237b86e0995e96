"""The loop over worlds in memory: what it attends to, what it leaves alone, and how little it says."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest

from reconciler.audit.database import Database
from reconciler.audit.glance import Holding, glance
from reconciler.audit.lease import Holder, Lease
from reconciler.backoff import LONGEST
from reconciler.clock import SystemClock
from reconciler.core.conditions import ConditionType, Reason, find
from reconciler.core.entry import EntryKind
from reconciler.core.errors import PreflightError, StepFailedError, TargetUnavailableError
from reconciler.core.phase import Phase
from reconciler.core.status import EnvironmentStatus, Override
from reconciler.core.vectors import pins_from_vector
from reconciler.engine import Engine
from reconciler.interruption import Interrupted, Interruption
from reconciler.look import Look, look
from reconciler.loop import Event, Kind, Loop
from reconciler.project import LoadedSpec
from reconciler.specfolder import SETTLE, SpecFolder
from reconciler.wakeups import Wakeups, feed
from tests.support.waiting import wait_for
from tests.support.world import BAD, GOOD, SPEC, Stage, World

pytestmark = pytest.mark.process

GOOD_VECTOR = ("good", "sha256:good", True, (1,), "dpl_good")
BAD_VECTOR = ("bad", "sha256:bad", True, (1, 2, 3), "dpl_bad")
OTHER = {"commit": "other", "image": "app:other", "version": "2", "deployment": "dpl_other"}
LONG_AGO = 1_700_000_000
STAMPS = itertools.count(LONG_AGO)


@dataclass
class Room:
    """An environment whose production is a world in memory."""

    stage: Stage
    source: LoadedSpec
    interruption: Interruption | None = None

    def engine(self) -> Engine:
        engine = self.stage.engine()
        if self.interruption:
            setting = dataclasses.replace(engine._set, listeners=(self.interruption,))
            engine = Engine(setting)
        return engine

    def glance(self) -> tuple[EnvironmentStatus, Holding | None]:
        return glance(self.stage.url, self.source.spec.name)

    def look(self, status: EnvironmentStatus) -> Look:
        targets = self.engine()._set.equip(self.source.spec).targets
        return look(status, self.source.spec, self.source.digest, targets, self.stage.clock)

    def converge(self, status: EnvironmentStatus) -> EnvironmentStatus:
        if self.interruption:
            self.interruption.begin(status.phase)
        return self.engine().converge(self.source)


class Restless(Room):
    """A room whose production never stands still."""

    def look(self, status: EnvironmentStatus) -> Look:
        self.stage.world.commit += "."
        return super().look(status)


@dataclass
class Bench:
    """A folder of specs, a world for each of its environments, and a loop that says what it does."""

    root: Path
    stages: dict[str, Stage] = field(default_factory=dict)
    said: list[Event] = field(default_factory=list)
    interruption: Interruption | None = None

    def __post_init__(self) -> None:
        self.specs = self.root / "specs"
        self.specs.mkdir()
        (self.root / "reconciler.toml").touch()
        self.loop = self.new_loop()

    def new_loop(self) -> Loop:
        """A new process: it knows nothing but what is on record."""
        return Loop(
            folder=SpecFolder(self.specs),
            enter=self.enter,
            say=self.said.append,
            clock=SystemClock(),
            interval=30.0,
            bug=lambda exc: f"a bug: {exc}",
            steady=0.0,
        )

    def stage(self, name: str = "prod") -> Stage:
        if name not in self.stages:
            self.stages[name] = Stage(self.root / "worlds" / name, World())
        return self.stages[name]

    def enter(self, source: LoadedSpec) -> Room:
        return Room(self.stage(source.spec.name), source, self.interruption)

    def write(
        self,
        vector: dict[str, str],
        *,
        name: str = "prod",
        file: str | None = None,
        policy: str = "",
        more: str = "",
    ) -> Path:
        """A spec that has been lying there for a while."""
        path = self.specs / (file or f"{name}.yaml")
        text = SPEC.format(**vector, policy=policy).replace("name: prod", f"name: {name}")
        path.write_text(text + more, encoding="utf-8")
        at_rest(path)
        return path

    def kinds(self) -> list[Kind]:
        return [event.kind for event in self.said]


def at_rest(path: Path) -> None:
    """Lets a file look as if nobody had touched it for long, and yet be another one than before."""
    stamp = next(STAMPS)
    os.utime(path, (stamp, stamp))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_on_start_every_environment_is_brought_to_its_spec(bench: Bench) -> None:
    bench.write(GOOD)
    bench.write(GOOD, name="staging")
    bench.loop.once()
    assert bench.stage("prod").world.vector() == GOOD_VECTOR
    assert bench.stage("staging").world.vector() == GOOD_VECTOR
    assert bench.kinds() == [Kind.SPEC, Kind.SPEC, Kind.STABLE, Kind.STABLE]


def test_an_environment_at_rest_is_looked_at_and_nothing_is_written_or_said(bench: Bench) -> None:
    bench.write(GOOD)
    bench.loop.once()
    stage = bench.stage()
    entries, said, lease = stage.entries(), list(bench.said), _lease_token(stage)
    for _ in range(10):
        assert bench.loop.look()
        assert bench.loop.reconcile("prod") == 30.0
    assert stage.entries() == entries
    assert bench.said == said
    assert _lease_token(stage) == lease, "not even the lease is taken"


def _lease_token(stage: Stage) -> int:
    with Database(stage.url).reading() as connection:
        return int(connection.exec_driver_sql("SELECT lease_token FROM environments").scalar_one())


def test_drift_is_repaired_at_the_next_wake_up(bench: Bench) -> None:
    bench.write(GOOD)
    bench.loop.once()
    bench.stage().world.deployment = "dpl_by_hand"
    bench.loop.reconcile("prod")
    assert bench.stage().world.vector() == GOOD_VECTOR
    assert bench.kinds().count(Kind.STABLE) == 2


def test_production_that_is_on_the_move_is_not_touched_until_it_stands_still(bench: Bench) -> None:
    bench.write(GOOD)
    bench.loop.once()
    bench.loop.steady = 0.01
    world, entries = bench.stage().world, bench.stage().entries()
    for commit in ("by", "somebodys", "hand"):
        world.commit = commit
        assert bench.loop.reconcile("prod") == 0.01
    assert bench.stage().entries() == entries
    bench.loop.reconcile("prod")
    assert world.vector() == GOOD_VECTOR
    world.commit = "again"
    bench.loop.once()
    assert world.vector() == GOOD_VECTOR, "once waits for it"
    bench.loop.enter = lambda source: Restless(bench.stage(), source)
    standing = bench.loop.once()["prod"]
    assert standing is not None
    assert standing.kind is Kind.ERROR, "but not for ever"
    bench.loop.enter = bench.enter
    bench.write(OTHER)
    bench.loop.look()
    bench.loop.reconcile("prod")
    assert world.commit == "other", "a changed spec is not waited for"


def test_a_changed_spec_wakes_its_environment_and_a_comment_does_not(bench: Bench) -> None:
    bench.write(GOOD)
    bench.write(GOOD, name="staging")
    bench.loop.once()
    bench.said.clear()
    bench.write(GOOD, more="# a comment\n")
    bench.loop.look()
    assert bench.said == []
    bench.write(OTHER)
    bench.loop.look()
    assert [(event.kind, event.environment) for event in bench.said] == [(Kind.SPEC, "prod")]
    bench.loop.reconcile("prod")
    assert bench.stage().world.commit == "other"


def test_an_invalid_spec_is_told_with_its_place_and_leaves_only_its_environment_alone(
    bench: Bench,
) -> None:
    path = bench.write(GOOD)
    bench.write(GOOD, name="staging")
    bench.loop.once()
    bench.said.clear()
    path.write_text(path.read_text().replace("commit:", "comit:"), encoding="utf-8")
    at_rest(path)
    bench.stage("staging").world.commit = "drifted"
    bench.stage("prod").world.commit = "drifted"
    standing = bench.loop.once()
    (refused,) = [event for event in bench.said if event.kind is Kind.REFUSED]
    assert refused.message.startswith(f"{path}:5:")
    assert "unknown field; did you mean commit?" in refused.message
    assert "prod is left as it is" in refused.next
    assert bench.stage("prod").world.commit == "drifted"
    assert bench.stage("staging").world.vector() == GOOD_VECTOR
    assert standing[str(path)] is not None
    bench.loop.once()
    assert bench.kinds().count(Kind.REFUSED) == 1, "said once"
    bench.write(GOOD)
    bench.loop.once()
    assert bench.stage("prod").world.vector() == GOOD_VECTOR


def test_what_is_wrong_in_the_settings_is_noticed_when_it_is_mended(bench: Bench) -> None:
    bench.write(GOOD)
    settings = bench.root / "reconciler.toml"
    settings.write_text("database = 1\n", encoding="utf-8")
    bench.loop.once()
    assert bench.kinds() == [Kind.REFUSED]
    settings.write_text("", encoding="utf-8")
    bench.loop.once()
    assert bench.stage().world.vector() == GOOD_VECTOR


def test_a_spec_that_is_gone_leaves_production_as_it_is(bench: Bench) -> None:
    path = bench.write(GOOD)
    bench.loop.once()
    path.unlink()
    bench.stage().world.commit = "drifted"
    assert not bench.loop.look(), "it may be about to come back under its name"
    time.sleep(SETTLE)
    assert bench.loop.look()
    assert bench.kinds()[-1] is Kind.GONE
    assert "left as it is" in bench.said[-1].message
    bench.loop.once()
    assert bench.stage().world.commit == "drifted"


def test_two_specs_of_one_environment_are_both_refused(bench: Bench) -> None:
    bench.write(GOOD)
    bench.loop.once()
    second = bench.write(BAD, file="second.yaml")
    bench.loop.once()
    (refused,) = [event for event in bench.said if event.kind is Kind.REFUSED]
    assert f"{second}:1:1: metadata.name: prod is also declared by" in refused.message
    assert bench.stage().world.vector() == GOOD_VECTOR
    bench.stage().world.commit = "drifted"
    bench.loop.once()
    assert bench.stage().world.commit == "drifted", "neither of them is believed"
    second.unlink()
    bench.loop.once()
    assert bench.stage().world.vector() == GOOD_VECTOR


def test_a_renamed_spec_is_the_same_spec(bench: Bench) -> None:
    path = bench.write(GOOD)
    bench.loop.once()
    entries = bench.stage().entries()
    path.rename(bench.specs / "production.yml")
    bench.loop.once()
    assert bench.stage().entries() == entries
    assert Kind.GONE not in bench.kinds()


def test_half_a_file_is_not_believed_even_where_it_is_a_valid_spec(bench: Bench) -> None:
    clock = [100.0]
    path = bench.write(GOOD)
    folder = SpecFolder(bench.specs, monotonic=lambda: clock[0], wall=lambda: LONG_AGO + 1e6)
    whole = folder.look().specs["prod"].digest
    text = path.read_text().replace("good", "other")
    half = text[: text.index("  verify:")]
    for written in (half, text):
        path.write_text(written, encoding="utf-8")
        os.utime(path, (LONG_AGO + 1e6, LONG_AGO + 1e6))  # just now
        clock[0] += SETTLE / 2
        seen = folder.look()
        assert not seen.settled
        assert seen.specs["prod"].digest == whole, "the last version at rest still counts"
    clock[0] += 2 * SETTLE
    seen = folder.look()
    assert seen.settled
    assert seen.specs["prod"].text == text


def test_other_files_of_the_folder_are_none_of_its_business(bench: Bench) -> None:
    bench.write(GOOD)
    for name in ("environment.schema.json", ".prod.yaml.swp", "prod.yaml~", "4913", ".#prod.yaml"):
        (bench.specs / name).write_text("{", encoding="utf-8")
    (bench.specs / "more").mkdir()
    bench.loop.once()
    assert bench.kinds() == [Kind.SPEC, Kind.STABLE]


def test_a_folder_that_vanishes_and_comes_back(bench: Bench) -> None:
    bench.write(GOOD)
    bench.loop.once()
    shutil.move(bench.specs, bench.root / "aside")
    bench.loop.look()
    time.sleep(SETTLE)
    bench.loop.look()
    assert bench.kinds()[-1] is Kind.GONE
    shutil.move(bench.root / "aside", bench.specs)
    bench.stage().world.commit = "drifted"
    bench.loop.once()
    assert bench.stage().world.vector() == GOOD_VECTOR


def test_an_environment_in_other_hands_is_left_alone_quietly(bench: Bench) -> None:
    bench.write(GOOD)
    stage = bench.stage()
    with Lease(Database(stage.url), "prod", Holder.me("somebody"), SystemClock()):
        waits = [bench.loop.look() and bench.loop.reconcile("prod") for _ in range(5)]
        assert all(0 < wait <= LONGEST for wait in waits)
        assert bench.kinds() == [Kind.SPEC]
        assert stage.world.vector() == BAD_VECTOR
    bench.loop.reconcile("prod")
    assert stage.world.vector() == GOOD_VECTOR


def test_a_stalled_environment_is_told_once_with_the_way_on(bench: Bench) -> None:
    bench.write(GOOD)
    bench.stage().world.failing["capture/docker/save-logs/app"] = [
        PreflightError("no image", hint="Build it.")
    ]
    for _ in range(5):
        bench.loop.once()
    assert bench.kinds() == [Kind.SPEC, Kind.STALLED]
    assert "no image" in bench.said[-1].message
    assert bench.said[-1].next == "Build it, then reconciler resume prod --reason ..."
    assert bench.stage().world.vector() == BAD_VECTOR
    bench.write(OTHER)
    bench.loop.once()
    assert bench.stage().world.commit == "other", "a new generation is a human's answer"


def test_a_run_that_waits_for_approval_is_told_once_and_a_newer_spec_is_recorded(
    bench: Bench,
) -> None:
    bench.write(GOOD, policy=", approval: always")
    for _ in range(3):
        bench.loop.once()
    assert bench.kinds() == [Kind.SPEC, Kind.APPROVAL]
    assert bench.stage().world.vector() == BAD_VECTOR
    bench.write(OTHER)
    for _ in range(3):
        bench.loop.once()
    queued = [entry for entry in bench.stage().entries() if entry.reason is Reason.SPEC_QUEUED]
    assert len(queued) == 1
    assert bench.stage().world.vector() == BAD_VECTOR


def test_a_suspended_environment_is_told_once_and_not_touched(bench: Bench) -> None:
    stage = bench.stage()
    bench.write(GOOD)
    bench.loop.once()
    with stage.engine().session("prod") as journal:
        journal.write(EntryKind.DECISION, Reason.SUSPENDED, {"decision": "suspended"})
    bench.write(OTHER)
    for _ in range(3):
        bench.loop.once()
    assert bench.kinds().count(Kind.SUSPENDED) == 1
    assert stage.world.vector() == GOOD_VECTOR


def test_a_failed_release_is_taken_back_once_and_not_tried_again(bench: Bench) -> None:
    bench.write(GOOD)
    stage = bench.stage()
    stage.world.failing["restore/database/down/2"] = [StepFailedError("42P01: no such table")]
    for _ in range(5):
        bench.loop.once()
    assert stage.world.vector() == BAD_VECTOR
    assert find(stage.status().conditions, ConditionType.DEGRADED)
    assert bench.kinds() == [Kind.SPEC, Kind.HELD]
    assert stage.world.effects["move to dpl_good"] <= 1


def test_a_rollback_sticks_while_the_spec_is_unchanged(bench: Bench) -> None:
    bench.write(GOOD)
    bench.loop.once()
    good = bench.stage().status().last_known_good
    assert good is not None
    bench.write(BAD)
    bench.loop.once()
    stage = bench.stage()
    status = stage.status()
    source = bench.loop._contents.specs["prod"]
    override = Override(
        generation=status.generation,
        reason=Reason.ROLLBACK,
        message="Rolled back: it is slow",
        pins=pins_from_vector(good.vector),
        by="tester",
        at=stage.clock.now(),
    )
    stage.engine().converge(source, rollback=override)
    assert stage.world.vector() == GOOD_VECTOR
    for attempt in range(5):
        bench.loop.once()
        bench.write(BAD, more=f"# comment {attempt}\n")
        bench.loop = bench.new_loop()  # a restart forgets nothing that matters
    stage.world.deployment = "dpl_by_hand"
    bench.loop.once()
    assert stage.world.vector() == GOOD_VECTOR, "drift goes back to the rolled back vector too"
    bench.write(OTHER)
    bench.loop.once()
    assert stage.world.commit == "other", "a changed spec ends it"


def test_what_cannot_be_read_is_tried_again_ever_later_and_delays_nobody_else(
    bench: Bench,
) -> None:
    bench.write(GOOD)
    bench.write(GOOD, name="staging")
    world = bench.stage("prod").world
    world.unreadable = {"vercel"}
    bench.loop.look()
    waits = [bench.loop.reconcile("prod") for _ in range(12)]
    assert waits[0] < 1 < waits[3] < LONGEST * 1.3
    assert waits[-1] == 30.0, "the timer is quick enough in the end"
    bench.loop.reconcile("staging")
    assert bench.stage("staging").world.vector() == GOOD_VECTOR
    errors = [event for event in bench.said if event.kind is Kind.ERROR]
    assert len(errors) == 1
    assert "vercel.deployment cannot be read: unreachable" in errors[0].message
    assert bench.stage("prod").entries() == [], "nothing was begun"
    world.unreadable = set()
    assert bench.loop.reconcile("prod") == 30.0
    assert world.vector() == GOOD_VECTOR
    world.unreadable = {"vercel"}
    assert bench.loop.reconcile("prod") < 1, "a success ends the series"


def test_a_changed_spec_ends_the_waiting_after_errors(bench: Bench) -> None:
    bench.write(GOOD)
    error = TargetUnavailableError("later", retry_after=100)
    bench.stage().world.failing["resolve/git"] = [error]
    bench.loop.look()
    assert bench.loop.reconcile("prod") >= 100
    bench.write(OTHER)
    bench.loop.look()
    assert bench.loop.wakeups.next() == "prod"


def test_a_bug_that_one_environment_meets_does_not_end_the_others(bench: Bench) -> None:
    bench.write(GOOD)
    bench.write(GOOD, name="staging")
    enter = bench.enter

    def cursed(source: LoadedSpec) -> Room:
        if source.spec.name == "prod":
            raise ZeroDivisionError("oops")
        return enter(source)

    bench.loop.enter = cursed
    for _ in range(3):
        bench.loop.once()
    assert bench.stage("staging").world.vector() == GOOD_VECTOR
    (told,) = [event for event in bench.said if event.kind is Kind.ERROR]
    assert told.message == "a bug: oops"


@pytest.mark.parametrize(
    ("asked_in", "ends_in", "vector"),
    [
        ("capture/docker/save-logs/app", Phase.STOP, BAD_VECTOR),
        ("stop/docker/stop/services", Phase.VERIFY, GOOD_VECTOR),
        ("restore/database/down/3", Phase.VERIFY, GOOD_VECTOR),
        ("start/vercel/move/production", Phase.VERIFY, GOOD_VECTOR),
    ],
)
def test_it_ends_between_passes_and_never_while_services_are_down(
    bench: Bench, asked_in: str, ends_in: Phase, vector: tuple[object, ...]
) -> None:
    bench.write(GOOD)
    interruption = bench.interruption = Interruption()
    world = bench.stage().world
    trip = world.trip

    def asking(key: str) -> None:
        if key == asked_in:
            interruption.ask()
        trip(key)

    world.trip = asking  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        bench.loop.once()
    status, holding = glance(bench.stage().url, "prod")
    assert status.phase is ends_in
    assert holding is None, "the lease is given back"
    assert world.vector() == vector
    bench.interruption = None
    bench.new_loop().once()
    assert world.vector() == GOOD_VECTOR
    assert bench.stage().status().phase is Phase.STABLE


def test_a_wait_is_cut_short_only_while_production_is_not_being_changed() -> None:
    interruption = Interruption()
    interruption.begin(Phase.VERIFY)
    interruption.ask()
    with pytest.raises(Interrupted):
        interruption.sleep(60)
    interruption.begin(Phase.RESTORE)
    began = time.monotonic()
    interruption.sleep(0.05)
    assert time.monotonic() - began >= 0.05


def test_what_it_remembers_is_bounded(bench: Bench) -> None:
    path = bench.write(GOOD)
    for number in range(50):
        bench.write(GOOD, name=f"env-{number}", file="moving.yaml")
        bench.loop.enter = _nobody
        bench.loop.look()
        bench.loop.reconcile(f"env-{number}")
    assert len(bench.loop._standings) <= 2
    path.unlink()
    (bench.specs / "moving.yaml").unlink()
    bench.loop.look()
    time.sleep(SETTLE)
    bench.loop.look()
    assert bench.loop._standings == {}
    assert bench.loop.folder._files == {}


def _nobody(source: LoadedSpec) -> Room:
    raise TargetUnavailableError(f"{source.spec.name} is out")


def test_wake_ups_for_one_name_are_one_and_the_earliest_counts() -> None:
    wakeups = Wakeups()
    for _ in range(1000):
        wakeups.wake("later", 60)
        wakeups.wake("soon", 0.05)
    wakeups.wake("now")
    assert wakeups.next() == "now"
    assert wakeups.next() == "soon"
    wakeups.wake("later")
    assert wakeups.next() == "later"
    threading.Timer(0.05, wakeups.close).start()
    assert wakeups.next() is None


def test_the_loop_runs_on_files_and_timer_until_it_is_closed(bench: Bench) -> None:
    bench.write(GOOD)
    bench.loop.interval = 0.1
    world = bench.stage().world  # made before the loop makes another one
    worker = threading.Thread(target=bench.loop.run)
    worker.start()
    try:
        wait_for(lambda: Kind.STABLE in bench.kinds(), what="start")
        world.deployment = "dpl_by_hand"
        wait_for(lambda: world.deployment == "dpl_good", what="the timer finds drift")
        bench.write(OTHER)
        bench.loop.changed()
        wait_for(lambda: world.vector()[0] == "other", what="the changed spec")
    finally:
        bench.loop.wakeups.close()
        worker.join(20)
    assert not worker.is_alive()


@dataclass
class Feed:
    """The thread that hears of changed files."""

    path: Path
    calls: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self.thread = threading.Thread(target=feed, args=(self.path, self.count, self.stop))
        self.thread.start()
        # It hears of what happens from when the system watches; a probe file tells when that is.
        probe = self.path / "probe"
        wait_for(lambda: (probe.write_text(str(time.time())), self.calls)[1], what="it hears")
        return self

    def count(self) -> None:
        self.calls += 1

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(20)
        assert not self.thread.is_alive()


def test_a_burst_of_changes_is_few_wake_ups(tmp_path: Path) -> None:
    with Feed(tmp_path) as heard:
        _quiet(heard)
        before = heard.calls
        for number in range(300):
            (tmp_path / f"{number}.yaml").write_text("x", encoding="utf-8")
        wait_for(lambda: heard.calls > before, what="the burst")
        _quiet(heard)
        assert heard.calls - before <= 5


def test_a_folder_that_was_replaced_is_still_watched(tmp_path: Path) -> None:
    folder = tmp_path / "specs"
    folder.mkdir()
    with Feed(folder) as heard:
        shutil.move(folder, tmp_path / "aside")
        folder.mkdir()
        _quiet(heard, seconds=2.5)
        before = heard.calls

        def heard_of_a_change() -> bool:
            (folder / "prod.yaml").write_text(str(time.time()), encoding="utf-8")
            return heard.calls > before

        wait_for(heard_of_a_change, what="a change in the new folder")


def _quiet(heard: Feed, seconds: float = 0.8) -> None:
    """Waits until it has heard nothing for a while."""
    last: list[float] = [heard.calls, time.monotonic()]

    def still() -> bool:
        if heard.calls != last[0]:
            last[:] = [heard.calls, time.monotonic()]
        return time.monotonic() - last[1] > seconds

    wait_for(still, what="quiet")
