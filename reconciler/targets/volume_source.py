"""Reading an archive's bytes: opened with care, hashed while they go by, unpacked piece by piece.

Memory stays constant whatever the archive holds. Called by `volume_archive` and `volumes`.
"""

from __future__ import annotations

import hashlib
import os
import stat
import zlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Protocol, cast

import zstandard

from reconciler.core.errors import PreflightError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHUNK = 1024 * 1024
#: Memory a zstd frame may ask for; frames made with `--ultra --long=31` want more and are refused.
MAX_WINDOW = 128 * 1024 * 1024

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_SKIPPABLE = (b"\x2a\x4d\x18",)  # bytes 1 to 3 of a zstd skippable frame
_OTHERS = {
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"PK\x03\x04": "zip",
    b"\x04\x22\x4d\x18": "lz4",
    b"7z\xbc\xaf": "7z",
    b"SQLite": "a SQLite database",
    b"PGDMP": "a pg_dump file",
}


class Source(Protocol):
    """Something that is read from its beginning to its end."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end."""


class ArchiveError(Exception):
    """Why an archive is not accepted; becomes a PreflightError with the file's name."""


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file, if it is a regular one.

    Raises:
        PreflightError: It is not there, no regular file, or not readable.
    """
    try:
        # A FIFO would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as exc:
        raise PreflightError(f"The archive {path.name} cannot be read: {exc.strerror}.") from exc
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise PreflightError(f"The archive {path.name} is no regular file.")
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        yield file


class Hashed:
    """Reads a file and hashes what goes by.

    Args:
        file: The file, at its beginning.
    """

    def __init__(self, file: Source) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end."""
        data = self._file.read(size)
        self._digest.update(data)
        self.size += len(data)
        return data

    def hexdigest(self) -> str:
        """The digest of everything up to the file's end, reading what is left of it."""
        while self.read(CHUNK):
            pass
        return self._digest.hexdigest()


def file_sha256(file: IO[bytes]) -> str:
    """The digest of a file from its beginning; leaves it at its beginning."""
    file.seek(0)
    digest = Hashed(file).hexdigest()
    file.seek(0)
    return digest


def compression_of(head: bytes) -> str:
    """Which compression a file's first bytes show.

    Raises:
        ArchiveError: It is something else than a tar, plain or compressed with gzip or zstd.
    """
    if head.startswith(_GZIP):
        return "gzip"
    if head.startswith(_ZSTD) or (
        head[1:4] in _SKIPPABLE and head[:1] >= b"\x50" and head[:1] <= b"\x5f"
    ):
        return "zstd"
    for magic, name in _OTHERS.items():
        if head.startswith(magic):
            raise ArchiveError(f"is {name}; a tar is wanted, plain or compressed with gzip or zstd")
    return "none"


def unpacked(source: Source) -> tuple[str, Source]:
    """The compression of a file and its content without it, both as streams."""
    head = exactly(source, 8)
    rest = _Joined(head, source)
    compression = compression_of(head)
    if compression == "gzip":
        return compression, _Gzip(rest)
    if compression == "zstd":
        return compression, _Zstd(rest)
    return compression, rest


class _Joined:
    """Bytes that were read already, then the rest."""

    def __init__(self, head: bytes, rest: Source) -> None:
        self._head, self._rest = head, rest

    def read(self, size: int, /) -> bytes:
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
            return data
        return self._rest.read(size)


class _Gzip:
    """Unpacks gzip, several members one after the other included, a bounded piece at a time."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._engine = zlib.decompressobj(wbits=31)
        self._pending = b""
        self._fresh = True

    def read(self, size: int, /) -> bytes:
        while True:
            if self._engine.eof:
                self._pending = self._engine.unused_data
                self._engine = zlib.decompressobj(wbits=31)
                self._fresh = True
            if not self._pending:
                self._pending = self._source.read(CHUNK)
            if not self._pending:
                if self._fresh:
                    return b""
                raise ArchiveError("is cut off: its gzip stream has no end")
            if self._fresh and self._is_padding():
                continue
            self._fresh = False
            try:
                data = self._engine.decompress(self._pending, size)
            except zlib.error as exc:
                raise ArchiveError("is damaged: its gzip stream cannot be read") from exc
            self._pending = b"" if self._engine.eof else self._engine.unconsumed_tail
            if data:
                return data

    def _is_padding(self) -> bool:
        """Tapes and some tools fill up with zeros after the last member."""
        stripped = self._pending.lstrip(b"\0")
        padded = len(stripped) != len(self._pending)
        self._pending = stripped
        return padded


class _Zstd:
    """Unpacks zstd, several frames one after the other included."""

    def __init__(self, source: Source) -> None:
        reader = cast("IO[bytes]", _AsFile(source))
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        self._reader = decompressor.stream_reader(
            reader, read_size=CHUNK, read_across_frames=True, closefd=False
        )

    def read(self, size: int, /) -> bytes:
        try:
            return self._reader.read(size)
        except zstandard.ZstdError as exc:
            raise ArchiveError("is damaged: its zstd stream cannot be read") from exc


class _AsFile:
    """A source in the form the zstd library reads from."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def read(self, size: int = -1, /) -> bytes:
        return self._source.read(CHUNK if size < 0 else size)


def exactly(source: Source, size: int) -> bytes:
    """So many bytes, fewer only at the end."""
    data = source.read(size)
    if len(data) == size or not data:
        return data
    parts, have = [data], len(data)
    while have < size and (data := source.read(size - have)):
        parts.append(data)
        have += len(data)
    return b"".join(parts)
