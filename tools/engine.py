#!/usr/bin/env python3
"""Brings a Docker engine with Compose v2 to a machine that may have neither.

Called by `make` and by hand; needs nothing but Python's standard library:

    tools/engine.py run -- COMMAND...   start if needed, run COMMAND, stop again with the last user
    tools/engine.py up | down           start and leave running | stop
    tools/engine.py env | status        shell lines to evaluate | what is running

An engine that the `docker` command reaches already is used as it is and never stopped. Otherwise a
private one is started in `.engine/` (`private_engine.py`). Installing the missing Debian packages is
the one thing done outside the project's folder, and only as root.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import debian
import private_engine as private
from common import HOME, ROOT, ToolError, quiet, say, which

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCKER_CONFIG = HOME / "docker-config"
PLUGINS = DOCKER_CONFIG / "cli-plugins"
KEEP = HOME / "keep"  # made by `up`: the engine outlives its users


def main() -> int:
    """Run the command line; a message instead of a traceback for whatever the user can mend."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("up", "down", "env", "status"):
        commands.add_parser(name)
    commands.add_parser("run").add_argument("argv", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    HOME.mkdir(exist_ok=True)
    try:
        match arguments.command:
            case "run":
                argv = arguments.argv
                return run(argv[1:] if argv[:1] == ["--"] else argv)
            case "up":
                up()
            case "down":
                down()
            case "env":
                sys.stdout.write(shell_lines(environment()))
            case _:
                status()
    except ToolError as exc:
        say(str(exc))
        return 1
    return 0


# --- commands -----------------------------------------------------------------------------------


def up() -> None:
    """Make an engine available and leave it running; its environment goes to `.engine/env.sh`."""
    with exclusively("start"):
        env = ensure()
        if is_private(env):
            KEEP.touch()
    say(f"ready at {env['DOCKER_HOST']}; use it with: . {os.path.relpath(private.ENV_FILE)}")


def down() -> None:
    """Stop the private engine, or leave that to its last user; another engine is never touched."""
    KEEP.unlink(missing_ok=True)
    with exclusively("start"):
        was_running = private.alive()
        if not private.stop_unless_used():
            say("still in use; it stops when its last user is done")
        elif was_running:
            say("stopped")


def run(argv: list[str]) -> int:
    """Run a command with an engine, and stop the engine afterwards if nobody else wants it."""
    if not argv:
        raise ToolError("run: what? Give a command after --")
    with exclusively("start"):
        env = ensure()
        users = private.USERS.open("w")
        fcntl.flock(users, fcntl.LOCK_SH)  # falls with the process, whatever ends it
    child = subprocess.Popen(argv, env={**os.environ, **env}, cwd=ROOT)
    # The terminal sends Ctrl-C to the child as well; this process has to stay for the clean-up.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    code = child.wait()
    users.close()
    with exclusively("start"):
        if is_private(env) and not KEEP.exists():
            private.stop_unless_used()
    return code if code >= 0 else 128 - code


def status() -> None:
    """Say in one line what runs and where."""
    if private.alive():
        say(f"private engine {private.version()}, pid {private.pid()}, {private.SOCKET}")
    elif (host := reachable()) is not None:
        say(f"the machine's own engine at {host}")
    else:
        say("no engine is running")
        raise SystemExit(3)


def environment() -> dict[str, str]:
    """Give the variables that lead to the running engine.

    Raises:
        ToolError: No engine is running.
    """
    if private.alive():
        return private_environment()
    if (host := reachable()) is not None:
        return own_environment(host)
    raise ToolError("no engine is running; start one with: tools/engine.py up")


# --- the machine's own engine -------------------------------------------------------------------


def reachable() -> str | None:
    """Give the address of an engine that the `docker` command reaches by itself, if any."""
    if shutil.which("docker") is None:
        return None
    context = quiet(["docker", "context", "inspect", "-f", "{{.Endpoints.docker.Host}}"])
    host = os.environ.get("DOCKER_HOST") or (context or "").strip()
    if not host or host == private.ADDRESS:
        return None
    return host if quiet(["docker", "version", "-f", "{{.Server.Version}}"]) else None


def own_environment(host: str) -> dict[str, str]:
    """Use the machine's engine, with our Compose only where it brings none."""
    if PLUGINS.exists() and not has_plugins(os.environ):
        return {"DOCKER_HOST": host, "DOCKER_CONFIG": str(DOCKER_CONFIG)}
    return {"DOCKER_HOST": host}


def private_environment() -> dict[str, str]:
    """Give the variables of our own engine."""
    return {"DOCKER_HOST": private.ADDRESS, "DOCKER_CONFIG": str(DOCKER_CONFIG)}


def is_private(env: dict[str, str]) -> bool:
    """Tell whether these variables lead to the engine that we start and stop."""
    return env["DOCKER_HOST"] == private.ADDRESS


# --- making sure ----------------------------------------------------------------------------------


def ensure() -> dict[str, str]:
    """Find or start an engine with Compose v2 and buildx, and write `.engine/env.sh`."""
    if private.alive():
        env = private_environment()
    elif (host := reachable()) is not None:
        env = own_environment(host)
    else:
        install_packages()
        if (host := reachable()) is not None:  # the package's service came up by itself
            env = own_environment(host)
        else:
            private.start()
            env = private_environment()
    if not has_plugins({**os.environ, **env}):
        install_plugins()
        env["DOCKER_CONFIG"] = str(DOCKER_CONFIG)
    private.ENV_FILE.write_text(shell_lines(env), encoding="utf-8")
    return env


def has_plugins(env: dict[str, str] | os._Environ[str]) -> bool:
    """Tell whether the `docker` command has Compose v2 and buildx."""
    compose = quiet(["docker", "compose", "version", "--short"], env=dict(env)) or ""
    return compose.lstrip("v").startswith(("2.", "3.", "5.")) and bool(
        quiet(["docker", "buildx", "version"], env=dict(env))
    )


def install_plugins() -> None:
    """Put Compose v2 and buildx into the project's folder, from the distribution's own packages."""
    say("fetching Compose v2 and buildx")
    PLUGINS.mkdir(parents=True, exist_ok=True)
    for binary in debian.fetch_docker_plugins(HOME / "parts" / "plugins"):
        shutil.copy2(binary, PLUGINS / f".{binary.name}")
        (PLUGINS / f".{binary.name}").rename(PLUGINS / binary.name)


def install_packages() -> None:
    """Install what the engine consists of, where that can be done without asking."""
    missing = [
        package
        for program, package in (
            ("dockerd", "docker.io"),
            ("iptables", "iptables"),
            ("ip", "iproute2"),
        )
        if which(program) is None
    ]
    if os.geteuid() != 0:
        raise ToolError(
            "no Docker engine is reachable and only root could start one. Start Docker"
            " (or Docker Desktop), or set DOCKER_HOST, and try again."
        )
    if missing:
        say(f"installing {' '.join(missing)}")
        debian.install(missing)
    if which("docker") is None:
        debian.install(["docker-cli"])


# --- small things -------------------------------------------------------------------------------


@contextlib.contextmanager
def exclusively(name: str) -> Iterator[None]:
    """Let one process at a time in; the lock falls with its holder."""
    with (HOME / f"{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def shell_lines(env: dict[str, str]) -> str:
    """Write variables as a shell reads them."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in env.items())


if __name__ == "__main__":
    sys.exit(main())
