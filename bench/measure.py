"""Measuring one command: its time, its processor time, its memory, and the outage it causes.

Called by everything here that measures. What is pure (`outage`, `Sample`, `median`) has tests.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.poller import INTERVAL

_POLLER, _LAUNCHER = (Path(__file__).with_name(name) for name in ("poller.py", "launch.py"))
_DEADLINE = 60.0
_LAST_LINES = 15


class BenchError(Exception):
    """Something that is measured did not do its work, so its figures would mean nothing."""


@dataclass(frozen=True)
class Sample:
    """One measured command.

    Attributes:
        seconds: From its start to its end.
        cpu: Seconds of processor, user and system, of itself and all it waited for. The engine's own
            work (dockerd, containerd) is not in it.
        peak: Largest resident set of any one of these processes, in bytes.
        outage: Seconds without an answer; None when nobody asked.
    """

    seconds: float
    cpu: float
    peak: int
    outage: float | None = None


def run(
    command: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    accept: Sequence[int] = (0,),
) -> Sample:
    """Runs a command to its end.

    Raises:
        BenchError: It failed; quotes its last lines.
    """
    with tempfile.TemporaryDirectory(prefix="reconciler-bench-") as folder:
        report = Path(folder) / "report"
        done = subprocess.run(
            [sys.executable, "-S", "-E", str(_LAUNCHER), str(report), *command],
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode not in accept:
            said = done.stdout.decode(errors="replace").splitlines()[-_LAST_LINES:]
            raise BenchError(
                "\n".join([f"{' '.join(command)} ended with {done.returncode}:", *said])
            )
        found = json.loads(report.read_text(encoding="ascii"))
    return Sample(float(found["seconds"]), float(found["cpu"]), int(found["peak"]))


def run_watched(
    command: Sequence[str],
    *,
    address: tuple[str, int, str],
    cwd: Path,
    environment: Mapping[str, str] | None = None,
) -> Sample:
    """Runs a command while a client asks an address all the time, until that answers again.

    Args:
        command: The command.
        address: Host, port and path that the client asks.
        cwd: Its working folder.
        environment: Further variables.

    Raises:
        BenchError: The command failed, or nothing answered before or after it.
    """
    with _polling(address) as answers:
        _wait_for_answer(answers, time.monotonic())
        begun = time.monotonic()
        sample = run(command, cwd=cwd, environment=environment)
        # A command may end before the application answers: that is outage too.
        _wait_for_answer(answers, time.monotonic())
        times = _read(answers)
    return replace(sample, outage=outage(times, begun))


def outage(answers: Sequence[float], begun: float) -> float:
    """The longest time without an answer, less the interval at which was asked.

    Args:
        answers: When answers came, in order.
        begun: When the measured command began; earlier gaps are not its doing.
    """
    gaps = [
        later - max(earlier, begun)
        for earlier, later in itertools.pairwise(answers)
        if later > begun
    ]
    return max(0.0, max(gaps, default=0.0) - INTERVAL)


def median(values: Sequence[float]) -> float:
    """The middle value; it is not moved by one repetition that met a busy machine."""
    return statistics.median(values)


def spread(values: Sequence[float]) -> float:
    """From the quickest to the slowest, as a part of the median: how far to trust it."""
    middle = median(values)
    return (max(values) - min(values)) / middle if middle else 0.0


@contextmanager
def _polling(address: tuple[str, int, str]) -> Iterator[Path]:
    host, port, path = address
    with tempfile.TemporaryDirectory(prefix="reconciler-bench-") as folder:
        answers = Path(folder) / "answers"
        process = subprocess.Popen(
            [sys.executable, "-S", "-E", str(_POLLER), host, str(port), path, str(answers)]
        )
        try:
            yield answers
        finally:
            process.terminate()
            process.wait()


def _read(answers: Path) -> list[float]:
    if not answers.exists():
        return []
    text = answers.read_text(encoding="ascii")
    return [float(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _wait_for_answer(answers: Path, since: float) -> None:
    deadline = time.monotonic() + _DEADLINE
    while not any(each > since for each in _read(answers)[-5:]):
        if time.monotonic() > deadline:
            raise BenchError(f"Nothing has answered for {_DEADLINE:g} s.")
        time.sleep(0.02)
