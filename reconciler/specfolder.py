"""A folder of specs as it is now: which environments it declares, and what is wrong with which file.

Level-triggered: each look reads what lies there, so it does not matter how it came there (an editor that saves by
renaming, a checkout, a link that moved) or which event was missed. A file counts once it has come to rest, because half
a file can be a valid spec too. Called by `loop`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.core.errors import SpecInvalidError, UsageError
from reconciler.project import LoadedSpec, load_spec

#: Seconds a file must have been left alone before it is believed.
SETTLE = 0.3
_SUFFIXES = frozenset({".yaml", ".yml"})

#: What tells one version of a file from another; None when it cannot be looked at.
_Print = tuple[int, int, int, int] | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something in the folder is not acted on.

    Attributes:
        environment: The environment that is left as it is; None when nobody knows which one was meant.
        lines: What is wrong, each line with its place.
    """

    environment: str | None
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Contents:
    """What the folder says.

    Attributes:
        specs: The spec of each environment that has exactly one valid spec.
        refused: What is wrong, by file (or by environment, where two files claim it).
        settled: Whether every file has come to rest; if not, look again after `SETTLE`.
    """

    specs: Mapping[str, LoadedSpec]
    refused: Mapping[str, Refusal]
    settled: bool


@dataclass(slots=True)
class _File:
    """What is known about one file: the newest version seen, and what the last one at rest said."""

    seen: _Print = None
    since: float = float("-inf")
    read: _Print = None
    spec: LoadedSpec | None = None
    problems: tuple[str, ...] = ()
    environment: str | None = None


@dataclass(slots=True)
class SpecFolder:
    """Reads a folder of specs (or one spec), again and again.

    Attributes:
        path: The folder, or one file.
        monotonic: The clock that tells how long a file has been left alone, in seconds.
        wall: The clock that files are stamped with, in seconds.
    """

    path: Path
    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    _files: dict[Path, _File] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """What to watch for changes."""
        return self.path if self.path.is_dir() else self.path.parent

    def look(self) -> Contents:
        """Reads what has changed since the last look. A file that is gone says nothing any more.

        Raises:
            UsageError: The folder cannot be read.
        """
        settled = True
        for path in dict.fromkeys([*self._paths(), *self._files]):
            settled &= self._refresh(path)
        return self._contents(settled=settled)

    def _paths(self) -> list[Path]:
        if not self.path.is_dir():
            return [self.path] if self.path.suffix in _SUFFIXES else []
        try:
            entries = sorted(self.path.iterdir())
        except OSError as exc:
            raise UsageError(
                f"The folder of specs {self.path} cannot be read: {exc.strerror}."
            ) from exc
        return [
            path for path in entries if path.suffix in _SUFFIXES and not path.name.startswith(".")
        ]

    def _refresh(self, path: Path) -> bool:
        """Brings what is known about a file up to date. Returns whether it has come to rest."""
        file, now = self._files.setdefault(path, _File()), _print_of(path)
        if now != file.seen:
            old = now is not None and abs(self.wall() - now[0] / 1e9) >= SETTLE
            file.seen, file.since = now, float("-inf") if old else self.monotonic()
        if self.monotonic() - file.since < SETTLE:
            return False
        if file.seen is None:
            del self._files[path]
        elif file.seen != file.read or file.problems:
            return _read(
                path, file
            )  # what is wrong may be mended elsewhere: in reconciler.toml, say
        return True

    def _contents(self, *, settled: bool) -> Contents:
        claims: dict[str, list[LoadedSpec]] = {}
        refused: dict[str, Refusal] = {}
        for path, file in self._files.items():
            if file.spec is not None:
                claims.setdefault(file.spec.spec.name, []).append(file.spec)
            elif file.problems:
                refused[str(path)] = Refusal(file.environment, file.problems)
        for name, specs in claims.items():
            if len(specs) > 1:
                refused[name] = Refusal(name, tuple(_claims(name, [spec.path for spec in specs])))
        only = {name: specs[0] for name, specs in claims.items() if len(specs) == 1}
        return Contents(only, refused, settled)


def _read(path: Path, file: _File) -> bool:
    """Reads a file at rest. Returns whether it still was when it had been read."""
    spec: LoadedSpec | None = None
    problems: tuple[str, ...] = ()
    try:
        spec = load_spec(path)
    except SpecInvalidError as exc:
        problems = tuple(str(problem) for problem in exc.problems)
    if _print_of(path) != file.seen:
        return False
    file.read, file.spec, file.problems = file.seen, spec, problems
    file.environment = spec.spec.name if spec else file.environment
    return True


def _claims(name: str, paths: list[Path]) -> Iterator[str]:
    for path in paths:
        others = " and ".join(str(other) for other in paths if other != path)
        yield f"{path}:1:1: metadata.name: {name} is also declared by {others}"


def _print_of(path: Path) -> _Print:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_ctime_ns
