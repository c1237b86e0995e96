"""Finds the scripts of a route and judges them: which files, from which commit, destroying what. Reads only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from reconciler.core.errors import StepFailedError
from reconciler.core.migrations import Route, fingerprint, mixed_widths
from reconciler.core.sql import judge
from reconciler.core.sqlsplit import unwrapped
from reconciler.targets.pg.driver import Direction, Driver, Script, Stored
from reconciler.targets.pg.materials import Materials, Move
from reconciler.targets.pg.source import MigrationSource, ScriptFile


def moves(
    driver: Driver,
    source: MigrationSource,
    route: Route,
    places: Sequence[str | None],
    applied: Sequence[str],
) -> Materials:
    """The moves of a route with those that would undo them.

    Args:
        driver: For down scripts kept in the history.
        source: The files.
        route: Where to go.
        places: Commits to look in, in order.
        applied: All versions in the history.
    """
    versions = (*route.down, *route.up)
    ups = source.find("up", versions, places)
    downs = source.find("down", versions, places)
    stored = driver.stored(route.down)
    down = tuple(_down(source, v, downs.get(v), ups.get(v), stored.get(v)) for v in route.down)
    up = tuple(_move(source, v, "up", ups.get(v)) for v in route.up)
    undo_down = tuple(_move(source, v, "up", ups.get(v)) for v in reversed(route.down))
    undo_up = tuple(_down(source, v, downs.get(v), ups.get(v), None) for v in reversed(route.up))
    warnings = [
        f"{file.path} differs between commits: {file.where} is used, not {', '.join(file.others)}."
        for file in (*ups.values(), *downs.values())
        if file.others
    ]
    warnings += mixed_widths({*applied, *versions})
    return Materials(down=down, up=up, undo=undo_up + undo_down, warnings=tuple(warnings))


def _move(
    source: MigrationSource, version: str, direction: Direction, file: ScriptFile | None
) -> Move:
    if file is None:
        missing = f"{source.folder(direction)}/{version}_<name>.sql"
        return Move(version=version, direction=direction, missing=missing)
    move = Move(
        version=version,
        direction=direction,
        path=file.path,
        commit=file.commit,
        sha256=file.sha256,
        name=file.name,
    )
    text = read(source, move)
    return move.judged(judge(unwrapped(text) if direction == "up" else text))


def _down(
    source: MigrationSource,
    version: str,
    file: ScriptFile | None,
    up: ScriptFile | None,
    stored: Stored | None,
) -> Move:
    """A down script: the file, else the history's own; when both are there and differ, a human decides."""
    move = _move(source, version, "down", file)
    kept = stored.rollback if stored else None
    if move.found:
        if kept and fingerprint(kept) != fingerprint(read(source, move)):
            conflict = f"{move.where} and the rollback script in the history of {version} differ"
            return move.model_copy(update={"conflict": conflict})
        return move
    name = (stored.name if stored else None) or (up.name if up else "") or "<name>"
    if kept is None:
        return move.model_copy(update={"missing": f"{source.folder('down')}/{version}_{name}.sql"})
    digest = hashlib.sha256(kept.encode()).hexdigest()
    own = Move(version=version, direction="down", sha256=digest, name=name, stored=True)
    return own.judged(judge(kept))


def read(source: MigrationSource, move: Move, driver: Driver | None = None) -> str:
    """The text of a move's script, checked against its digest.

    Raises:
        StepFailedError: It has changed since it was judged.
    """
    if not move.stored:
        return source.text(move.path, move.commit, move.sha256)
    kept = driver.stored([move.version]).get(move.version) if driver else None
    text = (kept.rollback if kept else None) or ""
    if hashlib.sha256(text.encode()).hexdigest() != move.sha256:
        raise StepFailedError(f"{move.where} has changed since it was checked, so it is not run.")
    return text


def script(
    source: MigrationSource, move: Move, driver: Driver, empty: Sequence[str] = ()
) -> Script:
    """A move's script, ready to run."""
    return Script(
        version=move.version,
        direction=move.direction,
        sql=read(source, move, driver),
        name=move.name,
        where=move.where,
        empty=tuple(empty),
    )
