"""The base image: small, the same each time, and able to run the practice services."""

from __future__ import annotations

import contextlib
import io
import shutil
import tarfile
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reconciler.core.errors import PreflightError
from reconciler.sandbox import base_image
from reconciler.sandbox.postgres import free_port
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from tests.support.engine import Engine

# A static and a dynamic program, as far as their first page tells.
STATIC = b"\x7fELF\x02\x01\x01" + b"\x00" * 200
DYNAMIC = STATIC + b"/lib64/ld-linux-x86-64.so.2\x00"


def test_tells_a_static_program_from_a_dynamic_one(tmp_path: Path) -> None:
    for name, content, expected in (
        ("static", STATIC, True),
        ("dynamic", DYNAMIC, False),
        ("script", b"#!/bin/sh\n", False),
    ):
        program = tmp_path / name
        program.write_bytes(content)
        assert base_image.is_static(program) is expected
    assert not base_image.is_static(tmp_path / "absent")
    shell = shutil.which("bash")
    assert shell is not None
    assert not base_image.is_static(Path(shell))


def test_a_named_busybox_comes_before_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busybox = tmp_path / "busybox"
    busybox.write_bytes(STATIC)
    monkeypatch.setenv(base_image.BUSYBOX_VARIABLE, str(busybox))
    assert base_image.find_busybox() == busybox
    busybox.write_bytes(DYNAMIC)
    assert base_image.find_busybox() is None


def test_the_archive_depends_on_its_input_alone(tmp_path: Path) -> None:
    busybox = tmp_path / "busybox"
    busybox.write_bytes(STATIC)
    first = base_image.base_archive(busybox, ["sh", "httpd", "busybox", "sh"])
    assert first == base_image.base_archive(busybox, ["httpd", "sh"])
    with tarfile.open(fileobj=io.BytesIO(first)) as archive:
        assert archive.getmember("bin/sh").linkname == "busybox"
        assert archive.getmember("bin/busybox").isreg()
        assert archive.getmember("tmp").mode == 0o1777


@pytest.mark.engine
def test_runs_a_web_server_with_cgi(engine: Engine) -> None:
    script = "printf 'Content-Type: text/plain\\r\\n\\r\\nversion %s' \"$VERSION\""
    command = (
        "mkdir -p /www/cgi-bin && printf '%s\\n' '#!/bin/sh' \"$SCRIPT\" > /www/cgi-bin/health"
        " && chmod 755 /www/cgi-bin/health && exec httpd -f -p 3000 -h /www"
    )
    port = free_port()
    container = engine.client.containers.run(
        engine.base_image,
        ["sh", "-c", command],
        environment={"SCRIPT": script, "VERSION": "2"},
        ports={"3000/tcp": ("127.0.0.1", port)},
        init=True,
        detach=True,
    )
    try:
        url = f"http://127.0.0.1:{port}/cgi-bin/health"

        def answer() -> bytes | None:
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as got:
                return bytes(got.read())
            return None

        assert wait_for(answer) == b"version 2"
    finally:
        container.remove(force=True)


@pytest.mark.engine
def test_an_image_that_is_there_is_not_made_again(engine: Engine) -> None:
    before = engine.client.images.get(base_image.BASE_IMAGE).id
    assert base_image.ensure_base_image(engine.client) == base_image.BASE_IMAGE
    assert engine.client.images.get(base_image.BASE_IMAGE).id == before


@pytest.mark.engine
def test_says_what_to_do_without_busybox_and_registry(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_image, "BASE_IMAGE", "reconciler-test-absent:1")
    monkeypatch.setattr(base_image, "_PUBLIC_IMAGE", "127.0.0.1:1/busybox:1")
    monkeypatch.setenv(base_image.BUSYBOX_VARIABLE, "/nonexistent")
    with pytest.raises(PreflightError) as caught:
        base_image.ensure_base_image(engine.client)
    assert base_image.BUSYBOX_VARIABLE in caught.value.hint
