"""Takes a working tree and HEAD to a commit so that a kill at any instant leaves something the next call completes.

In order: the wanted files are written beside the tree and made durable; a note says which they are;
they are renamed into place one by one, so that each path holds the old content or the new, never
half of one; the index is replaced; HEAD is moved, last and atomically. Until then HEAD says the old
commit, so the step is planned again. Called by `git.py`.

Hooks never run. Protected paths keep their content on disk; in the index they are as the commit has
them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from reconciler.core.crashpoints import CrashPoint
from reconciler.core.errors import StepFailedError
from reconciler.targets.base import ApplyContext
from reconciler.targets.git_paths import is_folder, listed, look_at, parents, stand_at
from reconciler.targets.git_stash import known_contents
from reconciler.targets.git_survey import Identity, Survey, goal_index, survey
from reconciler.targets.git_workspace import (
    UnderWay,
    await_head_unlocked,
    drop_note,
    index_locked,
    read_note,
    sync_folder,
    work_folder,
    write_note,
)
from reconciler.targets.shared.git_command import WRITE_TIMEOUT
from reconciler.targets.shared.git_objects import require_unfiltered
from reconciler.targets.shared.repository import Repository

#: Files made durable at the same time: the disk writes its journal once for all that wait.
_SYNC_THREADS = 8
#: Versions of one file that are remembered while a checkout is under way; more come only from many kills.
_VERSIONS = 6


@dataclass(frozen=True, slots=True)
class Move:
    """Where to take a working tree.

    Attributes:
        commit: Full id it goes to.
        start: Full id HEAD stood on when the step was planned.
        head_ref: The branch HEAD shall stand on if it points at the commit; None detaches.
    """

    commit: str
    start: str
    head_ref: str | None


def check_out(
    repository: Repository, move: Move, protected: Collection[str], context: ApplyContext
) -> str:
    """Takes working tree, index and HEAD to a commit. Safe to repeat after a kill at any instant.

    Returns:
        One line for the history.

    Raises:
        TransientError: Another git process is at work.
        StepFailedError: HEAD or a file was changed since capture; or the disk refuses.
        TerminalError: A file needs a filter program.
    """
    head = repository.status().commit
    if head is None or head not in {move.start, move.commit}:
        raise StepFailedError(
            f"HEAD of {repository.root} was moved to {(head or 'nothing')[:9]} since capture; "
            f"it was at {move.start[:9]}.",
            hint="Find out who works in this tree, then resume.",
        )
    with index_locked(repository, context), work_folder(repository) as folder:
        written = {"commit": f"{move.commit}\n", "branch": f"ref: {move.head_ref}\n"}
        await_head_unlocked(repository, context, written=written)
        index = goal_index(repository, move.commit, folder)
        known = replace(known_contents(repository, context.run, head), goal=True)
        found = survey(repository, index, protected, known)
        if found.foreign:
            raise StepFailedError(
                f"Changed in {repository.root} since capture: {listed(found.foreign)}.",
                hint="Commit, move or remove these changes, then resume.",
            )
        context.progress(f"replacing {len(found.writes)} files, deleting {len(found.deletes)}")
        stage = stage_files(repository, index, found.writes, folder)
        _sync([stage / path for path in found.writes if not (stage / path).is_symlink()])
        _note_before(repository, move, context.run, stage, found)
        context.guard()
        try:
            _place(repository.root, stage, found, context)
        except OSError as exc:
            raise _refused_by_disk(exc) from exc
        _install_index(repository, index)
        context.guard()
        place = _move_head(repository, move, context.run)
        context.at(CrashPoint.APPLIED_UNREAD)
        drop_note(repository)
    return f"{len(found.writes)} files written, {len(found.deletes)} deleted; {place}"


def stage_files(repository: Repository, index: Path, paths: Sequence[str], folder: Path) -> Path:
    """Writes files of a private index into a new folder, as a checkout would have them.

    Attributes come from that index, not from the present tree: a commit's line ends are its own.

    Raises:
        StepFailedError: An object is missing or damaged, or the disk is full.
        TerminalError: A file needs a filter program.
    """
    stage = folder / "stage"
    stage.mkdir()
    if not paths:
        return stage
    require_unfiltered(repository.filtered(paths, index=index), "The wanted commit")
    repository.git.ask(
        "write the wanted files",
        *("checkout-index", "-z", "--stdin", "--force", "--quiet"),
        index=index,
        work_tree=stage,
        stdin=b"".join(os.fsencode(path) + b"\0" for path in paths),
        timeout=WRITE_TIMEOUT,
    )
    return stage


def _note_before(repository: Repository, move: Move, run: str, stage: Path, found: Survey) -> None:
    before = read_note(repository)
    valid = before is not None and found.head in {before.start, before.goal}
    vouched = dict(before.vouched) if before and valid else {}
    for path in (*found.deletes, *found.writes):
        # Both versions: whichever a kill leaves, the next survey knows it.
        infos = [stand_at(repository.root, path), stand_at(stage, path)]
        versions = [Identity.of(info) for info in infos if info and not stat.S_ISDIR(info.st_mode)]
        both = [*vouched.get(path, ()), *versions]
        vouched[path] = list(dict.fromkeys(both))[-_VERSIONS:]
    write_note(repository, UnderWay(run=run, start=move.start, goal=move.commit, vouched=vouched))


def _place(root: Path, stage: Path, found: Survey, context: ApplyContext) -> None:
    """Deletes and renames; the only place where the working tree is changed."""
    half = (len(found.deletes) + len(found.writes)) // 2
    done = 0
    for path in found.deletes:
        if done == half:
            context.at(CrashPoint.MID_EFFECT)
        (root / path).unlink(missing_ok=True)
        done += 1
    _prune(root, found.leftovers)
    for path in found.writes:
        if done == half:
            context.at(CrashPoint.MID_EFFECT)
        _put(root, stage, path)
        done += 1
    if done == half:  # nothing to do on disk: HEAD alone moves
        context.at(CrashPoint.MID_EFFECT)
    _sync(sorted({_folder_of(root, path) for path in (*found.deletes, *found.writes)}))


def _folder_of(root: Path, path: str) -> Path:
    """The innermost folder on the way to a path that is one now; others were pruned or replaced."""
    real = root
    for folder in parents(path):
        if not is_folder(root, folder):
            break
        real = root / folder
    return real


def _prune(root: Path, leftovers: Iterable[str]) -> None:
    """Removes folders that became empty, as Git does; also those a killed checkout left empty."""
    folders = {folder for path in leftovers for folder in parents(path)}
    for folder in sorted(folders, key=len, reverse=True):
        info = look_at(root, folder)
        if info is not None and stat.S_ISDIR(info.st_mode):
            with contextlib.suppress(OSError):  # not empty
                (root / folder).rmdir()


def _put(root: Path, stage: Path, path: str) -> None:
    """Renames one file into place; the group is that of a folder which hands it on."""
    staged, target = stage / path, root / path
    if is_folder(root, path):
        for empty, _, _ in os.walk(target, topdown=False):
            Path(empty).rmdir()  # the survey found no file in it
    folder = target.parent
    if not folder.is_dir():
        folder.mkdir(parents=True)
    info = folder.stat()
    if info.st_mode & stat.S_ISGID and staged.lstat().st_gid != info.st_gid:
        with contextlib.suppress(PermissionError):
            os.chown(staged, -1, info.st_gid, follow_symlinks=False)
    try:
        staged.replace(target)
    except OSError as exc:
        if exc.errno != errno.EXDEV:
            raise
        # Git folder and tree are on two file systems: copy next to the target, under one fixed
        # name.
        near = folder / ".reconciler-placing"
        near.unlink(missing_ok=True)
        shutil.copy2(staged, near, follow_symlinks=False)
        if not near.is_symlink():
            _sync([near])
        near.replace(target)


def _install_index(repository: Repository, index: Path) -> None:
    """Makes the private index the repository's own. Git's lock on it is held."""
    answer = repository.git.run(
        "update-index", "-q", "--refresh", index=index, timeout=WRITE_TIMEOUT
    )
    if answer.status not in {0, 1}:  # 1: protected files differ, as they may
        raise StepFailedError(f"Git could not refresh the index: {answer.complaint}.")
    _sync_one(index)  # refreshing writes it only if there was something to refresh
    index.replace(repository.git_dir / "index")
    sync_folder(repository.git_dir)


def _move_head(repository: Repository, move: Move, run: str) -> str:
    """Moves HEAD, onto its branch if that points at the commit. Says where it stands now."""
    status = repository.status()
    reason = ("-m", f"reconciler: {run}: checkout of {move.commit[:9]}")
    if move.head_ref and branch_at(repository, move.head_ref) == move.commit:
        if status.head_ref != move.head_ref:
            repository.git.ask("move HEAD", "symbolic-ref", *reason, "HEAD", move.head_ref)
        place = f"HEAD is on {move.head_ref.removeprefix('refs/heads/')}"
    elif status.commit == move.commit:
        place = f"HEAD is at {move.commit[:9]}"
    else:
        # Compared and set in one step: a commit somebody makes right now is not left behind.
        arguments = ("--no-deref", *reason, "HEAD", move.commit, move.start)
        repository.git.ask("move HEAD", "update-ref", *arguments)
        place = f"HEAD is at {move.commit[:9]}, on no branch"
        if status.head_ref:
            place += f"; {status.head_ref.removeprefix('refs/heads/')} stays at {move.start[:9]}"
    sync_folder(repository.git_dir)
    return place


def branch_at(repository: Repository, ref: str) -> str | None:
    """The commit a branch points at; None when it is no branch, or does not exist."""
    if not ref.startswith("refs/heads/"):
        return None
    answer = repository.git.run("rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}")
    return answer.out.decode().strip() if answer.status == 0 else None


def _refused_by_disk(exc: OSError) -> StepFailedError:
    return StepFailedError(
        f"{exc.filename2 or exc.filename} could not be replaced: {exc.strerror}. "
        "The working tree is between two commits; nothing is lost.",
        hint="Make it writable (or free disk space), then resume: the checkout goes on from here.",
    )


def _sync(paths: Sequence[Path]) -> None:
    """Makes files, or the names in folders, durable. Costs what was written, not what others write."""
    with ThreadPoolExecutor(_SYNC_THREADS) as threads:
        for _ in threads.map(_sync_one, paths):
            pass


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
