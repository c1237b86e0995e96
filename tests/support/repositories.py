"""Real Git repositories for tests, what is in a working tree, and a stand-in for the runner."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from reconciler.core.crashpoints import CrashPoint
from reconciler.core.pins import Artifact

_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
    "LC_ALL": "C",
}


class Scratch:
    """A repository of a test's own, driven by the plain git program."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def create(cls, root: Path, *options: str) -> Scratch:
        root.mkdir(parents=True)
        scratch = cls(root)
        scratch.git("init", "-q", "-b", "main", *options)
        return scratch

    def git(self, *arguments: str, stdin: bytes | None = None, check: bool = True) -> str:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.root,
            env=environment | _ENVIRONMENT,
            input=stdin,
            capture_output=True,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"git {arguments}: {done.stderr.decode()}")
        return os.fsdecode(done.stdout).strip("\n")

    def write(self, path: str, content: str | bytes, *, executable: bool = False) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_symlink():
            file.unlink()
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        file.chmod(0o755 if executable else 0o644)

    def link(self, path: str, target: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.symlink_to(target)

    def commit(self, message: str, files: Mapping[str, str | bytes] | None = None) -> str:
        """Writes files, adds everything, commits; the full id."""
        for path, content in (files or {}).items():
            self.write(path, content)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def head(self) -> str:
        return self.git("rev-parse", "HEAD")

    def branch(self) -> str | None:
        return self.git("symbolic-ref", "-q", "HEAD", check=False) or None

    def porcelain(self) -> list[str]:
        return [line for line in self.git("status", "--porcelain").splitlines() if line]

    def long_history(self, commits: int) -> None:
        """Gives `main` many commits in a second, by fast-import."""
        lines = []
        for number in range(commits):
            body = f"v{number}\n"
            lines.append(
                f"commit refs/heads/main\ncommitter Ada <a@b> {1700000000 + number} +0000\n"
                f"data {len(f'c{number}')}\nc{number}\n"
                f"M 100644 inline file{number % 50}.txt\ndata {len(body)}\n{body}"
            )
        self.git("fast-import", "--quiet", stdin="\n".join(lines).encode())
        self.git("reset", "-q", "--hard", "main")


def contents(root: Path) -> dict[str, tuple[str, bytes]]:
    """Everything in a working tree that is no folder: kind and content by path."""
    found: dict[str, tuple[str, bytes]] = {}
    for folder, folders, files in os.walk(root):
        if ".git" in folders:
            folders.remove(".git")
        for name in [*files, *(one for one in folders if (Path(folder) / one).is_symlink())]:
            path = Path(folder) / name
            key = str(path.relative_to(root))
            info = path.lstat()
            if stat.S_ISLNK(info.st_mode):
                found[key] = ("link", os.fsencode(path.readlink()))
            elif stat.S_ISREG(info.st_mode):
                kind = "executable" if info.st_mode & stat.S_IXUSR else "file"
                found[key] = (kind, path.read_bytes())
            else:
                found[key] = ("special", b"")
    found.pop(".git", None)
    return found


class Lent:
    """What the runner would lend a target; remembers which crash points were announced."""

    def __init__(
        self,
        folder: Path,
        *,
        run: str = "run-1",
        attempted: datetime | None = None,
        on: Callable[[CrashPoint], None] | None = None,
        guard: Callable[[], None] | None = None,
    ) -> None:
        self.run = run
        self.captures = folder
        self.states = folder
        self.attempted = attempted
        self.artifacts: Sequence[Artifact] = ()
        self.points: list[CrashPoint] = []
        self.told: list[str] = []
        self._on = on
        self._guard = guard

    def at(self, point: CrashPoint) -> None:
        self.points.append(point)
        if self._on:
            self._on(point)

    def guard(self) -> None:
        if self._guard:
            self._guard()

    def progress(self, message: str) -> None:
        self.told.append(message)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
