"""Archives of volumes, judged before anything is unpacked from them.

An archive is a tar, plain or compressed with gzip or zstd. Python's own tar reader takes a damaged
header in the middle for the end of the archive and keeps every member in memory, so the headers are
walked here. Called by `volumes`.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import tarfile
from dataclasses import dataclass, field
from typing import IO

from reconciler.targets.volume_source import CHUNK, ArchiveError, Hashed, Source, unpacked

BLOCK = tarfile.BLOCKSIZE
#: Bytes of one extended header; a path has 4096 at most, extended attributes 64 KiB each.
MAX_HEADER = 1024 * 1024

_REGULAR = {b"0", b"\0", b"7"}
_SPECIAL = {b"3": "character device", b"4": "block device", b"6": "FIFO"}
_PATH_RECORDS = {"path", "linkpath", "size", "GNU.sparse.name", "GNU.sparse.realsize"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may hold at most.

    Attributes:
        unpacked: Bytes after unpacking.
        members: Files, folders and links. Each costs about 80 bytes of memory while it is checked.
        ratio: Unpacked bytes for each byte of the file, once more than `ratio_floor` are unpacked.
        ratio_floor: Bytes up to which any ratio is accepted.
    """

    unpacked: int = 2 * 1024**4
    members: int = 2_000_000
    ratio: int = 500
    ratio_floor: int = 1024**3


@dataclass(frozen=True, slots=True)
class ArchiveReport:
    """What an archive that passed holds.

    Attributes:
        compression: `gzip`, `zstd` or `none`.
        sha256: Digest of the file.
        size: Bytes of the file.
        unpacked: Bytes of the tar stream.
        members: Files, folders and links in it.
        roots: Names at its top level, at most ten, sorted.
    """

    compression: str
    sha256: str
    size: int
    unpacked: int
    members: int
    roots: tuple[str, ...]


def inspect(file: IO[bytes], limits: Limits, *, own: bool = False) -> ArchiveReport:
    """Walks an archive from beginning to end and judges it.

    Args:
        file: The archive, at its beginning.
        limits: What it may hold at most.
        own: It is a backup we made of a volume: absolute links, devices and any ratio were there
            before and are kept. Writing through a link is refused all the same.

    Raises:
        ArchiveError: It is damaged, or not safe to unpack.
    """
    raw = Hashed(file)
    compression, content = unpacked(raw)
    walk = _Walk(content, raw, limits, own=own)
    walk.run()
    return ArchiveReport(
        compression=compression,
        sha256=raw.hexdigest(),
        size=raw.size,
        unpacked=walk.position,
        members=walk.members,
        roots=tuple(sorted(walk.roots)),
    )


@dataclass(slots=True)
class _Extended:
    """What extended headers say about the member that follows."""

    name: str | None = None
    link: str | None = None
    size: int | None = None
    sparse_name: str | None = None
    real_size: int | None = None


@dataclass(slots=True)
class _Walk:
    """One pass over the headers."""

    content: Source
    raw: Hashed
    limits: Limits
    own: bool = field(kw_only=True)
    position: int = 0
    expanded: int = 0
    members: int = 0
    roots: set[str] = field(default_factory=set)
    _buffer: bytes = b""
    _offset: int = 0
    _key: bytes = field(default_factory=lambda: os.urandom(16))
    _folders: set[int] = field(default_factory=set)
    _files: set[int] = field(default_factory=set)
    _links: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Goes through all members up to the end mark, which must be there."""
        extended = _Extended()
        while True:
            header = self._take(BLOCK, "in a header")
            if not header.strip(b"\0"):
                self._end()
                return
            info = self._parse(header)
            if info.type in {b"x", b"X"}:
                self._records(self._body(info), extended)
            elif info.type == b"g":
                self._records(self._body(info), None)
            elif info.type == b"L":
                extended.name = _text(self._body(info))
            elif info.type == b"K":
                extended.link = _text(self._body(info))
            else:
                self._member(info, extended)
                extended = _Extended()

    def _parse(self, header: bytes) -> tarfile.TarInfo:
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as exc:
            if self.members == 0 and self.position == BLOCK:
                raise ArchiveError("is no tar archive") from exc
            raise ArchiveError(f"is damaged at byte {self.position - BLOCK}") from exc
        if info.size < 0:
            raise ArchiveError("holds a member of negative size")
        return info

    def _member(self, info: tarfile.TarInfo, extended: _Extended) -> None:
        self.members += 1
        if self.members > self.limits.members:
            raise ArchiveError(f"holds more than {self.limits.members} members")
        name = _clean(extended.sparse_name or extended.name or info.name, "name")
        target = extended.link if extended.link is not None else info.linkname
        size = info.size if extended.size is None else extended.size
        path = self._path(name)
        if info.type in _REGULAR:
            self._regular(path, name)
        elif info.type == b"5":
            self._folder(path)
            size = 0
        elif info.type == b"2":
            self._symlink(path, _clean(target, "link target"))
            size = 0
        elif info.type == b"1":
            # Old archivers repeat the content after a hard link; readers disagree on whether it is
            # there.
            if size:
                raise ArchiveError(f"holds a hard link with content: {_shown(name)}")
            self._hardlink(path, name, _clean(target, "link target"))
        elif info.type in _SPECIAL:
            if not self.own:
                raise ArchiveError(f"holds a {_SPECIAL[info.type]}: {_shown(name)}")
            self._new(path, self._files)
            size = 0
        elif info.type == b"S":
            # The engine does not unpack these; the newer form of sparse files it does.
            raise ArchiveError(
                f"holds a sparse file of the old GNU form: {_shown(name)}; "
                "make it with `tar --format=posix`"
            )
        else:
            raise ArchiveError(f"holds a member of unknown type {info.type!r}: {_shown(name)}")
        self.expanded += extended.real_size or size
        self._skip(size)
        self._bound(self.expanded)

    def _path(self, name: str) -> str:
        """The normal form of a name, which may not leave the folder nor go through a link."""
        parts = [part for part in name.split("/") if part not in {"", "."}]
        if name.startswith("/"):
            raise ArchiveError(f"holds an absolute path: {_shown(name)}")
        if ".." in parts:
            raise ArchiveError(f"holds a path with '..': {_shown(name)}")
        path = ""
        for part in parts[:-1]:
            path = f"{path}/{part}" if path else part
            if path in self._links:
                raise ArchiveError(f"writes through the link {_shown(path)}: {_shown(name)}")
            if self._mark(path) in self._files:
                raise ArchiveError(f"uses the file {_shown(path)} as a folder: {_shown(name)}")
            self._folders.add(self._mark(path))
        if parts and len(self.roots) < 10:  # noqa: PLR2004 - as many as fit in a message
            self.roots.add(_shown(parts[0]))
        return "/".join(parts)

    def _folder(self, path: str) -> None:
        if path in self._links or self._mark(path) in self._files:
            raise ArchiveError(f"replaces what it held before: {_shown(path)}")
        if path:
            self._folders.add(self._mark(path))

    def _regular(self, path: str, name: str) -> None:
        if not path or name.endswith("/"):
            raise ArchiveError(f"holds a file named like a folder: {_shown(name)}")
        self._new(path, self._files)

    def _symlink(self, path: str, target: str) -> None:
        # The engine itself unpacks no relative link that leads out, whosever archive it is.
        if leads_out(path, target) and not (self.own and target.startswith("/")):
            raise ArchiveError(f"holds a link that leads out: {_shown(path)} -> {_shown(target)}")
        if len(self._links) >= self.limits.members // 10:
            raise ArchiveError("holds too many symbolic links")
        mark = self._mark(path)
        if not path or path in self._links or mark in self._files or mark in self._folders:
            raise ArchiveError(f"replaces what it held before: {_shown(path)}")
        self._links.add(path)

    def _hardlink(self, path: str, name: str, target: str) -> None:
        goal = self._path(target)
        if self._mark(goal) not in self._files and goal not in self._links:
            raise ArchiveError(
                f"links to what it does not hold: {_shown(name)} -> {_shown(target)}"
            )
        if goal in self._links:
            raise ArchiveError(f"holds a hard link to a symbolic link: {_shown(name)}")
        self._new(path, self._files)

    def _new(self, path: str, kind: set[int]) -> None:
        mark = self._mark(path)
        if path in self._links or mark in self._files or mark in self._folders:
            raise ArchiveError(f"holds twice, or replaces what it held before: {_shown(path)}")
        kind.add(mark)

    def _mark(self, path: str) -> int:
        """A short keyed digest: a million names fit in memory, and no two can be made to collide."""
        data = path.encode("utf-8", "surrogateescape")
        return int.from_bytes(hashlib.blake2b(data, digest_size=8, key=self._key).digest(), "big")

    def _records(self, body: bytes, extended: _Extended | None) -> None:
        """Reads `length key=value` records; None for those that speak of all members to come."""
        while body:
            length, blank, _ = body.partition(b" ")
            if not blank or not length.isdigit() or not 5 <= int(length[:7]) <= len(body):  # noqa: PLR2004
                raise ArchiveError("is damaged: an extended header cannot be read")
            record, body = body[len(length) + 1 : int(length)], body[int(length) :]
            key, equals, value = record.partition(b"=")
            if not equals or not value.endswith(b"\n"):
                raise ArchiveError("is damaged: an extended header cannot be read")
            name = key.decode("utf-8", "surrogateescape")
            if extended is None:
                if name in _PATH_RECORDS:
                    raise ArchiveError(f"sets {name} for all members at once")
                continue
            self._record(name, value[:-1], extended)

    def _record(self, name: str, value: bytes, extended: _Extended) -> None:
        if name in {"size", "GNU.sparse.realsize"}:
            if not value.isdigit() or len(value) > 19:  # noqa: PLR2004 - digits of the largest 64-bit number
                raise ArchiveError("is damaged: an extended header holds no size")
            if name == "size":
                extended.size = int(value)
            else:
                extended.real_size = int(value)
        elif name == "path":
            extended.name = _text(value)
        elif name == "linkpath":
            extended.link = _text(value)
        elif name == "GNU.sparse.name":
            extended.sparse_name = _text(value)

    def _body(self, info: tarfile.TarInfo) -> bytes:
        if info.size > MAX_HEADER:
            raise ArchiveError("holds an extended header of more than 1 MiB")
        padded = -(-info.size // BLOCK) * BLOCK
        return self._take(padded, "in a header")[: info.size]

    def _skip(self, size: int) -> None:
        left = -(-size // BLOCK) * BLOCK
        while left:
            data = self._take(min(left, CHUNK), "in a file")
            left -= len(data)

    def _end(self) -> None:
        """After the end mark there may be nothing but zeros."""
        if self._take(BLOCK, "at its end").strip(b"\0"):
            raise ArchiveError("is damaged: its end mark is incomplete")
        while data := self._next(CHUNK):
            self.position += len(data)
            self._bound(self.position)
            if data.count(0) != len(data):
                raise ArchiveError("holds something after its end")

    def _take(self, size: int, where: str) -> bytes:
        data = self._next(size)
        if len(data) != size:
            if self.position == 0 and not data:
                raise ArchiveError("is empty")
            raise ArchiveError(f"is cut off {where}, after {self.position + len(data)} bytes")
        self.position += size
        self._bound(self.position)
        return data

    def _next(self, size: int) -> bytes:
        """So many bytes, fewer only at the end; asks for large pieces, since headers are small."""
        while len(self._buffer) - self._offset < size:
            more = self.content.read(CHUNK)
            if not more:
                break
            self._buffer, self._offset = self._buffer[self._offset :] + more, 0
        data = self._buffer[self._offset : self._offset + size]
        self._offset += len(data)
        return data

    def _bound(self, amount: int) -> None:
        if amount > self.limits.unpacked:
            raise ArchiveError(f"unpacks to more than {self.limits.unpacked} bytes")
        if self.own or amount <= self.limits.ratio_floor:
            return
        if amount > self.limits.ratio * max(1, self.raw.size):
            raise ArchiveError(f"unpacks to more than {self.limits.ratio} times its size")


def leads_out(path: str, target: str) -> bool:
    """Whether a symbolic link at a path inside a folder leads out of that folder."""
    if target.startswith("/"):
        return True
    end = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    return end == ".." or end.startswith("../")


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "surrogateescape")


def _clean(text: str, what: str) -> str:
    if not text or "\0" in text:
        raise ArchiveError(f"holds a member with an empty or unreadable {what}")
    return text


def _shown(name: str) -> str:
    """A foreign name fit for a message."""
    text = name.encode("utf-8", "backslashreplace").decode("utf-8")
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= 120 else text[:117] + "..."  # noqa: PLR2004 - a line
