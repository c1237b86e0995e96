"""Git's status as data: the parser of `status --porcelain=v2 -z --branch`. Pure."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from reconciler.core.errors import StepFailedError


class Content(NamedTuple):
    """What stands at a path: file mode (`100644`, ...; `000000` for nothing) and object id."""

    mode: str
    id: str

    @property
    def present(self) -> bool:
        """Whether there is anything."""
        return self.mode != "000000"


def absent(like: str) -> Content:
    """Nothing, with an id as long as the one given."""
    return Content("000000", "0" * len(like))


@dataclass(frozen=True, slots=True)
class Change:
    """One tracked path that is not the same everywhere.

    Attributes:
        path: From the top of the repository, with slashes.
        staged: `.` when index and HEAD agree; else `M`, `A`, `D`, `T`, `U`.
        unstaged: `.` when working tree and index agree; else `M`, `A`, `D`, `T`, `U`.
        head: What HEAD has.
        index: What the index has.
        unmerged: A merge left it with several versions.
    """

    path: str
    staged: str
    unstaged: str
    head: Content
    index: Content
    unmerged: bool = False


@dataclass(frozen=True, slots=True)
class Status:
    """One look at HEAD, index and working tree.

    Attributes:
        commit: Full id HEAD stands on; None before the first commit.
        head_ref: The symbolic ref HEAD is; None when it is detached.
        changes: Tracked paths with a difference, by path.
        untracked: Untracked paths, where they were asked for; a folder ends in a slash.
    """

    commit: str | None
    head_ref: str | None
    changes: dict[str, Change] = field(default_factory=dict)
    untracked: Sequence[str] = ()


def parse_status(out: bytes) -> Status:
    """Reads the output of `git status --porcelain=v2 -z --branch --no-renames`.

    Raises:
        StepFailedError: It has another form.
    """
    headers: dict[str, str] = {}
    changes: dict[str, Change] = {}
    untracked: list[str] = []
    for raw in out.split(b"\0"):
        if not raw:
            continue
        line = os.fsdecode(raw)
        kind, _, rest = line.partition(" ")
        match kind:
            case "#":
                name, _, value = rest.partition(" ")
                headers[name] = value
            case "1":
                change = _ordinary(rest)
                changes[change.path] = change
            case "u":
                change = _unmerged(rest)
                changes[change.path] = change
            case "?":
                untracked.append(rest)
            case _:
                raise StepFailedError(
                    f"Git answered with a status line of unknown form: {line[:80]!r}."
                )
    commit = headers.get("branch.oid", "(initial)")
    branch = headers.get("branch.head", "(detached)")
    return Status(
        commit=None if commit == "(initial)" else commit,
        head_ref=None if branch == "(detached)" else _full_ref(branch),
        changes=changes,
        untracked=untracked,
    )


def _full_ref(branch: str) -> str:
    return branch if branch.startswith("refs/") else f"refs/heads/{branch}"


def _ordinary(rest: str) -> Change:
    """`XY sub mH mI mW hH hI path`."""
    xy, _, head_mode, index_mode, _, head_id, index_id, path = rest.split(" ", 7)
    return Change(path, xy[0], xy[1], Content(head_mode, head_id), Content(index_mode, index_id))


def _unmerged(rest: str) -> Change:
    """`XY sub m1 m2 m3 mW h1 h2 h3 path`; stage 2 is what HEAD had."""
    xy, _, _, mode, _, _, _, name, _, path = rest.split(" ", 9)
    nothing = absent(name)
    return Change(path, xy[0], xy[1], Content(mode, name), nothing, unmerged=True)
