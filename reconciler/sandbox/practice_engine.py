"""The practice shop's containers: built, tagged and brought up the way a team does it, by `docker`.

Everything made here carries the practice production's name, so that `remove` finds it after a crash
as well. Called by `production`.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconciler.core.errors import PreflightError, StepFailedError, TargetUnavailableError
from reconciler.sandbox.base_image import BASE_IMAGE, ensure_base_image
from reconciler.sandbox.practice_front_end import wait_for
from reconciler.sandbox.practice_redis import REDIS_IMAGE, ensure_redis_image

if TYPE_CHECKING:
    from docker import DockerClient

SERVICES = ("app", "worker")
LABEL = "reconciler.sandbox"
_PROJECT_LABEL = "com.docker.compose.project"
_COMMAND_SECONDS = 300.0
_ANSWER_SECONDS = 5.0
#: The tag the Compose file names, whatever the release.
_WORKING = "production"
_UP = {"running", "running (healthy)"}
_NO_ENGINE = "The Docker engine cannot be reached"
_HINT = "Start Docker, or point DOCKER_HOST or `docker context use` at an engine."


@dataclass(frozen=True)
class Container:
    """One container of the shop, as `docker inspect` tells it.

    Attributes:
        service: Compose's name of it.
        id: Full id.
        image: Id of the image it runs.
        state: `running`, `exited`, ...; with its health where it has one: `running (healthy)`.
        started: When it was started, as the engine writes it.
        config: Compose's config hash.
    """

    service: str
    id: str
    image: str
    state: str
    started: str
    config: str


class PracticeEngine:
    """The engine, seen from one practice production.

    Args:
        root: The shop's repository.
        name: Compose project, and start of the images' names.
    """

    def __init__(self, root: Path, name: str) -> None:
        self._root = root
        self._name = name

    def require(self) -> None:
        """Checks that there is an engine with Compose v2.

        Raises:
            PreflightError: There is none, or no Compose.
        """
        self.docker("version", "--format", "{{.Server.Version}}")
        try:
            self.docker("compose", "version", "--short")
        except StepFailedError as exc:
            raise PreflightError(
                "The docker command has no Compose v2.",
                hint="Install the docker-compose-v2 plugin.",
            ) from exc

    def shared_images(self) -> tuple[str, ...]:
        """Makes the images that all practice productions share; gives those that were not there.

        Raises:
            PreflightError: They can neither be made here nor pulled.
            TargetUnavailableError: The engine refused.
        """
        from docker.errors import ImageNotFound

        made: list[str] = []
        client = self._client()
        try:
            for image, ensure in (
                (BASE_IMAGE, ensure_base_image),
                (REDIS_IMAGE, ensure_redis_image),
            ):
                try:
                    client.images.get(image)
                except ImageNotFound:
                    made.append(image)
                    ensure(client)
        finally:
            client.close()
        return tuple(made)

    def build(self, version: str) -> None:
        """Builds the release that is checked out, and gives its images their version as a tag.

        Raises:
            StepFailedError: The build failed.
        """
        self.compose("build", "--quiet", *SERVICES)
        for service in SERVICES:
            self.docker("tag", self.image(service, _WORKING), self.image(service, version))

    def use(self, version: str) -> None:
        """Makes the tag that production runs by mean a release that was built before."""
        for service in SERVICES:
            self.docker("tag", self.image(service, version), self.image(service, _WORKING))

    def image(self, service: str, version: str) -> str:
        """The name of a service's image of a release."""
        return f"{self._name}-{service}:{version}"

    def up(self) -> None:
        """Brings the containers to what the files say.

        Raises:
            StepFailedError: Compose could not.
        """
        self.compose("up", "--detach", "--no-build", "--quiet-pull", "--remove-orphans")

    def wait_until_up(self) -> None:
        """Waits until every container runs, and is healthy where it says so.

        Raises:
            StepFailedError: One of them does not come up.
        """
        wait_for(lambda: {one.state for one in self.containers()} <= _UP, "The containers")

    def stop(self) -> None:
        """Removes the containers; volumes and images stay."""
        self._remove("container", "ps", "--all", by=_PROJECT_LABEL)

    def seed(self) -> None:
        """Puts data into the volumes."""
        script = "for n in 1 2 3; do echo invoice $n >/srv/uploads/invoice-$n.txt; done"
        self.compose("exec", "--no-TTY", "app", "sh", "-c", script)
        cart = r"printf 'SET cart:1 book\r\nSET cart:2 lamp\r\nQUIT\r\n' | nc -w 2 redis 6379"
        cart += " | grep -q OK"
        self.compose("exec", "--no-TTY", "app", "sh", "-c", cart)

    def containers(self) -> list[Container]:
        """The shop's containers, by service.

        Raises:
            PreflightError: The engine cannot be reached.
        """
        ids = self._ids("ps", "--all", by=_PROJECT_LABEL)
        if not ids:
            return []
        found = json.loads(self.docker("container", "inspect", *ids))
        return sorted(map(_container, found), key=lambda one: one.service)

    def images(self) -> dict[str, str]:
        """Tags of the shop's images, each with the image's id; one without a tag stands under its id."""
        form = "{{.Repository}}:{{.Tag}}|{{.ID}}"
        lines = self.docker(
            "images", "--no-trunc", "--filter", f"label={LABEL}={self._name}", "--format", form
        )
        named = (line.split("|") for line in lines.splitlines())
        return {key if tag.startswith("<") else tag: key for tag, key in named}

    def remove(self, shared: Sequence[str] = ()) -> None:
        """Removes all there is of the shop. Safe to repeat.

        Args:
            shared: Shared images to be removed too, unless another practice production is there.

        Raises:
            PreflightError: The engine cannot be reached.
        """
        self.stop()
        self._remove("network", "network", "ls", by=_PROJECT_LABEL)
        self._remove("volume", "volume", "ls", by=_PROJECT_LABEL)
        self._remove("image", "images", "--all", by=LABEL)
        if shared and not self._others():
            for image in shared:
                self._try("image", "rm", image)

    def compose(self, *arguments: str) -> str:
        """Runs `docker compose` for the shop; gives its output.

        Raises:
            PreflightError: The engine cannot be reached.
            StepFailedError: Compose refused; quotes its last line.
        """
        return self.docker("compose", "--project-name", self._name, *arguments)

    def docker(self, *arguments: str) -> str:
        """Runs `docker`; gives its output.

        Raises:
            PreflightError: There is no docker command, or no engine within its reach.
            StepFailedError: It refused; quotes its last line.
        """
        done = self._try(*arguments)
        if done.returncode == 0:
            return done.stdout.strip()
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1] if lines else "no reason given"
        if "Cannot connect" in done.stderr or "error during connect" in done.stderr:
            raise PreflightError(f"{_NO_ENGINE}.", hint=_HINT)
        raise StepFailedError(f"docker {' '.join(arguments[:2])}: {reason}")

    def _try(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith("COMPOSE_")}
        # BuildKit's attestations would make the same release a new image each time.
        env |= {"BUILDX_NO_DEFAULT_ATTESTATIONS": "1", "COMPOSE_ANSI": "never"}
        try:
            return subprocess.run(
                ["docker", *arguments],
                cwd=self._root if self._root.is_dir() else "/",
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_COMMAND_SECONDS,
                check=False,
            )
        except FileNotFoundError as exc:
            raise PreflightError(
                "The docker command is not on this machine.",
                hint="Install Docker with Compose v2.",
            ) from exc
        except subprocess.TimeoutExpired as exc:
            raise TargetUnavailableError(
                f"docker {arguments[0]} did not answer within {_COMMAND_SECONDS:g} s."
            ) from exc

    def _ids(self, *listing: str, by: str) -> list[str]:
        lines = self.docker(*listing, "--quiet", "--filter", f"label={by}={self._name}")
        return sorted(set(lines.split()))

    def _remove(self, kind: str, *listing: str, by: str) -> None:
        ids = self._ids(*listing, by=by)
        flags = ["--force"] if kind != "network" else []
        flags += ["--volumes"] if kind == "container" else []
        if ids:
            self._try(kind, "rm", *flags, *ids)
        if left := self._ids(*listing, by=by):
            raise StepFailedError(
                f"{len(left)} of {self._name} could not be removed: docker {kind} rm {left[0]}",
                hint="Find out who uses it, then run `reconciler sandbox down` again.",
            )

    def _others(self) -> bool:
        return bool(self.docker("images", "--quiet", "--filter", f"label={LABEL}"))

    def _client(self) -> DockerClient:
        """The SDK's client for the engine that the docker command uses.

        Raises:
            PreflightError: The engine cannot be reached.
        """
        from docker import DockerClient
        from docker.errors import DockerException

        host = os.environ.get("DOCKER_HOST") or self.docker(
            "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"
        )
        try:
            return DockerClient(base_url=host, timeout=int(_COMMAND_SECONDS))
        except DockerException as exc:
            raise PreflightError(f"{_NO_ENGINE}.", hint=_HINT) from exc


def answer_of(url: str) -> tuple[int, str]:
    """Status and text a URL answers; status 0 when nothing does."""
    import httpx

    try:
        answer = httpx.get(url, timeout=_ANSWER_SECONDS, trust_env=False)
    except httpx.HTTPError as exc:
        return 0, f"no answer ({type(exc).__name__})"
    return answer.status_code, answer.text


def _container(found: dict[str, Any]) -> Container:
    state, labels = found["State"], found["Config"]["Labels"]
    health = state.get("Health") or {}
    return Container(
        service=labels["com.docker.compose.service"],
        id=found["Id"],
        image=found["Image"],
        state=state["Status"] + (f" ({health['Status']})" if health else ""),
        started=state["StartedAt"],
        config=labels["com.docker.compose.config-hash"],
    )
