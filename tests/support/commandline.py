"""The command line as a user calls it, on a production that is one real Git repository.

`run` calls it inside this process (quick), `start` and `call` in a process of its own (signals, pipes, SIGKILL).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from reconciler.cli.app import run as run_command
from tests.support.repositories import Scratch
from tests.support.waiting import wait_for

_ROOT = Path(__file__).resolve().parents[2]
_SPEC = """\
# What {name} shall be.
apiVersion: reconciler/v1
kind: Environment
metadata: {{name: {name}}}
spec:
  git: {{commit: "{commit}"}}
{more}"""


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
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Started:
    """A command that runs, in a process of its own, with its output in files."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The JSON lines it has written so far, of one kind."""
        whole = self.out.read_text().rpartition("\n")[0]
        found = [json.loads(line) for line in whole.splitlines()]
        return [event for event in found if kind in {None, event["event"]}]

    def wait_for_event(self, kind: str, *, count: int = 1) -> dict[str, Any]:
        def seen() -> list[dict[str, Any]] | None:
            if self.process.poll() is not None and len(self.events(kind)) < count:
                raise AssertionError(f"ended without {kind}: {self.ended()}")
            found = self.events(kind)
            return found if len(found) >= count else None

        return wait_for(
            seen, seconds=60, what=f"{kind} in {self.out.read_text()} {self.err.read_text()}"
        )[-1]

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, number: int = signal.SIGTERM) -> Ended:
        self.send(number)
        return self.ended()

    def ended(self) -> Ended:
        code = self.process.wait(60)
        return Ended(code, self.out.read_text(), self.err.read_text())


@dataclass
class Repo:
    """A repository that is production, its specs, and what was started on it."""

    root: Path
    commits: list[str]
    _started: list[Started] = field(default_factory=list)

    @classmethod
    def create(cls, root: Path) -> Self:
        scratch = Scratch.create(root)
        commits = [
            scratch.commit(f"release {number}", {"release.txt": f"{number}\n"})
            for number in (1, 2, 3)
        ]
        (root / "specs").mkdir()
        return cls(root, commits)

    @property
    def git(self) -> Scratch:
        return Scratch(self.root)

    def head(self) -> str:
        return self.git.head()

    def spec(self, commit: str, *, name: str = "prod", more: str = "") -> Path:
        """Writes the spec of an environment."""
        path = self.root / "specs" / f"{name}.yaml"
        path.write_text(_SPEC.format(name=name, commit=commit, more=more), encoding="utf-8")
        return path

    def applied(self, commit: str, **more: Any) -> None:
        """Brings production to a commit by a spec."""
        path = self.spec(commit, **more)
        ended = self.run("apply", str(path), "--yes")
        assert ended.code == 0, ended
        assert self.head() == commit

    def run(self, *arguments: str, stdin: str = "") -> Ended:
        """Runs a command in this process."""
        out, err = io.StringIO(), io.StringIO()
        before = sys.stdin
        sys.stdin = io.StringIO(stdin)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = run_command(arguments)
        finally:
            sys.stdin = before
        return Ended(int(code), out.getvalue(), err.getvalue())

    def start(
        self, *arguments: str, code: str | None = None, env: Mapping[str, str] | None = None
    ) -> Started:
        """Starts a command in a process of its own.

        Args:
            arguments: The command line.
            code: Python that runs before it (to put something at a crash point).
            env: More environment variables.
        """
        number = len(self._started)
        out, err = self.root.parent / f"{number}.out", self.root.parent / f"{number}.err"
        program = f"{code or ''}\nfrom reconciler.__main__ import main\nmain()"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-c", program, *arguments],
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env={**os.environ, "PYTHONPATH": str(_ROOT), **(env or {})},
            )
        started = Started(process, out, err)
        self._started.append(started)
        return started

    def call(self, *arguments: str, **more: Any) -> Ended:
        """Runs a command in a process of its own."""
        return self.start(*arguments, **more).ended()

    def stop_all(self) -> None:
        """Ends whatever still runs."""
        for started in self._started:
            if started.process.poll() is None:
                started.process.kill()
                started.process.wait()

    def states(self) -> dict[str, tuple[str, int]]:
        """Digest and time of last change of every file in the states folder.

        Without what SQLite makes for a reader, too: `-shm`, memory in which it holds its locks, and an empty `-wal`.
        """
        return {
            str(path.relative_to(self.root)): (
                hashlib.sha256(path.read_bytes()).hexdigest(),
                path.stat().st_mtime_ns,
            )
            for path in _files(self.root / "states")
            if not path.name.endswith("-shm")
            and not (path.name.endswith("-wal") and not path.stat().st_size)
        }


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
