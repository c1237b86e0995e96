"""Telling whether the process that took a lease still lives, on this machine."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def identity(pid: int) -> str:
    """`host/boot.namespace/pid/start time`: names one process, even after its id has been given to another."""
    return f"{socket.gethostname()}/{_boot()}/{pid}/{_started(pid) or '-'}"


def _boot() -> str:
    """This boot of the kernel, and this process's view of process ids: two containers on one host do not share it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}.{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return "-"


def _started(pid: int) -> str | None:
    """The start time of a process in clock ticks (field 22 of proc_pid_stat(5)); None when it cannot be looked at.

    A zombie has the start time of the process it was, but will never act again: `-`.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "-" if fields[0] in ("Z", "X") else fields[19]


def _exists(pid: int) -> bool:
    """Whether there is such a process, even where /proc hides those of other users."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def alive(process: str | None) -> bool:
    """Whether a recorded process may still run. On another machine or boot that cannot be told, so it may."""
    host, boot, pid, started = ((process or "").split("/") + [""] * 4)[:4]
    if (host, boot) != (socket.gethostname(), _boot()) or boot == "-" or not pid.isdigit():
        return True
    now = _started(int(pid))
    return _exists(int(pid)) if now is None else now == started
