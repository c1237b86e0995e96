"""Files of a run: written whole or not at all, readable by nobody else, and checked before they are used."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from reconciler.core.errors import CaptureCorruptError, PreflightError
from reconciler.core.pins import Artifact
from reconciler.targets.base import ApplyContext

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


def file_stem(subject: str) -> str:
    """A name that is safe on any disk and unique for a subject."""
    mark = hashlib.sha256(subject.encode()).hexdigest()[:8]
    return f"{_UNSAFE.sub('_', subject)[:80]}-{mark}"


def unused(context: ApplyContext, file_name: str) -> Path:
    """A path in the run's folder that no file the run has recorded occupies; a file nobody recorded is overwritten."""
    taken = {artifact.path for artifact in context.artifacts}
    stem, dot, suffix = file_name.rpartition(".")
    path, number = context.captures / file_name, 1
    while path.relative_to(context.states).as_posix() in taken:
        number += 1
        path = context.captures / f"{stem}-{number}{dot}{suffix}"
    return path


def write(path: Path, pieces: Iterable[bytes]) -> tuple[int, str, int]:
    """Writes a file of the run, mode 0600, durable before it has its name.

    Returns:
        Size in bytes, sha256 in hex, number of line ends.

    Raises:
        PreflightError: The disk is full, or the folder cannot be written to.
    """
    digest, size, lines = hashlib.sha256(), 0, 0
    part = path.with_name(f"{path.name}.part")
    try:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
                size += len(piece)
                lines += piece.count(b"\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as exc:
        part.unlink(missing_ok=True)
        full = exc.errno in {errno.ENOSPC, errno.EDQUOT}
        raise PreflightError(
            f"The dump {path.name} cannot be written ({exc.strerror}).",
            hint="Free space on the disk of the state folder." if full else "",
        ) from exc
    return size, digest.hexdigest(), lines


def check(artifact: Artifact, states: Path) -> Path:
    """Makes sure a dump is what was written.

    Raises:
        CaptureCorruptError: It is missing or has another digest.
    """
    path = states / artifact.path
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise CaptureCorruptError(
            f"The dump {artifact.path} cannot be read ({exc.strerror})."
        ) from exc
    if found != artifact.sha256:
        raise CaptureCorruptError(
            f"The dump {artifact.path} is not what was written: its digest differs."
        )
    return path
