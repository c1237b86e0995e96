"""Which engine is talked to, and how: the same one for the SDK and for the `docker` command.

The `docker` command knows contexts and ssh addresses, the SDK does not. This room finds the address once, in the order
the command itself uses, and hands both the same. Called by everything of the docker target.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconciler.core.errors import (
    OutcomeUnknownError,
    PreflightError,
    ReconcilerError,
    StepFailedError,
    TargetUnavailableError,
)

if TYPE_CHECKING:
    import docker

DEFAULT_HOST = "unix:///var/run/docker.sock"
#: Seconds an answer of the engine may take. Requests that wait for a container add its grace period.
ANSWER_TIMEOUT = 60
#: Connections kept open: stops and inspections run in parallel.
POOL = 16
_CONTEXT_TIMEOUT = 15
_LONGEST = 300
_SERVER_FAULT = 500


class DockerHost:
    """One engine.

    Args:
        host: Address as in DOCKER_HOST, from the spec; wins over everything.
        context: Name of a Docker context, from the spec.
        environment: The variables that apply where the spec says nothing; the process's own by default.
    """

    def __init__(
        self,
        host: str | None = None,
        context: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._environment = dict(os.environ if environment is None else environment)
        self._host = host
        self._context = context
        self._client: docker.DockerClient | None = None
        self._tunnel: Any = None
        self._lock = threading.Lock()

    def environment(self) -> dict[str, str]:
        """Variables for the `docker` command, so that it talks to this engine and to no other."""
        env = dict(self._environment)
        if self._host:
            env["DOCKER_HOST"] = self._host
            env.pop("DOCKER_CONTEXT", None)
        elif self._context:
            env["DOCKER_CONTEXT"] = self._context
            env.pop("DOCKER_HOST", None)
        return env

    @property
    def where(self) -> str:
        """The engine in words, for messages; an address is shown without its user."""
        if name := self._context_name():
            return f"context {name}"
        host = self._host or self._environment.get("DOCKER_HOST") or DEFAULT_HOST
        return re.sub(r"(?<=://)[^/@]*@", "", host)

    @property
    def local(self) -> bool:
        """Whether the engine's processes are likely to be this machine's (a Unix socket)."""
        return self.client().api.base_url.startswith("http+docker://") and self._tunnel is None

    def client(self) -> docker.DockerClient:
        """The SDK's client: one for all threads, made at the first call.

        Raises:
            TargetUnavailableError: The engine does not answer.
            PreflightError: There is no such context.
        """
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def close(self) -> None:
        """Closes connections; a later call opens them again."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None
            if self._tunnel is not None:
                self._tunnel.close()
                self._tunnel = None

    def answers(self) -> bool:
        """Whether the engine is there now."""
        try:
            with self.errors("ask whether it is there"):
                return bool(self.client().ping())
        except ReconcilerError:
            return False

    @contextmanager
    def errors(self, what: str, *, changing: bool = False) -> Iterator[None]:
        """Turns the SDK's exceptions into ours.

        Args:
            what: What is being done, for the message (`stop web`).
            changing: A lost answer leaves it open whether the change was made.

        Raises:
            TargetUnavailableError: The engine cannot be reached.
            OutcomeUnknownError: The answer to a change was lost.
            StepFailedError: The engine refused.
        """
        try:
            yield
        except ReconcilerError:
            raise
        except Exception as exc:
            known = self._translated(exc, what, changing=changing)
            if known is None:
                raise
            raise known from exc

    def _translated(self, exc: Exception, what: str, *, changing: bool) -> ReconcilerError | None:
        from docker.errors import APIError, DockerException
        from requests.exceptions import ReadTimeout, RequestException

        if isinstance(exc, APIError):
            said = short(str(exc.explanation or exc))
            if exc.status_code and exc.status_code >= _SERVER_FAULT and "shutting down" in said:
                return TargetUnavailableError(f"The Docker engine is shutting down: cannot {what}.")
            return StepFailedError(f"The Docker engine refused to {what}: {said}")
        if isinstance(exc, ReadTimeout) and changing:
            return OutcomeUnknownError(
                f"The Docker engine ({self.where}) did not answer in time when asked to {what}."
            )
        if isinstance(exc, (RequestException, DockerException, OSError)):
            return self._unreachable(exc)
        return None

    def _unreachable(self, exc: Exception) -> TargetUnavailableError:
        return TargetUnavailableError(
            f"The Docker engine ({self.where}) cannot be reached: {_cause(exc)}.",
            hint="Check that the engine runs and that DOCKER_HOST or the Docker context names it.",
        )

    def _context_name(self) -> str | None:
        """The context that decides, or None where an address does."""
        if self._host:
            return None
        if self._context:
            return self._context
        if self._environment.get("DOCKER_HOST"):
            return None
        name = self._environment.get("DOCKER_CONTEXT") or _current_context(self._environment)
        return None if name in {None, "", "default"} else name

    def _connect(self) -> docker.DockerClient:
        import docker
        from docker.errors import DockerException
        from docker.tls import TLSConfig
        from docker.utils import kwargs_from_env

        name = self._context_name()
        options: dict[str, Any]
        if name:
            endpoint, tls = self._inspect_context(name)
            options = {"base_url": endpoint}
            if tls is not None:
                options["tls"] = TLSConfig(**tls)
        else:
            options = dict(kwargs_from_env(environment=self.environment()))
            options.setdefault("base_url", DEFAULT_HOST)
        if str(options["base_url"]).startswith("ssh://"):
            from reconciler.targets.docker_ssh import SshTunnel

            self._tunnel = SshTunnel(str(options["base_url"]), self._environment)
            options["base_url"] = self._tunnel.address
        try:
            if self._tunnel is None:
                _knock(str(options["base_url"]))
            return docker.DockerClient(
                timeout=ANSWER_TIMEOUT, max_pool_size=POOL, version="auto", **options
            )
        except (DockerException, OSError) as exc:
            if self._tunnel is not None:
                self._tunnel.close()
                self._tunnel = None
            raise self._unreachable(exc) from exc

    def _inspect_context(self, name: str) -> tuple[str, dict[str, Any] | None]:
        """Address and TLS material of a context, as `docker context inspect` tells them."""
        try:
            done = subprocess.run(
                ["docker", "context", "inspect", name],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_CONTEXT_TIMEOUT,
                check=False,
            )
        except FileNotFoundError as exc:
            raise PreflightError(
                "The docker command was not found.", hint="Install the Docker CLI with Compose v2."
            ) from exc
        except subprocess.TimeoutExpired as exc:
            raise TargetUnavailableError(
                f"`docker context inspect {name}` did not answer within {_CONTEXT_TIMEOUT} s."
            ) from exc
        if done.returncode != 0:
            raise PreflightError(
                f"There is no Docker context named {name}.",
                hint="`docker context ls` shows those there are.",
            )
        found = json.loads(done.stdout)[0]
        endpoint = found["Endpoints"]["docker"]
        folder = Path(found.get("Storage", {}).get("TLSPath", "")) / "docker"
        files = {part: folder / f"{part}.pem" for part in ("ca", "cert", "key")}
        tls: dict[str, Any] | None = None
        if any(file.exists() for file in files.values()):
            tls = {"verify": not endpoint.get("SkipTLSVerify", False)}
            if files["ca"].exists():
                tls["ca_cert"] = str(files["ca"])
            if files["cert"].exists():
                tls["client_cert"] = (str(files["cert"]), str(files["key"]))
        return str(endpoint["Host"]), tls


def _knock(address: str) -> None:
    """Raises OSError when nobody listens on a Unix socket: the SDK would leave its own end open then."""
    if address.startswith("unix://"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
            knock.settimeout(ANSWER_TIMEOUT)
            knock.connect(address.removeprefix("unix://"))


def _current_context(environment: Mapping[str, str]) -> str | None:
    folder = environment.get("DOCKER_CONFIG") or str(
        Path(environment.get("HOME", str(Path.home()))) / ".docker"
    )
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    name = config.get("currentContext") if isinstance(config, dict) else None
    return name if isinstance(name, str) else None


def short(text: str, longest: int = _LONGEST) -> str:
    """A foreign message on one line, cut, and closed with a full stop."""
    line = " ".join(text.split())
    line = line if len(line) <= longest else line[: longest - 1] + "…"
    return line if line.endswith((".", "…", "!", "?")) else f"{line}."


def _cause(exc: BaseException) -> str:
    """The innermost reason of a chain of connection errors, in the system's own words."""
    seen: BaseException | None = exc
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror
        inner = seen.__cause__ or seen.__context__
        if inner is None and seen.args and isinstance(seen.args[-1], BaseException):
            inner = seen.args[-1]
        seen = inner
    text = str(exc)
    for known in ("Connection refused", "No such file or directory", "Permission denied"):
        if known in text:
            return known
    return short(text, 160).rstrip(".")
