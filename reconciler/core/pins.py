"""Pins: where each target shall be taken, before it is resolved against the world.

A spec gives pins; so does a recovery point, and so does the vector captured before a run. That is why going forward,
going back by command and compensating are one code path: only the pins differ.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Artifact(_Frozen):
    """A file made and kept by a run: a dump, a volume backup, saved logs.

    Attributes:
        kind: `volume-backup`, `table-dump`, `logs`, ...
        subject: What it was made of (a volume, `schema.table`).
        path: Where it lies, relative to the state folder.
        sha256: Digest of its bytes, in hex.
        size: Bytes.
        meta: What reading it back needs (columns, version ...). Never secrets or row contents.
    """

    kind: str
    subject: str
    path: str
    sha256: str
    size: int
    meta: Mapping[str, str] = Field(default_factory=dict)


class ServicePin(_Frozen):
    """One service's way back: an image that exists, or a build from the target commit.

    Attributes:
        image: Tag, digest or image id; None when it is built.
        build: Built from the goal's commit (reused when an image labelled with that commit exists).
        no_cache: Build without the layer cache, and without reuse.
    """

    image: str | None = None
    build: bool = False
    no_cache: bool = False


class VolumePin(_Frozen):
    """One volume's way back.

    Attributes:
        path: Archive, relative to the project root (or, for our own backups, to the state folder).
        sha256: Its digest, in hex.
        own: The archive is a backup of ours, under the state folder.
    """

    path: str
    sha256: str
    own: bool = False


class DockerPins(_Frozen):
    """Pins of the containers.

    Attributes:
        services: By service; services without a pin follow the Compose file of the target commit.
        volumes: By volume, as named in the spec.
        best_effort: Services that were not healthy when the vector was captured. They are brought back as they were,
            but not waited for, and their state is not a wanted fact: what was broken before cannot be demanded healthy.
    """

    services: Mapping[str, ServicePin] = Field(default_factory=dict)
    volumes: Mapping[str, VolumePin] = Field(default_factory=dict)
    best_effort: tuple[str, ...] = ()


class DatabasePins(_Frozen):
    """Pins of the database.

    Attributes:
        version: The newest migration that shall be applied; None for "none at all".
        reapply: Versions this run took down and that must come back, oldest first (compensation only).
        rows: All dumps of the run, oldest first (compensation only).
    """

    version: str | None
    reapply: tuple[str, ...] = ()
    rows: tuple[Artifact, ...] = ()


class Pins(_Frozen):
    """Pins of all targets; None where the target is not declared.

    Attributes:
        git: A revision (`4f9c2e1`, `v1.2`, `HEAD~1`).
        head: The symbolic ref HEAD shall stand on (`refs/heads/main`) if it points at that commit; None detaches.
        docker: Images and volumes.
        database: The migration version.
        vercel: Deployment id or host name.
    """

    git: str | None = None
    head: str | None = None
    docker: DockerPins | None = None
    database: DatabasePins | None = None
    vercel: str | None = None
