"""A PostgreSQL server for a test run, and the removal of what an interrupted run left behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from reconciler.sandbox.postgres import PostgresServer

_PREFIX = "reconciler-test-pg-"


def start_server() -> PostgresServer:
    """Start a fast, undurable server in a folder of its own that names this process as owner."""
    remove_orphans()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    folder.chmod(0o711)  # the server's account passes through; its files are its own
    folder.joinpath("owner").write_text(str(os.getpid()), encoding="ascii")
    server = PostgresServer(folder, durable=False)
    server.start()
    return server


def remove_orphans() -> None:
    """Stop servers whose test run is gone; a killed run cannot do it itself."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            owner = int(folder.joinpath("owner").read_text(encoding="ascii"))
            os.kill(owner, 0)
        except ProcessLookupError:
            PostgresServer(folder).destroy()
            shutil.rmtree(folder, ignore_errors=True)
        except (OSError, ValueError):
            continue  # just being made, or somebody else's
