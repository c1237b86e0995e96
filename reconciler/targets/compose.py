"""A Compose project as Compose itself understands it: rendered, hashed, built, brought up.

Compose is the authority on its own files, so nothing here parses them: `docker compose config` renders the project,
and the same command hashes what it rendered. Rendered projects hold the values of env files, which may be secrets: they
stay in memory and travel to Compose through its standard input only. Called by `docker`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from reconciler.core.errors import PreflightError
from reconciler.targets.compose_answers import Answers
from reconciler.targets.compose_command import ComposeCommand, is_race
from reconciler.targets.docker_host import DockerHost

RENDER_TIMEOUT = 60.0
BUILD_TIMEOUT = 3600.0
_RACE_TRIES = 3
#: Fields by which a service shares the namespaces of another one's container.
_NAMESPACES = ("network_mode", "ipc", "pid")
#: Fields whose meaning Compose carries out while it starts a service.
_COMPOSE_STARTS = ("post_start", "pre_stop", "provider", "models")

Service = Mapping[str, Any]


@dataclass(frozen=True)
class Rendering:
    """A rendered project: every file merged, extended and interpolated, paths as they are in the project's folder.

    Attributes:
        document: What `docker compose config` printed. May hold secrets.
        hashes: Config hash by service, equal to the label a plain `docker compose up` writes.
    """

    document: Mapping[str, Any] = field(repr=False)
    hashes: Mapping[str, str]

    @property
    def services(self) -> Mapping[str, Service]:
        """Services of the active profiles, by name."""
        return cast("Mapping[str, Service]", self.document.get("services") or {})

    def volume(self, name: str) -> str | None:
        """The engine's name of a volume, None when the project has no such volume."""
        volumes = self.document.get("volumes") or {}
        if name not in volumes:
            return None
        return str((volumes[name] or {}).get("name") or f"{self.document['name']}_{name}")

    def mounted(self, service: str) -> frozenset[str]:
        """Engine names of the volumes a service mounts."""
        mounts = self.services[service].get("volumes") or ()
        keys = (m.get("source") for m in mounts if m.get("type") == "volume" and m.get("source"))
        return frozenset(self.volume(key) or key for key in keys)

    def reference(self, service: str) -> str:
        """The image reference Compose starts a service from."""
        return str(self.services[service].get("image") or f"{self.document['name']}-{service}")

    def depends_on(self, service: str) -> dict[str, str]:
        """Conditions by the service they are about."""
        found = self.services[service].get("depends_on") or {}
        return {name: str(rule.get("condition")) for name, rule in found.items()}

    def follows(self, service: str) -> list[str]:
        """Services whose containers this one cannot outlive: it is recreated with them."""
        spec = self.services[service]
        names = {
            str(spec[key])[8:] for key in _NAMESPACES if str(spec.get(key)).startswith("service:")
        }
        names |= {str(each).split(":")[0] for each in spec.get("volumes_from") or ()} - {
            "container"
        }
        rules = spec.get("depends_on") or {}
        names |= {name for name, rule in rules.items() if rule.get("restart")}
        return sorted(names & set(self.services))

    def needs_compose(self, service: str) -> bool:
        """Whether only Compose can start a service: it puts files into the container, or runs hooks, as it does."""
        spec = self.services[service]
        inline = {
            name
            for kind in ("secrets", "configs")
            for name, each in (self.document.get(kind) or {}).items()
            if isinstance(each, dict) and ("content" in each or "environment" in each)
        }
        used = {
            str(each.get("source") if isinstance(each, dict) else each)
            for kind in ("secrets", "configs")
            for each in spec.get(kind) or ()
        }
        return bool(used & inline) or any(spec.get(key) for key in _COMPOSE_STARTS)

    @cached_property
    def shares_namespaces(self) -> frozenset[str]:
        """Services whose config hash Compose computes with another container's id in it."""
        return frozenset(
            name
            for name, spec in self.services.items()
            if spec.get("volumes_from")
            or any(str(spec.get(key)).startswith("service:") for key in _NAMESPACES)
        )

    def values(self) -> Iterator[str]:
        """Values that may be secrets: environment, build arguments, inline configs."""
        for spec in self.services.values():
            yield from _values(spec.get("environment"))
            yield from _values((spec.get("build") or {}).get("args"))
        for kind in ("configs", "secrets"):
            for each in (self.document.get(kind) or {}).values():
                if isinstance(each, dict) and isinstance(each.get("content"), str):
                    yield each["content"]


class Compose:
    """One Compose project.

    Args:
        host: The engine.
        project: The project's name.
        root: The project's folder; the files' paths are relative to it.
        files: Compose files, later ones over earlier ones.
        profiles: Profiles to enable.
        env_files: Files for Compose's own variables.
        redact: Takes known secrets out of a text.
        answers: Where answers that never change are remembered.
    """

    def __init__(
        self,
        host: DockerHost,
        project: str,
        root: Path,
        *,
        files: Sequence[str],
        profiles: Sequence[str] = (),
        env_files: Sequence[str] = (),
        redact: Callable[[str], str] = str,
        answers: Answers | None = None,
    ) -> None:
        self.project = project
        self.root = root
        self.files = tuple(files)
        # What Compose itself takes for the project's folder: relative paths in the files are relative to it.
        self._folder = Path(self.files[0]).parent
        self.env_files = tuple(env_files)
        self._profiles = tuple(profiles)
        self._command = ComposeCommand(host, root / self._folder, redact, answers)

    def render(self, tree: Path, prefix: str = "") -> Rendering:
        """Renders the project from a folder and hashes its services.

        Args:
            tree: The folder to read: the project's own, or its image in a scratch tree.
            prefix: What stands before the real paths in a scratch tree (`/cache/view` for `/cache/view/srv/app`).

        Raises:
            PreflightError: Compose refuses the files.
            TransientError: Compose does not answer.
        """
        text = self._command.ask(
            [*self._options(tree), "config", "--format", "json"],
            timeout=RENDER_TIMEOUT,
            prefix=prefix,
        )
        document = json.loads(text)
        if prefix:
            document = _without(document, prefix)
        return Rendering(document, self.hashes(document))

    def fingerprint(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Changes when a file of the working tree changes that Compose certainly reads."""
        return tuple(
            _identity(self.root / name)
            for name in (*self.files, str(self._folder / ".env"), *self.env_files)
        )

    def hashes(self, document: Mapping[str, Any], *options: str) -> dict[str, str]:
        """Config hash of each service of a rendered project.

        `config --hash` on the files themselves leaves env files out (Compose 2.26); on the rendered project it gives
        the label that `up` writes.
        """
        out = self._command.ask_once(
            [
                *(*self._identity(self.root / self._folder), "--profile", "*", "-f", "-"),
                *("config", *options, "--hash", "*"),
            ],
            stdin=json.dumps(document),
            timeout=RENDER_TIMEOUT,
        )
        return dict(line.split(" ", 1) for line in out.splitlines() if " " in line)

    def hashes_beside(self, rendering: Rendering, containers: Mapping[str, str]) -> dict[str, str]:
        """Config hashes as Compose labels them now, for services that share another container's namespaces.

        Compose puts the id of the other container in place of `service:NAME` before it hashes.

        Args:
            rendering: The project.
            containers: Id of the first container, by service.
        """
        document = json.loads(json.dumps(rendering.document))
        services = document["services"]
        for name in rendering.shares_namespaces:
            spec = services[name]
            for key in _NAMESPACES:
                kind, _, other = str(spec.get(key)).partition(":")
                if kind == "service" and other in containers:
                    spec[key] = f"container:{containers[other]}"
            sources = [
                _volume_source(str(each), containers) for each in spec.get("volumes_from") or ()
            ]
            if sources:
                spec["volumes_from"] = sources
        # An id in place of a service's name is not consistent, and must not become a dependency.
        found = self.hashes(document, "--no-normalize", "--no-consistency")
        return {name: found[name] for name in rendering.shares_namespaces}

    def all_services(self, tree: Path) -> frozenset[str]:
        """Names of all services, also those of profiles that are not active."""
        options = [*self._options(tree), "--profile", "*"]
        out = self._command.ask([*options, "config", "--services"], timeout=RENDER_TIMEOUT)
        return frozenset(out.split())

    def version(self) -> str:
        """Compose's version."""
        return self._command.ask_once(["version", "--short"], timeout=RENDER_TIMEOUT).strip()

    def create(
        self, services: Iterable[str], progress: Callable[[str], None], *, timeout: float
    ) -> None:
        """Recreates containers that are not as configured, without building, pulling or starting anything.

        The project's real files are used, not the rendered project: the working tree stands at the wanted commit when
        this is called, and only so do the containers carry the labels by which other tools (and a plain
        `docker compose`) find the project's files. Services these depend on are named to Compose too: `--no-deps` would
        leave `depends_on` out of the config hash.

        Raises:
            StepFailedError: Compose could not make one of them.
            TransientError: The engine cannot be reached.
        """
        self._up(["--no-start"], services, progress, timeout=timeout)

    def up(
        self, services: Iterable[str], progress: Callable[[str], None], *, timeout: float
    ) -> None:
        """Like `create`, and lets Compose start them, with all they depend on.

        Raises:
            StepFailedError: Compose could not start one of them.
            TransientError: The engine cannot be reached.
        """
        self._up(["--detach"], services, progress, timeout=timeout)

    def _up(
        self,
        how: Sequence[str],
        services: Iterable[str],
        progress: Callable[[str], None],
        *,
        timeout: float,
    ) -> None:
        arguments = [*self._options(self.root), "up", *how, "--no-build", "--pull", "never"]
        arguments += ["--no-color", *sorted(services)]
        lines: list[str] = []
        for attempt in range(_RACE_TRIES):
            status, lines = self._command.follow(arguments, progress, timeout=timeout)
            if status == 0:
                return
            if status < 0:
                lines.append(f"it was not done after {timeout:g} s")
                break
            if not is_race(lines) or attempt == _RACE_TRIES - 1:
                break
        raise self._command.step_failure(lines, "Compose could not bring up the services")

    def build(
        self,
        rendering: Rendering,
        service: str,
        *,
        source: tuple[Path, Path],
        tag: str,
        labels: Mapping[str, str],
        no_cache: bool,
        progress: Callable[[str], None],
    ) -> None:
        """Builds a service's image from a clean tree, under a tag of its own, so that production's tag stays.

        Build arguments stay out of every command line: Compose reads them from its standard input.

        Args:
            rendering: The project at the commit.
            service: The service.
            source: The repository's folder, and the folder that stands for it: the commit's files and nothing else.
            tag: Name of the image.
            labels: Labels added to it.
            no_cache: Without the layer cache.
            progress: Told each line of the build.

        Raises:
            PreflightError: The build failed; quotes its last lines.
            TransientError: The engine cannot be reached.
        """
        spec = json.loads(json.dumps(rendering.services[service]["build"]))
        known = spec.get("labels") or {}
        if isinstance(known, list):
            known = dict(each.partition("=")[::2] for each in known)
        spec["labels"] = {**known, **{k: v.replace("$", "$$") for k, v in labels.items()}}
        spec.pop("tags", None)
        for field_ in ("context", "dockerfile", "additional_contexts"):
            if field_ in spec:
                spec[field_] = _moved(spec[field_], source)
        document: dict[str, Any] = {
            "name": self.project,
            "services": {service: {"image": tag, "build": spec}},
            "secrets": rendering.document.get("secrets") or {},
        }
        platform = rendering.services[service].get("platform")
        if platform:
            document["services"][service]["platform"] = platform
        arguments = [
            *self._identity(self.root / self._folder),
            "--progress",
            "plain",
            "-f",
            "-",
            "build",
        ]
        arguments += [*(["--no-cache"] if no_cache else []), service]
        status, lines = self._command.follow(
            arguments, progress, stdin=json.dumps(document), timeout=BUILD_TIMEOUT
        )
        if status != 0:
            failure = self._command.failure(lines, f"The build of {service} failed")
            if isinstance(failure, PreflightError):
                failure = PreflightError(
                    f"The build of {service} failed: {self._command.tail(lines)}",
                    hint="Production is untouched. Mend the build, or pin an image that exists.",
                )
            raise failure

    def _identity(self, folder: Path) -> list[str]:
        return ["-p", self.project, "--project-directory", str(folder)]

    def _options(self, tree: Path) -> list[str]:
        options = self._identity(tree / self._folder)
        for file in self.files:
            options += ["-f", str(tree / file)]
        for profile in self._profiles:
            options += ["--profile", profile]
        for file in self.env_files:
            options += ["--env-file", str(tree / file)]
        return options


def _identity(file: Path) -> tuple[int, int, int] | None:
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _values(mapping: object) -> Iterator[str]:
    if isinstance(mapping, dict):
        yield from (value for value in mapping.values() if isinstance(value, str))


def _volume_source(spec: str, containers: Mapping[str, str]) -> str:
    first, *rest = spec.split(":")
    return rest[0] if first == "container" and rest else containers.get(first, first)


def _without(value: Any, prefix: str) -> Any:
    """A document in which the scratch tree's prefix is taken out of every string."""
    doubled = prefix.replace("$", "$$")  # Compose writes a dollar sign as two
    return _mapped(value, lambda text: text.replace(doubled, "").replace(prefix, ""))


def _moved(value: Any, source: tuple[Path, Path]) -> Any:
    """Paths under one folder as paths under another."""
    old, new = str(source[0]), str(source[1])
    return _mapped(
        value,
        lambda text: new + text[len(old) :] if f"{text}/".startswith(f"{old}/") else text,
    )


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    return change(value) if isinstance(value, str) else value
