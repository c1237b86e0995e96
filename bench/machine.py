"""What the figures were measured on. Called by `__main__`."""

from __future__ import annotations

import datetime as dt
import os
import platform
import subprocess


def facts() -> str:
    """One line: date, cores, load, kernel, Python, engine, Compose."""
    today = dt.datetime.now(dt.UTC).date().isoformat()
    parts = [
        today,
        f"{os.cpu_count()} cores",
        f"load {os.getloadavg()[0]:.1f}",
        f"{platform.system()} {platform.release()}",
        f"Python {platform.python_version()}",
        f"engine {_said('docker', 'version', '--format', '{{.Server.Version}}')}",
        f"Compose {_said('docker', 'compose', 'version', '--short')}",
    ]
    return ", ".join(parts)


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
