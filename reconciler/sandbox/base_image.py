"""The base image of the practice application: one static busybox, no registry needed.

It holds a shell, `httpd` with CGI, `wget`, `nc`, `tar` and the other small programs of busybox. That
is enough for services that answer, remember and fail like real ones. Called by the sandbox when it
builds its images, and by tests that need an image.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.core.errors import PreflightError, TargetUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import docker

BASE_IMAGE = "reconciler-sandbox-base:1"
"""The image's name, for `FROM` and for tests."""

BUSYBOX_VARIABLE = "RECONCILER_BUSYBOX"
"""Names the busybox to use, where PATH should not decide."""

_PUBLIC_IMAGE = "busybox:1.36"
_HINT = (
    f"Install a static busybox (Debian: apt-get install busybox-static), or set {BUSYBOX_VARIABLE}"
    f" to one, or tag an image that has a shell and httpd as {BASE_IMAGE}."
)
_FOLDERS = {"bin": 0o755, "etc": 0o755, "root": 0o700, "tmp": 0o1777, "usr": 0o755, "var": 0o755}
_LINKS = {"sbin": "bin", "usr/bin": "../bin", "usr/sbin": "../bin"}
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/tmp:/bin/sh\n",
    "etc/group": "root:x:0:\napp:x:1000:\n",
}


def ensure_base_image(client: docker.DockerClient) -> str:
    """Make sure the engine has the base image, and give its name.

    An image of that name is used as it is. Otherwise it is made from a busybox on this machine, or,
    where there is none, from the public busybox image.

    Raises:
        PreflightError: There is neither a busybox on this machine nor a registry within reach.
        TargetUnavailableError: The engine refused.
    """
    from docker.errors import DockerException, ImageNotFound

    try:
        try:
            client.images.get(BASE_IMAGE)
        except ImageNotFound:
            busybox = find_busybox()
            if busybox is None:
                _pull(client)
            else:
                _import(client, busybox)
    except DockerException as exc:
        raise TargetUnavailableError(
            f"The Docker engine could not make {BASE_IMAGE}: {type(exc).__name__}."
        ) from exc
    return BASE_IMAGE


def find_busybox() -> Path | None:
    """Find a static busybox on this machine; a dynamic one would not start in an empty image."""
    named = os.environ.get(BUSYBOX_VARIABLE)
    candidates = [named] if named else [shutil.which("busybox"), "/bin/busybox"]
    return next((Path(path) for path in candidates if path and is_static(Path(path))), None)


def is_static(program: Path) -> bool:
    """Tell whether a file is a Linux program that needs no loader.

    A program that does names the loader in its own first page, next to the ELF header.
    """
    try:
        with program.open("rb") as file:
            start = file.read(4096)
    except OSError:
        return False
    return start.startswith(b"\x7fELF") and b"/ld-" not in start


def base_archive(busybox: Path, applets: Iterable[str]) -> bytes:
    """Lay out the image's file system as a tar; the same input always gives the same bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, mode in _FOLDERS.items():
            _add(archive, name, tarfile.DIRTYPE, mode=mode)
        _add(archive, "bin/busybox", tarfile.REGTYPE, mode=0o755, content=busybox.read_bytes())
        for applet in sorted(set(applets) - {"busybox"}):
            _add(archive, f"bin/{applet}", tarfile.SYMTYPE, link="busybox")
        for name, link in _LINKS.items():
            _add(archive, name, tarfile.SYMTYPE, link=link)
        for name, text in _FILES.items():
            _add(archive, name, tarfile.REGTYPE, mode=0o644, content=text.encode())
    return buffer.getvalue()


def _add(
    archive: tarfile.TarFile,
    name: str,
    kind: bytes,
    *,
    mode: int = 0o777,
    content: bytes = b"",
    link: str = "",
) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(content), link
    archive.addfile(entry, io.BytesIO(content))


def _import(client: docker.DockerClient, busybox: Path) -> None:
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    repository, tag = BASE_IMAGE.split(":")
    client.api.import_image_from_data(
        base_archive(busybox, listed.stdout.split()),
        repository=repository,
        tag=tag,
        changes=['CMD ["sh"]', "ENV PATH=/bin"],
    )


def _pull(client: docker.DockerClient) -> None:
    from docker.errors import APIError

    try:
        image = client.images.pull(_PUBLIC_IMAGE)
    except APIError as exc:
        raise PreflightError(
            f"There is no base image: no static busybox on this machine, and {_PUBLIC_IMAGE}"
            " could not be pulled.",
            hint=_HINT,
        ) from exc
    image.tag(BASE_IMAGE)
