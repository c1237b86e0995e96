"""Everything that could keep a checkout from finishing, looked for while production still runs. Called by `git.py`.

The wanted files are written once beside the tree and thrown away: that proves the objects readable
and the disk large enough. Nothing outside `<git folder>/reconciler` is changed.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from reconciler.core.crashpoints import CrashPoint
from reconciler.core.errors import PreflightError, StepFailedError
from reconciler.targets.base import ApplyContext
from reconciler.targets.git_checkout import stage_files
from reconciler.targets.git_paths import listed
from reconciler.targets.git_stash import known_contents
from reconciler.targets.git_survey import Survey, goal_index, survey
from reconciler.targets.git_workspace import (
    PATIENCE,
    await_head_unlocked,
    is_abandoned,
    work_folder,
)
from reconciler.targets.shared.git_objects import SUBMODULE, submodule_error
from reconciler.targets.shared.repository import Repository

Dirty = Literal["refuse", "stash"]

#: Marks of an operation a human has begun, with its name and the command that ends it.
_OPERATIONS = {
    "MERGE_HEAD": ("merge", "git merge --abort"),
    "rebase-merge": ("rebase", "git rebase --abort"),
    "rebase-apply": ("rebase", "git rebase --abort"),
    "CHERRY_PICK_HEAD": ("cherry-pick", "git cherry-pick --abort"),
    "REVERT_HEAD": ("revert", "git revert --abort"),
    "BISECT_LOG": ("bisect", "git bisect reset"),
}


def interrupted_operation(git_dir: Path) -> tuple[str, str] | None:
    """The operation a human has begun and not ended, and the command that ends it; None when there is none."""
    return next((about for mark, about in _OPERATIONS.items() if (git_dir / mark).exists()), None)


def preflight(
    repository: Repository,
    commit: str,
    protected: Collection[str],
    dirty: Dirty,
    context: ApplyContext,
) -> str:
    """Checks that a checkout of a commit will go through.

    Returns:
        One line for the history.

    Raises:
        PreflightError: It would not, or would lose something.
        TransientError: Git did not answer.
    """
    _require_idle(repository, context)
    _require_whole_tree(repository, commit)
    context.at(CrashPoint.MID_EFFECT)
    try:
        with work_folder(repository) as folder:
            index = goal_index(repository, commit, folder)
            head = repository.head()
            known = known_contents(repository, context.run, head)
            found = survey(repository, index, protected, known)
            _require_no_submodule(found, commit)
            _require_kept(repository, found, dirty)
            stage_files(repository, index, found.writes, folder)
    except StepFailedError as exc:
        raise PreflightError(exc.message, hint=exc.hint) from exc
    context.at(CrashPoint.APPLIED_UNREAD)
    return (
        f"{len(found.writes)} files to write, {len(found.deletes)} to delete, "
        f"{len(found.foreign)} to stash"
    )


def _require_idle(repository: Repository, context: ApplyContext) -> None:
    operation = interrupted_operation(repository.git_dir)
    if operation:
        name, way_out = operation
        raise PreflightError(
            f"A {name} is in progress in {repository.root}.",
            hint=f"Finish it, or: git -C {repository.root} {way_out.removeprefix('git ')}",
        )
    lock = repository.git_dir / "index.lock"
    deadline = time.monotonic() + PATIENCE
    while lock.exists() and not is_abandoned(lock, context.run):
        if time.monotonic() > deadline:
            raise PreflightError(
                f"Another git process is at work in {repository.root}, or died there: "
                f"{lock} exists.",
                hint=f"If no git command is running there: rm {lock}",
            )
        context.sleep(0.1)
    try:
        await_head_unlocked(repository, context, written={})
    except StepFailedError as exc:
        raise PreflightError(exc.message, hint=exc.hint) from exc


def _require_whole_tree(repository: Repository, commit: str) -> None:
    sparse = repository.git.run("config", "--type=bool", "--get", "core.sparseCheckout")
    if sparse.out.strip() == b"true":
        raise PreflightError(
            f"{repository.root} is a sparse checkout: only part of a commit would be taken back.",
            hint=f"git -C {repository.root} sparse-checkout disable",
        )
    missing = repository.missing_objects(commit)
    if missing:
        raise PreflightError(
            f"{len(missing)} files of commit {commit[:9]} are missing from {repository.root}: "
            "the clone is partial or damaged.",
            hint=f"git -C {repository.root} fetch --refetch",
        )


def _require_no_submodule(found: Survey, commit: str) -> None:
    for path, change in found.changes.items():
        if SUBMODULE in {change.head.mode, change.index.mode}:
            error = submodule_error(commit, path)
            raise PreflightError(error.message, hint=error.hint)


def _require_kept(repository: Repository, found: Survey, dirty: Dirty) -> None:
    """Refuses what would lose work of the user's: everything by one policy, what no stash can hold by the other."""
    if found.unmerged:
        raise PreflightError(
            f"Unresolved conflicts in {repository.root}: {listed(found.unmerged)}.",
            hint="Resolve them, or take one side with git checkout --ours (or --theirs).",
        )
    unstashable = [path for path in found.obstacles if not _can_be_stashed(repository.root, path)]
    if unstashable:
        raise PreflightError(
            f"In the way of the wanted commit, and nothing a stash can keep: {listed(unstashable)}.",
            hint="Move it out of the working tree.",
        )
    if dirty == "stash":
        return
    if found.local:
        filtered = repository.filtered(found.local)
        why = (
            f" Some use the Git filter {next(iter(filtered.values()))!r}, which is not run, "
            "and may only look changed."
            if filtered
            else ""
        )
        raise PreflightError(
            f"{repository.root} has uncommitted changes: {listed(found.local)}.{why}",
            hint="Commit them, or allow a stash with spec.git.dirty: stash.",
        )
    if found.obstacles:
        raise PreflightError(
            f"Untracked files in {repository.root} would be overwritten: {listed(found.obstacles)}.",
            hint="Move them away, or allow a stash with spec.git.dirty: stash.",
        )


def _can_be_stashed(root: Path, path: str) -> bool:
    full = root / path
    return ".git" not in path.split("/") and (full.is_symlink() or full.is_file())
