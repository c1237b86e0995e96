#!/usr/bin/env python3
"""Brings the programs that tests and the practice production need to a machine that lacks them.

    tools/parts.py [NAME...]        busybox, redis-server, docker-registry; all by default

A program on PATH is left alone. Otherwise its Debian package is unpacked into `.engine/parts/` and
a launcher put into `.engine/parts/bin/`, where the test fixtures look; nothing is installed.
"""

from __future__ import annotations

import fcntl
import shutil
import sys
from pathlib import Path

import debian
from common import HOME, ToolError, say

PARTS = HOME / "parts"
BIN = PARTS / "bin"

# Program -> the Debian package that holds it.
PACKAGES = {
    "busybox": "busybox-static",
    "redis-server": "redis-server",
    "docker-registry": "docker-registry",
}


def ensure(name: str) -> None:
    """Make sure the program can be found, on PATH or in `.engine/parts/bin/`.

    Raises:
        ToolError: It cannot be fetched on this machine.
    """
    # A busybox on PATH may need libraries that an empty image does not have.
    if (BIN / name).exists() or (name != "busybox" and shutil.which(name)):
        return
    say(f"fetching {name}")
    root = debian.fetch(PACKAGES[name], PARTS / name)
    program = next(
        path for path in (root / "bin" / name, root / "usr" / "bin" / name) if path.exists()
    )
    BIN.mkdir(parents=True, exist_ok=True)
    launcher = BIN / name
    if name == "busybox":
        launcher.symlink_to(Path("..") / program.relative_to(PARTS))  # copied into images as it is
        return
    new = launcher.with_suffix(".new")
    new.write_text(
        "#!/bin/sh\n"
        "# Starts a program unpacked from its Debian package, with the libraries beside it.\n"
        'root=$(dirname "$0")/../' + name + "\n"
        'LD_LIBRARY_PATH=$(echo "$root"/usr/lib/*-linux-gnu*):$root/usr/lib\n'
        "export LD_LIBRARY_PATH\n"
        f'exec "$root/{program.relative_to(root)}" "$@"\n',
        encoding="utf-8",
    )
    new.chmod(0o755)
    new.rename(launcher)


def main() -> int:
    """Fetch what is missing of the programs named."""
    PARTS.mkdir(parents=True, exist_ok=True)
    try:
        with (PARTS / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for name in sys.argv[1:] or PACKAGES:
                ensure(name)
    except ToolError as exc:
        say(str(exc))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
