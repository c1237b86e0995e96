"""What the tools share: where things are, how programs are found and run, how the user is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Where everything is put. Tests have a second engine, elsewhere.
HOME = Path(os.environ.get("ENGINE_HOME") or ROOT / ".engine")


class ToolError(Exception):
    """What the user has to know, in one or two sentences."""


def which(program: str) -> str | None:
    """Find a program, also where only root's PATH leads."""
    return shutil.which(program, path=search_path())


def search_path() -> str:
    """Give PATH with the places added that an ordinary user's PATH leaves out."""
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def quiet(command: list[str], env: dict[str, str] | None = None) -> str | None:
    """Run a command; gives its output, or None when it failed."""
    done = subprocess.run(
        [which(command[0]) or command[0], *command[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        text=True,
        env=env,
        check=False,
    )
    return done.stdout if done.returncode == 0 else None


def say(message: str) -> None:
    """Tell the user, on stderr: stdout belongs to what was asked for."""
    sys.stderr.write(f"{Path(sys.argv[0]).stem}: {message}\n")
