"""The database target: which migrations are applied, and the way to another set of them, down or up.

A driver does the talking, directly or by an API; the rules are here. Built where a run begins; the engine calls it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reconciler.core import facts as f
from reconciler.core.errors import (
    OutcomeUnknownError,
    PreflightError,
    ReconcilerError,
    TerminalError,
    TransientError,
)
from reconciler.core.facts import Fact, Goal, Observation, Resolution, Wanted
from reconciler.core.migrations import Route, digest, fingerprint, newest, order, route
from reconciler.core.phase import Phase
from reconciler.core.pins import Artifact, Pins
from reconciler.core.plan import Step
from reconciler.targets import dumps
from reconciler.targets.base import Applied, ApplyContext
from reconciler.targets.pg import planning, preparing
from reconciler.targets.pg.driver import APPLICATION, Driver, Limits
from reconciler.targets.pg.materials import Materials, Move
from reconciler.targets.pg.needed import needed_rows
from reconciler.targets.pg.pitr import TimeTraveller
from reconciler.targets.pg.resolving import moves, script
from reconciler.targets.pg.source import MigrationSource

NAME = "database"
DRIFT = "database.drift"  # informative, never part of a goal
_SHOWN = 4


class DatabaseTarget:
    """One database.

    Args:
        driver: How it is reached.
        source: Where migration files are.
        allow_data_loss: The policy: whether scripts that destroy data may run.
        lock_timeout: Seconds to wait for a lock.
        statement_timeout: Seconds one statement may run.
        require_undo: Whether a script without a way back is refused in capture.
        pitr: Unix time to restore the whole database to, instead of running down scripts; Supabase only.
    """

    def __init__(
        self,
        driver: Driver,
        source: MigrationSource,
        *,
        allow_data_loss: bool = False,
        lock_timeout: float = 5.0,
        statement_timeout: float = 300.0,
        require_undo: bool = True,
        pitr: int | None = None,
    ) -> None:
        self._driver = driver
        self._source = source
        self._limits = Limits(lock_timeout, statement_timeout)
        self._rules = preparing.Rules(allow_data_loss=allow_data_loss, require_undo=require_undo)
        self._pitr = pitr

    @property
    def name(self) -> str:
        """`database`."""
        return NAME

    # --- observe --------------------------------------------------------------------------------

    def observe(self) -> Sequence[Fact]:
        """Newest version, applied set, and whether the local files are those that were applied."""
        try:
            history = self._driver.history()
        except ReconcilerError as exc:
            keys = (f.DATABASE_VERSION, f.DATABASE_APPLIED)
            return [Fact(key=key, unknown=exc.message) for key in keys]
        top = newest(history)
        words = f"{len(history)} applied, newest {top}" if top else "none applied"
        return [
            Fact(key=f.DATABASE_VERSION, value=top),
            Fact(key=f.DATABASE_APPLIED, value=digest(history), detail=words),
            self._drift(history),
        ]

    def _drift(self, history: Mapping[str, str | None]) -> Fact:
        files: set[str] = set()
        changed: list[str] = []
        try:
            problems = list(self._source.files("up").problems)
            for version, text in self._source.texts():
                files.add(version)
                stored = history.get(version)
                if stored is not None and stored != fingerprint(text):
                    changed.append(version)
        except OSError as exc:
            return Fact(key=DRIFT, unknown=f"The migration files cannot be read ({exc.strerror}).")
        absent = sorted(set(history) - files, key=order)
        words = [
            *_told("file changed after it was applied", sorted(changed, key=order)),
            *_told("applied without a local file", absent),
            *problems,
        ]
        value = "drifted" if words else "clean"
        return Fact(key=DRIFT, value=value, detail="; ".join(words))

    # --- resolve --------------------------------------------------------------------------------

    def resolve(self, pins: Pins, observed: Observation, goal: Goal) -> Resolution:
        """The wanted version, and the scripts that lead there.

        Raises:
            TerminalError: There is no such migration, or no straight way to it.
            TransientError: The database cannot be asked now.
        """
        if pins.database is None:
            return Resolution()
        history = self._driver.history()
        places = self._source.places(observed.value(f.GIT_COMMIT), goal.value(f.GIT_COMMIT))
        files = {v for place in places for v in self._source.files("up", place).files}
        reapply = pins.database.reapply
        way = route(pins.database.version, tuple(history), files, reapply)
        if way.problem:
            raise TerminalError(
                way.problem, hint="See `reconciler points` for what can be reached."
            )
        materials = moves(self._driver, self._source, way, places, tuple(history))
        materials = materials.model_copy(
            update={
                "passed": _passed(tuple(history), way),
                "rows": needed_rows(pins.database.rows, reapply),
                "compensating": bool(reapply or pins.database.rows),
                "pitr": self._pitr if way.down and not reapply else None,
            }
        )
        applied = (set(history) - set(way.down)) | set(way.up)
        top = newest(applied)
        detail = f"{len(applied)} applied" + (f", newest {top}" if top else "")
        return Resolution(
            wanted=(
                Wanted(key=f.DATABASE_VERSION, value=top),
                Wanted(key=f.DATABASE_APPLIED, value=digest(applied), detail=detail),
            ),
            materials=materials.model_dump(mode="json"),
        )

    # --- plan -----------------------------------------------------------------------------------

    def plan(self, phase: Phase, observed: Observation, goal: Goal) -> Sequence[Step]:
        """Preparations in capture, moves in restore; nothing when the facts are as wanted."""
        raw = goal.materials.get(NAME)
        return [] if raw is None else planning.steps(phase, observed, Materials.model_validate(raw))

    # --- apply ----------------------------------------------------------------------------------

    def apply(self, step: Step, context: ApplyContext) -> Applied:
        """Does one step; looks first when it was begun before."""
        match step.action:
            case "preflight":
                if step.args.get("stale"):
                    raise PreflightError(
                        "The database was migrated by somebody else since this goal was resolved.",
                        hint="Look at its history, then resume: the way is planned anew.",
                    )
                return preparing.preflight(
                    self._driver, self._source, _materials(step), self._rules, context
                )
            case "dry-run":
                return preparing.rehearse(
                    self._driver, self._source, _materials(step), self._rules, self._limits, context
                )
            case "dump" | "refresh-dump":
                return preparing.dump(self._driver, context, again=step.action == "refresh-dump")
            case "down" | "up":
                return self._migrate(step, context)
            case "restore-rows":
                artifact = Artifact.model_validate(step.args["artifact"])
                return Applied(note=dumps.put_back(self._driver, artifact, context))
            case "pitr":
                traveller = self._driver
                if not isinstance(traveller, TimeTraveller):
                    raise TerminalError("Point-in-time recovery needs the Supabase API.")
                traveller.travel(int(str(step.args["time"])), context)
                return Applied(
                    facts=self.observe(), note="restored; the whole database went back in time"
                )
        raise TerminalError(f"The database target knows no step {step.action!r}.")

    def _migrate(self, step: Step, context: ApplyContext) -> Applied:
        move = Move.model_validate(step.args["move"])
        tag = f"{APPLICATION}/{context.run}/{move.version}"[:63]
        if context.attempted is not None:
            if (move.version in self._driver.history()) == (move.direction == "up"):
                return Applied(facts=self._facts(), note="already done, found by looking")
            if self._driver.busy(tag):
                raise TransientError(
                    f"An earlier attempt at migration {move.version} is still running in the database.",
                    retry_after=2.0,
                )
        empty = [str(table) for table in _list(step.args.get("empty"))]
        ready = script(self._source, move, self._driver, empty)
        run = self._driver.migrate_outside if move.outside else self._driver.migrate
        done = run(ready, self._limits, tag, context)
        note = "" if done else "already done, found by looking"
        return Applied(facts=self._facts(), note=note)

    def _facts(self) -> Sequence[Fact]:
        """What is true after a move. When it cannot be read, the move is looked for again rather than trusted."""
        facts = self.observe()
        unknown = next((fact.unknown for fact in facts if fact.unknown), None)
        if unknown is not None:
            raise OutcomeUnknownError(f"The history cannot be read after the migration: {unknown}")
        return facts


def _passed(applied: Sequence[str], way: Route) -> tuple[str, ...]:
    """The digest of the applied set before the first move and after each."""
    now = set(applied)
    passed = [digest(now)]
    for version in (*way.down, *way.up):
        now ^= {version}  # a version to take down is in it, one to apply is not
        passed.append(digest(now))
    return tuple(passed)


def _materials(step: Step) -> Materials:
    return Materials.model_validate(step.args["materials"])


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _told(words: str, versions: Sequence[str]) -> list[str]:
    if not versions:
        return []
    more = f" and {len(versions) - _SHOWN} more" if len(versions) > _SHOWN else ""
    return [f"{words}: {', '.join(versions[:_SHOWN])}{more}"]
