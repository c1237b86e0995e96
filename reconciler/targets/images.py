"""Images: finding, re-pointing a reference, pulling, building from a commit, keeping what is replaced.

Nothing is removed here, and a reference is only moved once its old image carries a tag of its own. Called by `docker`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from reconciler.core.crashpoints import CrashPoint
from reconciler.core.errors import PreflightError, StepFailedError, TargetUnavailableError
from reconciler.targets.docker_host import DockerHost, short

if TYPE_CHECKING:
    from reconciler.targets.base import ApplyContext

COMMIT_LABEL = "reconciler.commit"
SERVICE_LABEL = "reconciler.service"
PROJECT_LABEL = "reconciler.project"
NO_CACHE_LABEL = "reconciler.no-cache"
REVISION_LABEL = "org.opencontainers.image.revision"


class Image(NamedTuple):
    """An image on the engine.

    Attributes:
        id: Its id.
        checks_health: Whether it brings a healthcheck of its own.
    """

    id: str
    checks_health: bool


class Images:
    """The images of one engine.

    Args:
        host: The engine.
    """

    def __init__(self, host: DockerHost) -> None:
        self._host = host

    def look(self, reference: str) -> Image | None:
        """The image a tag, digest or id names here; None when there is none.

        Raises:
            TargetUnavailableError: The engine cannot be reached.
        """
        from docker.errors import ImageNotFound, NotFound

        with self._host.errors(f"look up the image {reference}"):
            try:
                api: Any = self._host.client().api  # its stubs leave this call untyped
                found = api.inspect_image(reference)
            except (ImageNotFound, NotFound):
                return None
        test = ((found.get("Config") or {}).get("Healthcheck") or {}).get("Test") or []
        return Image(str(found["Id"]), bool(test) and test != ["NONE"])

    def find(self, reference: str) -> str | None:
        """Only the id; see `look`."""
        found = self.look(reference)
        return found.id if found else None

    def built(self, project: str, service: str, commit: str, *, no_cache: bool) -> str | None:
        """The newest image we built of a service from a commit; None when there is none.

        Args:
            project: The Compose project.
            service: The service.
            commit: Full commit id.
            no_cache: Only an image that was built without the layer cache counts.
        """
        labels = [f"{COMMIT_LABEL}={commit}", f"{SERVICE_LABEL}={service}"]
        labels.append(f"{PROJECT_LABEL}={project}")
        if no_cache:
            labels.append(f"{NO_CACHE_LABEL}=true")
        with self._host.errors("list the images"):
            found = self._host.client().api.images(filters={"label": labels})
        newest = max(found, key=lambda image: image.get("Created") or 0, default=None)
        return str(newest["Id"]) if newest else None

    def retag(self, reference: str, image: str, context: ApplyContext) -> bool:
        """Makes a reference name an image; False when it did already.

        Raises:
            StepFailedError: The image is not there, or the reference cannot be re-pointed.
        """
        if self.find(reference) == image:
            return False
        context.guard()
        context.at(CrashPoint.MID_EFFECT)
        self.tag(image, reference)
        context.at(CrashPoint.APPLIED_UNREAD)
        if self.find(reference) != image:
            raise StepFailedError(f"{reference} was tagged, and still names another image.")
        return True

    def tag(self, image: str, reference: str) -> None:
        """Gives an image another name; the name leaves the image that had it."""
        repository, tag = split(reference)
        with self._host.errors(f"tag {image[:19]} as {reference}", changing=True):
            self._host.client().api.tag(image, repository, tag)

    def pull(self, reference: str, progress: Callable[[str], None]) -> str:
        """Fetches an image from its registry; gives its id.

        Raises:
            PreflightError: The registry has no such image, or refuses it to us.
            TargetUnavailableError: The engine or the registry cannot be reached.
        """
        from docker.errors import APIError

        repository, _, digest = reference.partition("@")
        tag = digest or split(reference)[1]
        name = repository if digest else split(reference)[0]
        hint = "Production is untouched. Check the name, `docker login`, and the network."
        try:
            with self._host.errors(f"pull {reference}"):
                for line in self._host.client().api.pull(name, tag=tag, stream=True, decode=True):
                    if error := line.get("error"):
                        raise PreflightError(
                            f"{reference} cannot be pulled: {short(error)}", hint=hint
                        )
                    progress(f"pull {reference}: {line.get('status', '')}")
        except StepFailedError as exc:
            if isinstance(exc.__cause__, APIError) and _no_registry(str(exc.__cause__)):
                raise TargetUnavailableError(exc.message, hint=hint) from exc
            raise PreflightError(exc.message, hint=hint) from exc
        found = self.find(reference)
        if found is None:
            raise PreflightError(f"{reference} was pulled, and is not there.", hint=hint)
        return found


def _no_registry(text: str) -> bool:
    return any(sign in text for sign in ("Client.Timeout", "i/o timeout", "connection refused"))


def split(reference: str) -> tuple[str, str]:
    """Repository and tag of a reference; the port of a registry is no tag."""
    name = reference.partition("@")[0]
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, "latest")


def is_digest(reference: str) -> bool:
    """Whether a reference names its content, so that no tag can re-point it."""
    return "@" in reference or reference.startswith("sha256:")


def build_labels(project: str, service: str, commit: str, *, no_cache: bool) -> dict[str, str]:
    """The labels by which an image of ours is found again."""
    return {
        COMMIT_LABEL: commit,
        SERVICE_LABEL: service,
        PROJECT_LABEL: project,
        REVISION_LABEL: commit,
        **({NO_CACHE_LABEL: "true"} if no_cache else {}),
    }


def build_tag(reference: str, commit: str) -> str:
    """The name of an image built from a commit, beside the reference production uses."""
    return f"{split(reference)[0]}:reconciler-{commit[:12]}"


def keep_tags(
    run: str, replaced: Mapping[str, Iterable[str]], references: Mapping[str, str]
) -> dict[str, str]:
    """Names for images that are about to be replaced: image id by name.

    Args:
        run: The run.
        replaced: Image ids in use, by service.
        references: The image reference of each service.
    """
    names: dict[str, str] = {}
    for service in sorted(replaced):
        for image in replaced[service]:
            base = f"{split(references[service])[0]}:reconciler-before-{run}"
            options = [base, f"{base}-{service}", *(f"{base}-{service}-{n}" for n in range(2, 100))]
            name = next(each for each in options if names.get(each, image) == image)
            names[name] = image
    return names
