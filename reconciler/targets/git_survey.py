"""What taking a working tree to a commit would write and delete, and what of the user's stands in the way.

The same look is taken in capture (to refuse, or to promise a stash), by the stash (to know what to
save) and right before the first file is replaced (so that nothing changed meanwhile is lost). It
changes nothing.

A file may be replaced or deleted only if what it holds now is *known*: it is what HEAD has, what
the goal has, what an interrupted checkout of ours has put there, or what a stash of this run has
saved.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from reconciler.core.errors import StepFailedError
from reconciler.targets.git_paths import (
    files_below,
    is_file,
    is_folder,
    is_protected,
    look_at,
    parents,
)
from reconciler.targets.shared.git_command import NOT_DURABLE
from reconciler.targets.shared.git_objects import EXECUTABLE, FILE, SYMLINK
from reconciler.targets.shared.git_status import Change, Content, Status
from reconciler.targets.shared.repository import Repository


class Identity(NamedTuple):
    """Which version of a file on disk this is; a rename keeps it, a later change does not.

    It stands where contents could not be compared: an interrupted checkout may leave a
    `.gitattributes` of one commit beside files of the other.

    Attributes:
        modified: Time of its last change, nanoseconds.
        size: Bytes.
    """

    modified: int
    size: int

    @classmethod
    def of(cls, info: os.stat_result) -> Identity:
        """The identity of what was looked at."""
        return cls(info.st_mtime_ns, info.st_size)


#: How a commit or stash differs from HEAD: (what HEAD has, what it has) by path.
Tree = Mapping[str, tuple[Content, Content]]


@dataclass(frozen=True, slots=True)
class Known:
    """Contents that may be replaced, besides those of HEAD and the goal.

    Attributes:
        trees: Commits and stashes, each as its differences from HEAD.
        vouched: Files an interrupted checkout of ours has put in place, or had found to be known.
        goal: A tracked file that is already as the goal has it counts as known, not as changed by
            the user; so it is right before the files are replaced. (An untracked one always does.)
    """

    trees: Sequence[Tree] = ()
    vouched: Mapping[str, Sequence[Identity]] = field(default_factory=dict)
    goal: bool = False


@dataclass(frozen=True, slots=True)
class Survey:
    """What a checkout would do to the working tree.

    Attributes:
        head: Full id HEAD stands on.
        head_ref: The symbolic ref HEAD is; None when detached.
        writes: Paths to be written.
        deletes: Paths to be deleted, known contents only.
        leftovers: Paths the goal lacks, on disk or not; folders that only they needed may go.
        local: Tracked paths with changes of the user's.
        obstacles: Untracked files of the user's where the goal has something else.
        unmerged: Tracked paths with an unresolved conflict; they are also among `local`.
        changes: How the goal differs from HEAD.
    """

    head: str
    head_ref: str | None
    writes: Sequence[str]
    deletes: Sequence[str]
    leftovers: Sequence[str]
    local: Sequence[str]
    obstacles: Sequence[str]
    unmerged: Sequence[str]
    changes: Mapping[str, Change]

    @property
    def foreign(self) -> list[str]:
        """Everything of the user's that the checkout would lose."""
        return [*self.local, *self.obstacles]


def same(one: Content, other: Content) -> bool:
    """Whether two contents are equal, or both nothing."""
    return one == other if one.present or other.present else True


def goal_index(repository: Repository, commit: str, folder: Path) -> Path:
    """Makes a private index that holds a commit, with what the repository's own index knows about the files on disk."""
    index = folder / "index"
    own = repository.git_dir / "index"
    if own.exists():
        # With its times: Git distrusts entries as young as the index file itself.
        shutil.copy2(own, index)
    # Made durable when it becomes the repository's own; most are thrown away. With `-i` Git does not
    # stop at changed files, they are looked at later.
    read = (*NOT_DURABLE, "read-tree", "--reset", "-i", commit)
    repository.git.ask(f"read the tree of {commit[:9]}", *read, index=index)
    return index


def differences(
    repository: Repository, base: str, other: str
) -> dict[str, tuple[Content, Content]]:
    """What two trees or commits have at each path where they differ."""
    out = repository.git.ask(
        "compare two trees", "diff-tree", "-r", "-z", "--no-renames", "--no-commit-id", base, other
    )
    words = iter(out.split(b"\0")[:-1])
    found: dict[str, tuple[Content, Content]] = {}
    for about, path in zip(words, words, strict=True):
        old_mode, new_mode, old_id, new_id, _ = about.decode().removeprefix(":").split()
        found[os.fsdecode(path)] = (Content(old_mode, old_id), Content(new_mode, new_id))
    return found


def survey(repository: Repository, index: Path, protected: Collection[str], known: Known) -> Survey:
    """Looks at HEAD, index and working tree against a goal.

    Args:
        repository: Where.
        index: The goal, as made by `goal_index`.
        protected: Paths that are left alone.
        known: Contents that may be replaced.

    Raises:
        StepFailedError: Git cannot read them.
        TransientError: Git did not answer.
    """
    goal = repository.status(index=index)
    real = repository.status()
    if real.commit is None or real.commit != goal.commit:
        raise StepFailedError(f"HEAD of {repository.root} is being moved by somebody else.")
    look = _Look(repository, real, goal, protected, known)
    writes = [
        path
        for path, change in goal.changes.items()
        if change.unstaged != "." and change.index.present and not is_protected(path, protected)
    ]
    leftovers = look.leftovers()
    deletes = [path for path in leftovers if look.on_disk(path)]
    unknown = look.unknown([*writes, *deletes])
    unknown |= look.in_the_way(writes, set(deletes) - unknown)
    tracked = {path for path in unknown if look.tracked(path)}
    return Survey(
        head=real.commit,
        head_ref=real.head_ref,
        writes=writes,
        deletes=[path for path in deletes if path not in unknown],
        leftovers=leftovers,
        local=sorted(tracked),
        obstacles=sorted(unknown - tracked),
        unmerged=[
            path for path in sorted(tracked) if path in real.changes and real.changes[path].unmerged
        ],
        changes=goal.changes,
    )


@dataclass(frozen=True, slots=True)
class _Look:
    """One survey under way."""

    repository: Repository
    real: Status
    goal: Status
    protected: Collection[str]
    known: Known

    @property
    def width(self) -> int:
        """Hexadecimal digits of this repository's object ids: 40, or 64 for SHA-256."""
        return len(self.real.commit or "")

    def tracked(self, path: str) -> bool:
        """Whether HEAD or the index has the path."""
        if path in self.real.changes:
            return True
        return path in self.goal.changes and self.goal.changes[path].head.present

    def on_disk(self, path: str) -> bool:
        """Whether a file or symlink stands at the path itself, not behind a symlink."""
        info = look_at(self.repository.root, path)
        return info is not None and not stat.S_ISDIR(info.st_mode)

    def leftovers(self) -> list[str]:
        """Paths the goal does not have, but HEAD, the index, or something known to us may have put there."""
        found = {
            path: None for path, change in self.goal.changes.items() if not change.index.present
        }
        found |= dict.fromkeys(
            path
            for path, change in self.real.changes.items()
            if path not in self.goal.changes and not change.head.present
        )
        for tree in self.known.trees:
            found |= dict.fromkeys(
                path
                for path, (old, new) in tree.items()
                if new.present and not old.present and path not in self.goal.changes
            )
        return [path for path in found if not is_protected(path, self.protected)]

    def unknown(self, touched: Iterable[str]) -> set[str]:
        """Paths whose present content, on disk or in the index, is nobody's but the user's."""
        unknown: set[str] = set()
        suspects: set[str] = set()
        for path, change in self.real.changes.items():
            if is_protected(path, self.protected):
                continue
            if change.unmerged or not self._explains(path, change.index):
                unknown.add(path)
            if change.unstaged != ".":
                suspects.add(path)
        hidden = self._hidden()
        for path in touched:
            unchanged = path not in self.real.changes and self.tracked(path)
            if self.on_disk(path) and (not unchanged or path in hidden):
                suspects.add(path)
        contents = _contents(
            self.repository, sorted(suspects - unknown), self.known.vouched, self.width
        )
        for path, content in contents.items():
            if content is None or not self._explains(path, content):
                unknown.add(path)
        return unknown

    def _explains(self, path: str, content: Content) -> bool:
        """Whether HEAD, the goal or something known has the content (or the absence) at the path."""
        candidates = [tree[path][1] for tree in self.known.trees if path in tree]
        if path in self.real.changes:
            candidates.append(self.real.changes[path].head)
        if path in self.goal.changes:
            candidates.append(self.goal.changes[path].head)
            if self.known.goal or not self.tracked(path):
                candidates.append(self.goal.changes[path].index)
        return content == VOUCHED or any(same(one, content) for one in candidates)

    def in_the_way(self, writes: Iterable[str], deleted: Collection[str]) -> set[str]:
        """Files that stand where the goal has a folder, or in a folder where the goal has a file."""
        found: set[str] = set()
        for path in writes:
            above = parents(path)
            blocking = next((one for one in above if is_file(self.repository.root, one)), None)
            if blocking:
                found |= {blocking} - set(deleted)
            elif is_folder(self.repository.root, path):
                found |= set(files_below(self.repository.root, path)) - set(deleted)
        return found

    def _hidden(self) -> set[str]:
        """Paths the user told Git not to look at (`assume-unchanged`, `skip-worktree`)."""
        out = self.repository.git.ask("list the index", "ls-files", "-v", "-z")
        return {
            os.fsdecode(line[2:])
            for line in out.split(b"\0")
            if line and (line[:1] == b"S" or line[:1].islower())
        }


#: Stands for the content of a file that an interrupted checkout of ours vouches for.
VOUCHED = Content("vouched", "")


def _contents(
    repository: Repository,
    paths: Sequence[str],
    vouched: Mapping[str, Sequence[Identity]],
    width: int,
) -> dict[str, Content | None]:
    """What stands at each path: as Git would record it, VOUCHED, nothing, or None for what Git cannot record."""
    found: dict[str, Content | None] = {}
    regular: dict[str, str] = {}
    for path in paths:
        info = look_at(repository.root, path)
        if info is None or stat.S_ISDIR(info.st_mode):
            found[path] = Content("000000", "0" * width)
        elif Identity.of(info) in vouched.get(path, ()):
            found[path] = VOUCHED
        elif stat.S_ISLNK(info.st_mode):
            # `Path.readlink` would tidy the target up.
            target = os.fsencode(os.readlink(repository.root / path))  # noqa: PTH115
            found[path] = Content(SYMLINK, _blob_id(target, width))
        elif stat.S_ISREG(info.st_mode):
            regular[path] = EXECUTABLE if info.st_mode & stat.S_IXUSR else FILE
        else:
            found[path] = None
    if regular:
        feed = b"".join(_quoted(path) + b"\n" for path in regular)
        out = repository.git.ask("read changed files", "hash-object", "--stdin-paths", stdin=feed)
        names = out.decode().split()
        found |= {
            path: Content(regular[path], name) for path, name in zip(regular, names, strict=True)
        }
    return found


def _blob_id(content: bytes, width: int) -> str:
    """The id Git gives a file of this content; SHA-1 ids have 40 digits."""
    raw = b"blob %d\0" % len(content) + content
    if width == len(hashlib.sha1(usedforsecurity=False).hexdigest()):
        return hashlib.sha1(raw, usedforsecurity=False).hexdigest()
    return hashlib.sha256(raw).hexdigest()


def _quoted(path: str) -> bytes:
    """A path for a list of lines, quoted as in C so that a line break in a name is one."""
    escaped = b"".join(
        b"\\%03o" % byte if byte < ord(" ") or byte in b'"\\' else bytes((byte,))
        for byte in os.fsencode(path)
    )
    return b'"' + escaped + b'"'
