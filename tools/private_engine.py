"""The private Docker engine: started in `.engine/`, stopped without a trace. Used by `engine.py`.

It runs beside whatever else runs on the machine: with its own data, socket, bridge and addresses, and
the firewall as it was.
"""

from __future__ import annotations

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
import time
from pathlib import Path

from common import HOME, ToolError, quiet, say, search_path, which

NAME = hashlib.sha256(str(HOME).encode()).hexdigest()[:8]
BRIDGE = f"rr-{NAME}"
ENV_FILE = HOME / "env.sh"
LOG = HOME / "dockerd.log"

# A unix socket's path has room for 107 bytes, and containerd's is the longest below the run folder.
_LONGEST_SOCKET = "/exec/containerd/containerd-debug.sock.ttrpc"
RUN = HOME / "run"
if len(os.fsencode(RUN)) + len(_LONGEST_SOCKET) > 107:  # noqa: PLR2004
    RUN = Path(f"/run/reconciler-engine-{NAME}")
SOCKET = RUN / "docker.sock"
ADDRESS = f"unix://{SOCKET}"
PIDFILE = RUN / "docker.pid"
USERS = HOME / "users.lock"  # held, shared, by everybody who uses the engine
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")

START_SECONDS = 60
STOP_SECONDS = 30


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
        "--host", ADDRESS,
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
            raise ToolError(f"dockerd did not start; the end of {LOG}:\n{tail}")
        time.sleep(0.05)
    say(f"private engine {version()} started in {HOME.name}/")


def stop_unless_used() -> bool:
    """Stop the private engine; False when somebody holds it (call with the start lock held)."""
    with USERS.open("w") as users:
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
        raise ToolError("the machine has routes to all of 10.128.0.0 to 10.227.0.0")
    for command in (
        ["ip", "link", "add", BRIDGE, "type", "bridge"],
        ["ip", "address", "add", f"{subnet}.0.1/24", "dev", BRIDGE],
        ["ip", "link", "set", BRIDGE, "up"],
    ):
        if quiet(command) is None:
            raise ToolError(f"could not make the engine's bridge: {shlex.join(command)} failed")
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


def version() -> str:
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
