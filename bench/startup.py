"""Where the time goes before a command does anything: `python -X importtime`, summed by package.

Called by `__main__`. `summed` is pure and has tests.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench.measure import BenchError

_LINE = "import time:"
_RUNS = 3


def profile(arguments: Sequence[str], *, cwd: Path) -> dict[str, float]:
    """Milliseconds of import by package, the quickest of a few runs for each.

    Raises:
        BenchError: The command failed.
    """
    best: dict[str, float] = {}
    for _ in range(_RUNS):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "reconciler", *arguments],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise BenchError(f"{' '.join(arguments)} ended with {done.returncode}.")
        for package, milliseconds in summed(done.stderr).items():
            best[package] = min(milliseconds, best.get(package, milliseconds))
    return best


def summed(text: str) -> dict[str, float]:
    """Milliseconds of a module's own code, by top-level package; Python's own modules are one row.

    Args:
        text: What `-X importtime` wrote to stderr.
    """
    total: Counter[str] = Counter()
    for line in text.splitlines():
        if not line.startswith(_LINE) or line.count("|") != 2:
            continue
        own, _, module = line.removeprefix(_LINE).split("|")
        if own.strip().isdigit():
            package = module.strip().partition(".")[0]
            known = package in sys.stdlib_module_names or package.startswith("_")
            total["(Python itself)" if known else package] += int(own)
    return {package: microseconds / 1000 for package, microseconds in total.most_common()}
