"""The rollback state file, `states/<environment>.yaml`: the status for humans, for Git and for diffs.

Only written here, atomically, from the status; delete it and the next command writes it again from the ledger.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from reconciler.core.entry import Entry, EntryKind
from reconciler.core.errors import LedgerError
from reconciler.core.facts import RecoveryPoint
from reconciler.core.phase import RESTING_PHASES, TOUCHING_PHASES
from reconciler.core.status import EnvironmentStatus, Run

_HEADER = (
    "# Written by reconciler from its ledger; do not edit. Delete it and it is written again.\n"
)


class StateFile:
    """Writes the state file whenever the environment has moved.

    Args:
        folder: The folder of state files.

    While services are down nothing is written: each file would lengthen the outage, and the ledger has it all.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def recorded(self, entry: Entry, status: EnvironmentStatus) -> None:
        """Listens to the journal."""
        if entry.kind in (EntryKind.INTENT, EntryKind.RESULT) or status.phase in TOUCHING_PHASES:
            return
        try:
            write_state_file(self._folder, status)
        except LedgerError:
            # The ledger has it all, and no run is held up for want of a picture of it: said once it has come to rest.
            if entry.kind is EntryKind.TRANSITION and status.phase in RESTING_PHASES:
                raise

    def restore(self, status: EnvironmentStatus) -> None:
        """Writes a state file again that somebody has deleted, for an environment that was seen before."""
        if status.entries and not (self._folder / f"{status.environment}.yaml").exists():
            write_state_file(self._folder, status)


def write_state_file(folder: Path, status: EnvironmentStatus) -> Path:
    """Writes one state file: a new file beside it, then a rename.

    Raises:
        LedgerError: It cannot be written.
    """
    path = folder / f"{status.environment}.yaml"
    temporary = folder / f".{status.environment}.yaml.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(_HEADER + _yaml(document(status)), encoding="utf-8")
        temporary.replace(path)
    except OSError as exc:
        temporary.unlink(missing_ok=True)
        raise LedgerError(
            f"The state file {path.name} cannot be written: {exc.strerror}.",
            hint="Free disk space or fix permissions.",
        ) from exc
    return path


def document(status: EnvironmentStatus) -> Any:
    """What the state file says."""
    good, held = status.last_known_good, status.held
    return _pruned(
        {
            "apiVersion": "reconciler/v1",
            "kind": "EnvironmentState",
            "metadata": {"name": status.environment},
            "status": {
                "phase": status.phase.value,
                "generation": status.generation,
                "observedGeneration": status.observed_generation,
                "suspended": status.suspended or None,
                "conditions": [
                    {
                        "type": condition.type.value,
                        "status": condition.status,
                        "reason": condition.reason.value,
                        "message": condition.message,
                        "lastTransitionTime": condition.last_transition.isoformat(),
                    }
                    for condition in status.conditions
                ],
                "held": held
                and {
                    "generation": held.generation,
                    "reason": held.reason.value,
                    "message": held.message,
                    "by": held.by,
                    "at": held.at.isoformat(),
                },
                "observed": dict(status.observed),
                "run": status.run and _run(status.run),
                "lastKnownGood": good and _point(good),
                "recoveryPoints": [_point(point) for point in status.recovery_points],
                "ledgerEntries": status.entries,
            },
        }
    )


def _run(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "cause": run.cause.value,
        "compensating": run.compensating or None,
        "generation": run.generation,
        "started": run.started.isoformat(),
        "finished": run.finished and run.finished.isoformat(),
        "goal": {key: want.value for key, want in run.goal.wanted.items()} if run.goal else None,
        "before": dict(run.before),
        "failure": run.failure and run.failure.model_dump(mode="json"),
        "openEffects": list(run.open_effects) or None,
        "artifacts": [
            {"kind": item.kind, "subject": item.subject, "path": item.path, "sha256": item.sha256}
            for item in run.artifacts
        ],
    }


def _point(point: RecoveryPoint) -> dict[str, Any]:
    return {
        "id": point.id,
        "at": point.at.isoformat(),
        "generation": point.generation,
        "vector": dict(point.vector),
    }


def _pruned(value: Any) -> Any:
    """Without entries that say nothing (None, empty), except inside vectors, where None means absent."""
    if isinstance(value, dict):
        return {
            key: item if key in ("vector", "observed", "before", "goal") else _pruned(item)
            for key, item in value.items()
            if item is not None and item not in ([], {})
        }
    return [_pruned(item) for item in value] if isinstance(value, list) else value


def _yaml(value: Any) -> str:
    from ruamel.yaml import YAML

    writer: Any = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False
    writer.allow_unicode = True
    writer.width = 200
    stream = io.StringIO()
    writer.dump(value, stream)
    return stream.getvalue()
