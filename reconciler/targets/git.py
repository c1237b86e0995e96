"""The git target: which commit the working tree stands on, and the way to another one.

Observing costs two Git processes whatever the length of the history. The work itself is in the
rooms beside this one: `git_preflight.py` (may it be done), `git_stash.py` (keep local changes),
`git_checkout.py` (do it), `git_survey.py` (what would it change). Reading is shared with other
targets in `shared/repository.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict

from reconciler.core.errors import ReconcilerError, StepFailedError
from reconciler.core.facts import (
    GIT_COMMIT,
    GIT_DIRTY,
    GIT_HEAD,
    Fact,
    Goal,
    Observation,
    Resolution,
    Wanted,
)
from reconciler.core.phase import Phase
from reconciler.core.pins import Pins
from reconciler.core.plan import Step
from reconciler.targets.base import Applied, ApplyContext
from reconciler.targets.git_checkout import Move, branch_at, check_out
from reconciler.targets.git_paths import is_protected, listed
from reconciler.targets.git_preflight import Dirty, interrupted_operation, preflight
from reconciler.targets.git_stash import find_stashes, kept, known_contents, save_changes
from reconciler.targets.git_survey import goal_index, survey
from reconciler.targets.git_workspace import is_interrupted, work_folder
from reconciler.targets.shared.git_objects import SUBMODULE, submodule_error
from reconciler.targets.shared.repository import Repository

CLEAN, DIRTY = "clean", "dirty"
#: The subject of every step: there is one working tree.
SUBJECT = "worktree"


class _Arguments(BaseModel):
    """What the steps carry."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    commit: str
    start: str
    head: str | None = None


class _Materials(BaseModel):
    """What planning needs besides the facts.

    Attributes:
        label: Short id and subject of the wanted commit.
        obstructed: Untracked files stand in the way and are to be stashed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    label: str
    obstructed: bool = False


class GitTarget:
    """The working tree as a target.

    Args:
        root: Top folder of the repository's working tree.
        protected: Paths relative to it that belong to the reconciler (spec files, the states
            folder): never counted as dirty, never changed.
        dirty: What to do with local changes in the way: refuse, or keep them in a stash.

    Raises:
        ValueError: A protected path is absolute, leads out of the repository, or is all of it.
    """

    def __init__(self, root: Path, *, protected: Sequence[str], dirty: Dirty = "refuse") -> None:
        self._root = root
        self._protected = frozenset(_relative(path) for path in protected)
        self._dirty: Dirty = dirty
        self._opened: Repository | None = None

    @property
    def name(self) -> str:
        """`git`."""
        return "git"

    @property
    def repository(self) -> Repository:
        """The repository, opened at first use.

        Raises:
            TerminalError: There is none, or it belongs to somebody else.
        """
        if self._opened is None:
            self._opened = Repository(self._root)
        return self._opened

    def observe(self) -> Sequence[Fact]:
        """Reads HEAD, its commit, and whether tracked files differ from it."""
        try:
            return self._look()
        except ReconcilerError as exc:
            keys = (GIT_COMMIT, GIT_HEAD, GIT_DIRTY)
            return [Fact(key=key, unknown=exc.message) for key in keys]

    def _look(self) -> list[Fact]:
        status = self.repository.status()
        head = Fact(key=GIT_HEAD, value=status.head_ref)
        if status.commit is None:
            nothing = f"{self._root} has no commit yet"
            return [
                Fact(key=GIT_COMMIT, unknown=nothing),
                head,
                Fact(key=GIT_DIRTY, unknown=nothing),
            ]
        info = self.repository.commit_info(status.commit)
        changed = [path for path in status.changes if not is_protected(path, self._protected)]
        operation = interrupted_operation(self.repository.git_dir)
        words = [f"a {operation[0]} is in progress"] if operation else []
        words += ["a checkout was interrupted"] if is_interrupted(self.repository) else []
        words += [listed(changed)] if changed else []
        return [
            Fact(key=GIT_COMMIT, value=status.commit, detail=info.label),
            head,
            Fact(key=GIT_DIRTY, value=DIRTY if words else CLEAN, detail="; ".join(words)),
        ]

    def resolve(
        self,
        pins: Pins,
        observed: Observation,
        goal: Goal,  # noqa: ARG002  # the first target of all has nothing before it
    ) -> Resolution:
        """Finds the wanted commit, and its branch where HEAD shall return to one.

        Raises:
            TerminalError: There is no such commit, or it has a submodule.
            TransientError: Git did not answer.
        """
        if pins.git is None:
            return Resolution()
        commit = self.repository.resolve(pins.git)
        label = self.repository.commit_info(commit).label
        wanted = [Wanted(key=GIT_COMMIT, value=commit, detail=label)]
        if pins.head and branch_at(self.repository, pins.head) == commit:
            wanted.append(Wanted(key=GIT_HEAD, value=pins.head))
        obstructed = False
        if commit != observed.value(GIT_COMMIT):
            for file in self.repository.list_files(commit):
                if file.mode == SUBMODULE:
                    raise submodule_error(commit, file.path)
            obstructed = self._dirty == "stash" and self._is_obstructed(commit)
        materials = _Materials(label=label, obstructed=obstructed)
        return Resolution(wanted=tuple(wanted), materials=materials.model_dump(mode="json"))

    def _is_obstructed(self, commit: str) -> bool:
        """Whether untracked files stand where the commit has something; they would be stashed."""
        with work_folder(self.repository) as folder:
            index = goal_index(self.repository, commit, folder)
            known = known_contents(self.repository, "", self.repository.head())
            return bool(survey(self.repository, index, self._protected, known).obstacles)

    def plan(self, phase: Phase, observed: Observation, goal: Goal) -> Sequence[Step]:
        """Nothing when HEAD is where it shall be and the tree is clean; else checks, then the checkout."""
        wanted, here = goal.wanted.get(GIT_COMMIT), observed.get(GIT_COMMIT)
        if wanted is None or wanted.value is None or here.value is None:
            return ()
        branch = goal.value(GIT_HEAD)
        arrived = here.value == wanted.value and branch in {None, observed.value(GIT_HEAD)}
        clean = observed.value(GIT_DIRTY) == CLEAN
        if arrived and clean:
            return ()
        materials = _Materials.model_validate(
            goal.materials.get(self.name) or {"label": wanted.detail or wanted.value[:9]}
        )
        arguments = _Arguments(commit=wanted.value, start=here.value, head=branch)
        if phase is Phase.CAPTURE:
            return (
                _step(
                    phase,
                    "preflight",
                    f"check that {materials.label} can be checked out",
                    arguments,
                    touches=False,
                ),
            )
        if phase is not Phase.RESTORE:
            return ()
        stash = _step(phase, "stash", "keep local changes in a stash", arguments, once=True)
        checkout = _step(
            phase, "checkout", f"check out {materials.label} (from {here.value[:9]})", arguments
        )
        needs_stash = self._dirty == "stash" and (not clean or materials.obstructed)
        return (stash, checkout) if needs_stash else (checkout,)

    def apply(self, step: Step, context: ApplyContext) -> Applied:
        """Does one step; a second time, it finds that there is nothing left to do.

        Raises:
            PreflightError: The checkout would not go through, or would lose something.
            StepFailedError: Something changed since capture, or the disk refuses.
            TransientError: Another git process is at work.
        """
        arguments = _Arguments.model_validate(dict(step.args))
        match step.action:
            case "preflight":
                note = preflight(
                    self.repository, arguments.commit, self._protected, self._dirty, context
                )
                return Applied(note=note)
            case "stash":
                note = save_changes(self.repository, arguments.commit, self._protected, context)
                return Applied(note=note)
            case "checkout":
                return self._check_out(arguments, context)
            case _:
                raise ValueError(f"unknown step {step.key}")

    def _check_out(self, arguments: _Arguments, context: ApplyContext) -> Applied:
        move = Move(arguments.commit, arguments.start, arguments.head)
        note = check_out(self.repository, move, self._protected, context)
        stashes = find_stashes(self.repository, context.run, arguments.commit)
        if stashes:  # also on the way back: nobody shall have to search for their work
            note += f"; {kept(stashes[0])}"
        facts = self._look()
        values = {fact.key: fact for fact in facts}
        if values[GIT_COMMIT].value != arguments.commit:
            raise StepFailedError(
                f"After the checkout {self._root} is at {values[GIT_COMMIT].detail}: "
                "somebody else moved HEAD.",
                hint="Find out who works in this tree, then resume.",
            )
        if values[GIT_DIRTY].value != CLEAN:
            # Line ends that only new attributes change are such a case; a checkout by Git is no cleaner.
            note += f"; differs from the commit: {values[GIT_DIRTY].detail}"
        return Applied(facts=facts, note=note)


def _relative(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or pure == PurePosixPath():
        raise ValueError(f"{path!r} is not a path inside the repository")
    return str(pure)


def _step(
    phase: Phase,
    action: str,
    summary: str,
    arguments: _Arguments,
    *,
    touches: bool = True,
    once: bool = False,
) -> Step:
    return Step(
        phase=phase,
        target="git",
        action=action,
        subject=SUBJECT,
        summary=summary,
        args=arguments.model_dump(mode="json"),
        touches=touches,
        once=once,
    )
