"""From vectors to pins: what was observed once becomes somewhere to go. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from reconciler.core import facts as f
from reconciler.core.errors import NoLastKnownGoodError
from reconciler.core.facts import Goal, RecoveryPoint
from reconciler.core.fields import LAST_KNOWN_GOOD
from reconciler.core.pins import DatabasePins, DockerPins, Pins, ServicePin, VolumePin
from reconciler.core.spec import Spec
from reconciler.core.status import Run

Vector = Mapping[str, str | None]
_SERVICE, _IMAGE, _STATE = "docker.service.", ".image", ".state"
_UP = frozenset({f.HEALTHY, f.RUNNING, f.COMPLETED})


def pins_from_spec(spec: Spec, good: RecoveryPoint | None) -> Pins:
    """The pins a spec declares.

    Args:
        spec: The spec.
        good: The last known good vector, for fields that say `last-known-good`.

    Raises:
        NoLastKnownGoodError: A field asks for it and there is none, or it does not cover that field.
    """

    def known(key: str, field: str) -> str:
        value = good.vector.get(key) if good else None
        if value is None:
            raise NoLastKnownGoodError(
                f"{field} asks for last-known-good, and no verified state of this environment records {key}.",
                hint="Name the value itself, apply it once, and it becomes the last known good.",
            )
        return value

    git = spec.git and (
        known(f.GIT_COMMIT, "spec.git.commit")
        if spec.git.commit == LAST_KNOWN_GOOD
        else spec.git.commit
    )
    docker = None
    if spec.docker is not None:
        services = {}
        for name, service in spec.docker.services.items():
            image = service.image
            if image == LAST_KNOWN_GOOD:
                image = known(f.service_image(name), f"spec.docker.services.{name}.image")
            services[name] = ServicePin(
                image=image, build=bool(service.build), no_cache=bool(service.no_cache)
            )
        volumes = {
            name: VolumePin(path=volume.restore, sha256=volume.sha256)
            for name, volume in spec.docker.volumes.items()
        }
        docker = DockerPins(services=services, volumes=volumes)
    database = None
    if spec.database is not None:
        version = spec.database.migration
        if version == LAST_KNOWN_GOOD:
            version = known(f.DATABASE_VERSION, "spec.database.migration")
        database = DatabasePins(version=version)
    vercel = spec.vercel and (
        known(f.VERCEL_DEPLOYMENT, "spec.vercel.deployment")
        if spec.vercel.deployment == LAST_KNOWN_GOOD
        else spec.vercel.deployment
    )
    return Pins(git=git or None, docker=docker, database=database, vercel=vercel or None)


def services_of(vector: Iterable[str]) -> list[str]:
    """The services a vector speaks about."""
    return sorted(
        key[len(_SERVICE) : -len(_IMAGE)]
        for key in vector
        if key.startswith(_SERVICE) and key.endswith(_IMAGE)
    )


def pins_from_vector(vector: Vector) -> Pins:
    """The pins that lead to a vector that was once observed."""
    docker = None
    if any(key.startswith("docker.") for key in vector):
        images = {name: vector[f.service_image(name)] for name in services_of(vector)}
        docker = DockerPins(
            services={
                name: ServicePin(image=image)
                for name, image in images.items()
                if image and image.startswith("sha256:")
            },
            best_effort=tuple(
                name
                for name, image in images.items()
                if image and vector.get(f.service_state(name)) not in _UP
            ),
        )
    return Pins(
        git=vector.get(f.GIT_COMMIT),
        head=vector.get(f.GIT_HEAD),
        docker=docker,
        database=DatabasePins(version=vector[f.DATABASE_VERSION])
        if f.DATABASE_VERSION in vector
        else None,
        vercel=vector.get(f.VERCEL_DEPLOYMENT),
    )


def compensation_pins(run: Run) -> Pins:
    """The pins that lead back to the vector captured before a run, with the help of what the run saved on its way.

    A volume that may have been overwritten comes back from the backup taken just before; a migration that may have been
    taken down is applied again, and its lost rows come back from their dumps.
    """
    pins = pins_from_vector(run.before)
    begun = [key.partition("/")[2].split("/", 3) for key in run.effects]
    overwritten = {
        subject
        for _, target, action, subject in begun
        if (target, action) == ("docker", "restore-volume")
    }
    taken_down = {
        subject for _, target, action, subject in begun if (target, action) == ("database", "down")
    }
    if pins.docker and overwritten:
        # The first backup of a volume is the one from before it was overwritten; a run that was resumed makes another.
        backups = {
            artifact.subject: VolumePin(path=artifact.path, sha256=artifact.sha256, own=True)
            for artifact in reversed(run.artifacts)
            if artifact.kind == "volume-backup" and artifact.subject in overwritten
        }
        pins = pins.model_copy(
            update={"docker": pins.docker.model_copy(update={"volumes": backups})}
        )
    if pins.database and taken_down:
        rows = tuple(artifact for artifact in run.artifacts if artifact.kind == "table-dump")
        reapply = tuple(sorted(taken_down, key=lambda version: (len(version), version)))
        database = pins.database.model_copy(update={"reapply": reapply, "rows": rows})
        pins = pins.model_copy(update={"database": database})
    return pins


def settled(pins: Pins, goal: Goal) -> Pins:
    """The pins with what moves (`HEAD~1`, a tag, a host name) replaced by what it meant when the goal was resolved.

    Once production was touched, the same words may mean something else: HEAD has moved.
    """
    made = {key: want.value for key, want in goal.wanted.items() if not want.pending}
    docker = pins.docker and pins.docker.model_copy(
        update={
            "services": {
                name: pin.model_copy(update={"image": made.get(f.service_image(name)) or pin.image})
                if pin.image
                else pin
                for name, pin in pins.docker.services.items()
            }
        }
    )
    return pins.model_copy(
        update={
            "git": pins.git and (made.get(f.GIT_COMMIT) or pins.git),
            "docker": docker,
            "vercel": pins.vercel and (made.get(f.VERCEL_DEPLOYMENT) or pins.vercel),
        }
    )


def rollback_point(points: Iterable[RecoveryPoint], now: Vector) -> RecoveryPoint | None:
    """The newest verified vector that differs from what runs now: where a bare `rollback` goes."""
    return next((point for point in points if differs(point.vector, now)), None)


def differs(vector: Vector, now: Vector) -> bool:
    """Whether production now differs from a verified vector in any part of the release itself (health is not one)."""
    return any(
        now.get(key) != value
        for key, value in vector.items()
        if key in (f.GIT_COMMIT, f.DATABASE_VERSION, f.DATABASE_APPLIED, f.VERCEL_DEPLOYMENT)
        or (key.startswith(_SERVICE) and not key.endswith(_STATE))
    )
