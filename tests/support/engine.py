"""The Docker engine that the tests use, and how a test leaves nothing behind in it."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.sandbox.base_image import BUSYBOX_VARIABLE, ensure_base_image
from tests.support.programs import PARTS, ROOT, MissingPartError

if TYPE_CHECKING:
    import docker

ENV_FILE = ROOT / ".engine" / "env.sh"


@dataclass(frozen=True)
class Engine:
    """A reachable engine.

    Attributes:
        client: The SDK's client; closed by the fixture.
        env: The environment for the `docker` command.
        base_image: An image with busybox to start containers from.
    """

    client: docker.DockerClient
    env: dict[str, str] = field(repr=False)
    base_image: str

    def docker(self, *arguments: str, cwd: Path | None = None, check: bool = True) -> str:
        """Run the `docker` command; gives its stdout.

        Raises:
            AssertionError: It failed and `check` is set; quotes its stderr.
        """
        done = subprocess.run(
            ["docker", *arguments],
            env=self.env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"docker {shlex.join(arguments)} failed:\n{done.stderr[-2000:]}")
        return done.stdout


def connect() -> Engine:
    """Connect to the engine named by the environment, or to the one that `tools/engine.py` started.

    Raises:
        MissingPartError: There is none.
    """
    import docker
    from docker.errors import DockerException

    load_environment()
    try:
        client = docker.from_env(timeout=60)
        client.ping()
        return Engine(client, dict(os.environ), ensure_base_image(client))
    except DockerException as exc:
        raise MissingPartError(f"no Docker engine ({exc}); run: tools/engine.py up") from exc


def load_environment() -> None:
    """Point this process and its children at the engine of `.engine/env.sh`, unless told which."""
    if "DOCKER_HOST" not in os.environ and ENV_FILE.exists():
        for line in ENV_FILE.read_text(encoding="utf-8").splitlines():
            name, _, value = line.removeprefix("export ").partition("=")
            os.environ[name] = shlex.split(value)[0]
    if (busybox := PARTS / "busybox").exists():
        os.environ.setdefault(BUSYBOX_VARIABLE, str(busybox))


def remove_project(engine: Engine, project: str) -> None:
    """Remove all that carries a Compose project's label: containers, networks, volumes."""
    label: dict[str, str | list[str] | bool] = {"label": f"com.docker.compose.project={project}"}
    for container in engine.client.containers.list(all=True, filters=label, ignore_removed=True):
        container.remove(force=True, v=True)
    for network in engine.client.networks.list(filters=label):
        network.remove()
    for volume in engine.client.volumes.list(filters=label):
        volume.remove(force=True)
