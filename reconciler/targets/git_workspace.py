"""The reconciler's own corner of a Git folder: private indexes, staged files, the note of a checkout under way, locks.

Everything lies under `<git folder>/reconciler`, which Git itself never looks at. Called by
`git_checkout.py` and its neighbours.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from reconciler.core.errors import StepFailedError, TransientError
from reconciler.targets.base import ApplyContext
from reconciler.targets.git_survey import Identity
from reconciler.targets.shared.repository import Repository

#: Seconds another git process is given to finish.
PATIENCE = 3.0
_OURS = "reconciler "


@dataclass(frozen=True, slots=True)
class UnderWay:
    """The note of a checkout that has begun: what an interrupted one has put in the working tree.

    Attributes:
        run: The run that began it.
        start: Full id HEAD stood on.
        goal: Full id it goes to.
        vouched: By path, the files it found and may replace, and those it puts in their place.
    """

    run: str
    start: str
    goal: str
    vouched: Mapping[str, Sequence[Identity]] = field(default_factory=dict)


def read_note(repository: Repository) -> UnderWay | None:
    """The note of an interrupted checkout; None when there is none, or it cannot be ours."""
    try:
        data = json.loads(_note(repository).read_bytes())
        vouched = {
            path: [Identity(*pair) for pair in pairs] for path, pairs in data.pop("vouched").items()
        }
        return UnderWay(**data, vouched=vouched)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None  # it only widens what may be replaced, so without it we are stricter


def write_note(repository: Repository, note: UnderWay) -> None:
    """Stores the note durably, before the first file is replaced."""
    data = {"run": note.run, "start": note.start, "goal": note.goal, "vouched": dict(note.vouched)}
    target = _note(repository)
    fresh = target.with_suffix(".new")
    with fresh.open("w", encoding="ascii") as file:
        file.write(json.dumps(data))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(target)
    sync_folder(target.parent)


def drop_note(repository: Repository) -> None:
    """Forgets the note: the checkout is complete."""
    _note(repository).unlink(missing_ok=True)


def _note(repository: Repository) -> Path:
    return repository.git_dir / "reconciler" / "checkout.json"


@contextlib.contextmanager
def work_folder(repository: Repository) -> Iterator[Path]:
    """A private folder on the Git folder's file system; those of processes that died are removed."""
    home = repository.git_dir / "reconciler"
    home.mkdir(mode=0o700, exist_ok=True)
    for stale in home.glob("work-*-*"):
        if not _alive(stale.name.split("-")[1]):
            shutil.rmtree(stale, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"work-{os.getpid()}-", dir=home))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: str) -> bool:
    if not pid.isdecimal() or int(pid) == 0:
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def index_locked(repository: Repository, context: ApplyContext) -> Iterator[None]:
    """Holds Git's own lock on the index, so that no other git command works on the tree meanwhile.

    The lock says in its text whose it is (Git's own locks never hold text), and comes into being
    complete, as a hard link: one that a killed process of ours has left is known without guessing
    from its age, and taken over.

    Raises:
        TransientError: Another git process holds it.
    """
    lock = repository.git_dir / "index.lock"
    label = f"{_OURS}{context.run} {os.getpid()}\n"
    with work_folder(repository) as folder:
        (folder / "lock").write_text(label)
        deadline = time.monotonic() + PATIENCE
        while not _created(folder / "lock", lock):
            if is_abandoned(lock, context.run):
                lock.unlink(missing_ok=True)
            elif time.monotonic() > deadline:
                raise TransientError(
                    f"Another git process is at work in {repository.root}, or died there: "
                    f"{lock} exists.",
                    hint=f"If no git command is running there: rm {lock}",
                )
            else:
                context.sleep(0.1)
    try:
        yield
    finally:
        if _text(lock) == label:
            lock.unlink(missing_ok=True)


def _created(source: Path, lock: Path) -> bool:
    try:
        os.link(source, lock)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        try:
            with lock.open("x") as file:
                file.write(source.read_text())
        except FileExistsError:
            return False
    return True


def is_abandoned(lock: Path, run: str) -> bool:
    """Whether a lock was left by a process of ours that is gone. The lease lets only one process work for a run."""
    text = _text(lock)
    if not text.startswith(_OURS):
        return False
    owner, _, pid = text.removeprefix(_OURS).strip().partition(" ")
    return owner == run or not _alive(pid)


def is_interrupted(repository: Repository) -> bool:
    """Whether a checkout of ours is under way, or was killed and has left its note or its lock."""
    return _note(repository).exists() or is_abandoned(repository.git_dir / "index.lock", "")


def _text(lock: Path) -> str:
    try:
        with lock.open("rb") as file:
            return file.read(200).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def await_head_unlocked(
    repository: Repository, context: ApplyContext, *, written: Mapping[str, str]
) -> None:
    """Waits until nobody holds HEAD's lock; removes one that a git process of ours has left when it was killed.

    Git writes it in microseconds. It counts as ours only if this very effect was begun before, the
    lock is younger than that, it did not change while we waited, and it is empty or holds what we
    would write.

    Args:
        repository: Where.
        context: Of the step.
        written: What we write into HEAD, by a word for it.

    Raises:
        StepFailedError: It stays, and is not ours.
    """
    lock = repository.git_dir / "HEAD.lock"
    deadline = time.monotonic() + PATIENCE
    first = _text(lock)
    while lock.exists():
        if time.monotonic() <= deadline:
            context.sleep(0.1)
            continue
        text = _text(lock)
        if text == first and text in {"", *written.values()} and _younger(lock, context.attempted):
            lock.unlink(missing_ok=True)
            return
        raise StepFailedError(
            f"HEAD of {repository.root} is locked by another git process, or one that died: "
            f"{lock} exists.",
            hint=f"If no git command is running there: rm {lock}",
        )


def _younger(lock: Path, attempted: datetime | None) -> bool:
    # File times come from a coarser clock than the intent's.
    return attempted is not None and lock.stat().st_mtime > attempted.timestamp() - 1


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
