"""Steps of the database target, made from materials and observed facts. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reconciler.core import facts as f
from reconciler.core.facts import Observation
from reconciler.core.phase import Phase
from reconciler.core.pins import Artifact
from reconciler.core.plan import Step
from reconciler.targets.pg.materials import Materials, Move
from reconciler.targets.pg.texts import name as quoted

TARGET = "database"
#: Seconds a short migration, and a recovery in time, keep the services waiting; guesses for the plan.
_MOMENT, _RECOVERY = 0.5, 600.0


def steps(phase: Phase, observed: Observation, materials: Materials) -> list[Step]:
    """The steps of one phase; none when the facts are as wanted."""
    version = observed.get(f.DATABASE_VERSION)
    if not version.known or phase not in {Phase.CAPTURE, Phase.RESTORE}:
        return []
    left = materials.remaining(version.value, observed.value(f.DATABASE_APPLIED))
    if left is None:
        # Somebody else has migrated since the goal was resolved; preflight says so.
        return _stale(materials) if phase is Phase.CAPTURE else []
    if not left and not materials.rows:
        return []
    if phase is Phase.CAPTURE:
        return _preparations(materials, left)
    if materials.pitr is not None and left:
        return [_recovery(materials, materials.pitr)]
    return _changes(materials, left)


def _stale(materials: Materials) -> list[Step]:
    args: dict[str, object] = {"materials": materials.model_dump(mode="json"), "stale": True}
    summary = "check whether the migrations are still those that were planned"
    return [_step(Phase.CAPTURE, "preflight", TARGET, summary, args, touches=False)]


def _preparations(materials: Materials, left: Sequence[Move]) -> list[Step]:
    args: dict[str, object] = {"materials": materials.model_dump(mode="json")}
    count = f"{len(left)} migration{'' if len(left) == 1 else 's'}"
    summary = f"check the way of {count}"
    found = [_step(Phase.CAPTURE, "preflight", TARGET, summary, args, touches=False)]
    if not left or materials.pitr is not None:
        return found
    summary = f"rehearse {count} and the way back in a rolled-back transaction"
    found.append(_step(Phase.CAPTURE, "dry-run", TARGET, summary, args, touches=False))
    if any(move.risky for move in left):
        summary = "dump what the migrations destroy"
        found.append(_step(Phase.CAPTURE, "dump", TARGET, summary, once=True, touches=False))
    return found


def _changes(materials: Materials, left: Sequence[Move]) -> list[Step]:
    found: list[Step] = []
    if tuple(left) == materials.moves and any(move.risky for move in left):
        summary = "dump again what has changed since capture"
        found.append(
            _step(Phase.RESTORE, "refresh-dump", TARGET, summary, once=True, touches=False)
        )
    undoable = {move.version for move in materials.undo if move.found}
    found += [_move(move, materials, undoable=move.version in undoable) for move in left]
    subjects = [row.subject for row in materials.rows]
    return found + [_rows(row, alone=subjects.count(row.subject) == 1) for row in materials.rows]


def _move(move: Move, materials: Materials, *, undoable: bool) -> Step:
    verb = "take down" if move.direction == "down" else "apply"
    notes = [*move.destructive]
    if move.outside:
        notes.append("not in a transaction")
    told = f" ({'; '.join(notes)})" if notes else ""
    empty = [
        quoted(row.meta["schema"], row.meta["name"])
        for row in materials.rows
        if row.meta.get("mode") == "table"
    ]
    args: dict[str, object] = {
        "version": move.version,
        "path": move.path,
        "commit": move.commit,
        "sha256": move.sha256,
        "move": move.model_dump(mode="json"),
        "empty": empty if move.direction == "up" else [],
    }
    return _step(
        Phase.RESTORE,
        move.direction,
        move.version,
        f"{verb} migration {move.version} {move.name}".rstrip() + told,
        args,
        irreversible=not undoable,
        data_loss=bool(move.destructive),
        downtime=_MOMENT,
    )


def _rows(row: Artifact, *, alone: bool) -> Step:
    summary = f"put back {row.meta.get('rows', 'the')} rows of {row.subject}"
    if not alone:
        summary += f" from {row.path}"
    if row.meta.get("mode") == "sequence":
        summary = f"set the sequence {row.subject}"
    args: dict[str, object] = {"artifact": row.model_dump(mode="json")}
    subject = row.subject if alone else f"{row.subject} from {row.path}"
    return _step(Phase.RESTORE, "restore-rows", subject, summary, args, downtime=_MOMENT)


def _recovery(materials: Materials, time: int) -> Step:
    summary = "restore the whole database to its state at the declared time; all later data is lost"
    args: dict[str, object] = {
        "time": time,
        "versions": [move.version for move in materials.down],
    }
    return _step(
        *(Phase.RESTORE, "pitr", TARGET, summary, args),
        irreversible=True,
        data_loss=True,
        downtime=_RECOVERY,
    )


def _step(
    phase: Phase,
    action: str,
    subject: str,
    summary: str,
    args: Mapping[str, object] | None = None,
    *,
    irreversible: bool = False,
    data_loss: bool = False,
    once: bool = False,
    touches: bool = True,
    downtime: float = 0.0,
) -> Step:
    return Step(
        phase=phase,
        target=TARGET,
        action=action,
        subject=subject,
        summary=summary,
        args=dict(args or {}),  # type: ignore[arg-type]  # JSON by construction, checked by pydantic
        irreversible=irreversible,
        data_loss=data_loss,
        once=once,
        touches=touches,
        downtime=downtime,
    )
