"""How long captures are kept: those of the newest runs. What older runs saved is removed once production is stable."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from reconciler.core.status import EnvironmentStatus

#: Runs of an environment whose captures are kept. The ledger keeps what they were for ever.
RUNS_KEPT = 10


def needed_captures(status: EnvironmentStatus) -> set[str]:
    """The runs whose files an environment still rests on: what it is held at may be restored from them again."""
    pins = [held.pins for held in (status.override, status.resolved) if held]
    paths = [artifact.path for artifact in (status.run.artifacts if status.run else ())]
    for each in pins:
        paths += [row.path for row in (each.database.rows if each.database else ())]
        volumes = each.docker.volumes.values() if each.docker else ()
        paths += [volume.path for volume in volumes if volume.own]
    parts = [Path(path).parts for path in paths]  # captures/ENVIRONMENT/RUN/...
    return {found[2] for found in parts if found[:1] == ("captures",) and len(found) > 3}  # noqa: PLR2004


def prune_captures(
    folder: Path, *, keep: int = RUNS_KEPT, needed: Collection[str] = ()
) -> list[str]:
    """Removes the captures of all but the newest runs of one environment.

    Args:
        folder: The environment's folder of captures; its entries are named after runs, which begin with their time.
        keep: How many runs keep theirs.
        needed: Runs that keep theirs however old they are.

    Returns:
        The names of the runs whose captures were removed.
    """
    runs = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    gone = [path for path in runs[: max(0, len(runs) - keep)] if path.name not in needed]
    for path in gone:
        shutil.rmtree(
            path, ignore_errors=True
        )  # what cannot be removed now is tried again at the next stable
    return [path.name for path in gone]
