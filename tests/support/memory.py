"""A folder in memory for what tests write and throw away: fsync on a disk takes longer than a test."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

_PREFIX = "reconciler-test-"
_MEMORY = Path("/dev/shm")


@lru_cache(maxsize=1)
def root() -> Path:
    """A folder of this process, in memory where the machine has such a file system; gone when the process ends."""
    usable = _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK)
    where = _MEMORY if usable else Path(tempfile.gettempdir())
    for left in where.glob(f"{_PREFIX}*"):
        _remove_orphan(left)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=where))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def folder() -> Path:
    """A new empty folder."""
    return Path(tempfile.mkdtemp(dir=root()))


def _remove_orphan(left: Path) -> None:
    """Removes what a killed test run could not."""
    owner = left.name.removeprefix(_PREFIX).partition("-")[0]
    if owner.isdigit() and not Path(f"/proc/{owner}").exists():
        shutil.rmtree(left, ignore_errors=True)
