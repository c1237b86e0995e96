"""Runs one command and says what it used, from a process that is small itself.

    python -S -E bench/launch.py REPORT COMMAND...

The kernel counts the memory of whoever starts a process into the started one's peak; the measuring
process is large, so it does not start commands itself. REPORT gets one line of JSON. Needs the
standard library only.
"""

from __future__ import annotations

import json
import os
import sys
import time


def main() -> int:
    """Runs the command; ends with its code."""
    report, command = sys.argv[1], sys.argv[2:]
    begun = time.monotonic()
    process = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(process, 0)
    seconds = time.monotonic() - begun
    found = {
        "seconds": seconds,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss * 1024,
    }
    with open(report, "w", encoding="ascii") as file:  # noqa: PTH123 - pathlib is slow to load
        json.dump(found, file)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
