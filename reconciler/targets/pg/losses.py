"""What a dry run says would be lost, table by table. Pure; decides what is dumped and what a human is told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict

from reconciler.core.migrations import order
from reconciler.targets.pg.driver import Row

#: How a table loses data, from the least to the most.
_MODES = ("columns", "rows", "table", "sequence")
_SHOWN = 8


class Loss(BaseModel):
    """What one table, or one sequence, would lose.

    Attributes:
        schema_name: Its schema.
        name: Its name.
        mode: `columns`, `rows` (some rows deleted or changed), `table` (all of it), `sequence`.
        columns: The columns lost or converted.
        converted: Those of the columns that stay, with another type.
        versions: The versions whose scripts do it, oldest first.
        estimate: Rows, as the planner knows them; below zero when unknown.
        bytes: Size on disk now.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    schema_name: str
    name: str
    mode: str
    columns: tuple[str, ...] = ()
    converted: tuple[str, ...] = ()
    versions: tuple[str, ...]
    estimate: int = -1
    bytes: int = 0

    @property
    def subject(self) -> str:
        """`schema.table`."""
        return f"{self.schema_name}.{self.name}"

    def __str__(self) -> str:
        """In words."""
        rows = f" (about {self.estimate} rows)" if self.estimate >= 0 else ""
        match self.mode:
            case "columns":
                return f"{', '.join(self.columns)} of {self.subject}{rows}"
            case "rows":
                return f"{self.estimate} rows of {self.subject}"
            case mode:
                return f"{mode} {self.subject}{rows if mode == 'table' else ''}"


class Findings(BaseModel):
    """The outcome of a dry run.

    Attributes:
        losses: Data that would be lost.
        gone: Other objects that would go (`index public.i`).
        moves: What was rehearsed, in order (`down 2025...`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    losses: tuple[Loss, ...] = ()
    gone: tuple[str, ...] = ()
    moves: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line."""
        words = [str(loss) for loss in self.losses] + list(self.gone)
        if not words:
            return "nothing would be lost"
        more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
        return f"would go: {'; '.join(words[:_SHOWN])}{more}"

    def taken_down(self) -> tuple[Loss, ...]:
        """The losses, each under those versions only that are taken down.

        What an up script destroys is kept for a human; it is no help when a down migration is undone, and a dump that
        named its version would pass for the one from before that version was taken down.
        """
        down = {move.removeprefix("down ") for move in self.moves if move.startswith("down ")}
        return tuple(
            loss.model_copy(update={"versions": tuple(v for v in loss.versions if v in down)})
            for loss in self.losses
        )


def findings(changes: Iterable[Row], versions: Sequence[str]) -> Findings:
    """Sorts out the rows of the catalog comparison.

    Args:
        changes: As `texts.CHANGES` gives them; a step is the place in `versions`.
        versions: Versions in the order in which their scripts ran.
    """
    losses: dict[str, Loss] = {}
    gone: list[str] = []
    for row in changes:
        loss = _loss(row, versions[int(str(row["step"]))])
        if loss is None:
            place = ".".join(str(row[key]) for key in ("schema", "name", "col") if row[key])
            gone.append(f"{row['kind']} {place}")
        else:
            known = losses.get(loss.subject)
            losses[loss.subject] = _joined(known, loss) if known else loss
    return Findings(losses=tuple(losses.values()), gone=tuple(dict.fromkeys(gone)))


def _loss(row: Row, version: str) -> Loss | None:
    what, kind = str(row["what"]), str(row["kind"])
    mode = {"table": "table", "column": "columns", "sequence": "sequence"}.get(kind)
    if what == "rows":
        mode = "rows"
    if mode is None:
        return None
    return Loss(
        schema_name=str(row["schema"]),
        name=str(row["name"]),
        mode=mode,
        columns=(str(row["col"]),) if mode == "columns" else (),
        converted=(str(row["col"]),) if what == "altered" else (),
        versions=(version,),
        estimate=_number(row["estimate"], -1),
        bytes=_number(row["bytes"], 0),
    )


def _number(value: object, absent: int) -> int:
    return absent if value is None else int(float(str(value)))


def _joined(one: Loss, other: Loss) -> Loss:
    mode = max(one.mode, other.mode, key=_MODES.index)
    return one.model_copy(
        update={
            "mode": mode,
            "columns": tuple(dict.fromkeys((*one.columns, *other.columns))),
            "converted": tuple(dict.fromkeys((*one.converted, *other.converted))),
            "versions": tuple(sorted({*one.versions, *other.versions}, key=order)),
            "estimate": max(one.estimate, other.estimate),
            "bytes": max(one.bytes, other.bytes),
        }
    )
