"""Migration versions: their order, the files that belong to them, and which of them a change takes down or applies.

Pure; the database target reads listings and history and asks here. File naming is that of the Supabase CLI: any number
of digits, an underscore, a name, `.sql`; down files lie in a sibling folder under the same name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

_UP = re.compile(r"(?P<version>\d+)_(?P<name>.*)\.sql")
_DOWN_SUFFIX = re.compile(r"\.(down|up)$")
#: Characters that say nothing when a file is compared with what the history stored of it.
_SILENT = dict.fromkeys(map(ord, "; \t\r\n\f\v"))
_NEAREST = 3


def order(version: str) -> tuple[int, str]:
    """The sort key of a version: by length, then as text, so that digits compare as numbers do."""
    return len(version), version


def is_version(text: str) -> bool:
    """Whether a text is a version: ASCII digits only."""
    return text.isascii() and text.isdigit()


def newest(versions: Iterable[str]) -> str | None:
    """The newest of some versions; None of none."""
    return max(versions, key=order, default=None)


def digest(versions: Iterable[str]) -> str:
    """The fingerprint of a set of applied versions: sha256 over the sorted versions, one a line."""
    return hashlib.sha256("\n".join(sorted(versions, key=order)).encode()).hexdigest()


def fingerprint(sql: str) -> str:
    """The md5 of a script without blanks and semicolons; the same for a file and for its stored statements.

    The history keeps statements trimmed, split or in one piece, depending on who wrote them.
    """
    return hashlib.md5(sql.translate(_SILENT).encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Files:
    """Migration files of one folder, by version.

    Attributes:
        files: File name by version.
        problems: What is wrong with the folder, one sentence each.
    """

    files: Mapping[str, str]
    problems: tuple[str, ...] = ()


def up_files(names: Iterable[str]) -> Files:
    """Pairs the names of an up folder with versions, and finds the traps in it."""
    files: dict[str, str] = {}
    problems: list[str] = []
    for name in sorted(names):
        match = _UP.fullmatch(name)
        if match is None or not match["version"].isascii():
            continue
        if _DOWN_SUFFIX.search(match["name"]):
            problems.append(
                f"{name} lies among the up files: the Supabase CLI would apply it as a migration."
                " Move it to the folder of down files."
            )
        elif match["version"] in files:
            problems.append(f"{name} and {files[match['version']]} have the same version.")
        else:
            files[match["version"]] = name
    return Files(files, (*problems, *mixed_widths(files)))


def down_files(names: Iterable[str]) -> Files:
    """Pairs the names of a down folder with versions."""
    files: dict[str, str] = {}
    problems: list[str] = []
    for name in sorted(names):
        match = _UP.fullmatch(name)
        if match is None or not match["version"].isascii():
            continue
        if match["version"] in files:
            problems.append(f"{name} and {files[match['version']]} undo the same version.")
        else:
            files[match["version"]] = name
    return Files(files, tuple(problems))


def mixed_widths(versions: Collection[str]) -> tuple[str, ...]:
    """A warning when versions have different numbers of digits: other tools then order them otherwise."""
    if len({len(version) for version in versions}) <= 1:
        return ()
    return ("Versions have different numbers of digits; tools that compare them as text disagree.",)


@dataclass(frozen=True, slots=True)
class Route:
    """How to get from the applied versions to the wanted newest one.

    Attributes:
        down: Versions to take down, newest first.
        up: Versions to apply, oldest first.
        problem: Why there is no way; empty when there is one.
    """

    down: tuple[str, ...] = ()
    up: tuple[str, ...] = ()
    problem: str = ""

    def remaining(self, version: str | None) -> Route:
        """What is still to be done when a version is the newest applied one."""
        down = (v for v in self.down if version is not None and order(v) <= order(version))
        up = (v for v in self.up if version is None or order(v) > order(version))
        return Route(down=tuple(down), up=tuple(up))


def route(
    wanted: str | None,
    applied: Collection[str],
    files: Collection[str],
    reapply: Sequence[str] = (),
) -> Route:
    """The versions to take down or to apply.

    Args:
        wanted: The newest version that shall be applied; None for none at all.
        applied: Versions in the history.
        files: Versions that have an up file.
        reapply: For compensation: exactly these are applied again.

    Returns:
        The newest tail in order; or a problem in words.
    """
    known = {*applied, *files, *reapply}
    if wanted is not None and wanted not in known:
        return Route(
            problem=f"Migration {wanted} is neither applied nor a file.{_near(wanted, known)}"
        )
    down = sorted((v for v in applied if wanted is None or order(v) > order(wanted)), key=order)
    if reapply:
        again = sorted((v for v in reapply if v not in applied), key=order)
        return Route(down=tuple(reversed(down)), up=tuple(again))
    if wanted is None or wanted in applied:
        return Route(down=tuple(reversed(down)))
    if down:
        return Route(
            problem=f"Migration {wanted} was never applied, but newer ones are ({_list(down)}):"
            " a gap in the middle is not filled."
        )
    top = newest(applied)
    pending = sorted(
        (v for v in files if order(v) <= order(wanted) and v not in applied), key=order
    )
    late = [v for v in pending if top is not None and order(v) < order(top)]
    if late:
        return Route(
            problem=f"Files older than the newest applied migration were never applied: {_list(late)}."
        )
    return Route(up=tuple(pending))


def _near(wanted: str, known: Collection[str]) -> str:
    if not known:
        return " No migration is known at all."
    ordered = sorted(known, key=order)
    below = [v for v in ordered if order(v) < order(wanted)][-_NEAREST:]
    above = [v for v in ordered if order(v) > order(wanted)][:_NEAREST]
    return f" The nearest are {_list([*below, *above])}."


def _list(versions: Sequence[str]) -> str:
    shown = ", ".join(versions[: 2 * _NEAREST])
    more = len(versions) - 2 * _NEAREST
    return f"{shown} and {more} more" if more > 0 else shown
