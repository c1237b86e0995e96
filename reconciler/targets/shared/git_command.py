"""One Git process at a time, in which no configuration can run code or change an answer.

`repository.py` asks its questions through this room, and the git target makes its changes through
it. The processes are started by GitPython's `Git` command class; its repository objects are not
used.

What is switched off, and how:

- hooks: `core.hooksPath` (files) and `hook.<name>.enabled` (hooks in the configuration, Git 2.54
  and later);
- `filter.<name>` programs (clean, smudge, process; git-lfs is one): emptied for every name the
  repository configures. They are code execution by configuration, so files that need one are
  refused by name where they would be written;
- file system monitors, pagers, prompts, replacement refs, user and system configuration, user
  attributes;
- every transport, also the lazy fetch of a partial clone: `GIT_ALLOW_PROTOCOL` outranks
  `protocol.<name>.allow`;
- `GIT_*` variables of the caller: a process started by a Git hook would work on the wrong
  repository.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.core.errors import StepFailedError, TerminalError, TransientError

if TYPE_CHECKING:
    from git.cmd import Git

#: Seconds after which a question, or a change of many files, is given up.
READ_TIMEOUT, WRITE_TIMEOUT = 60.0, 900.0
#: What GitPython says on standard error of a command it killed.
_TIMED_OUT = re.compile(r"^Timeout: the command .* did not complete in ", re.DOTALL)

#: What `env` answers when it cannot find the program it shall start.
_NOT_FOUND = 127

_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_PAGER": "cat",
    "GIT_AUTHOR_NAME": "reconciler",
    "GIT_AUTHOR_EMAIL": "reconciler@localhost",
    "GIT_COMMITTER_NAME": "reconciler",
    "GIT_COMMITTER_EMAIL": "reconciler@localhost",
    "LC_ALL": "C",
    "LANGUAGE": "C",
}
_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",
    "core.excludesFile=/dev/null",
    "core.splitIndex=false",
    "core.fsync=all",  # for what is written; a command may say NOT_DURABLE itself
    "protocol.allow=never",
    "log.showSignature=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "submodule.recurse=false",
)

#: Before a command that writes only what is thrown away: spares it a wait for the disk.
NOT_DURABLE = ("-c", "core.fsync=none")


@dataclass(frozen=True, slots=True)
class Answer:
    """What one Git process said.

    Attributes:
        status: Exit status; 0 is success.
        out: Its standard output, unchanged.
        err: Its standard error.
    """

    status: int
    out: bytes
    err: str

    @property
    def complaint(self) -> str:
        """The first line Git complained with, short enough to show."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        fatal = [line for line in lines if line.startswith(("fatal:", "error:"))]
        line = (fatal or lines or [f"exit status {self.status}"])[0]
        return line.removeprefix("fatal:").removeprefix("error:").strip().rstrip(".")[:300]


@cache
def _git_class() -> type[Git]:
    """GitPython's command class; its import takes 0.1 s, so it waits for the first question."""
    try:
        from git.cmd import Git
    except ImportError as exc:  # GitPython looks for the program while it is imported
        raise _no_git() from exc
    return Git


def execute(
    arguments: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    stdin: bytes | None = None,
    timeout: float = READ_TIMEOUT,
) -> Answer:
    """Runs git once, without a shell and without the caller's `GIT_*` variables.

    Args:
        arguments: What follows `git`.
        cwd: Where it is started.
        env: Variables it is given on top of the caller's.
        stdin: What it reads; nothing when None.
        timeout: Seconds after which it is killed.

    Raises:
        TransientError: It did not answer in time.
        TerminalError: There is no git program.
    """
    git = _git_class()
    strays = [f"-u{name}" for name in os.environ if name.startswith("GIT_") and name not in env]
    command = [*(["env", *strays] if strays else []), git.GIT_PYTHON_GIT_EXECUTABLE or "git"]
    command += arguments
    from git.exc import GitCommandNotFound

    try:
        with tempfile.TemporaryFile() as feed:  # the command class takes a real file only
            if stdin is not None:
                feed.write(stdin)
                feed.seek(0)
            status, out, err = git(cwd).execute(
                command,
                istream=feed if stdin is not None else None,
                with_extended_output=True,
                with_exceptions=False,
                stdout_as_string=False,
                strip_newline_in_stdout=False,
                kill_after_timeout=timeout,
                env=dict(env),
            )
    except GitCommandNotFound as exc:
        raise _no_git() from exc
    if status != 0 and _TIMED_OUT.match(err):
        raise TransientError(
            f"git {_verb(arguments)} in {cwd} did not answer within {timeout:g} seconds.",
            hint="Look whether the disk is slow or another git process is at work there.",
        )
    if status == _NOT_FOUND and strays:
        raise _no_git()
    return Answer(status=status, out=out, err=err)


def _verb(arguments: Sequence[str]) -> str:
    """The Git command among the arguments, after the options of git itself."""
    words = iter(arguments)
    for word in words:
        if word == "-c":
            next(words, None)
        elif not word.startswith("-"):
            return word
    return ""


def _no_git() -> TerminalError:
    return TerminalError("The git program was not found.", hint="Install git, or put it on PATH.")


class GitCommand:
    """Git processes for one repository.

    Args:
        root: The working tree.
        git_dir: Its own Git folder (of a linked work tree: the one under `worktrees`).
        common_dir: The Git folder all work trees of the repository share.
    """

    def __init__(self, root: Path, git_dir: Path, common_dir: Path) -> None:
        self.root = root
        self.git_dir = git_dir
        self.common_dir = common_dir
        self._silenced: tuple[object, dict[str, str]] | None = None

    def run(
        self,
        *arguments: str,
        index: Path | None = None,
        work_tree: Path | None = None,
        stdin: bytes | None = None,
        timeout: float = READ_TIMEOUT,
    ) -> Answer:
        """Runs one git command and gives back whatever it said.

        Args:
            arguments: Command and arguments; names after `--` are taken literally.
            index: A private index to use instead of the repository's.
            work_tree: Another folder to treat as the working tree (and to start in).
            stdin: What the command reads.
            timeout: Seconds after which it is killed.

        Raises:
            TransientError: It did not answer in time.
            TerminalError: There is no git program.
        """
        tree = work_tree or self.root
        env = (
            _ENVIRONMENT
            | self._silence()
            | {"GIT_INDEX_FILE": str(index or self.git_dir / "index")}
        )
        settings = [word for setting in self._settings() for word in ("-c", setting)]
        return execute(
            [
                "--no-pager",
                f"--git-dir={self.git_dir}",
                f"--work-tree={tree}",
                *settings,
                *arguments,
            ],
            cwd=tree,
            env=env,
            stdin=stdin,
            timeout=timeout,
        )

    def ask(
        self,
        what: str,
        *arguments: str,
        index: Path | None = None,
        work_tree: Path | None = None,
        stdin: bytes | None = None,
        timeout: float = READ_TIMEOUT,
    ) -> bytes:
        """Like `run`, for a command that must succeed.

        Args:
            what: What is being done, for the message (`read the status`).
            arguments: See `run`, as for the others.
            index: A private index.
            work_tree: Another folder to treat as the working tree.
            stdin: What the command reads.
            timeout: Seconds after which it is killed.

        Raises:
            StepFailedError: Git refused; the message holds its first line.
            TransientError: It did not answer in time.
        """
        answer = self.run(
            *arguments, index=index, work_tree=work_tree, stdin=stdin, timeout=timeout
        )
        if answer.status == 0:
            return answer.out
        if answer.status < 0:
            raise TransientError(
                f"git was killed by signal {-answer.status} while trying to {what}."
            )
        full = "No space left on device" in answer.err
        raise StepFailedError(
            f"Git could not {what} in {self.root}: {answer.complaint}.",
            hint="Free disk space, then resume." if full else "",
        )

    def _settings(self) -> tuple[str, ...]:
        return (*_SETTINGS, f"safe.directory={self.root}")

    def _silence(self) -> dict[str, str]:
        """Settings that empty every filter and hook the repository's configuration names.

        Asking Git for those names costs a process, so the files are looked at first: most name
        none. Files they include cannot be watched, so with an include Git is asked each time.
        """
        files = [self.common_dir / "config", self.git_dir / "config.worktree"]
        state = tuple(_identity(file) for file in files)
        if self._silenced and self._silenced[0] == state:
            return self._silenced[1]
        text = b"".join(file.read_bytes() for file in files if file.exists()).lower()
        names: set[str] = set()
        if any(section in text for section in (b"filter", b"hook", b"include")):
            names = self._configured_programs()
        silence = _as_environment(names)
        if b"include" not in text:
            self._silenced = (state, silence)
        return silence

    def _configured_programs(self) -> set[str]:
        answer = execute(
            [
                *("--no-pager", f"--git-dir={self.git_dir}", "config", "--null", "--name-only"),
                *("--get-regexp", r"^(filter|hook)\..+\."),
            ],
            cwd=self.root,
            env=_ENVIRONMENT,
        )
        if answer.status not in {0, 1}:
            raise TerminalError(
                f"The Git configuration of {self.root} cannot be read: {answer.complaint}."
            )
        keys = (os.fsdecode(key) for key in answer.out.split(b"\0") if key)
        return {key.rpartition(".")[0] for key in keys}


def _identity(file: Path) -> tuple[int, int, int] | None:
    try:
        stat = file.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _as_environment(names: set[str]) -> dict[str, str]:
    """The settings as variables: unlike `-c`, they can carry any character in a name."""
    settings: list[tuple[str, str]] = []
    for name in sorted(names):
        if name.startswith("hook."):
            settings.append((f"{name}.enabled", "false"))
        else:
            settings += [(f"{name}.{key}", "") for key in ("clean", "smudge", "process")]
            settings.append((f"{name}.required", "false"))
    env = {"GIT_CONFIG_COUNT": str(len(settings))} if settings else {}
    for number, (key, value) in enumerate(settings):
        env |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return env
