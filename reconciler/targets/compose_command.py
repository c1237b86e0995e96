"""Running the `docker compose` command: arguments as lists, bounded in time, its complaints turned into sentences.

Compose's error messages may quote what it could not read, a line of an env file for example. What leaves this room has
lost everything that could be such a quotation. Called by `compose`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from reconciler.core.errors import (
    PreflightError,
    ReconcilerError,
    StepFailedError,
    TargetUnavailableError,
    TransientError,
)
from reconciler.targets.compose_answers import Answers, key_of
from reconciler.targets.docker_host import DockerHost, short

#: Where the docker command looks for plugins, after its own configuration folder.
_PLUGIN_FOLDERS = (
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)
#: Variables that would make Compose mean another project, other files, or ask questions.
_FOREIGN = (
    "COMPOSE_FILE",
    "COMPOSE_PROJECT_NAME",
    "COMPOSE_REMOVE_ORPHANS",
    "COMPOSE_DRY_RUN",
    "COMPOSE_STATUS_STDOUT",
)
_KEPT_LINES = 60
#: In small letters: programs disagree about them.
_UNREACHABLE = (
    "cannot connect to the docker daemon",
    "error during connect",
    "connection refused",
    "failed to connect to the docker api",
    "daemon is shutting down",
)
#: Two of our own processes at once (an orphan of a killed one): trying again settles it.
_RACES = (
    "is already in use by container",
    "is already in progress",
    "No such container",
    "is marked for removal",
)
_ENV_FILE = re.compile(
    r"(?:failed to read (?P<file>[^:\n]+): )?line (?P<line>\d+): "
    r"(?:unexpected character|unterminated|key cannot|.*variable name)"
)
_QUOTED = re.compile(r'"[^"]*(?:"|$)', re.DOTALL)
_NOISE = re.compile(r'^(time="[^"]*" level=warning.*| *(Container|Network|Volume|Image) .*)$')


@cache
def program(config_folder: str | None, home: str | None) -> tuple[str, ...]:
    """The command to run Compose by.

    The plugin is started directly where it is found: the `docker` command in front of it costs 40 ms each time, also
    while services are down.
    """
    own = Path(config_folder) if config_folder else Path(home or "~").expanduser() / ".docker"
    for folder in (own / "cli-plugins", *map(Path, _PLUGIN_FOLDERS)):
        plugin = folder / "docker-compose"
        if plugin.is_file() and os.access(plugin, os.X_OK):
            return (str(plugin),)
    return ("docker", "compose")


class ComposeCommand:
    """Starts Compose for one project.

    Args:
        host: The engine.
        root: The folder it is started in, the project's own.
        redact: Takes known secrets out of a text before it is shown.
        answers: Where answers that never change are remembered; None when nowhere.
    """

    def __init__(
        self,
        host: DockerHost,
        root: Path,
        redact: Callable[[str], str],
        answers: Answers | None = None,
    ) -> None:
        self._host = host
        self._root = root
        self._redact = redact
        self._answers = answers

    def environment(self) -> dict[str, str]:
        """What Compose is given: the caller's variables, because compose files may interpolate any of them."""
        env = {k: v for k, v in self._host.environment().items() if k not in _FOREIGN}
        # A compose file may interpolate $PWD: it is the project's folder for whoever types `docker compose up` there.
        return env | {"PWD": str(self._root), "COMPOSE_ANSI": "never", "COMPOSE_MENU": "false"}

    def ask(
        self,
        arguments: Sequence[str],
        *,
        stdin: str | None = None,
        timeout: float,
        prefix: str = "",
    ) -> str:
        """Runs a command that only reads; gives its standard output.

        Args:
            arguments: What follows `docker compose`.
            stdin: What it reads.
            timeout: Seconds it may take.
            prefix: What stands before the project's real paths, and not in messages about them.

        Raises:
            PreflightError: Compose refused (a file it cannot read, a field it does not know).
            TransientError: The engine or the command does not answer.
        """
        try:
            done = subprocess.run(
                self._command(arguments),
                env=self.environment(),
                cwd=self._root,
                input=stdin if stdin is not None else "",
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="replace",
                timeout=timeout,
                check=False,
                start_new_session=True,
            )
        except FileNotFoundError as exc:
            raise _missing() from exc
        except subprocess.TimeoutExpired as exc:
            raise TransientError(f"Compose did not answer within {timeout:g} s.") from exc
        if done.returncode != 0:
            said = done.stderr.replace(prefix, "") if prefix else done.stderr
            said = said.replace(f"{self._root}/", "")
            raise self.failure(said.splitlines(), "Compose refused the project")
        return done.stdout

    def ask_once(self, arguments: Sequence[str], *, stdin: str = "", timeout: float) -> str:
        """Like `ask`, where the answer depends on the arguments, the input and the program alone: asked once ever.

        Raises:
            PreflightError: Compose refused.
            TransientError: The engine or the command does not answer.
        """
        key = key_of(self._program(), arguments, stdin) if self._answers else None
        if self._answers is None or key is None:
            return self.ask(arguments, stdin=stdin, timeout=timeout)
        answer = self._answers.get(key)
        if answer is None:
            answer = self.ask(arguments, stdin=stdin, timeout=timeout)
            self._answers.keep(key, answer)
        return answer

    def follow(
        self,
        arguments: Sequence[str],
        on_line: Callable[[str], None],
        *,
        stdin: str | None = None,
        timeout: float,
    ) -> tuple[int, list[str]]:
        """Runs a command that changes something, line by line.

        Returns:
            Its exit status (negative when it was killed, also by the deadline) and its last lines.
        """
        try:
            process = subprocess.Popen(
                self._command(arguments),
                env=self.environment(),
                cwd=self._root,
                stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # Ctrl-C is ours to handle: an effect is not cut in half by it
            )
        except FileNotFoundError as exc:
            raise _missing() from exc
        last: deque[str] = deque(maxlen=_KEPT_LINES)
        timer = threading.Timer(timeout, process.kill)
        timer.start()
        try:
            if process.stdin is not None:
                process.stdin.write(stdin or "")
                process.stdin.close()
            for line in process.stdout or ():
                if text := line.rstrip():
                    last.append(text)
                    on_line(text)
            return process.wait(), list(last)
        except BaseException:
            process.send_signal(signal.SIGTERM)
            raise
        finally:
            timer.cancel()
            if process.stdout is not None:
                process.stdout.close()

    def failure(self, lines: Sequence[str], what: str, hint: str = "") -> ReconcilerError:
        """The error for what Compose complained about while only reading."""
        text = _text(lines)
        return _unreachable(text, self._host) or PreflightError(
            # What it quotes comes from files, and may be a secret.
            f"{what}: {self._sentence(_QUOTED.sub('(...)', text))}",
            hint=hint,
        )

    def step_failure(self, lines: Sequence[str], what: str, hint: str = "") -> ReconcilerError:
        """The error for what Compose complained about while changing something."""
        text = _text(lines)
        return _unreachable(text, self._host) or StepFailedError(
            f"{what}: {self._sentence(text)}", hint=hint
        )

    def tail(self, lines: Sequence[str], count: int = 8) -> str:
        """The last lines of an output, for a message of several lines."""
        return self._redact("\n".join(["", *(line[:200] for line in lines[-count:])]))

    def _sentence(self, text: str) -> str:
        if match := _ENV_FILE.search(text):
            return f"{match['file'] or 'an env file'} cannot be read (line {match['line']})."
        lines = text.splitlines()
        complaint = lines[-1] if lines else "it gave no reason"
        for prefix in ("Error: ", "Error response from daemon: "):
            complaint = complaint.removeprefix(prefix)
        return short(self._redact(complaint))

    def _command(self, arguments: Sequence[str]) -> list[str]:
        return [*self._program(), *arguments]

    def _program(self) -> tuple[str, ...]:
        env = self._host.environment()
        return program(env.get("DOCKER_CONFIG"), env.get("HOME"))


def is_race(lines: Sequence[str]) -> bool:
    """Whether a failure looks like another Compose at work on the same containers."""
    return any(sign in line for line in lines for sign in _RACES)


def _text(lines: Sequence[str]) -> str:
    return "\n".join(line for line in lines if line.strip() and not _NOISE.match(line))


def _unreachable(text: str, host: DockerHost) -> TargetUnavailableError | None:
    told = text.lower()
    # A connection that was cut in the middle is told in many words, some of which a build's own command may use.
    if not any(sign in told for sign in _UNREACHABLE) and host.answers():
        return None
    return TargetUnavailableError(
        f"The Docker engine ({host.where}) cannot be reached by Compose.",
        hint="Check that the engine runs.",
    )


def _missing() -> PreflightError:
    return PreflightError(
        "The docker command was not found.", hint="Install the Docker CLI with Compose v2."
    )
