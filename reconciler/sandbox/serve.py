"""Runs one practice API as a process: `python -m reconciler.sandbox.serve vercel|supabase ...`.

Started by `reconciler sandbox up` and by tests that kill it. Secrets come from files and the
environment, never from the command line. SIGTERM and SIGINT stop it cleanly with exit code 0.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.core.errors import ReconcilerError, UsageError
from reconciler.sandbox.server import ApiServer
from reconciler.sandbox.store import now_ms, write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reconciler.sandbox.http import Api

_USAGE_EXIT, _FAILED_EXIT = 2, 1


@dataclass(frozen=True)
class Tokens:
    """The two secrets of a practice server, kept in a file of mode 0600.

    Attributes:
        token: What callers of the API send as bearer token.
        control: What the control routes ask for.
    """

    token: str
    control: str

    @staticmethod
    def load_or_create(path: Path) -> Tokens:
        """Read `{"token", "control"}`, or make fresh ones if there is no such file.

        Raises:
            UsageError: The file is something else.
        """
        if not path.exists():
            made = Tokens(f"practice_{secrets.token_hex(16)}", secrets.token_hex(16))
            path.parent.mkdir(parents=True, exist_ok=True)
            body = json.dumps({"token": made.token, "control": made.control})
            write_atomically(path, body.encode() + b"\n")
            return made
        try:
            value: object = json.loads(path.read_bytes())
        except ValueError as exc:
            raise UsageError(f"{path} is not JSON.") from exc
        if not isinstance(value, dict):
            raise UsageError(f"{path} is not a JSON object.")
        token, control = value.get("token"), value.get("control")
        if not isinstance(token, str) or not isinstance(control, str):
            raise UsageError(f'{path} needs the texts "token" and "control".')
        return Tokens(token, control)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal says stop.

    Returns:
        0 after a clean stop, 1 when it could not serve, 2 for wrong usage.
    """
    options = _parser().parse_args(arguments)
    # A server that was killed leaves its port file; nobody may take that for this one's.
    options.port_file.unlink(missing_ok=True)
    try:
        tokens = Tokens.load_or_create(options.tokens)
        api = _vercel(options, tokens) if options.api == "vercel" else _supabase(options, tokens)
        server = ApiServer(api, port=options.port, control_token=tokens.control)
        with _stop_signal() as stopped, server:
            write_atomically(options.port_file, f"{server.port}\n".encode())
            stopped.wait()
    except UsageError as exc:
        return _complain(exc, _USAGE_EXIT)
    except ReconcilerError as exc:
        return _complain(exc, _FAILED_EXIT)
    options.port_file.unlink(missing_ok=True)
    return 0


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    # Handlers, not a blocked mask: a restore command would inherit the mask and not end on SIGTERM.
    stopped = threading.Event()
    before = {
        number: signal.signal(number, lambda _number, _frame: stopped.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _complain(error: ReconcilerError, code: int) -> int:
    sys.stderr.write(f"{error}\n{error.hint}\n" if error.hint else f"{error}\n")
    return code


def _vercel(options: argparse.Namespace, tokens: Tokens) -> Api:
    from reconciler.sandbox.vercel_api import VercelApi
    from reconciler.sandbox.vercel_state import Settings, new_state

    initial = new_state(
        now=now_ms(),
        project=options.project,
        team=options.team or None,
        settings=Settings(
            plan=options.plan,
            alias_delay_ms=options.alias_delay_ms,
            alias_step_ms=options.alias_step_ms,
            build_ms=options.build_ms,
        ),
    )
    return VercelApi(token=tokens.token, path=options.state, initial=initial)


def _supabase(options: argparse.Namespace, tokens: Tokens) -> Api:
    from reconciler.sandbox.supabase_api import SupabaseApi
    from reconciler.sandbox.supabase_state import new_state

    dsn = os.environ.get(options.dsn_env)
    if not dsn:
        raise UsageError(
            f"The environment variable {options.dsn_env} is not set.",
            hint="It must hold the address of the practice PostgreSQL.",
        )
    command = shlex.split(options.restore_command or "")

    def restore(unix_time: int) -> None:
        subprocess.run([*command, str(unix_time)], check=True, stdin=subprocess.DEVNULL)

    return SupabaseApi(
        token=tokens.token,
        path=options.state,
        initial=new_state(ref=options.ref, now=now_ms(), name=options.project),
        dsn=dsn,
        on_restore=restore if command else None,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m reconciler.sandbox.serve", description=__doc__)
    apis = parser.add_subparsers(dest="api", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--state", type=Path, required=True, help="durable state, JSON")
    common.add_argument("--tokens", type=Path, required=True, help="made with fresh tokens if new")
    common.add_argument("--port-file", type=Path, required=True, help="gets the port when ready")
    common.add_argument("--port", type=int, default=0, help="0 lets the system choose")
    common.add_argument("--project", default="omniops", help="name of the practice project")
    vercel = apis.add_parser("vercel", parents=[common])
    vercel.add_argument("--team", default="acme", help="slug; empty for a personal project")
    vercel.add_argument("--plan", choices=("hobby", "pro", "enterprise"), default="pro")
    vercel.add_argument("--alias-delay-ms", type=int, default=300)
    vercel.add_argument("--alias-step-ms", type=int, default=200)
    vercel.add_argument("--build-ms", type=int, default=1_000)
    supabase = apis.add_parser("supabase", parents=[common])
    supabase.add_argument("--ref", default="abcdefghijklmnopqrst", help="20 lower-case letters")
    supabase.add_argument("--dsn-env", default="DATABASE_URL", help="variable with the address")
    supabase.add_argument(
        "--restore-command", help="restores in place; gets the time in Unix seconds as last word"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
