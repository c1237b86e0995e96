"""What the docker target remembers between processes so that a look stays one round trip.

Names only: which services and volumes the project's goals had, and which config hashes were found to mean the
same. It is a cache: without it the project is rendered once more, nothing else. Called by `docker` and
`docker_observe`.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reconciler.targets.compose import Rendering

_MOST = 500


class Alias(BaseModel):
    """A config hash with the ids of other containers in it, and the hash without.

    Attributes:
        label: The hash on the container.
        others: Container id by service, as they were when it was computed.
        canonical: The hash of the service in the rendered project.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    label: str
    others: Mapping[str, str]
    canonical: str


class _Kept(BaseModel):
    services: list[str] = Field(default_factory=list)
    volumes: dict[str, str] = Field(default_factory=dict)
    aliases: dict[str, Alias] = Field(default_factory=dict)
    sharing: list[str] = Field(default_factory=list)


class Memory:
    """The remembered names of one project.

    Args:
        path: Its file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept = _Kept()
        self.blank = True
        with suppress(OSError, ValidationError):
            self._kept = _Kept.model_validate_json(path.read_bytes())
            self.blank = False

    @property
    def services(self) -> frozenset[str]:
        """Services that some goal or working tree had."""
        return frozenset(self._kept.services)

    @property
    def sharing(self) -> frozenset[str]:
        """Services that share another container's namespaces."""
        return frozenset(self._kept.sharing)

    def volume(self, name: str) -> str | None:
        """The engine's name of a volume."""
        return self._kept.volumes.get(name)

    def learn(self, rendering: Rendering, volumes: Mapping[str, str | None]) -> None:
        """Remembers a rendered project's names."""
        before = self._kept.model_copy(deep=True)
        names = dict.fromkeys([*rendering.services, *self._kept.services])
        self._kept.services = list(names)[:_MOST]
        self._kept.volumes |= {name: engine for name, engine in volumes.items() if engine}
        self._kept.sharing = sorted(rendering.shares_namespaces | self.sharing)[:_MOST]
        self._save(before)

    def canonical(self, service: str, label: str, containers: Mapping[str, str]) -> str | None:
        """What a config hash was found to mean, if the containers it speaks of are still the same."""
        alias = self._kept.aliases.get(service)
        if alias is None or alias.label != label:
            return None
        same = all(containers.get(name) == other for name, other in alias.others.items())
        return alias.canonical if same else None

    def learn_alias(self, service: str, alias: Alias) -> None:
        """Remembers what a config hash means."""
        before = self._kept.model_copy(deep=True)
        self._kept.aliases[service] = alias
        self._save(before)

    def _save(self, before: _Kept) -> None:
        if self._kept == before and not self.blank:
            return
        self.blank = False
        scratch = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            scratch.write_text(json.dumps(self._kept.model_dump(mode="json")), encoding="utf-8")
            scratch.replace(self._path)
        except OSError:
            scratch.unlink(
                missing_ok=True
            )  # a cache that cannot be kept costs a rendering, nothing else
