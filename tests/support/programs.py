"""Finds the programs that tests run beside the reconciler: Redis, the Vercel CLI."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.sandbox.postgres import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PARTS = ROOT / ".engine" / "parts" / "bin"
VERCEL = ROOT / "tools" / "vercel-cli" / "node_modules" / "vercel" / "dist" / "index.js"

START_SECONDS = 20.0


class MissingPartError(AssertionError):
    """A program that a test needs is not on this machine; that is a failure, never a skip."""


def program(name: str) -> str:
    """Find a program on PATH or among the parts that `tools/parts.py` fetched.

    Raises:
        MissingPartError: It is in neither place.
    """
    found = shutil.which(name) or shutil.which(name, path=str(PARTS))
    if found is None:
        raise MissingPartError(f"{name} is not on this machine; run: tools/parts.py {name}")
    return found


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Run a Redis of its own that keeps nothing; gives its URL."""
    port = free_port()
    log = folder / "redis.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", ""],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
        )
    try:
        wait_for_port(port, process, log)
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=10)


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a process accepts connections on a port of loopback.

    Raises:
        AssertionError: It ended, or took too long; quotes its log.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.01)
        else:
            return
    raise AssertionError(f"nothing listens on {port}: {log.read_text(errors='replace')[-2000:]}")


@dataclass(frozen=True)
class VercelCli:
    """The real Vercel CLI, cut off from the user's own settings.

    Attributes:
        argv: How it is started; arguments are appended.
        env: The whole environment to start it with; `VERCEL_TOKEN` is to be added.
        home: Its scratch home folder.
    """

    argv: tuple[str, ...]
    env: dict[str, str] = field(repr=False)
    home: Path

    def run(
        self, *arguments: str, api: str, token: str, cwd: Path | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run one command against a base URL; the caller looks at the exit code and the output."""
        return subprocess.run(
            [*self.argv, "--api", api, *arguments],
            env={**self.env, "VERCEL_TOKEN": token},
            cwd=cwd or self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


def vercel_cli(home: Path) -> VercelCli:
    """Prepare the pinned CLI with a scratch home.

    The environment is built from nothing: variables such as CI hints or those that make the CLI
    believe an assistant drives it change which team it asks for.

    Raises:
        MissingPartError: Node or the CLI is missing.
    """
    if not VERCEL.exists():
        raise MissingPartError("the pinned Vercel CLI is not installed; run: make node")
    return VercelCli(
        argv=(program("node"), str(VERCEL)),
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "XDG_DATA_HOME": str(home / "data"),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_CACHE_HOME": str(home / "cache"),
            "VERCEL_TELEMETRY_DISABLED": "1",
            "NO_UPDATE_NOTIFIER": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "NO_COLOR": "1",
        },
        home=home,
    )
