"""A way to an engine behind ssh for the SDK: a local socket whose connections are carried by the `ssh` command.

It does what the `docker` command does for `ssh://` addresses (`ssh HOST docker system dial-stdio`), so that keys,
agents, jump hosts and host names of the user's ssh configuration mean the same for both. Called by `docker_host`.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from reconciler.core.errors import PreflightError

_CHUNK = 65536


class SshTunnel:
    """Listens on a socket of its own; each connection is one `ssh` process.

    Args:
        url: The engine's address, `ssh://[user@]host[:port]`.
        environment: Variables for `ssh`.

    Raises:
        PreflightError: There is no ssh command, or the address names no host.
    """

    def __init__(self, url: str, environment: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        if not parts.hostname or parts.hostname.startswith("-"):
            raise PreflightError("The Docker host's ssh address names no host.")
        self._program = shutil.which("ssh", path=environment.get("PATH"))
        if self._program is None:
            raise PreflightError(
                "The ssh command was not found, and the Docker host is an ssh:// address.",
                hint="Install an ssh client.",
            )
        self._environment = dict(environment)
        self._arguments = [
            *(["-l", parts.username] if parts.username else []),
            *(["-p", str(parts.port)] if parts.port else []),
            "-o",
            "ConnectTimeout=30",
            "-T",
            "--",
            parts.hostname,
            "docker system dial-stdio",
        ]
        self._folder = Path(tempfile.mkdtemp(prefix="reconciler-ssh-"))
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(self._folder / "docker.sock"))
        self._server.listen(16)
        self._processes: set[subprocess.Popen[bytes]] = set()
        threading.Thread(target=self._accept, name="docker-ssh", daemon=True).start()

    @property
    def address(self) -> str:
        """The local address for the SDK."""
        return f"unix://{self._folder / 'docker.sock'}"

    def close(self) -> None:
        """Ends the carriers and removes the socket."""
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for process in list(self._processes):
            process.terminate()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(connection,), daemon=True).start()

    def _carry(self, connection: socket.socket) -> None:
        process = subprocess.Popen(
            [str(self._program), *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=self._environment,
            start_new_session=True,
            bufsize=0,
        )
        self._processes.add(process)
        there, back = process.stdin, process.stdout
        if there is None or back is None:  # pragma: no cover - both are pipes
            return
        sender = threading.Thread(target=_send, args=(connection, there), daemon=True)
        sender.start()
        with suppress(OSError, ValueError):
            while data := back.read(_CHUNK):
                connection.sendall(data)
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)  # wakes the sender
        sender.join()
        connection.close()
        back.close()
        process.terminate()
        process.wait()
        self._processes.discard(process)


def _send(connection: socket.socket, there: IO[bytes]) -> None:
    with suppress(OSError, ValueError):
        while data := connection.recv(_CHUNK):
            there.write(data)
    with suppress(OSError, ValueError):
        there.close()
