"""Telling whether the process that took a lease still lives, on this machine."""

from __future__ import annotations

import socket
from pathlib import Path


def identity(pid: int) -> str:
    """`host/boot/pid/start time`: names one process, even after its id has been given to another."""
    return f"{socket.gethostname()}/{_boot()}/{pid}/{_started(pid)}"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "-"


def _started(pid: int) -> str:
    """The start time of a process in clock ticks (field 22 of proc_pid_stat(5)); `-` when there is no such process.

    A zombie has the start time of the process it was, but will never act again.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "-"
    return "-" if fields[0] in ("Z", "X") else fields[19]


def alive(process: str | None) -> bool:
    """Whether a recorded process may still run. On another machine or boot that cannot be told, so it may."""
    host, boot, pid, started = (process or "///").split("/")
    if (host, boot) != (socket.gethostname(), _boot()) or boot == "-" or not pid.isdigit():
        return True
    return _started(int(pid)) == started
