"""The folder a volume is: its owner, mode and time, which the engine does not take from an archive.

Called by `volumes` and `volume_engine`.
"""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass

BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True, slots=True)
class Root:
    """What an archive says about the folder itself that it was made of.

    Attributes:
        mode: Permission bits.
        uid: Owner.
        gid: Group.
        mtime: Seconds since the epoch.
    """

    mode: int
    uid: int
    gid: int
    mtime: float

    def as_tar(self, name: str) -> bytes:
        """A tar stream with nothing but this folder, under a name."""
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.mtime = tarfile.DIRTYPE, self.mode, self.mtime
        info.uid, info.gid = self.uid, self.gid
        return info.tobuf(tarfile.PAX_FORMAT) + bytes(2 * BLOCK)


def root_of(head: bytes) -> Root | None:
    """The root folder, where the archive has it as its first member (as `tar -C folder .` puts it).

    Args:
        head: The beginning of the tar stream.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(head), mode="r:") as archive:
            first = archive.next()
    except (tarfile.TarError, EOFError, ValueError):
        return None
    if first is None or not first.isdir() or first.name.strip("./"):
        return None
    return Root(first.mode & 0o7777, first.uid, first.gid, first.mtime)
