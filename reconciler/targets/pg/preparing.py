"""The steps of capture: preflight, dry run, dump. None of them changes the database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reconciler.core.errors import PolicyRefusedError, PreflightError
from reconciler.core.pins import Artifact
from reconciler.targets import dumps
from reconciler.targets.base import Applied, ApplyContext
from reconciler.targets.pg.driver import Driver, Limits, Row, Script
from reconciler.targets.pg.dumpfile import check, unused, write
from reconciler.targets.pg.losses import Findings, findings
from reconciler.targets.pg.materials import Materials, Move
from reconciler.targets.pg.needed import KIND
from reconciler.targets.pg.outside import without_concurrently
from reconciler.targets.pg.pitr import TimeTraveller
from reconciler.targets.pg.resolving import read, script
from reconciler.targets.pg.source import MigrationSource

_KIND = "dry-run"
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Rules:
    """The policy.

    Attributes:
        allow_data_loss: Whether scripts that destroy data may run.
        require_undo: Whether there must be a checked way back.
    """

    allow_data_loss: bool
    require_undo: bool


def preflight(
    driver: Driver,
    source: MigrationSource,
    materials: Materials,
    rules: Rules,
    context: ApplyContext,
) -> Applied:
    """Everything that can be refused without running anything.

    Raises:
        PreflightError: Something is missing, not allowed in a migration, or the server cannot be written to.
        PolicyRefusedError: Data would be lost and the policy does not allow it.
    """
    server = driver.server()
    if server.problems:
        raise PreflightError(
            " ".join(server.problems), hint="Make the database writable, then resume."
        )
    for row in materials.rows:
        check(row, context.states)
    if materials.pitr is not None:
        _check_travel(driver, materials.pitr, rules)
        return Applied(note="; ".join(materials.warnings))
    driver.history()
    _check_scripts(materials.moves, "cannot be undone" if materials.down else "cannot be applied")
    for move in materials.moves:
        read(source, move, driver)
    if rules.require_undo and materials.down:
        _check_scripts(materials.undo, "could not be applied again if the rollback failed")
    if not rules.allow_data_loss and not _goes_back(materials, context):
        _check_policy(materials.moves)
    return Applied(note="; ".join(materials.warnings))


def _check_travel(driver: Driver, time: int, rules: Rules) -> None:
    if not isinstance(driver, TimeTraveller):
        raise PreflightError("Point-in-time recovery needs the Supabase API.")
    if not rules.allow_data_loss:
        raise PolicyRefusedError(
            "Point-in-time recovery destroys everything written since, and the policy forbids data loss.",
            hint="Set spec.policy.allowDataLoss: true if that is accepted.",
        )
    driver.can_travel(time)


def _check_scripts(moves: Sequence[Move], verdict: str) -> None:
    for move in moves:
        if move.conflict:
            raise PreflightError(
                f"{move.conflict}.", hint="Make them equal, or remove one of the two."
            )
        if not move.found:
            raise PreflightError(
                f"Migration {move.version} {verdict}: there is no {move.direction} script for it.",
                hint=f"Write {move.missing}.",
            )
        if move.refused:
            raise PreflightError(
                f"{move.where} holds what a migration may not hold: {_listed(move.refused)}.",
                hint="Take it out: each script runs in one transaction of ours.",
            )
        if move.outside and move.statements != 1:
            raise PreflightError(
                f"{move.where} holds {_listed(move.outside)}, which cannot run in a transaction.",
                hint="Give that statement a script of its own, alone.",
            )


def _names(moves: Sequence[Move]) -> tuple[str, ...]:
    return tuple(f"{move.direction} {move.version}" for move in moves)


def _goes_back(materials: Materials, context: ApplyContext) -> bool:
    """Whether all moves take back what this very run had set out to do: then the policy was asked on the way there."""
    if materials.compensating:
        return True
    opposite = {"up": "down", "down": "up"}
    undone = {f"{opposite[move.direction]} {move.version}" for move in materials.moves}
    return any(undone <= set(found.moves) for found in _rehearsals(context))


def _rehearsals(context: ApplyContext) -> list[Findings]:
    """The dry runs of this run so far, oldest first."""
    paths = [check(a, context.states) for a in context.artifacts if a.kind == _KIND]
    return [Findings.model_validate_json(path.read_bytes()) for path in paths]


def _check_policy(moves: Sequence[Move]) -> None:
    lost = [text for move in moves for text in move.destructive]
    lost += [text for move in moves if move.outside and move.risky for text in move.unclear]
    if lost:
        raise PolicyRefusedError(
            f"Data would be lost, and the policy forbids it: {_listed(lost)}.", hint=_ALLOW
        )


_ALLOW = "Set spec.policy.allowDataLoss: true; what is lost is dumped first."


def _listed(texts: Sequence[str]) -> str:
    shown = "; ".join(texts[:_SHOWN])
    return f"{shown} and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else shown


def rehearse(  # noqa: PLR0917 - what a rehearsal is made of
    driver: Driver,
    source: MigrationSource,
    materials: Materials,
    rules: Rules,
    limits: Limits,
    context: ApplyContext,
) -> Applied:
    """Runs all scripts and their undoing in a transaction that is rolled back; keeps what would be lost.

    Raises:
        PreflightError: A script fails, or what it destroys would not come back.
        PolicyRefusedError: Data would be lost that no text told of, and the policy does not allow it.
    """
    scripts = [ready for move in materials.moves if (ready := _rehearsable(driver, source, move))]
    undo: list[Script] = []
    if rules.require_undo and materials.undo and all(_clean(move) for move in materials.undo):
        ran = {script.version for script in scripts}
        back = [
            _rehearsable(driver, source, move) for move in materials.undo if move.version in ran
        ]
        undo = [ready for ready in back if ready]
    rehearsal = driver.rehearse(scripts, undo, limits)
    found = findings(rehearsal.changes, [script.version for script in scripts])
    found = found.model_copy(update={"moves": _names(materials.moves)})
    if found.losses and not rules.allow_data_loss and not _goes_back(materials, context):
        lost = _listed([str(loss) for loss in found.losses])
        raise PolicyRefusedError(
            f"The dry run shows that data would be lost, and the policy forbids it: {lost}.",
            hint=_ALLOW,
        )
    if rehearsal.after_undo is not None and rules.require_undo:
        _check_return(found, rehearsal.after_undo)
    path = unused(context, "database-dry-run.json")
    size, sha256, _ = write(path, [found.model_dump_json().encode()])
    kept = Artifact(
        kind=_KIND,
        subject="database",
        path=path.relative_to(context.states).as_posix(),
        sha256=sha256,
        size=size,
    )
    skipped = [move.version for move in materials.moves if move.outside]
    note = str(found) + (f"; not in a transaction: {', '.join(skipped)}" if skipped else "")
    return Applied(artifacts=[kept], note=note)


def _clean(move: Move) -> bool:
    return move.found and not move.refused and not move.conflict


def _rehearsable(driver: Driver, source: MigrationSource, move: Move) -> Script | None:
    ready = script(source, move, driver)
    if not move.outside:
        return ready
    inside = without_concurrently(ready.sql)
    if inside is None:
        return None
    return Script(ready.version, ready.direction, inside, ready.name, ready.where)


def _check_return(found: Findings, after: Sequence[Row]) -> None:
    """What is lost must have a place to come back to once the up scripts have run again."""
    columns = {(str(row["schema"]), str(row["name"]), str(row["col"])) for row in after}
    tables = {(schema, name) for schema, name, _ in columns}
    for loss in found.losses:
        place = (loss.schema_name, loss.name)
        gone = [column for column in loss.columns if (*place, column) not in columns]
        if loss.mode == "sequence" or (place in tables and not gone):
            continue
        what = f"{', '.join(gone)} of {loss.subject}" if place in tables else loss.subject
        raise PreflightError(
            f"After the rollback {what} could not be brought back: the up scripts do not make it again.",
            hint="Complete the up or the down script, so that one is the reverse of the other.",
        )


def dump(driver: Driver, context: ApplyContext, *, again: bool) -> Applied:
    """Dumps what the dry run says would be lost; the second time only what has changed since.

    Raises:
        PreflightError: It could not be put back, or does not fit on the disk.
    """
    rehearsals = _rehearsals(context)
    if not rehearsals:
        raise PreflightError(
            "There is no dry run to tell what would be lost.", hint="Resume: capture runs again."
        )
    found = rehearsals[-1]
    known: Mapping[str, Artifact] = {}
    if again:
        known = {a.subject: a for a in context.artifacts if a.kind == KIND}
    made = dumps.dump(driver, found.taken_down(), context, known)
    rows = sum(int(artifact.meta.get("rows", "0")) for artifact in made)
    if again and not made:
        return Applied(note="nothing has changed since capture")
    return Applied(artifacts=made, note=f"{len(made)} dumped, {rows} rows" if made else str(found))
