"""A process that has loaded the program once and forks a child for each command, to be killed or to end.

Loading takes longer than most commands; a crash test runs hundreds. Each child is a process of its own, is really
killed (SIGKILL) at the crash point it was told, and shares nothing with the next one but the disk and the world.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from reconciler import probes
from reconciler.core.crashpoints import CrashPoint

_PRELOADED = (
    "reconciler.cli.app", "reconciler.cli.apply", "reconciler.cli.rollback", "reconciler.cli.decisions",
    "reconciler.engine", "reconciler.audit.statefile", "reconciler.assembly", "reconciler.targets.git",
    "reconciler.targets.docker", "reconciler.targets.docker_host", "reconciler.targets.database",
    "reconciler.targets.postgres", "reconciler.targets.vercel", "reconciler.checks.http", "reconciler.checks.sql",
    "docker", "httpx", "psycopg", "ruamel.yaml", "alembic.command",
)  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: Its exit code; negative the number of the signal that ended it.
        out: What it wrote to stdout.
        err: What it wrote to stderr.
    """

    code: int
    out: str
    err: str

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


class Zygote:
    """Runs commands in forked children of one loaded process."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
            cwd=Path(__file__).parents[2],
            text=True,
        )
        self._count = 0

    def run(
        self,
        *argv: str,
        cwd: Path,
        kill_at: tuple[CrashPoint, str] | None = None,
        do_at: tuple[CrashPoint, str, Sequence[str]] | None = None,
        record: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Ended:
        """Runs `reconciler ARGV` in a new process, killing it at a crash point if one is named.

        Args:
            argv: The command line.
            cwd: Its working folder.
            kill_at: The crash point and effect at which the process kills itself with SIGKILL.
            do_at: A crash point, an effect, and a command that is run to its end there.
            record: A file to which every crash point passed is written, one `point effect` a line.
            environment: More environment variables.
        """
        self._count += 1
        out, err = self._folder / f"{self._count}.out", self._folder / f"{self._count}.err"
        order = {
            "argv": argv,
            "cwd": str(cwd),
            "kill": kill_at and [kill_at[0].value, kill_at[1]],
            "do": do_at and [do_at[0].value, do_at[1], list(do_at[2])],
            "record": record and str(record),
            "out": str(out),
            "err": str(err),
            "environment": dict(environment or {}),
        }
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the zygote has died"
        return Ended(json.loads(answer)["code"], out.read_text(), err.read_text())

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


def _child(order: Mapping[str, Any]) -> NoReturn:
    os.setsid()
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(order["cwd"])
    os.environ.update(order["environment"])
    kill, record, do = order["kill"], order["record"], order["do"]

    def probe(point: CrashPoint, effect: str) -> None:
        if record:
            with Path(record).open("a") as file:
                file.write(f"{point.value} {effect}\n")
        if do and do[:2] == [point.value, effect]:
            subprocess.run(do[2], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            do.clear()
        if kill == [point.value, effect]:
            os.kill(os.getpid(), signal.SIGKILL)

    probes.installed = probe
    code = 1
    try:
        from reconciler.cli.app import run

        code = run(order["argv"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _serve() -> None:
    for name in _PRELOADED:
        importlib.import_module(name)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _child(order)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        sys.stdout.write(json.dumps({"code": code}) + "\n")
        sys.stdout.flush()


def read_points(record: Path) -> Sequence[tuple[CrashPoint, str]]:
    """The crash points a recorded command passed, in order."""
    lines = (line.partition(" ") for line in record.read_text().splitlines())
    return [(CrashPoint(point), effect) for point, _, effect in lines]


if __name__ == "__main__":
    _serve()
