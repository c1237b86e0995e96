"""Volumes: backed up into an archive, restored from one, and known to be restored or not.

The engine can neither relabel nor rename a volume. So a restore removes it, makes it again with the
same driver, options and labels plus a fresh token, fills it, and only then leaves a tiny marker
volume with the same token and the archive's digest beside it. A volume that is half filled, or was
made anew by somebody else, does not carry the marker's token and is never taken for restored.
Called by the docker target; knows no service.
"""

from __future__ import annotations

import json
import secrets
from itertools import chain
from typing import IO, TYPE_CHECKING, Any

from reconciler.core.crashpoints import CrashPoint
from reconciler.core.errors import (
    CaptureCorruptError,
    PreflightError,
    ReconcilerError,
    StepFailedError,
    TargetUnavailableError,
)
from reconciler.core.facts import Fact, volume_restored
from reconciler.core.pins import Artifact
from reconciler.targets.volume_archive import ArchiveReport, Limits, inspect
from reconciler.targets.volume_backup import write_backup
from reconciler.targets.volume_engine import PROJECT, VolumeEngine, labels_of
from reconciler.targets.volume_root import Root, root_of
from reconciler.targets.volume_source import (
    CHUNK,
    ArchiveError,
    Hashed,
    exactly,
    file_sha256,
    opened,
    unpacked,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import docker

    from reconciler.targets.base import ApplyContext

#: Labels of what this program makes on an engine.
VOLUME, TOKEN, SHA256, RECIPE = (
    "reconciler.volume",
    "reconciler.restore",
    "reconciler.sha256",
    "reconciler.recipe",
)
#: Labels by which Compose knows its volumes.
COMPOSE_PROJECT, COMPOSE_VOLUME = "com.docker.compose.project", "com.docker.compose.volume"

_MARKER, _RECIPE = ".restored", ".restoring"


class VolumeStore:
    """Backups and restores of one Compose project's volumes.

    Args:
        client_factory: Gives the engine's client; called for each use, may give the same one.
        project: Name of the Compose project; volumes of others are not touched.
        image: Gives the id of any image on the engine. A container is made from it, and never
            started.
        states: The state folder. Archives in it are our own backups, of which less is asked. None:
            there are none.
        limits: What an archive may hold at most.
    """

    def __init__(
        self,
        client_factory: Callable[[], docker.DockerClient],
        project: str,
        image: Callable[[], str],
        *,
        states: Path | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._engine = VolumeEngine(client_factory, project, image)
        self._project = project
        self._states = states.resolve() if states is not None else None
        self._limits = limits or Limits()

    def observe(self, volume: str) -> Fact:
        """The digest of the archive a volume was last restored from; absent when it never was.

        Args:
            volume: Its name on the engine.
        """
        key = volume_restored(volume)
        try:
            present, marker = self._engine.find(volume), self._engine.find(volume + _MARKER)
        except ReconcilerError as exc:
            return Fact(key=key, unknown=exc.message)
        if present is None or marker is None:
            return Fact(key=key)
        token, labels = labels_of(present).get(TOKEN), labels_of(marker)
        same = token is not None and token == labels.get(TOKEN) and labels.get(VOLUME) == volume
        return Fact(key=key, value=labels.get(SHA256) if same else None)

    def exists(self, volume: str) -> bool:
        """Whether there is such a volume.

        Raises:
            TargetUnavailableError: The engine cannot be asked.
        """
        return self._engine.find(volume) is not None

    def check_volume(self, volume: str) -> None:
        """Finds out, before anything is stopped, whether a volume could be replaced.

        Raises:
            PreflightError: It is external, another project's, or not kept on the engine's own disk.
            TargetUnavailableError: The engine cannot be asked.
        """
        found = self._engine.find(volume)
        if found is None:
            return
        owner = labels_of(found).get(COMPOSE_PROJECT)
        if owner != self._project:
            whose = f"belongs to the Compose project {owner}" if owner else "is external to Compose"
            raise PreflightError(
                f"The volume {volume} {whose}: it is not replaced, since others may rely on it.",
                hint="Restore it by hand, or let the compose file declare it without `external`.",
            )
        options = found.attrs.get("Options") or {}
        if found.attrs.get("Driver") != "local" or options:
            raise PreflightError(
                f"The volume {volume} is not kept on the engine's own disk: what an archive does "
                "not hold would stay in it.",
                hint="Restore it with the means of whatever stores it.",
            )

    def check_archive(
        self, path: Path, sha256: str, *, max_bytes: int | None = None, own: bool = False
    ) -> ArchiveReport:
        """Reads an archive from beginning to end and judges it.

        Args:
            path: The file.
            sha256: The digest it must have, in hex.
            max_bytes: Bytes it may unpack to; the store's limit when None.
            own: It is a backup of ours; archives in the state folder are so anyway.

        Raises:
            PreflightError: It has another digest, is damaged, or not safe to unpack.
        """
        limits = self._limits if max_bytes is None else Limits(unpacked=max_bytes)
        with opened(path) as file:
            # The digest first: what nobody vouched for is not even parsed.
            if (found := file_sha256(file)) != sha256.lower():
                raise PreflightError(
                    f"The archive {path.name} has the digest {found}, not {sha256}.",
                    hint="Get the right file, or correct `sha256` in the spec.",
                )
            try:
                return inspect(file, limits, own=own or self._is_own(path))
            except ArchiveError as exc:
                raise PreflightError(f"The archive {path.name} {exc}.") from exc

    def backup(self, volume: str, dest: Path, context: ApplyContext) -> Artifact:
        """Saves a volume into a file, and reads it back.

        Args:
            volume: Its name on the engine.
            dest: The file to be made, mode 0600; one that is there is replaced.
            context: What the runner lends.

        Returns:
            The archive, a tar compressed with zstd.

        Raises:
            PreflightError: The disk is too small; says how much is needed.
            StepFailedError: The volume is not there, or is in use.
            TransientError: It may be tried again.
        """
        self._engine.remove_helpers(volume)
        self._engine.require_idle(volume, "backed up")
        if not self.exists(volume):
            raise StepFailedError(f"There is no volume {volume} to back up.")
        context.progress(f"Backing up the volume {volume}")
        context.at(CrashPoint.MID_EFFECT)
        with self._engine.helper(volume) as container:
            written = write_backup(self._engine.content(container, volume), dest, context)
        report = self.check_archive(dest, written.sha256, own=True)
        context.at(CrashPoint.APPLIED_UNREAD)
        return Artifact(
            kind="volume-backup",
            subject=volume,
            path=dest.resolve().relative_to(context.states.resolve()).as_posix(),
            sha256=written.sha256,
            size=written.size,
            meta={
                "volume": volume,
                "compression": report.compression,
                "unpacked": str(report.unpacked),
                "members": str(report.members),
            },
        )

    def restore(self, volume: str, path: Path, sha256: str, context: ApplyContext) -> Fact:
        """Replaces a volume's content by an archive's. Safe to repeat after a crash at any instant.

        Args:
            volume: Its name on the engine.
            path: The archive, which `check_archive` has passed.
            sha256: Its digest, in hex.
            context: What the runner lends.

        Returns:
            The fact that the volume is restored from this archive.

        Raises:
            CaptureCorruptError: The archive has changed since it was checked; the volume was not
                touched.
            StepFailedError: The volume is in use or external, or the engine cannot unpack the
                archive.
            TransientError: It may be tried again.
        """
        sha256 = sha256.lower()
        fact = Fact(key=volume_restored(volume), value=sha256, detail=path.name)
        if self.observe(volume).value == sha256:
            self._engine.drop(volume + _RECIPE)
            return fact
        with opened(path) as file:
            if file_sha256(file) != sha256:
                raise CaptureCorruptError(
                    f"The archive {path.name} has changed since it was checked; {volume} was not "
                    "touched.",
                    hint="Put the right file back, then run `reconciler resume`.",
                )
            self._engine.remove_helpers(volume)
            self._engine.require_idle(volume, "restored", stopped_too=True)
            self.check_volume(volume)
            recipe = self._recipe(volume)
            context.at(CrashPoint.MID_EFFECT)
            context.guard()
            token = secrets.token_hex(16)
            self._engine.drop(volume + _MARKER)
            self._engine.drop(volume)
            context.at(CrashPoint.MID_EFFECT)
            context.guard()
            self._create(volume, recipe, token)
            context.at(CrashPoint.MID_EFFECT)
            self._fill(volume, file, path, sha256, context, root=_root_in(recipe))
        context.at(CrashPoint.MID_EFFECT)
        context.guard()
        self._mark(volume, _MARKER, {TOKEN: token, SHA256: sha256})
        self._engine.drop(volume + _RECIPE)
        context.at(CrashPoint.APPLIED_UNREAD)
        return fact

    def _recipe(self, volume: str) -> Mapping[str, Any]:
        """How the volume was made. Kept on the engine before it is removed, since only it knows."""
        kept, found = self._engine.find(volume + _RECIPE), self._engine.find(volume)
        if kept is not None:
            recipe: dict[str, Any] = json.loads(labels_of(kept).get(RECIPE, "{}"))
            # A volume that is still whole was not removed in that attempt, or was made again by
            # somebody since.
            if found is None or TOKEN in labels_of(found):
                return recipe
            self._engine.drop(volume + _RECIPE)
        recipe = {"driver": "local", "labels": self._own_labels(volume)}
        if found is not None:
            labels = {name: value for name, value in labels_of(found).items() if name != TOKEN}
            recipe = {"driver": found.attrs.get("Driver") or "local", "labels": labels}
            if options := found.attrs.get("Options"):
                recipe["driver_opts"] = options
            with self._engine.helper(volume) as container:
                # For an archive that does not hold the folder itself, only what is in it.
                if root := self._engine.root(container, volume):
                    recipe["root"] = [root.mode, root.uid, root.gid, root.mtime]
        self._mark(volume, _RECIPE, {RECIPE: json.dumps(recipe, sort_keys=True)})
        return recipe

    def _mark(self, volume: str, suffix: str, labels: Mapping[str, str]) -> None:
        """Makes a volume that holds nothing but labels; Compose knows it for the project's own."""
        ours = {VOLUME: volume, PROJECT: self._project, **self._own_labels(volume + suffix)}
        self._engine.make(volume + suffix, {"labels": {**ours, **labels}})

    def _own_labels(self, volume: str) -> dict[str, str]:
        """The labels Compose would have given a volume that never was."""
        short = volume.removeprefix(f"{self._project}_")
        return {COMPOSE_PROJECT: self._project, COMPOSE_VOLUME: short}

    def _create(self, volume: str, recipe: Mapping[str, Any], token: str) -> None:
        labels = {**recipe.get("labels", {}), TOKEN: token}
        settings = {name: value for name, value in recipe.items() if name != "root"}
        self._engine.make(volume, {**settings, "labels": labels})
        # Creating what somebody else has just created succeeds without a word, and without our
        # labels.
        made = self._engine.find(volume)
        if made is None or labels_of(made).get(TOKEN) != token:
            raise TargetUnavailableError(
                f"The volume {volume} was made by somebody else meanwhile."
            )

    def _fill(
        self,
        volume: str,
        file: IO[bytes],
        path: Path,
        sha256: str,
        context: ApplyContext,
        *,
        root: Root | None,
    ) -> None:
        hashed = Hashed(file)
        try:
            _, content = unpacked(hashed)
            head = exactly(content, CHUNK)
            with self._engine.helper(volume) as container:
                pieces = chain((head,), _told(content.read, volume, context))
                self._engine.unpack(container, volume, pieces)
                if root := root_of(head) or root:
                    self._engine.set_root(container, volume, root)
        except ArchiveError as exc:
            raise CaptureCorruptError(f"The archive {path.name} {exc}.") from exc
        if hashed.hexdigest() != sha256:
            raise CaptureCorruptError(
                f"The archive {path.name} changed while {volume} was filled from it.",
                hint="Put the right file back, then run `reconciler resume`.",
            )

    def _is_own(self, path: Path) -> bool:
        return self._states is not None and path.resolve().is_relative_to(self._states)


def _root_in(recipe: Mapping[str, Any]) -> Root | None:
    return Root(*recipe["root"]) if "root" in recipe else None


def _told(read: Callable[[int], bytes], volume: str, context: ApplyContext) -> Iterator[bytes]:
    """The content in pieces; says from time to time how far it is."""
    done, told = 0, 0
    while data := read(CHUNK):
        yield data
        done += len(data)
        if done - told >= 256 * CHUNK:
            told = done
            context.progress(f"Restoring the volume {volume}: {done // CHUNK} MiB")
