"""Keeps local changes as a Git stash before a checkout replaces them. Called by `git.py`.

The stash is made of objects and one reference; the working tree is not touched. So a kill cannot
lose anything, and the checkout knows by content what has been saved. It is never popped by this
program: `git stash apply` is a human's word.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.crashpoints import CrashPoint
from reconciler.targets.base import ApplyContext
from reconciler.targets.git_survey import (
    Known,
    Survey,
    Tree,
    differences,
    goal_index,
    survey,
)
from reconciler.targets.git_workspace import index_locked, read_note, work_folder
from reconciler.targets.shared.git_status import Content, absent
from reconciler.targets.shared.repository import Repository


@dataclass(frozen=True, slots=True)
class Stash:
    """A stash of ours.

    Attributes:
        commit: Full id of the stash commit.
        trees: What it holds, as differences from HEAD: the files, the index, the untracked files.
    """

    commit: str
    trees: tuple[Tree, ...]


def label(run: str) -> str:
    """The name a run's stashes have in `git stash list`."""
    return f"reconciler {run}"


def kept(stash: Stash) -> str:
    """Where local changes are now, and how a human gets them back."""
    return f"local changes are kept: git stash apply {stash.commit}"


def known_contents(repository: Repository, run: str, head: str) -> Known:
    """What may be replaced besides HEAD and the goal: what we have put there, what a stash keeps."""
    trees = [tree for stash in find_stashes(repository, run, head) for tree in stash.trees]
    note = read_note(repository)
    if note is None or head not in {note.start, note.goal}:
        return Known(trees=trees)
    return Known(trees=[*trees, differences(repository, head, note.goal)], vouched=note.vouched)


def find_stashes(repository: Repository, run: str, head: str) -> list[Stash]:
    """The stashes of a run, newest first."""
    if repository.git.run("rev-parse", "--quiet", "--verify", "refs/stash").status != 0:
        return []
    out = repository.git.ask(
        "list the stashes",
        *("log", "--walk-reflogs", "--first-parent", "-z", "--format=%H %gs", "refs/stash", "--"),
    )
    entries = (entry.partition(" ") for entry in os.fsdecode(out).split("\0"))
    mine = [commit for commit, _, name in entries if name == label(run)]
    return [_read_stash(repository, commit, head) for commit in mine]


def _read_stash(repository: Repository, commit: str, head: str) -> Stash:
    _, index, *untracked = repository.commit_info(commit).parents
    trees: list[Tree] = [differences(repository, head, one) for one in (commit, index)]
    for parent in untracked:
        nothing = absent(parent)
        trees.append(
            {
                file.path: (nothing, Content(file.mode, file.id))
                for file in repository.list_files(parent)
            }
        )
    return Stash(commit=commit, trees=tuple(trees))


def save_changes(
    repository: Repository, goal: str, protected: Collection[str], context: ApplyContext
) -> str:
    """Stashes whatever of the user's a checkout of the goal would lose. Looks first: what is saved is not saved again.

    Returns:
        One line for the history.

    Raises:
        TransientError: Another git process is at work.
        StepFailedError: Git could not store it.
    """
    with index_locked(repository, context), work_folder(repository) as folder:
        head = repository.head()
        index = goal_index(repository, goal, folder)
        known = known_contents(repository, context.run, head)
        found = survey(repository, index, protected, known)
        if found.foreign:
            commit = _write_stash(repository, found, folder, context.run)
            context.at(CrashPoint.MID_EFFECT)
            context.guard()
            arguments = ("stash", "store", "--quiet", "-m", label(context.run), commit)
            repository.git.ask("store the stash", *arguments)
        else:
            context.at(CrashPoint.MID_EFFECT)
        context.at(CrashPoint.APPLIED_UNREAD)
    stashes = find_stashes(repository, context.run, head)
    if not stashes:
        return "no local changes to keep"
    return kept(stashes[0]) + ("" if found.foreign else " (found by looking)")


def _write_stash(repository: Repository, found: Survey, folder: Path, run: str) -> str:
    """Writes the commits a stash consists of, in the shape `git stash` itself gives them."""
    head, name = found.head, label(run)
    staged = _tree(
        repository, folder / "staged", head, _index_entries(repository, found.local, len(head))
    )
    index = _commit(repository, staged, f"index on {name}", head)
    files = _tree_of_disk(repository, folder / "files", head, found.local)
    parents = [head, index]
    if found.obstacles:
        tree = _tree_of_disk(repository, folder / "untracked", None, found.obstacles)
        parents.append(_commit(repository, tree, f"untracked files on {name}"))
    return _commit(repository, files, f"On {found.head_ref or 'no branch'}: {name}", *parents)


def _index_entries(repository: Repository, paths: Iterable[str], width: int) -> bytes:
    """What the index has at the paths, as input of `update-index --index-info`; a path it lacks is removed there."""
    out = repository.git.ask("read the index", "ls-files", "--stage", "-z")
    entries = {entry.partition(b"\t")[2]: entry for entry in out.split(b"\0") if entry}
    names = [os.fsencode(path) for path in paths]
    lines = [entries.get(name, b"0 " + b"0" * width + b"\t" + name) for name in names]
    return b"".join(line + b"\0" for line in lines)


def _tree(repository: Repository, index: Path, base: str, entries: bytes) -> str:
    repository.git.ask("prepare the stash", "read-tree", base, index=index)
    repository.git.ask(
        "prepare the stash",
        *("update-index", "-z", "--replace", "--index-info"),
        index=index,
        stdin=entries,
    )
    return _written(repository, index)


def _tree_of_disk(
    repository: Repository, index: Path, base: str | None, paths: Iterable[str]
) -> str:
    repository.git.ask("prepare the stash", "read-tree", base or "--empty", index=index)
    repository.git.ask(
        "read the changed files",
        *("update-index", "--add", "--remove", "--replace", "-z", "--stdin"),
        index=index,
        stdin=b"".join(os.fsencode(path) + b"\0" for path in paths),
    )
    return _written(repository, index)


def _written(repository: Repository, index: Path) -> str:
    return repository.git.ask("write the stash", "write-tree", index=index).decode().strip()


def _commit(repository: Repository, tree: str, message: str, *parents: str) -> str:
    flags = [word for parent in parents for word in ("-p", parent)]
    out = repository.git.ask("write the stash", "commit-tree", tree, *flags, "-m", message)
    return out.decode().strip()
