"""Git's objects as data: what trees and commits hold, how they are read, which are refused. Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath

from reconciler.core.errors import TerminalError

FILE, EXECUTABLE, SYMLINK, SUBMODULE = "100644", "100755", "120000", "160000"


@dataclass(frozen=True, slots=True)
class CommitInfo:
    """What a commit says about itself.

    Attributes:
        id: Full id.
        subject: First line of its message.
        author: Name of its author.
        date: When it was committed (UTC).
        parents: Full ids of its parents, as recorded (in a shallow clone they may be missing).
    """

    id: str
    subject: str
    author: str
    date: datetime
    parents: tuple[str, ...]

    @property
    def label(self) -> str:
        """Short id and subject, for humans."""
        return f"{self.id[:9]} {self.subject}".rstrip()


@dataclass(frozen=True, slots=True)
class TreeFile:
    """One entry of a commit's tree.

    Attributes:
        path: From the top of the repository, with slashes.
        mode: `100644`, `100755` (executable), `120000` (symlink) or `160000` (submodule).
        id: Object id of its content.
        size: Bytes; None for a submodule, or when the clone lacks the content.
    """

    path: str
    mode: str
    id: str
    size: int | None


def parse_tree_line(line: bytes) -> TreeFile:
    """Reads one entry of `ls-tree -r -z --long`."""
    about, _, path = line.partition(b"\t")
    mode, _, name, size = about.split()
    return TreeFile(
        path=os.fsdecode(path),
        mode=mode.decode(),
        id=name.decode(),
        size=int(size) if size.isdigit() else None,
    )


def parse_commit(commit: str, raw: bytes) -> CommitInfo:
    """Reads a commit object. The date is the committer's; an unreadable one becomes 1970."""
    head, _, message = raw.partition(b"\n\n")
    fields: dict[bytes, bytes] = {}
    parents: list[str] = []
    for line in head.split(b"\n"):
        key, _, value = line.partition(b" ")
        if key == b"parent":
            parents.append(value.decode())
        fields.setdefault(key, value)
    encoding = fields.get(b"encoding", b"utf-8").decode("ascii", "replace")
    try:
        text = message.decode(encoding, "replace")
        author = fields.get(b"author", b"").partition(b" <")[0].decode(encoding, "replace")
    except LookupError:  # an encoding Python does not know
        text, author = message.decode("utf-8", "replace"), ""
    stamp = re.search(rb"> (\d{1,11}) ", fields.get(b"committer", b"") + b" ")
    return CommitInfo(
        id=commit,
        subject=next((line.strip() for line in text.splitlines() if line.strip()), ""),
        author=author,
        date=datetime.fromtimestamp(int(stamp[1]) if stamp else 0, UTC),
        parents=tuple(parents),
    )


def parse_batch(out: bytes) -> dict[str, bytes | None]:
    """Reads the output of `cat-file --batch`: contents by id; None for an object that is missing."""
    blobs: dict[str, bytes | None] = {}
    position = 0
    while position < len(out):
        end = out.index(b"\n", position)
        name, *about = out[position:end].decode("utf-8", "replace").split()
        if about == ["missing"]:
            blobs[name] = None
            position = end + 1
            continue
        start = end + 1
        blobs[name] = out[start : start + int(about[1])]
        position = start + int(about[1]) + 1
    return blobs


def leaves(path: str, target: str) -> bool:
    """Whether a symlink at a path (from the top of the repository) points out of it."""
    depth = len(PurePosixPath(path).parent.parts)
    if target.startswith("/"):
        return True
    for part in target.split("/"):
        if part == "..":
            depth -= 1
        elif part not in {"", "."}:
            depth += 1
        if depth < 0:
            return True
    return False


def submodule_error(commit: str, path: str) -> TerminalError:
    """Why a commit with a submodule is refused."""
    return TerminalError(
        f"Commit {commit[:9]} has a submodule at {path}; submodules cannot be taken back.",
        hint="Keep the submodule's files in the repository itself, or deploy it as an image.",
    )


def require_unfiltered(filtered: Mapping[str, str], subject: str) -> None:
    """Refuses files that only a filter program could write.

    Raises:
        TerminalError: There are such files.
    """
    for path, name in sorted(filtered.items()):
        raise TerminalError(
            f"{subject} needs the Git filter {name!r} for {path} ({len(filtered)} files in all); "
            "filter programs are never run, and without it the file would be wrong.",
            hint="Keep such files out of what is deployed, or check this commit out by hand.",
        )
