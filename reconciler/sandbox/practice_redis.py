"""The practice shop's Redis image: the machine's own Redis and its libraries, no registry needed.

Which files belong to it is asked of the program itself: it is started once, and its map of memory
names them. Where the machine has no Redis, the public image is pulled. Called by `practice_engine`.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.core.errors import PreflightError, TargetUnavailableError

if TYPE_CHECKING:
    import docker

REDIS_IMAGE = "reconciler-sandbox-redis:1"
REDIS_VARIABLE = "RECONCILER_REDIS"
"""Names the redis-server to use, where PATH should not decide."""

_PUBLIC_IMAGE = "redis:7-alpine"
_HINT = (
    f"Install Redis (Debian: apt-get install redis-server), or set {REDIS_VARIABLE} to a"
    f" redis-server, or tag an image of Redis as {REDIS_IMAGE}."
)
_START_SECONDS = 10.0
_POLL_SECONDS = 0.02
#: The loader's path stands in the program's first page, next to the ELF header.
_LOADER = re.compile(rb"/[\w/.-]*/ld-[\w.-]+")
_PAGE = 4096


def ensure_redis_image(client: docker.DockerClient) -> str:
    """Make sure the engine has the Redis image, and give its name.

    Raises:
        PreflightError: There is neither a Redis on this machine nor a registry within reach.
        TargetUnavailableError: The engine refused.
    """
    from docker.errors import DockerException, ImageNotFound

    try:
        try:
            client.images.get(REDIS_IMAGE)
        except ImageNotFound:
            program = os.environ.get(REDIS_VARIABLE) or shutil.which("redis-server")
            archive = redis_archive(program) if program else None
            if archive is None:
                _pull(client)
            else:
                _import(client, archive)
    except DockerException as exc:
        raise TargetUnavailableError(
            f"The Docker engine could not make {REDIS_IMAGE}: {type(exc).__name__}."
        ) from exc
    return REDIS_IMAGE


def redis_archive(program: str) -> bytes | None:
    """Lay out the image's file system as a tar; None where this system does not tell what belongs to it.

    Args:
        program: redis-server, or a script that starts it.
    """
    with _started(program) as process:
        if process is None:
            return None
        try:
            executable = Path(f"/proc/{process}/exe").readlink()
            mapped = Path(f"/proc/{process}/maps").read_text(encoding="utf-8").split()
        except OSError:
            return None
    with executable.open("rb") as file:
        loader = _LOADER.search(file.read(_PAGE))
    libraries = {Path(word) for word in mapped if word.startswith("/") and ".so" in word}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        _add(archive, "bin/redis-server", executable)
        _add_folder(archive, "data")
        _add_folder(archive, "tmp")
        for library in sorted(libraries):
            if loader and library.name == Path(os.fsdecode(loader[0])).resolve().name:
                _add(archive, os.fsdecode(loader[0]).lstrip("/"), library)
            else:
                _add(archive, f"lib/{library.name}", library)
                for name in sorted(_names(library)):
                    _add_link(archive, f"lib/{name}", library.name)
    return buffer.getvalue()


@contextmanager
def _started(program: str) -> Iterator[int | None]:
    """Runs Redis for a moment, without a port; gives its process id, None where there is no /proc."""
    if not Path("/proc/self/maps").exists():
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="reconciler-redis-") as folder:
        socket = Path(folder, "s")
        process = subprocess.Popen(
            [program, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", folder],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not socket.exists() and process.poll() is None:
                if time.monotonic() > deadline:
                    break
                time.sleep(_POLL_SECONDS)
            yield process.pid if socket.exists() else None
        finally:
            process.kill()
            process.wait()


def _names(library: Path) -> set[str]:
    """The other names a library goes by in its folder; programs ask for one that is often a link."""
    pattern = f"{library.name.split('.so')[0]}.so*"
    return {
        entry.name for entry in library.parent.glob(pattern) if entry.resolve() == library.resolve()
    } - {library.name}


def _add(archive: tarfile.TarFile, name: str, source: Path) -> None:
    entry = tarfile.TarInfo(name)
    content = source.read_bytes()
    entry.mode, entry.size = 0o755, len(content)
    archive.addfile(entry, io.BytesIO(content))


def _add_link(archive: tarfile.TarFile, name: str, link: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.linkname = tarfile.SYMTYPE, 0o777, link
    archive.addfile(entry)


def _add_folder(archive: tarfile.TarFile, name: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
    archive.addfile(entry)


def _import(client: docker.DockerClient, archive: bytes) -> None:
    repository, tag = REDIS_IMAGE.split(":")
    client.api.import_image_from_data(
        archive,
        repository=repository,
        tag=tag,
        changes=['CMD ["redis-server"]', "ENV PATH=/bin LD_LIBRARY_PATH=/lib", "WORKDIR /data"],
    )


def _pull(client: docker.DockerClient) -> None:
    from docker.errors import APIError

    try:
        image = client.images.pull(_PUBLIC_IMAGE)
    except APIError as exc:
        raise PreflightError(
            f"There is no Redis image: no redis-server on this machine, and {_PUBLIC_IMAGE} could"
            " not be pulled.",
            hint=_HINT,
        ) from exc
    image.tag(REDIS_IMAGE)
