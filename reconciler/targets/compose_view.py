"""The project's folder as it is at another commit, without touching the working tree.

A *view* is what Compose reads: the commit's files, and links to what the working tree holds beside them (`.env`, env
files, certificates), so that secrets are found and never copied. It stands under a prefix that mirrors the real
absolute path, so that `../shared.env` works and the prefix can be taken out of every path again. A *source* is what
images are built from: the commit's files and nothing else. Both are kept by commit, and only the newest few. Called by
`docker`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.errors import PreflightError, TransientError
from reconciler.targets.shared.repository import Repository

_KEPT = 6
#: Folders above the repository in which `../` is followed, short of the root and of what is everybody's.
_LEVELS = 3
_MOST_LINKS = 5000


@dataclass(frozen=True)
class View:
    """A folder to read the project from.

    Attributes:
        tree: The folder that stands for the project's folder.
        prefix: What stands before the real path in it; empty for the real folder.
        linked: The real files and folders it links to.
    """

    tree: Path
    prefix: str
    linked: tuple[Path, ...] = ()


class Views:
    """Views and sources of one project.

    Args:
        cache: Folder they are kept in; made when needed.
        root: The project's folder.
        repository: Its repository; None when the working tree itself is all there is.
    """

    def __init__(self, cache: Path, root: Path, repository: Repository | None) -> None:
        self._cache = cache
        self._root = root
        self._repository = repository
        # The repository's folder, spelled as the project's is: paths in rendered projects must be too.
        self._top = _enclosing(root, repository.root) if repository else None

    @property
    def governed(self) -> bool:
        """Whether the project's folder lies in the repository, so that a commit says what its files are."""
        return self._top is not None

    def of_tree(self) -> View:
        """The working tree as it is."""
        return View(self._root, "")

    def at(self, commit: str) -> View:
        """The project's folder at a commit.

        Raises:
            TerminalError: There is no such commit.
        """
        repository, top = self._required()
        prefix = self._export(repository, "view", commit, top)
        linked = tuple(self._link_rest(repository, prefix, top))
        return View(_below(prefix, self._root), str(prefix), linked)

    def source(self, commit: str) -> tuple[Path, Path]:
        """The repository's folder, and a folder that holds a commit's files and nothing else.

        Raises:
            TerminalError: There is no such commit.
        """
        repository, top = self._required()
        return top, _below(self._export(repository, "source", commit, top), top)

    def _required(self) -> tuple[Repository, Path]:
        if self._repository is None or self._top is None:
            raise PreflightError(
                f"{self._root} is not inside the repository of spec.git, so no commit says what its files are.",
                hint="Point spec.git.repository at the repository that holds the compose files.",
            )
        return self._repository, self._top

    def _export(self, repository: Repository, kind: str, commit: str, top: Path) -> Path:
        place = self._cache / f"{kind}s" / commit
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            scratch = place.parent / f".{commit}.{secrets.token_hex(4)}"
            folder = _below(scratch, top)
            try:
                folder.mkdir(parents=True)
                repository.export(commit, folder)
                scratch.rename(place)
            except OSError as exc:
                if not place.exists():  # otherwise another process was faster
                    raise TransientError(
                        f"The files of {commit[:12]} cannot be written below {place.parent}: {exc.strerror}."
                    ) from exc
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        os.utime(place)
        self._forget_old(place)
        return place

    def _forget_old(self, keep: Path) -> None:
        """Removes all but the newest few; a scratch folder left by a crash counts as one of them."""
        found = sorted(
            (entry for entry in keep.parent.iterdir() if entry != keep),
            key=lambda entry: entry.lstat().st_mtime,
            reverse=True,
        )
        for entry in found[_KEPT - 1 :]:
            shutil.rmtree(entry, ignore_errors=True)

    def _link_rest(self, repository: Repository, prefix: Path, top: Path) -> Iterator[Path]:
        """Links what the working tree holds and Git does not, and what lies beside the repository."""
        for relative in _unknown_to_git(repository):
            yield from _link(_below(prefix, top) / relative, top / relative)
        for folder in list(top.parents)[:_LEVELS]:
            if folder == Path(folder.anchor) or _is_everybodys(folder):
                return
            try:
                beside = sorted(folder.iterdir())[:_MOST_LINKS]
            except OSError:
                continue  # not ours to read: Compose will say so if it is needed
            for real in beside:
                if not self._cache.is_relative_to(real):
                    yield from _link(_below(prefix, real), real)


def _enclosing(folder: Path, top: Path) -> Path | None:
    """The same folder as `top`, found upwards of another one; None when it is not above it."""
    for each in (folder, *folder.parents):
        if each == top or (each.exists() and each.samefile(top)):
            return each
    return None


def _link(link: Path, real: Path) -> Iterator[Path]:
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(link):
            link.symlink_to(real)
    except (FileExistsError, NotADirectoryError):
        return  # the commit has something else there, as it will after the checkout
    if link.is_symlink():
        yield real


def _is_everybodys(folder: Path) -> bool:
    """Whether anybody on the machine may put files there, as in /tmp: no project keeps its env files beside those."""
    try:
        return bool(folder.stat().st_mode & stat.S_IWOTH)
    except OSError:
        return True


def _below(prefix: Path, real: Path) -> Path:
    return Path(f"{prefix}{real}")


def _unknown_to_git(repository: Repository) -> Sequence[str]:
    """Untracked and ignored entries of the working tree; a folder of nothing else is one entry."""
    out = repository.git.ask("list untracked files", "ls-files", "--others", "--directory", "-z")
    return [os.fsdecode(name).rstrip("/") for name in out.split(b"\0") if name]
