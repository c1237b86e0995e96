"""Migration files: in the tree of a commit, or in the working folder. Read-only; used by the database target.

Only paths and digests leave this room; a script's text is read again where it is needed, since it may hold secrets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from reconciler.core.errors import PreflightError, StepFailedError, TerminalError
from reconciler.core.migrations import Files, down_files, up_files
from reconciler.targets.pg.driver import Direction

#: A checkout of this very run may have moved HEAD already: where it stood before.
_BEFORE = ("HEAD@{1}", "ORIG_HEAD")


class Trees(Protocol):
    """What is needed of a Git repository."""

    @property
    def root(self) -> Path:
        """The top folder of its working tree."""

    def resolve(self, revision: str) -> str:
        """The full commit id of a revision."""

    def files_under(self, commit: str, folder: str) -> Mapping[str, str]:
        """Blob ids of the files below a folder of a commit, by name relative to it."""

    def read_file(self, commit: str, path: str) -> bytes:
        """A file of a commit."""


@dataclass(frozen=True, slots=True)
class ScriptFile:
    """Where a script is found.

    Attributes:
        version: Its version.
        path: From the project root.
        commit: The commit whose tree has it; None for the working folder.
        sha256: Digest of its bytes, in hex.
        others: Places that have another text under the same version.
    """

    version: str
    path: str
    commit: str | None
    sha256: str
    others: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The part of the file name the history keeps."""
        return PurePosixPath(self.path).stem.partition("_")[2]

    @property
    def where(self) -> str:
        """Path and commit for messages."""
        return f"{self.path} at {self.commit[:9]}" if self.commit else self.path


class MigrationSource:
    """The folders of up and down files.

    Args:
        root: The project root.
        migrations: Folder of the up files, relative to it.
        rollbacks: Folder of the down files, relative to it.
        repository: Where older and newer commits are read; None without a git section.
    """

    def __init__(
        self, root: Path, migrations: str, rollbacks: str, repository: Trees | None = None
    ) -> None:
        self._root = root
        self._folders: Mapping[Direction, str] = {"up": migrations, "down": rollbacks}
        self._repository = repository

    def folder(self, direction: Direction) -> str:
        """The folder of one kind of files, relative to the project root."""
        return self._folders[direction]

    def files(self, direction: Direction, commit: str | None = None) -> Files:
        """The files of one kind by version, in a commit or in the working folder."""
        pair = up_files if direction == "up" else down_files
        return pair(self._names(self._folders[direction], commit))

    def texts(self) -> Iterator[tuple[str, str]]:
        """Version and text of every up file of the working folder."""
        folder = self._folders["up"]
        for version, name in self.files("up").files.items():
            path = self._root / folder / name
            yield version, path.read_text(encoding="utf-8-sig", errors="replace")

    def places(self, *commits: str | None) -> list[str | None]:
        """Where to look, in order: the given commits, the working folder, where HEAD stood before."""
        places: list[str | None] = [commit for commit in commits if commit and self._repository]
        places.append(None)
        for revision in _BEFORE if self._repository else ():
            try:
                places.append(self._repository.resolve(revision))  # type: ignore[union-attr]
            except TerminalError:
                continue
        return list(dict.fromkeys(places))

    def find(
        self, direction: Direction, versions: Sequence[str], places: Sequence[str | None]
    ) -> dict[str, ScriptFile]:
        """The files of some versions: each from the first place that has it.

        Other texts under the same version in the later places are named in the result.
        """
        found: dict[str, ScriptFile] = {}
        for place in places:
            files = self.files(direction, place).files
            for version in (v for v in versions if v in files):
                path = f"{self._folders[direction]}/{files[version]}"
                digest = hashlib.sha256(self._read(path, place)).hexdigest()
                this = ScriptFile(version, path, place, digest)
                known = found.setdefault(version, this)
                if known.sha256 != digest:
                    others = (*known.others, this.where)
                    found[version] = ScriptFile(
                        version, known.path, known.commit, known.sha256, others
                    )
        return found

    def text(self, path: str, commit: str | None, sha256: str) -> str:
        """A script's text.

        Raises:
            StepFailedError: It is not what was judged any more.
            PreflightError: It is not UTF-8.
        """
        data = self._read(path, commit)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise StepFailedError(
                f"{path} has changed since it was checked, so it is not run.",
                hint="Resume: it will be checked again.",
            )
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as exc:
            raise PreflightError(f"{path} is not UTF-8 text.") from exc

    def _names(self, folder: str, commit: str | None) -> list[str]:
        if commit is None:
            try:
                return [entry.name for entry in (self._root / folder).iterdir() if entry.is_file()]
            except (FileNotFoundError, NotADirectoryError):
                return []
        inside = self._inside(folder)
        if inside is None or self._repository is None:
            return []
        return [name for name in self._repository.files_under(commit, inside) if "/" not in name]

    def _read(self, path: str, commit: str | None) -> bytes:
        try:
            if commit is None:
                return (self._root / path).read_bytes()
            inside = self._inside(path)
            if inside is None or self._repository is None:
                raise StepFailedError(f"{path} lies outside the repository.")
            return self._repository.read_file(commit, inside)
        except OSError as exc:
            raise StepFailedError(f"{path} cannot be read ({exc.strerror}).") from exc

    def _inside(self, path: str) -> str | None:
        """A path of the project as one of the repository; None when it lies elsewhere."""
        if self._repository is None:
            return None
        try:
            full = (self._root / path).resolve()
            return full.relative_to(self._repository.root.resolve()).as_posix()
        except ValueError:
            return None
