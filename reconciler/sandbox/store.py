"""Durable state of a practice server: one JSON file, replaced as a whole for every accepted change.

Both practice APIs keep their model in a `StateFile`. A change is on the disk before the caller
hears that it was accepted, so a server that is killed and started again still knows it.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from reconciler.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator


def now_ms() -> int:
    """Wall-clock time in milliseconds since the epoch, as both vendors use it."""
    return time.time_ns() // 1_000_000


class Effect(BaseModel):
    """One accepted change; the log of these answers "how often did it take effect?".

    Attributes:
        seq: Position in the log, from 1, without gaps.
        at: Milliseconds since the epoch.
        route: Method and pattern: `POST /v1/projects/{project}/rollback/{deployment}`.
        ids: What it was about: ids, versions, digests, command tags. Never a secret.
        repeat: True when an identical request was already under way, so nothing new happened.
    """

    model_config = ConfigDict(extra="forbid")

    seq: int
    at: int
    route: str
    ids: dict[str, str]
    repeat: bool = False


class State(BaseModel):
    """What every state file has: a format version and the append-only log of effects."""

    model_config = ConfigDict(extra="forbid")

    format: int = 1
    effects: list[Effect] = []

    def record(self, *, at: int, route: str, ids: dict[str, str], repeat: bool = False) -> None:
        """Append one accepted change to the log."""
        seq = len(self.effects) + 1
        self.effects.append(Effect(seq=seq, at=at, route=route, ids=ids, repeat=repeat))


S = TypeVar("S", bound=State)


class StateFile(Generic[S]):
    """A state model kept in one file.

    Args:
        path: The file. It is read if it exists, else written with `initial`.
        initial: The state of a server that starts for the first time.

    Raises:
        UsageError: The file exists and is not a state file of this kind.
    """

    def __init__(self, path: Path, initial: S) -> None:
        self._path = path
        self._lock = threading.RLock()
        if path.exists():
            self._state = _load(path, type(initial))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._state = initial
            self._write(initial)

    def read(self) -> S:
        """The present state; a snapshot that later changes do not touch."""
        with self._lock:
            return self._state

    @contextmanager
    def change(self) -> Iterator[S]:
        """Give a draft to change; on leaving without an exception it is durable and current."""
        with self._lock:
            draft = self._state.model_copy(deep=True)
            yield draft
            if draft != self._state:
                self._write(draft)
                self._state = draft

    def _write(self, state: S) -> None:
        write_atomically(self._path, state.model_dump_json(indent=1).encode() + b"\n")


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file so that a crash leaves the old or the new one, never a part; mode 0600.

    Raises:
        OSError: The disk is full, the folder is missing or not writable; the old file stays.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _load(path: Path, kind: type[S]) -> S:
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as exc:
        raise UsageError(
            f"{path} is not a state file of this practice server ({exc.error_count()} problems).",
            hint="Move it away to start with a fresh practice production.",
        ) from exc
