"""Dumps of what migrations destroy, and the way back of their rows. Used by the database target.

One file a table, in COPY's text format, read in one consistent snapshot, counted and fingerprinted against the table it
came from. Not pg_dump: its archives bring back whole objects, where we need the rows of a table, or some columns of it,
merged into what a migration has made again, and checked one by one.
"""

# ruff: noqa: S608 - SQL is built from quoted names and literals; see `pg.texts`

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, TypeAdapter

from reconciler.core.errors import (
    PreflightError,
    StepFailedError,
    TransientError,
)
from reconciler.core.pins import Artifact
from reconciler.targets.base import ApplyContext
from reconciler.targets.pg import rows as merging
from reconciler.targets.pg.driver import Driver, RowsBack, Snapshot
from reconciler.targets.pg.dumpfile import check, file_stem, unused, write
from reconciler.targets.pg.losses import Loss
from reconciler.targets.pg.needed import KIND
from reconciler.targets.pg.texts import literal, name

#: Free space demanded besides the size of the table itself, in bytes.
_SPARE = 64 * 1024 * 1024
#: Largest table without a key that goes through the API, in bytes.
_KEYLESS = 1024 * 1024
_CHUNK = 1024 * 1024


class _Column(BaseModel):
    name: str
    type: str
    number: int
    generated: bool
    sequence: str | None


class _Table(BaseModel):
    """A table as the catalog describes it."""

    columns: list[_Column]
    keys: list[list[str]] | None
    refers: list[str] | None
    plain: str
    id: int
    relkind: str
    bytes: int


@dataclass(frozen=True, slots=True)
class _Plan:
    """One table to dump.

    Attributes:
        loss: What it loses.
        table: How it is now.
        columns: What is written, in order.
        key: Columns that find a row again; may be empty for whole tables.
    """

    loss: Loss
    table: _Table
    columns: Sequence[str]
    key: Sequence[str]

    @property
    def relation(self) -> str:
        """What is read: a table without its heirs, or all partitions of one."""
        quoted = name(self.loss.schema_name, self.loss.name)
        return quoted if self.table.relkind == "p" else f"ONLY {quoted}"


def dump(
    driver: Driver,
    losses: Sequence[Loss],
    context: ApplyContext,
    known: Mapping[str, Artifact] | None = None,
) -> list[Artifact]:
    """Writes what would be lost into the run's folder.

    Args:
        driver: The database.
        losses: What a dry run found.
        context: Where files go.
        known: Dumps made before, by subject: a table whose content is still the same is not written again.

    Raises:
        PreflightError: Something could not be put back, or the disk is too small.
    """
    if not losses:
        return []
    with driver.snapshot(context) as snapshot:
        plans = [
            plan for loss in losses if loss.mode != "sequence" and (plan := _plan(snapshot, loss))
        ]
        if not driver.direct:
            _require_keys(plans)
        _room_for(plans, context.captures)
        made: list[Artifact] = []
        for order, plan in enumerate(_parents_first(plans)):
            context.progress(f"dumping {plan.loss.subject}")
            artifact = _dump_table(
                snapshot, plan, order, context, (known or {}).get(plan.loss.subject)
            )
            if artifact is not None:
                made.append(artifact)
        for loss in losses:
            quoted = name(loss.schema_name, loss.name)
            if loss.mode == "sequence" and _stands_alone(snapshot, quoted):
                made.append(_dump_sequence(snapshot, quoted, loss, context))
    return made


def _plan(snapshot: Snapshot, loss: Loss) -> _Plan | None:
    rows = snapshot.query(merging.describe_sql(name(loss.schema_name, loss.name)))
    if not rows:
        return None
    table = TypeAdapter(_Table).validate_python(rows[0])
    if table.relkind not in {"r", "p"}:
        return None
    kept = [column.name for column in table.columns if not column.generated]
    keys = [key for key in table.keys or [] if set(key) <= set(kept)]
    if loss.mode != "columns":
        return _Plan(loss, table, kept, keys[0] if keys else ())
    lasting = [key for key in keys if not set(key) & set(loss.columns)]
    if not lasting:
        raise PreflightError(
            f"{loss.subject} has no primary key that stays: lost values of {', '.join(loss.columns)} could not be"
            " put back.",
            hint="Give the table a primary key, or change the down script so that it keeps the column.",
        )
    lost = [column for column in loss.columns if column in kept]
    return _Plan(loss, table, [*lasting[0], *lost], lasting[0]) if lost else None


def _parents_first(plans: Sequence[_Plan]) -> Iterator[_Plan]:
    """Tables others refer to come before those that refer to them; a ring is cut anywhere."""
    waiting = list(plans)
    while waiting:
        present = {plan.table.plain for plan in waiting}
        ready = [p for p in waiting if not (set(p.table.refers or ()) & present) - {p.table.plain}]
        for plan in ready or waiting[:1]:
            waiting.remove(plan)
            yield plan


def _require_keys(plans: Iterable[_Plan]) -> None:
    """Rows without a key can be put back in one request only, so that none of them comes twice."""
    for plan in plans:
        if not plan.key and plan.table.bytes > _KEYLESS:
            raise PreflightError(
                f"{plan.loss.subject} has no primary key and is too large to be put back through the API.",
                hint="Name a direct connection in spec.database.supabase.dsnFrom.",
            )


def _room_for(plans: Iterable[_Plan], folder: Path) -> None:
    needed = sum(plan.table.bytes for plan in plans) + _SPARE
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise PreflightError(
            f"The dumps need about {needed // 2**20} MiB and {free // 2**20} MiB are free in {folder}.",
            hint="Free space, or move the state folder to a larger disk.",
        )


def _dump_table(
    snapshot: Snapshot, plan: _Plan, order: int, context: ApplyContext, known: Artifact | None
) -> Artifact | None:
    subject, relation = plan.loss.subject, plan.relation
    (before,) = snapshot.query(merging.content_sql(relation, plan.columns))
    content = str(before["content"])
    if known is not None and known.meta.get("content") == content:
        return None
    path = unused(context, f"{file_stem(subject)}.copy")
    size, sha256, lines = write(path, snapshot.copy(relation, plan.columns))
    if lines != int(str(before["rows"])):
        raise TransientError(f"{subject} changed while it was being dumped.", retry_after=1.0)
    types = {column.name: column.type for column in plan.table.columns}
    numbers = {column.name: column.number for column in plan.table.columns}
    sequences = {
        column.name: _sequence(snapshot, column.sequence)
        for column in plan.table.columns
        if column.sequence and column.name in plan.columns
    }
    return Artifact(
        kind=KIND,
        subject=subject,
        path=path.relative_to(context.states).as_posix(),
        sha256=sha256,
        size=size,
        meta={
            "format": "copy-text/1",
            "schema": plan.loss.schema_name,
            "name": plan.loss.name,
            "mode": plan.loss.mode,
            "versions": json.dumps(plan.loss.versions),
            "columns": json.dumps(list(plan.columns)),
            "types": json.dumps([types[column] for column in plan.columns]),
            "pk": json.dumps(list(plan.key)),
            "lost": json.dumps([c for c in plan.loss.columns if c in plan.columns]),
            "converted": json.dumps([c for c in plan.loss.converted if c in plan.columns]),
            "identity": json.dumps([plan.table.id, [numbers[c] for c in plan.columns]]),
            "rows": str(lines),
            "content": content,
            "order": f"{order:05}",
            "sequences": json.dumps(sequences),
        },
    )


def _stands_alone(snapshot: Snapshot, quoted: str) -> bool:
    """Whether a sequence is there and belongs to no column, with which it would come back."""
    return bool(
        snapshot.query(
            "SELECT 1 AS found FROM pg_catalog.pg_class c"
            f" WHERE c.oid = pg_catalog.to_regclass({literal(quoted)}) AND NOT EXISTS ("
            " SELECT 1 FROM pg_catalog.pg_depend d WHERE d.objid = c.oid AND d.deptype IN ('a', 'i')"
            " AND d.refobjsubid > 0)"
        )
    )


def _sequence(snapshot: Snapshot, sequence: str) -> tuple[int, bool]:
    (row,) = snapshot.query(merging.sequence_sql(sequence))
    return int(str(row["last_value"])), bool(row["is_called"])


def _dump_sequence(snapshot: Snapshot, quoted: str, loss: Loss, context: ApplyContext) -> Artifact:
    value, called = _sequence(snapshot, quoted)
    path = unused(context, f"{file_stem(loss.subject)}.copy")
    size, sha256, _ = write(path, [f"{value}\t{'t' if called else 'f'}\n".encode()])
    return Artifact(
        kind=KIND,
        subject=loss.subject,
        path=path.relative_to(context.states).as_posix(),
        sha256=sha256,
        size=size,
        meta={
            "format": "copy-text/1",
            "schema": loss.schema_name,
            "name": loss.name,
            "mode": "sequence",
            "versions": json.dumps(loss.versions),
            "order": "99999",
        },
    )


def put_back(driver: Driver, artifact: Artifact, context: ApplyContext) -> str:
    """Merges a dump into its table, in one transaction where the driver has them; safe to repeat.

    Returns:
        One line for the history.

    Raises:
        CaptureCorruptError: The dump is not what was written.
        StepFailedError: The table did not come back in a shape that takes the rows.
    """
    path, meta = check(artifact, context.states), artifact.meta
    quoted = name(meta["schema"], meta["name"])
    if meta["mode"] == "sequence":
        value, called = path.read_text(encoding="ascii").split()
        driver.query(
            f"SELECT pg_catalog.setval({literal(quoted)},"
            f" GREATEST(last_value, {int(value)}), is_called OR {called == 't'}) FROM {quoted}",
            context,
        )
        return f"{artifact.subject} stands at {value} again"
    back = _rows_back(meta, quoted, path)
    table = _came_back(driver, back, artifact, context)
    back = _still_lost(back, meta, table)
    if back.mode == "columns" and not back.lost:
        return f"nothing of {artifact.subject} was taken away"
    differing = driver.put_back(back, context)
    left = f"; {differing} of them had been changed meanwhile and were left so" if differing else ""
    return f"{meta['rows']} rows of {artifact.subject} are back{left}"


def _still_lost(back: RowsBack, meta: Mapping[str, str], table: _Table) -> RowsBack:
    """What this table really lost.

    A down script that failed after the dump has taken nothing away, and newer values must not be overwritten then: a
    table or column that is the same object as the dumped one was never dropped.
    """
    identity, numbers = TypeAdapter(tuple[int, list[int]]).validate_json(meta["identity"])
    if table.id != identity:
        return back
    now = {column.name: column.number for column in table.columns}
    then = dict(zip(back.columns, numbers, strict=True))
    converted = TypeAdapter(list[str]).validate_json(meta["converted"])
    new = [column for column in back.columns if now[column] != then[column] or column in converted]
    mode = "columns" if back.mode == "columns" else "rows"
    return replace(back, mode=mode, lost=new)


def _rows_back(meta: Mapping[str, str], quoted: str, path: Path) -> RowsBack:
    strings = TypeAdapter(list[str])
    sequences = TypeAdapter(dict[str, tuple[int, bool]])

    def pieces() -> Iterator[bytes]:
        with path.open("rb") as file:
            while piece := file.read(_CHUNK):
                yield piece

    return RowsBack(
        relation=quoted,
        columns=strings.validate_json(meta["columns"]),
        types=strings.validate_json(meta["types"]),
        key=strings.validate_json(meta["pk"]),
        lost=strings.validate_json(meta["lost"]),
        mode=meta["mode"],
        pieces=pieces,
        sequences=sequences.validate_json(meta["sequences"]),
    )


def _came_back(driver: Driver, back: RowsBack, artifact: Artifact, context: ApplyContext) -> _Table:
    """The table as it is now.

    Raises:
        StepFailedError: It, or a column of it, is not there.
    """
    found = driver.query(merging.describe_sql(back.relation), context)
    table = TypeAdapter(_Table).validate_python(found[0]) if found else None
    there = {column.name for column in table.columns} if table else set()
    absent = [column for column in back.columns if column not in there]
    if table is not None and not absent:
        return table
    what = (
        f"column {', '.join(absent)} of {artifact.subject}"
        if table
        else f"table {artifact.subject}"
    )
    raise StepFailedError(
        f"The up script did not bring back {what}; its rows are safe in {artifact.path}.",
        hint="Make it by hand, then resume.",
    )
