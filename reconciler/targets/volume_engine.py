"""What a store of volumes asks of the Docker engine, through the SDK, with its errors made ours.

Content goes in and out through a container that mounts the volume and is never started, so that no
program has to be in any image. Called by `volumes`.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import docker.errors
import docker.types
import requests
import urllib3.exceptions

from reconciler.core.errors import ReconcilerError, StepFailedError, TargetUnavailableError
from reconciler.targets.volume_root import BLOCK, Root, root_of
from reconciler.targets.volume_source import CHUNK, ArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from docker.models.volumes import Volume

#: Labels of the helper container.
PROJECT, HELPER = "reconciler.project", "reconciler.helper"
_MOUNT = "/.reconciler-volume"
_RUNNING = {"running", "paused", "restarting"}
_CONFLICT = 409


class VolumeEngine:
    """Volumes of one engine.

    Args:
        client_factory: Gives the engine's client; called for each use, may give the same one.
        project: Name of the Compose project, for labels.
        image: Gives the id of any image on the engine.
    """

    def __init__(
        self,
        client_factory: Callable[[], docker.DockerClient],
        project: str,
        image: Callable[[], str],
    ) -> None:
        self._client = client_factory
        self._project = project
        self._image = image

    def find(self, name: str) -> Volume | None:
        """A volume by its name; None when there is none."""
        with translated(f"look at the volume {name}"):
            try:
                return self._client().volumes.get(name)
            except docker.errors.NotFound:
                return None

    def make(self, name: str, settings: Mapping[str, Any]) -> None:
        """Makes a volume. One of that name that is there already stays, and nothing is said.

        Args:
            name: Its name.
            settings: `driver`, `driver_opts`, `labels` as the SDK has them.
        """
        with translated(f"make the volume {name}"):
            self._client().volumes.create(name, **settings)

    def drop(self, name: str) -> None:
        """Removes a volume and all that is in it; fine when it is gone already.

        Raises:
            StepFailedError: A container still mounts it.
        """
        with translated(f"remove the volume {name}"):
            try:
                _gone(partial(self._api.remove_volume, name))
            except docker.errors.APIError as exc:
                if exc.status_code != _CONFLICT:
                    raise
                names = ", ".join(_names(self._users(name))) or "a container"
                raise StepFailedError(
                    f"The volume {name} cannot be replaced: it is still mounted by {names}.",
                    hint="Remove these containers (`docker rm`), then run `reconciler resume`.",
                ) from exc

    def require_idle(self, name: str, verb: str, *, stopped_too: bool = False) -> None:
        """Makes sure that nobody uses a volume.

        Args:
            name: The volume.
            verb: What is to be done with it, for the message ("backed up").
            stopped_too: Containers that do not run count as well: they keep a volume from being
                removed.

        Raises:
            StepFailedError: Somebody does; says who.
        """
        with translated(f"look for users of the volume {name}"):
            users = self._users(name)
        names = _names([each for each in users if stopped_too or each.get("State") in _RUNNING])
        if names:
            raise StepFailedError(
                f"The volume {name} cannot be {verb}: it is in use by {', '.join(names)}.",
                hint=f"Stop and remove {names[0]}, then run `reconciler resume`.",
            )

    @contextmanager
    def helper(self, volume: str) -> Iterator[str]:
        """The id of a container that mounts the volume and is never started; removed at the end."""
        with translated(f"make a helper for the volume {volume}"):
            mount = docker.types.Mount(_MOUNT, volume, type="volume", no_copy=True)
            made = self._api.create_container(
                self._image(),
                command=["none"],
                labels={HELPER: volume, PROJECT: self._project},
                host_config=self._api.create_host_config(mounts=[mount], network_mode="none"),
            )
        try:
            yield str(made["Id"])
        finally:
            with translated(f"remove the helper of the volume {volume}"):
                _gone(partial(self._api.remove_container, made["Id"], force=True))

    def remove_helpers(self, volume: str) -> None:
        """Removes helpers that a crashed attempt left."""
        with translated(f"remove helpers of the volume {volume}"):
            for each in self._api.containers(all=True, filters={"label": f"{HELPER}={volume}"}):
                _gone(partial(self._api.remove_container, each["Id"], force=True))

    def content(self, helper: str, volume: str) -> Iterator[bytes]:
        """A volume's content as a tar stream, in pieces."""
        with translated(f"read the volume {volume}"):
            pieces, _ = self._api.get_archive(helper, f"{_MOUNT}/.", chunk_size=CHUNK)
            yield from pieces

    def unpack(self, helper: str, volume: str, pieces: Iterator[bytes]) -> None:
        """Unpacks a tar stream into a volume; owners, modes, times and links are kept.

        Raises:
            StepFailedError: The engine could not unpack it.
            TransientError: The connection was lost; part of it may be unpacked.
        """
        with translated(f"fill the volume {volume}"):
            self._api.put_archive(helper, _MOUNT, pieces)

    def set_root(self, helper: str, volume: str, root: Root) -> None:
        """Gives the volume's own folder its owner, mode and time, which `unpack` leaves alone."""
        with translated(f"set the owner of the volume {volume}"):
            self._api.put_archive(helper, "/", root.as_tar(_MOUNT.lstrip("/")))

    def root(self, helper: str, volume: str) -> Root | None:
        """Owner, mode and time of the volume's own folder."""
        with translated(f"look into the volume {volume}"):
            api = self._api
            url = api._url("/containers/{0}/archive", helper)  # noqa: SLF001 - the public call cannot stop early
            answer = api._get(url, params={"path": f"{_MOUNT}/."}, stream=True)  # noqa: SLF001
            try:
                api._raise_for_status(answer)  # noqa: SLF001
                return root_of(next(answer.iter_content(10 * BLOCK), b""))
            finally:
                answer.close()

    @property
    def _api(self) -> Any:
        return self._client().api

    def _users(self, volume: str) -> list[Mapping[str, Any]]:
        found = self._api.containers(all=True, filters={"volume": volume})
        return [each for each in found if HELPER not in (each.get("Labels") or {})]


def labels_of(volume: Volume) -> Mapping[str, str]:
    """A volume's labels."""
    return volume.attrs.get("Labels") or {}


def _names(containers: list[Mapping[str, Any]]) -> list[str]:
    return sorted(str(each["Names"][0]).lstrip("/") for each in containers)


def _gone(remove: Callable[[], object]) -> None:
    """Removes something that may be gone already."""
    try:
        remove()
    except docker.errors.NotFound:
        return


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turns the SDK's exceptions into ours.

    Raises:
        StepFailedError: The engine refused.
        TargetUnavailableError: It cannot be reached, or the connection was lost; looking again is
            safe.
    """
    try:
        yield
    except (ReconcilerError, ArchiveError):
        raise
    except docker.errors.APIError as exc:
        said = " ".join(str(exc.explanation or exc).split())[:300]
        raise StepFailedError(f"The Docker engine refused to {what}: {said}") from exc
    except (
        docker.errors.DockerException,
        requests.exceptions.RequestException,
        urllib3.exceptions.HTTPError,
    ) as exc:
        raise TargetUnavailableError(
            f"The Docker engine cannot be reached, or was lost, while asked to {what}.",
            hint="Check that the engine runs and that DOCKER_HOST or the Docker context names it.",
        ) from exc
