"""The docker target's preparations: evidence, checks, images. Nothing here changes production. Called by `docker`."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconciler.core.crashpoints import CrashPoint
from reconciler.core.errors import PreflightError, TransientError
from reconciler.core.facts import HEALTHY, RUNNING, Fact, service_image, service_state
from reconciler.core.pins import Artifact
from reconciler.targets.base import Applied
from reconciler.targets.compose import Compose, Rendering
from reconciler.targets.compose_view import Views
from reconciler.targets.containers import Container, Containers, record_of
from reconciler.targets.docker_host import DockerHost
from reconciler.targets.images import Images, build_labels, build_tag, keep_tags

if TYPE_CHECKING:
    from reconciler.core.plan import Step
    from reconciler.targets.base import ApplyContext

_LOG_LINES, _LOG_BYTES = 2000, 2 * 1024 * 1024
_LEAST_FREE = 256 * 1024 * 1024
_OLDEST_API = (1, 40)  # Engine 19.03


class Preparations:
    """Applies the steps of capture.

    Args:
        host: The engine.
        containers: The project's containers.
        images: The engine's images.
        compose: The project.
        views: The project at other commits.
        render: Renders the project at a commit, or the working tree for None.
        redact: Takes known secrets out of a text.
    """

    def __init__(
        self,
        host: DockerHost,
        containers: Containers,
        images: Images,
        compose: Compose,
        views: Views,
        *,
        render: Callable[[str | None], Rendering],
        redact: Callable[[str], str],
    ) -> None:
        self._host = host
        self._containers = containers
        self._images = images
        self._compose = compose
        self._views = views
        self._render = render
        self._redact = redact

    def save_logs(self, step: Step, context: ApplyContext) -> Applied:
        """Saves the last log lines and the state of the services' containers."""
        names = set(_texts(step.args["services"]))
        found = [each for each in self._containers.all() if each.service in names]
        context.at(CrashPoint.MID_EFFECT)
        records = [info for each in found if (info := self._containers.inspect(each.id))]
        text = "\n".join(record_of(info) for info in records) + "\n"
        saved = [
            write(context, "containers.jsonl", text.encode(), "containers", self._compose.project)
        ]
        logs = self._containers.parallel(self._log, found)
        for each, log in zip(found, logs, strict=True):
            saved.append(write(context, f"{each.name}.log", log, "logs", each.name))
        context.at(CrashPoint.APPLIED_UNREAD)
        return Applied(artifacts=saved, note=f"{len(found)} containers")

    def _log(self, container: Container) -> bytes:
        text = self._containers.log(container, _LOG_LINES, timestamps=True)
        if text is None:
            return b"The log cannot be read from the engine.\n"
        return self._redact(text[-_LOG_BYTES:]).encode()

    def preflight(self, step: Step, context: ApplyContext) -> Applied:
        """Checks images, room, versions, and that the working tree is what the commit says.

        Raises:
            PreflightError: Something is missing.
        """
        context.at(CrashPoint.MID_EFFECT)
        notes = [self._versions()]
        images: Mapping[str, Any] = _mapping(step.args["images"])
        wanted = sorted({image for image in images.values() if image})
        for image, found in zip(
            wanted, self._containers.parallel(self._images.find, wanted), strict=True
        ):
            if found is None:
                names = ", ".join(name for name, each in images.items() if each == image)
                raise PreflightError(
                    f"The image {image[:19]} wanted for {names} is no longer on the engine.",
                    hint="Load or pull it again, or choose another goal.",
                )
        notes.append(self._room())
        if commit := step.args.get("commit"):
            self._require_same(str(commit))
        present = [each for each in self._containers.all() if each.service in images]
        notes += [
            f"{name} ignores its stop signal: its stop takes the whole grace period"
            for name in sorted(self._containers.ignores_stop(present))
        ]
        context.at(CrashPoint.APPLIED_UNREAD)
        return Applied(note="; ".join(note for note in notes if note))

    def _versions(self) -> str:
        api = str(self._host.client().api.api_version)
        if tuple(int(part) for part in api.split(".")) < _OLDEST_API:
            raise PreflightError(
                f"The Docker engine is too old (API {api}).", hint="Use 19.03 or newer."
            )
        compose = self._compose.version()
        major = re.match(r"v?(\d+)", compose)
        if major and int(major[1]) < 2:  # noqa: PLR2004 - Compose v2
            raise PreflightError(f"Compose {compose} is too old.", hint="Use Compose v2.")
        return f"engine API {api}, Compose {compose}"

    def _room(self) -> str:
        if not self._host.local:
            return ""
        with self._host.errors("read the engine's information"):
            folder = Path(str(self._host.client().api.info().get("DockerRootDir", "/")))
        try:
            free = shutil.disk_usage(folder).free
        except OSError:
            return ""
        if free < _LEAST_FREE:
            raise PreflightError(
                f"Only {free // 2**20} MiB are free where the Docker engine keeps its data ({folder}).",
                hint="Free disk space, `docker system df` shows what uses it.",
            )
        return f"{free / 2**30:.1f} GiB free"

    def _require_same(self, commit: str) -> None:
        there, here = self._render(commit).hashes, self._render(None).hashes
        changed = sorted(name for name in there if here.get(name) != there[name])
        if changed:
            raise PreflightError(
                f"Uncommitted changes in the working tree change how {', '.join(changed)} would be started.",
                hint="Commit or stash them: services are started from the files of the wanted commit.",
            )

    def pull(self, step: Step, context: ApplyContext) -> Applied:
        """Fetches a missing image."""
        reference = str(step.args["image"])
        found = self._images.look(reference)
        note = "already here"
        if found is None:
            context.at(CrashPoint.MID_EFFECT)
            self._images.pull(reference, context.progress)
            context.at(CrashPoint.APPLIED_UNREAD)
            note = ""
        return Applied(facts=self._made(step, reference, reference), note=note)

    def build(self, step: Step, context: ApplyContext) -> Applied:
        """Builds a service's image from a commit, unless we have built it before.

        Raises:
            PreflightError: The build failed.
        """
        commit, no_cache = str(step.args["commit"]), bool(step.args["no_cache"])
        service, project = step.subject, self._compose.project
        detail = f"built from {commit[:12]}"
        if image := self._images.built(project, service, commit, no_cache=no_cache):
            return Applied(facts=self._made(step, image, detail), note="already built from it")
        rendering = self._render(commit)
        tag = build_tag(rendering.reference(service), commit)
        context.at(CrashPoint.MID_EFFECT)
        self._compose.build(
            rendering,
            service,
            source=self._views.source(commit),
            tag=tag,
            labels=build_labels(project, service, commit, no_cache=no_cache),
            no_cache=no_cache,
            progress=lambda line: context.progress(f"build {service}: {self._redact(line)[:200]}"),
        )
        context.at(CrashPoint.APPLIED_UNREAD)
        return Applied(facts=self._made(step, tag, detail), note=tag)

    def _made(self, step: Step, reference: str, detail: str) -> list[Fact]:
        image = self._images.look(reference)
        if image is None:
            raise TransientError(f"The image {reference} was made, and is not on the engine.")
        state = HEALTHY if image.checks_health else RUNNING
        return [
            fact
            for name in _texts(step.args["services"])
            for fact in (
                Fact(key=service_image(name), value=image.id, detail=detail),
                Fact(key=service_state(name), value=state),
            )
        ]

    def keep(self, step: Step, context: ApplyContext) -> Applied:
        """Gives the images that will be replaced a tag of this run, so that nothing cleans them away."""
        replaced = {name: _texts(ids) for name, ids in _mapping(step.args["images"]).items()}
        known = {name: str(ref) for name, ref in _mapping(step.args["references"]).items()}
        references = {name: known.get(name, f"{self._compose.project}-{name}") for name in replaced}
        context.at(CrashPoint.MID_EFFECT)
        kept = []
        for name, image in keep_tags(context.run, replaced, references).items():
            if self._images.find(image) is None:
                continue  # still runs, and was removed by force: there is nothing left to name
            self._images.tag(image, name)
            kept.append(name)
        context.at(CrashPoint.APPLIED_UNREAD)
        return Applied(note=", ".join(kept))


def place(context: ApplyContext, name: str) -> Path:
    """A path for an artifact that no recorded one has: the way back of a run saves beside what the way there saved."""
    stem, dot, suffix = re.sub(r"[^A-Za-z0-9._-]", "_", name).partition(".")
    taken = {artifact.path for artifact in context.artifacts}
    path, number = context.captures / f"{stem}{dot}{suffix}", 1
    while str(path.relative_to(context.states)) in taken:
        number += 1
        path = context.captures / f"{stem}-{number}{dot}{suffix}"
    return path


def write(context: ApplyContext, name: str, data: bytes, kind: str, subject: str) -> Artifact:
    """Writes an artifact durably, readable by its owner only."""
    path = place(context, name)
    scratch = path.with_name(f".{path.name}.part")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    scratch.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return Artifact(
        kind=kind,
        subject=subject,
        path=str(path.relative_to(context.states)),
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
    )


def _texts(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, Sequence) else []


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
