"""The docker target: the containers of one Compose project, their images and the volumes restored for them.

The engine builds it from `spec.docker`. Looking is in `docker_observe`, turning pins into wanted facts in
`docker_resolve`, planning in `docker_plan`, applying in `docker_capture`, `docker_stop` and `docker_start`; volumes are
the store's. Compose is driven through its command (`compose`), the rest through the SDK.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from reconciler.core.crashpoints import CrashPoint
from reconciler.core.errors import PreflightError
from reconciler.core.facts import (
    GIT_COMMIT,
    GIT_DIRTY,
    Fact,
    Goal,
    Observation,
    Resolution,
    volume_restored,
)
from reconciler.core.redact import Redactor
from reconciler.targets.base import Applied, ApplyContext
from reconciler.targets.compose import Compose, Rendering
from reconciler.targets.compose_answers import Answers
from reconciler.targets.compose_view import Views
from reconciler.targets.containers import Containers
from reconciler.targets.docker_capture import Preparations, place
from reconciler.targets.docker_change import change
from reconciler.targets.docker_host import DockerHost
from reconciler.targets.docker_memory import Memory
from reconciler.targets.docker_observe import Observer
from reconciler.targets.docker_plan import steps
from reconciler.targets.docker_resolve import Resolver, now_of
from reconciler.targets.docker_start import Start
from reconciler.targets.docker_stop import Stop
from reconciler.targets.images import Images

if TYPE_CHECKING:
    from reconciler.core.phase import Phase
    from reconciler.core.pins import Artifact, DockerPins, Pins
    from reconciler.core.plan import Step
    from reconciler.core.spec import Docker
    from reconciler.targets.shared.repository import Repository

#: Seconds a rendered project is used again: a look and the resolving that follows it share one. It may read more files
#: than are known here, and rendering takes a tenth of a second only.
_FRESH = 5.0


class VolumeStore(Protocol):
    """Archives, backups and restores of volumes, by their names on the engine (see `volumes`)."""

    def observe(self, volume: str) -> Fact:
        """What a volume was last restored from."""

    def exists(self, volume: str) -> bool:
        """Whether there is such a volume."""

    def check_volume(self, volume: str) -> None:
        """Raises PreflightError when a volume cannot be replaced."""

    def check_archive(self, path: Path, sha256: str) -> object:
        """Raises PreflightError when an archive is not what it should be."""

    def backup(self, volume: str, dest: Path, context: ApplyContext) -> Artifact:
        """Saves a volume into a file."""

    def restore(self, volume: str, path: Path, sha256: str, context: ApplyContext) -> Fact:
        """Replaces a volume's content by an archive's."""


class DockerTarget:
    """The containers of one Compose project.

    Args:
        section: `spec.docker`.
        project_root: The project's folder; paths of the spec are relative to it.
        repository: The repository of `spec.git`; None when Git is not declared.
        volumes: The store of volumes; None when the spec names none.
        host: The engine.
        cache: A folder of the target's own for what can be made again.
        timeout: Seconds services are given to become healthy (`verify.timeout`).
        redactor: Learns the values of env files, so that a log line quoted in an error shows none of them.
    """

    name = "docker"

    def __init__(
        self,
        section: Docker,
        *,
        project_root: Path,
        repository: Repository | None,
        volumes: VolumeStore | None,
        host: DockerHost,
        cache: Path,
        timeout: float = 120.0,
        redactor: Redactor | None = None,
    ) -> None:
        self._section = section
        self._root = project_root
        self._store = volumes
        self._redactor = redactor or Redactor()
        place = cache / section.project
        self._views = Views(place, project_root, repository)
        self._memory = Memory(place / "names.json")
        self._images = Images(host)
        self._containers = Containers(host, section.project)
        self._compose = Compose(
            host,
            section.project,
            project_root,
            files=section.compose,
            profiles=section.profiles,
            env_files=section.env_files,
            redact=self._redactor.text,
            answers=Answers(place / "answers.json"),
        )
        self._rendered: dict[str | None, tuple[object, float, Rendering]] = {}
        self._observer = Observer(
            self._containers,
            self._compose,
            self._memory,
            volumes=volumes,
            services=section.services,
            volume_names=list(section.volumes),
            render=lambda: self._render(None),
        )
        preparations = Preparations(
            host,
            self._containers,
            self._images,
            self._compose,
            self._views,
            render=self._render,
            redact=self._redactor.text,
        )
        stop = Stop(self._containers, self._images, facts=self._observer.facts)
        start = Start(
            self._containers,
            self._images,
            self._compose,
            facts=self._observer.facts,
            timeout=timeout,
            redact=self._redactor.text,
        )
        self._actions: Mapping[str, Callable[[Step, ApplyContext], Applied]] = {
            "save-logs": preparations.save_logs,
            "preflight": preparations.preflight,
            "pull": preparations.pull,
            "build": preparations.build,
            "keep": preparations.keep,
            "check-archive": self._check_archive,
            "backup-volume": self._back_up,
            "restore-volume": self._restore,
            "stop": stop.stop,
            "retag": stop.retag,
            "up": start.up,
        }

    def observe(self) -> Sequence[Fact]:
        """Reads services and declared volumes; see `base.Target.observe`."""
        return self._observer.observe()

    def resolve(self, pins: Pins, observed: Observation, goal: Goal) -> Resolution:
        """Turns pins into wanted facts, from the compose files at the goal's commit.

        Raises:
            PreflightError: A pin cannot be met, or Compose refuses the files.
            TransientError: The engine does not answer.
        """
        if pins.docker is None:
            return Resolution()
        commit = goal.value(GIT_COMMIT) if self._views.governed else None
        here = commit is None or (
            observed.value(GIT_COMMIT) == commit and observed.value(GIT_DIRTY) == "clean"
        )
        rendering = self._render(None if here else commit)
        volumes = {*self._section.volumes, *pins.docker.volumes}
        self._memory.learn(rendering, {name: rendering.volume(name) for name in volumes})
        containers = self._containers.all()
        graces = {key: traits.grace for key, traits in self._containers.traits(containers).items()}
        now = now_of(containers, graces, self._containers.ignores_stop(containers))
        resolver = Resolver(
            rendering=rendering,
            images=self._images,
            project=self._section.project,
            commit=goal.value(GIT_COMMIT),
            declared=frozenset(self._section.services),
            dormant=self._dormant(rendering, pins.docker, observed, None if here else commit),
        )
        return resolver.resolve(pins.docker, observed, now)

    def plan(self, phase: Phase, observed: Observation, goal: Goal) -> Sequence[Step]:
        """The steps of one phase; see `docker_plan`."""
        return steps(phase, change(observed, goal, self._section.services))

    def apply(self, step: Step, context: ApplyContext) -> Applied:
        """Does one step; see `base.Target.apply`."""
        return self._actions[step.action](step, context)

    def _render(self, commit: str | None) -> Rendering:
        """The project at a commit, or in the working tree; what it holds of env files is known to the redactor then."""
        files = self._compose.fingerprint()
        known = self._rendered.get(commit)
        if known and known[0] == files and time.monotonic() - known[1] < _FRESH:
            return known[2]
        view = self._views.at(commit) if commit else self._views.of_tree()
        rendering = self._compose.render(view.tree, view.prefix)
        self._redactor.learn(*rendering.values())
        self._rendered = {commit: (files, time.monotonic(), rendering)}
        return rendering

    def _dormant(
        self, rendering: Rendering, pins: DockerPins, observed: Observation, commit: str | None
    ) -> frozenset[str]:
        """Services of profiles that are not active. Asked for only when a name is met that is not active."""
        met = set(pins.services) | {
            key.split(".")[2] for key in observed.facts if key.startswith("docker.service.")
        }
        if met <= set(rendering.services):
            return frozenset()
        view = self._views.at(commit) if commit else self._views.of_tree()
        return self._compose.all_services(view.tree) - set(rendering.services)

    def _check_archive(self, step: Step, context: ApplyContext) -> Applied:
        store = self._volumes()
        context.at(CrashPoint.MID_EFFECT)
        store.check_volume(str(step.args["engine_name"]))
        store.check_archive(self._archive(step, context), str(step.args["sha256"]))
        context.at(CrashPoint.APPLIED_UNREAD)
        return Applied()

    def _back_up(self, step: Step, context: ApplyContext) -> Applied:
        store, volume = self._volumes(), str(step.args["engine_name"])
        if not store.exists(volume):
            return Applied(note="there is no such volume yet")
        saved = store.backup(volume, place(context, f"{step.subject}.tar.zst"), context)
        return Applied(artifacts=[saved.model_copy(update={"subject": step.subject})])

    def _restore(self, step: Step, context: ApplyContext) -> Applied:
        fact = self._volumes().restore(
            str(step.args["engine_name"]),
            self._archive(step, context),
            str(step.args["sha256"]),
            context,
        )
        return Applied(facts=[fact.model_copy(update={"key": volume_restored(step.subject)})])

    def _archive(self, step: Step, context: ApplyContext) -> Path:
        base = context.states if step.args.get("own") else self._root
        return base / str(step.args["path"])

    def _volumes(self) -> VolumeStore:
        if self._store is None:
            raise PreflightError("A volume is to be restored, and no store of volumes is there.")
        return self._store
