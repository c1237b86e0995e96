"""The practice production's own servers: PostgreSQL, and the two APIs as processes of their own.

All of them outlive the command that started them, and any later command finds them again by their
files. Called by `production`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import reconciler
from reconciler.core.errors import StepFailedError, TargetUnavailableError
from reconciler.sandbox.practice_record import (
    DATABASE,
    PROJECT_REF,
    VERCEL_PROJECT,
    VERCEL_TEAM,
    Places,
    Record,
)
from reconciler.sandbox.serve import Tokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reconciler.sandbox.postgres import PostgresServer

ApiName = Literal["vercel", "supabase"]
_START_SECONDS = 20.0
_STOP_SECONDS = 5.0
_POLL_SECONDS = 0.01
_ANSWER_SECONDS = 10.0

# Processes that this one started and that outlive the object that did; their exit is collected here.
_children: dict[int, subprocess.Popen[bytes]] = {}


class ApiProcess:
    """One practice API, served by a process that outlives us.

    Args:
        api: Which one.
        folder: Its state, its tokens, its log.
        port: Where it listens, always.
        options: Its own options, as `reconciler.sandbox.serve` takes them.
        environment: Variables it needs besides.
    """

    def __init__(
        self,
        api: ApiName,
        folder: Path,
        port: int,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.api = api
        self.url = f"http://127.0.0.1:{port}"
        self.state = folder / f"{api}.json"
        self.log = folder / f"{api}.log"
        self._tokens = folder / f"{api}-tokens.json"
        self._ready = folder / f"{api}.port"
        self._pid_file = folder / f"{api}.pid"
        self._port = port
        self._options = tuple(options)
        self._environment = dict(environment or {})

    @property
    def tokens(self) -> Tokens:
        """What callers send; made when there are none yet."""
        return Tokens.load_or_create(self._tokens)

    @property
    def pid(self) -> int | None:
        """The process, or None when it does not run."""
        try:
            pid = int(self._pid_file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        return pid if os.fspath(self.state) in _command_line(pid) else None

    def start(self) -> None:
        """Starts it, unless it runs, and waits until it serves.

        Raises:
            TargetUnavailableError: It did not come up; says what its log says.
        """
        if self.pid is not None:
            return
        self.state.parent.mkdir(parents=True, exist_ok=True)
        self._ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", "reconciler.sandbox.serve", self.api]
        command += ["--state", str(self.state), "--tokens", str(self._tokens)]
        command += ["--port-file", str(self._ready), "--port", str(self._port), *self._options]
        package = Path(reconciler.__file__).parents[1]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={
                    "PATH": os.environ.get("PATH", os.defpath),
                    "PYTHONPATH": str(package),
                    **self._environment,
                },
                start_new_session=True,
            )
        _children[process.pid] = process
        self._pid_file.write_text(str(process.pid), encoding="ascii")
        deadline = time.monotonic() + _START_SECONDS
        while not self._ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise TargetUnavailableError(
                    f"The practice {self.api} API did not start: {self._last_words()}",
                    hint=f"See {self.log}",
                )
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """Ends it, whichever process started it; does nothing if it does not run."""
        for sign in (signal.SIGTERM, signal.SIGKILL):
            pid = self.pid
            if pid is None:
                return
            os.kill(pid, sign)
            deadline = time.monotonic() + _STOP_SECONDS
            while time.monotonic() < deadline and not _gone(pid, self.pid):
                time.sleep(_POLL_SECONDS)

    def call(self, method: str, path: str, body: object = None, *, control: bool = False) -> object:
        """Asks the API as any caller would; gives the JSON it answers, None for an empty answer.

        Args:
            method: HTTP method.
            path: Path with its query.
            body: Sent as JSON.
            control: Ask the control routes, with their token.

        Raises:
            StepFailedError: It refused; quotes its words.
            TargetUnavailableError: It does not answer.
        """
        import httpx

        token = self.tokens.control if control else self.tokens.token
        try:
            answer = httpx.request(
                method,
                f"{self.url}{path}",
                json=body,
                headers={"authorization": f"Bearer {token}"},
                timeout=_ANSWER_SECONDS,
                trust_env=False,
            )
        except httpx.HTTPError as exc:
            raise TargetUnavailableError(
                f"The practice {self.api} API does not answer at {self.url}.",
                hint="`reconciler sandbox up` starts it again.",
            ) from exc
        if answer.is_error:
            raise StepFailedError(
                f"The practice {self.api} API refused ({answer.status_code}): {answer.text[:300]}"
            )
        return json.loads(answer.content) if answer.content else None

    def _last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return (lines or ["its log is empty"])[-1]


def postgres_of(places: Places) -> PostgresServer:
    """The practice PostgreSQL. Power loss may take it; that is what makes it quick."""
    from reconciler.sandbox.postgres import PostgresServer

    return PostgresServer(places.postgres, durable=False)


def vercel_of(places: Places, record: Record) -> ApiProcess:
    """The practice Vercel."""
    pace = record.pace
    options = ["--project", VERCEL_PROJECT, "--team", VERCEL_TEAM]
    options += ["--build-ms", str(pace.build_ms), "--alias-delay-ms", str(pace.alias_delay_ms)]
    options += ["--alias-step-ms", str(pace.alias_step_ms)]
    return ApiProcess("vercel", places.own, record.ports.vercel, options)


def supabase_of(places: Places, record: Record) -> ApiProcess:
    """The practice Supabase; its database is the practice PostgreSQL."""
    options = ["--ref", PROJECT_REF, "--project", VERCEL_PROJECT]
    server = postgres_of(places)
    environment = {"DATABASE_URL": server.dsn(DATABASE)} if server.exists else {}
    return ApiProcess("supabase", places.own, record.ports.supabase, options, environment)


def _command_line(pid: int) -> str:
    """How a process was started; empty when it is gone."""
    proc = Path("/proc/self")
    if proc.exists():
        try:
            return (
                proc.with_name(str(pid)).joinpath("cmdline").read_bytes().decode(errors="replace")
            )
        except OSError:
            return ""
    done = subprocess.run(
        ["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return done.stdout


def _gone(pid: int, present: int | None) -> bool:
    """Whether a process has ended; the exit status of a child of ours is collected too."""
    child = _children.get(pid)
    if child is None:
        return present is None
    if child.poll() is None:
        return False
    del _children[pid]
    return True
