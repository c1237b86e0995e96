"""Writes a volume's content into a file: whole, durable and with its digest, or not at all.

Called by `volumes`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import zstandard

from reconciler.core.errors import PreflightError
from reconciler.targets.volume_source import CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from reconciler.targets.base import ApplyContext

#: Fast, and nearly as small as gzip's default.
LEVEL = 3
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_TELL = 256 * CHUNK


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was written.

    Attributes:
        sha256: Digest of its bytes.
        size: Its bytes.
    """

    sha256: str
    size: int


def write_backup(pieces: Iterator[bytes], dest: Path, context: ApplyContext) -> Written:
    """Compresses a stream into a file, mode 0600, durable before it gets its name.

    Args:
        pieces: The stream.
        dest: The file; one that is there is replaced.
        context: Told how far it is.

    Raises:
        PreflightError: The disk is full, or the file cannot be written.
    """
    part = dest.with_name(dest.name + ".part")
    squeezed = _squeezed(pieces, dest, context)
    digest, size = hashlib.sha256(), 0
    try:
        part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            for data in squeezed:
                size += len(data)
                digest.update(data)
                _write_all(file.fileno(), data)
            os.fsync(file.fileno())
        part.replace(dest)
        _sync_folder(dest.parent)
    except OSError as exc:
        part.unlink(missing_ok=True)
        if exc.errno in _NO_SPACE:
            raise _too_small(dest, size, squeezed) from exc
        raise PreflightError(
            f"The backup {dest.name} cannot be written: {exc.strerror or exc}."
        ) from exc
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return Written(digest.hexdigest(), size)


def _squeezed(pieces: Iterator[bytes], dest: Path, context: ApplyContext) -> Iterator[bytes]:
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compressobj()
    read, told = 0, 0
    for piece in pieces:
        if data := compressor.compress(piece):
            yield data
        read += len(piece)
        if read - told >= _TELL:
            told = read
            context.progress(f"Backing up into {dest.name}: {read // CHUNK} MiB read")
    yield compressor.flush()


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _too_small(dest: Path, size: int, rest: Iterator[bytes]) -> PreflightError:
    """Reads on without writing, to be able to say how much is needed."""
    needed = size + sum(len(data) for data in rest)
    free = shutil.disk_usage(dest.parent).free
    return PreflightError(
        f"The disk is too small for the backup {dest.name}: it needs {_mebibytes(needed)}, "
        f"{_mebibytes(free)} are free.",
        hint="Make room for the state folder, then run `reconciler resume`.",
    )


def _mebibytes(amount: int) -> str:
    return f"{-(-amount // CHUNK)} MiB"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
