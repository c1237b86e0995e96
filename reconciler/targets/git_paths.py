"""Paths of a working tree: as text from its top with slashes, and what stands there, never looking through a symlink.

Shared by the rooms of the git target.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path


def is_protected(path: str, protected: Collection[str]) -> bool:
    """Whether a path is, or lies below, one of those that belong to the reconciler itself."""
    if path in protected:
        return True
    return any(path.startswith(f"{folder}/") for folder in protected)


def listed(paths: Sequence[str], most: int = 5) -> str:
    """The first few paths, printable, and how many more there are."""
    shown = [path if path.isprintable() else ascii(path) for path in paths[:most]]
    more = len(paths) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def parents(path: str) -> list[str]:
    """The folders a path lies in, outermost first."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def stand_at(root: Path, path: str) -> os.stat_result | None:
    """What stands at a path; None for nothing. Strings, because it is asked for every file."""
    try:
        return os.lstat(f"{root}/{path}")
    except (FileNotFoundError, NotADirectoryError):
        return None


def look_at(root: Path, path: str) -> os.stat_result | None:
    """Like `stand_at`, but nothing stands behind a symlink on the way."""
    for parent in parents(path):
        info = stand_at(root, parent)
        if info is None or not stat.S_ISDIR(info.st_mode):
            return None
    return stand_at(root, path)


def is_file(root: Path, path: str) -> bool:
    """Whether something other than a folder stands at a path."""
    info = stand_at(root, path)
    return info is not None and not stat.S_ISDIR(info.st_mode)


def is_folder(root: Path, path: str) -> bool:
    """Whether a real folder stands at a path."""
    info = stand_at(root, path)
    return info is not None and stat.S_ISDIR(info.st_mode)


def files_below(root: Path, folder: str) -> Iterator[str]:
    """Everything that is no folder below one, not looking through symlinks."""
    with os.scandir(root / folder) as entries:
        for entry in entries:
            path = f"{folder}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from files_below(root, path)
            else:
                yield path
