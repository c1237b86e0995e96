"""The `command` check: a program that must exit with 0, run in the project root without a shell.

It gets a process group of its own. At the deadline, at an interruption and after its own end the
whole group is killed, so that no test server or browser it started is left behind.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
import time
from contextlib import suppress
from typing import IO, TYPE_CHECKING

from reconciler.checks.base import Attempt, CheckContext, Outcome, failed, one_line, passed
from reconciler.core.redact import Redactor
from reconciler.core.references import names_secret

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Bytes of output that are kept, from its end, and characters of it that are shown.
TAIL, SHOWN = 16 * 1024, 200
#: Seconds between the request to stop and the kill.
GRACE = 2.0
_LOOK = 0.02
_SHORTEST_SECRET = 6


def probe(spec: tuple[str, ...], context: CheckContext, attempt: Attempt) -> Outcome:
    """Runs it once."""
    where = one_line(shlex.join(spec), 100)
    try:
        process = subprocess.Popen(
            spec,
            cwd=context.root,
            env=dict(context.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        return failed(f"{where}: cannot be started: {reason}", final=True)
    assert process.stdout is not None, "a pipe was asked for"
    tail = _Tail(process.stdout)
    try:
        ended = _wait(process, attempt)
    finally:
        _kill_group(process)
        output = tail.text()
    said = _said(output, context)
    if not ended:
        why = (
            "interrupted"
            if attempt.cancelled.is_set()
            else f"not done within {attempt.timeout:.3g} s"
        )
        return failed(f"{where}: expected exit 0, {why}{said}")
    if process.returncode != 0:
        return failed(f"{where}: expected exit 0, got {_exit(process.returncode)}{said}")
    return passed(f"{where}: exit 0")


def _wait(process: subprocess.Popen[bytes], attempt: Attempt) -> bool:
    """Whether it ended by itself before the deadline."""
    until = time.monotonic() + attempt.timeout
    while (left := until - time.monotonic()) > 0 and not attempt.cancelled.is_set():
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=min(_LOOK * 5, left))
            return True
    return process.poll() is not None


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Ends the program and all it has started in its group; asks first if it still runs."""
    if process.poll() is None:
        _signal_group(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE)
    # The leader is not reaped by anybody else, but its group may outlive it.
    _signal_group(process, signal.SIGKILL)
    process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _exit(code: int) -> str:
    if code >= 0:
        return str(code)
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def _said(output: bytes, context: CheckContext) -> str:
    """The last words of a program, without the secrets of its environment."""
    redactor = Redactor(_secrets(context.environ))
    text = context.redactor.text(redactor.text(output.decode("utf-8", errors="replace")))
    lines = [line for line in (one_line(line, TAIL) for line in text.splitlines()) if line]
    last = " / ".join(lines[-5:])
    if not last:
        return ""
    return "; last said: " + (last if len(last) <= SHOWN else "..." + last[-SHOWN:])


def _secrets(environ: Mapping[str, str]) -> list[str]:
    return [
        value
        for name, value in environ.items()
        if len(value) >= _SHORTEST_SECRET
        and (names_secret(name) or _is_address_with_password(value))
    ]


def _is_address_with_password(value: str) -> bool:
    scheme, found, rest = value.partition("://")
    return bool(found) and scheme.isidentifier() and "@" in rest and ":" in rest.partition("@")[0]


class _Tail:
    """Reads a stream to its end in a thread and keeps the last bytes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._kept = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def text(self) -> bytes:
        """The last bytes. Waits shortly: a process that left the group may hold the stream open."""
        self._thread.join(timeout=0.5)
        kept = self._kept
        if not self._thread.is_alive():
            self._stream.close()
        return kept

    def _read(self) -> None:
        with suppress(OSError, ValueError):
            while part := os.read(self._stream.fileno(), 65536):
                self._kept = (self._kept + part)[-TAIL:]
