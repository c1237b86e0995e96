"""Facts: what was read from the world, and what is wanted of it, in one vocabulary.

A fact is one value under one dotted key (`docker.service.app.image`). What cannot be read is *unknown*, a value of its
own, never a guess. Targets make facts; drift, decisions and the certificate compare them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, JsonValue

#: The order in which targets are observed, planned and shown. Restoring follows it too: the tree first, traffic last.
TARGET_ORDER = ("git", "docker", "database", "vercel")

GIT_COMMIT = "git.commit"
GIT_DIRTY = "git.dirty"  # "clean" or "dirty"; informative, never part of a goal
GIT_HEAD = "git.head"  # the symbolic ref HEAD stands on, absent when detached; informative
DATABASE_VERSION = "database.version"  # newest applied migration; absent when none is applied
DATABASE_APPLIED = "database.applied"  # sha256 over the sorted applied versions
VERCEL_DEPLOYMENT = "vercel.deployment"  # id of the deployment that serves production

HEALTHY, RUNNING, COMPLETED = "healthy", "running", "completed"


def service_image(service: str) -> str:
    """Key of the image id (`sha256:...`) a service's containers run."""
    return f"docker.service.{service}.image"


def service_config(service: str) -> str:
    """Key of the Compose config hash a service's containers were created with."""
    return f"docker.service.{service}.config"


def service_state(service: str) -> str:
    """Key of a service's state: `healthy`, `running` (no healthcheck), `completed`, `starting`, `exited`, absent..."""
    return f"docker.service.{service}.state"


def volume_restored(volume: str) -> str:
    """Key of the sha256 of the archive a volume was last restored from; absent when it never was."""
    return f"docker.volume.{volume}.restored"


def target_of(key: str) -> str:
    """The target a fact key belongs to."""
    return key.partition(".")[0]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Fact(_Frozen):
    """One value read from the world.

    Attributes:
        key: Dotted name, beginning with the target's.
        value: The value as canonical text; None means *known to be absent*.
        unknown: Why it could not be read; None when it could. An unknown fact blocks.
        detail: A human's word for the value (`omniops-app:v0.0.9`), never compared.
    """

    key: str
    value: str | None = None
    unknown: str | None = None
    detail: str = ""

    @property
    def known(self) -> bool:
        """Whether the value could be read."""
        return self.unknown is None


class Observation(_Frozen):
    """All facts of one look at the world, by key.

    Attributes:
        at: When the look was finished (UTC).
        facts: Facts by key.
    """

    at: datetime
    facts: Mapping[str, Fact] = Field(default_factory=dict)

    def get(self, key: str) -> Fact:
        """The fact under a key; unknown when nobody observed it."""
        return self.facts.get(key) or Fact(key=key, unknown="not observed")

    def value(self, key: str) -> str | None:
        """The known value under a key, or None when absent or unknown."""
        return self.get(key).value

    def of_target(self, target: str) -> Iterator[Fact]:
        """Facts of one target, in key order."""
        return (self.facts[key] for key in sorted(self.facts) if target_of(key) == target)

    def merged(self, facts: Iterable[Fact]) -> Observation:
        """A copy in which the given facts replace those of the same key."""
        return Observation(at=self.at, facts={**self.facts, **{fact.key: fact for fact in facts}})

    @classmethod
    def of(cls, at: datetime, facts: Iterable[Fact]) -> Observation:
        """An observation from a list of facts."""
        return cls(at=at, facts={fact.key: fact for fact in facts})


class Wanted(_Frozen):
    """One wanted value.

    Attributes:
        key: The fact's key.
        value: The wanted value; None means *wanted absent*.
        pending: True while the value is only made by a step of capture (the id of an image still to be built).
        detail: A human's word for it.
    """

    key: str
    value: str | None = None
    pending: bool = False
    detail: str = ""


class Goal(_Frozen):
    """A resolved release vector: every wanted fact, and what planning needs to know to get there.

    Attributes:
        wanted: Wanted facts by key.
        materials: By target, data read while resolving (migration files and their digests, services affected ...),
            so that planning can stay pure. Holds references and digests, never secrets or file contents.
    """

    wanted: Mapping[str, Wanted] = Field(default_factory=dict)
    materials: Mapping[str, JsonValue] = Field(default_factory=dict)

    def value(self, key: str) -> str | None:
        """The wanted value under a key; None when absent or not wanted at all."""
        wanted = self.wanted.get(key)
        return wanted.value if wanted else None

    def completed(self, facts: Iterable[Fact]) -> Goal:
        """A copy in which pending values are filled from facts that steps have made."""
        made = {fact.key: fact for fact in facts}
        filled = {
            key: want.model_copy(
                update={
                    "value": made[key].value,
                    "pending": False,
                    "detail": made[key].detail or want.detail,
                }
            )
            if want.pending and key in made
            else want
            for key, want in self.wanted.items()
        }
        return self.model_copy(update={"wanted": filled})


class Resolution(_Frozen):
    """What one target answers when asked to resolve its pins: wanted facts and materials for planning."""

    wanted: tuple[Wanted, ...] = ()
    materials: JsonValue = None


class RecoveryPoint(_Frozen):
    """A release vector that once passed verify: somewhere one can go back to.

    Attributes:
        id: Short name (`rp-<run>`), unique in its environment.
        at: When it was verified (UTC).
        run: The run that verified it.
        generation: The spec generation it belonged to.
        vector: Verified values by fact key.
        details: A human's word for some of the values, by fact key.
    """

    id: str
    at: datetime
    run: str
    generation: int
    vector: Mapping[str, str | None]
    details: Mapping[str, str] = Field(default_factory=dict)
