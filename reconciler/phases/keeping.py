"""How long captures are kept: those of the newest runs. What older runs saved is removed once production is stable."""

from __future__ import annotations

import shutil
from pathlib import Path

#: Runs of an environment whose captures are kept. The ledger keeps what they were for ever.
RUNS_KEPT = 10


def prune_captures(folder: Path, *, keep: int = RUNS_KEPT) -> list[str]:
    """Removes the captures of all but the newest runs of one environment.

    Args:
        folder: The environment's folder of captures; its entries are named after runs, which begin with their time.
        keep: How many runs keep theirs.

    Returns:
        The names of the runs whose captures were removed.
    """
    runs = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    gone = runs[: max(0, len(runs) - keep)]
    for path in gone:
        shutil.rmtree(
            path, ignore_errors=True
        )  # what cannot be removed now is tried again at the next stable
    return [path.name for path in gone]
