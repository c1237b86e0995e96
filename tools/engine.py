#!/usr/bin/env python3
"""Brings a Docker engine with Compose v2 to a machine that may have neither.

Called by `make` and by hand; needs nothing but Python's standard library:

    tools/engine.py run -- COMMAND...   start if needed, run COMMAND, stop again with the last user
    tools/engine.py up | down           start and leave running | stop
    tools/engine.py env | status        shell lines to evaluate | what is running

An engine that the `docker` command reaches already is used as it is and never stopped. Otherwise a
private one is started in `.engine/`, beside whatever else runs on the machine: with its own data,
socket, bridge and addresses, and the firewall as it was. Installing the missing Debian packages is
the one thing done outside the project's folder, and only as root.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import debian

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".engine"
DOCKER_CONFIG = HOME / "docker-config"
PLUGINS = DOCKER_CONFIG / "cli-plugins"
ENV_FILE = HOME / "env.sh"
LOG = HOME / "dockerd.log"
KEEP = HOME / "keep"  # made by `up`: the engine outlives its users
NAME = hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]
BRIDGE = f"rr-{NAME}"

# A unix socket's path has room for 107 bytes, and containerd's is the longest below the run folder.
_LONGEST_SOCKET = "/exec/containerd/containerd-debug.sock.ttrpc"
RUN = HOME / "run"
if len(os.fsencode(RUN)) + len(_LONGEST_SOCKET) > 107:  # noqa: PLR2004
    RUN = Path(f"/run/reconciler-engine-{NAME}")
SOCKET = RUN / "docker.sock"
PIDFILE = RUN / "docker.pid"
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")

START_SECONDS = 60
STOP_SECONDS = 30


class EngineError(Exception):
    """What the user has to know, in one or two sentences."""


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
                return run([word for word in arguments.argv if word != "--"])
            case "up":
                up()
            case "down":
                down()
            case "env":
                sys.stdout.write(shell_lines(environment()))
            case _:
                status()
    except (EngineError, debian.PackageError) as exc:
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
    say(f"ready at {env['DOCKER_HOST']}; use it with: . {ENV_FILE.relative_to(ROOT)}")


def down() -> None:
    """Stop the private engine, or leave that to its last user; another engine is never touched."""
    KEEP.unlink(missing_ok=True)
    with exclusively("start"):
        was_running = alive()
        if not stop_unless_used():
            say("still in use; it stops when its last user is done")
        elif was_running:
            say("stopped")


def run(argv: list[str]) -> int:
    """Run a command with an engine, and stop the engine afterwards if nobody else wants it."""
    if not argv:
        raise EngineError("run: what? Give a command after --")
    with exclusively("start"):
        env = ensure()
        users = (HOME / "users.lock").open("w")
        fcntl.flock(users, fcntl.LOCK_SH)  # falls with the process, whatever ends it
    child = subprocess.Popen(argv, env={**os.environ, **env}, cwd=ROOT)
    # The terminal sends Ctrl-C to the child as well; this process has to stay for the clean-up.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    code = child.wait()
    users.close()
    with exclusively("start"):
        if is_private(env) and not KEEP.exists():
            stop_unless_used()
    return code if code >= 0 else 128 - code


def status() -> None:
    """Say in one line what runs and where."""
    if alive():
        say(f"private engine {version(SOCKET)}, pid {pid()}, {SOCKET}")
    elif (host := reachable()) is not None:
        say(f"the machine's own engine at {host}")
    else:
        say("no engine is running")
        raise SystemExit(3)


def environment() -> dict[str, str]:
    """Give the variables that lead to the running engine.

    Raises:
        EngineError: No engine is running.
    """
    if alive():
        return private_environment()
    if (host := reachable()) is not None:
        return own_environment(host)
    raise EngineError("no engine is running; start one with: tools/engine.py up")


# --- the machine's own engine -------------------------------------------------------------------


def reachable() -> str | None:
    """Give the address of an engine that the `docker` command reaches by itself, if any."""
    if shutil.which("docker") is None:
        return None
    context = quiet(["docker", "context", "inspect", "-f", "{{.Endpoints.docker.Host}}"])
    host = os.environ.get("DOCKER_HOST") or (context or "").strip()
    if not host or host == f"unix://{SOCKET}":
        return None
    return host if quiet(["docker", "version", "-f", "{{.Server.Version}}"]) else None


def own_environment(host: str) -> dict[str, str]:
    """Use the machine's engine, with our Compose only where it brings none."""
    if "DOCKER_CONFIG" not in os.environ and PLUGINS.exists():
        return {"DOCKER_HOST": host, "DOCKER_CONFIG": str(DOCKER_CONFIG)}
    return {"DOCKER_HOST": host}


def private_environment() -> dict[str, str]:
    """Give the variables of our own engine."""
    return {"DOCKER_HOST": f"unix://{SOCKET}", "DOCKER_CONFIG": str(DOCKER_CONFIG)}


def is_private(env: dict[str, str]) -> bool:
    """Tell whether these variables lead to the engine that we start and stop."""
    return env["DOCKER_HOST"] == f"unix://{SOCKET}"


# --- our own engine -----------------------------------------------------------------------------


def ensure() -> dict[str, str]:
    """Find or start an engine with Compose v2 and buildx, and write `.engine/env.sh`."""
    if alive():
        env = private_environment()
    elif (host := reachable()) is not None:
        if not has_plugins(os.environ):
            install_plugins()
        env = own_environment(host)
    else:
        install_packages()
        if (host := reachable()) is not None:  # the package's service came up by itself
            env = own_environment(host)
        else:
            start()
            env = private_environment()
    if not has_plugins({**os.environ, **env}):
        install_plugins()
        env["DOCKER_CONFIG"] = str(DOCKER_CONFIG)
    ENV_FILE.write_text(shell_lines(env), encoding="utf-8")
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
        raise EngineError(
            "no Docker engine is reachable and only root could start one. Start Docker"
            " (or Docker Desktop), or set DOCKER_HOST, and try again."
        )
    if missing:
        say(f"installing {' '.join(missing)}")
        debian.install(missing)
    if which("docker") is None:
        debian.install(["docker-cli"])


def start() -> None:
    """Start the private engine and wait until it answers."""
    terminate()  # one that hangs
    clear_left_overs()
    for folder in (RUN, HOME / "data"):
        folder.mkdir(parents=True, exist_ok=True)
    # dockerd turns forwarding on and leaves it on; `clear_left_overs` puts back what was.
    shutil.copyfile(FORWARDING, HOME / "forwarding")
    subnet = make_bridge()
    command = [
        str(which("dockerd")),
        "--host", f"unix://{SOCKET}",
        "--pidfile", str(PIDFILE),
        "--data-root", str(HOME / "data"),
        "--exec-root", str(RUN / "exec"),
        "--bridge", BRIDGE,
        "--default-address-pool", f"base={subnet}.128.0/17,size=24",
        # Published ports are served by docker-proxy; the firewall stays as the machine has it.
        "--iptables=false", "--ip-masq=false",
        "--shutdown-timeout", "5",
        "--log-level", "warn",
    ]  # fmt: skip
    with LOG.open("ab") as log:
        daemon = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
            env={
                **os.environ,
                "PATH": search_path(),
            },  # it starts docker-proxy and iptables by name
        )
    deadline = time.monotonic() + START_SECONDS
    while not ping():
        if daemon.poll() is not None or time.monotonic() > deadline:
            tail = "\n".join(LOG.read_text(errors="replace").splitlines()[-8:])
            raise EngineError(f"dockerd did not start; the end of {LOG}:\n{tail}")
        time.sleep(0.05)
    say(f"private engine {version(SOCKET)} started in .engine/")


def stop_unless_used() -> bool:
    """Stop the private engine; False when somebody holds it (call with the start lock held)."""
    with (HOME / "users.lock").open("w") as users:
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        terminate()
        clear_left_overs()
        ENV_FILE.unlink(missing_ok=True)
    return True


def terminate() -> None:
    """End the private engine's process, if there is one."""
    if number := pid():
        os.kill(number, signal.SIGTERM)
        if not gone(number, STOP_SECONDS):
            os.kill(number, signal.SIGKILL)
            gone(number, STOP_SECONDS)


def clear_left_overs() -> None:
    """Unmount what a dead engine left behind, and remove its bridge, sockets and state."""
    kill_orphans()
    below = (f"{HOME}/", f"{RUN}/")
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in reversed([place for place in mounts if place.startswith(below)]):
        quiet(["umount", "--lazy", mount])
    if Path("/sys/class/net", BRIDGE).exists():
        quiet(["ip", "link", "delete", BRIDGE])
    shutil.rmtree(RUN, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        FORWARDING.write_text((HOME / "forwarding").read_text())
        (HOME / "forwarding").unlink()


def kill_orphans() -> None:
    """End the helpers and containers of an engine that was killed; nobody else could reach them.

    A container's processes are children of a shim that names the engine's run folder.
    """
    commands: dict[int, bytes] = {}
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone meanwhile
            commands[int(entry.name)] = entry.joinpath("cmdline").read_bytes()
            parents[int(entry.name)] = int(
                entry.joinpath("stat").read_text().rsplit(")")[-1].split()[1]
            )
    ours = {number for number, command in commands.items() if os.fsencode(RUN / "exec") in command}
    children = {number for number, parent in parents.items() if parent in ours}
    for number in [*children, *ours]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    for number in ours:
        gone(number, STOP_SECONDS)


def make_bridge() -> str:
    """Make the engine's own default bridge; gives the first two numbers of its addresses.

    Two engines must share neither a bridge nor addresses, so both come from the project's path,
    and a network that the machine has a route to already is passed over.
    """
    routes = quiet(["ip", "-4", "route", "show", "table", "all"]) or ""
    first = int(NAME, 16) % 100
    for number in [*range(first, 100), *range(first)]:
        subnet = f"10.{128 + number}"
        if f"{subnet}." not in routes:
            break
    else:
        raise EngineError("the machine has routes to all of 10.128.0.0 to 10.227.0.0")
    for command in (
        ["ip", "link", "add", BRIDGE, "type", "bridge"],
        ["ip", "address", "add", f"{subnet}.0.1/24", "dev", BRIDGE],
        ["ip", "link", "set", BRIDGE, "up"],
    ):
        if quiet(command) is None:
            raise EngineError(f"could not make the engine's bridge: {shlex.join(command)} failed")
    return subnet


def pid() -> int:
    """Give the process id of the private engine, or 0; a recycled number is not believed."""
    try:
        number = int(PIDFILE.read_text())
        command = Path(f"/proc/{number}/cmdline").read_bytes()
    except (OSError, ValueError):
        return 0
    return number if os.fsencode(SOCKET) in command else 0


def alive() -> bool:
    """Tell whether the private engine runs and answers."""
    return pid() != 0 and ping()


def gone(number: int, seconds: float) -> bool:
    """Wait until a process has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def ping() -> bool:
    """Ask the private engine whether it is there."""
    return get("/_ping") == b"OK"


def version(_socket: Path) -> str:
    """Give the private engine's version."""
    answer: dict[str, str] = json.loads(get("/version") or b"{}")
    return answer.get("Version", "?")


def get(path: str) -> bytes | None:
    """Read one path of the engine's API over its socket."""
    connection = http.client.HTTPConnection("localhost", timeout=5)
    try:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(5)
        connection.sock.connect(str(SOCKET))
        connection.request("GET", path)
        return connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


# --- small things -------------------------------------------------------------------------------


@contextlib.contextmanager
def exclusively(name: str) -> Iterator[None]:
    """Let one process at a time in; the lock falls with its holder."""
    with (HOME / f"{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def which(program: str) -> str | None:
    """Find a program, also where only root's PATH leads."""
    return shutil.which(program, path=search_path())


def search_path() -> str:
    """Give PATH with the places added that an ordinary user's PATH leaves out."""
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def quiet(command: list[str], env: dict[str, str] | None = None) -> str | None:
    """Run a command; gives its output, or None when it failed."""
    done = subprocess.run(
        [which(command[0]) or command[0], *command[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        text=True,
        env=env,
        check=False,
    )
    return done.stdout if done.returncode == 0 else None


def shell_lines(env: dict[str, str]) -> str:
    """Write variables as a shell reads them."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in env.items())


def say(message: str) -> None:
    """Tell the user, on stderr: stdout belongs to `env` and to the command that is run."""
    sys.stderr.write(f"engine: {message}\n")


if __name__ == "__main__":
    sys.exit(main())
