"""Which dumps a way back needs, and in which order they are put back. Pure; used by the database target.

A run that was stopped half way and resumed dumps again, at each leg what that leg would destroy. So a table may have
several dumps, and none of them alone need hold all that was lost: the older one has columns that were gone when the
newer one was made, the newer one has the rows as they were last.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import PurePosixPath

from reconciler.core.pins import Artifact

KIND = "table-dump"
_SEQUENCE, _COLUMNS, _ROWS = "sequence", "columns", "rows"


def needed_rows(dumps: Sequence[Artifact], reapply: Collection[str]) -> tuple[Artifact, ...]:
    """What is put back once these versions are applied again, in order.

    Of several dumps that name a version, the newest is from just before it ran: what has run is in no later plan.
    Whole tables come first, since rows must be there before single columns of them are set; among them those of the
    newest leg, and parents before what refers to them: what is taken down last was made first.

    Args:
        dumps: All dumps of a run, oldest first.
        reapply: The versions whose loss shall be made good.
    """
    legs = list(dict.fromkeys(PurePosixPath(dump.path).parent for dump in dumps))

    def place(dump: Artifact) -> tuple[bool, int, str]:
        age = len(legs) - legs.index(PurePosixPath(dump.path).parent)
        return dump.meta.get("mode") == _COLUMNS, age, dump.meta.get("order", "")

    return tuple(sorted(_chosen(dumps, set(reapply)), key=place))


def _chosen(dumps: Sequence[Artifact], reapply: set[str]) -> Iterator[Artifact]:
    """For each version the newest dump that names it, by table."""
    seen: dict[str, list[Artifact]] = {}
    for dump in reversed(dumps):
        newer = seen.setdefault(dump.subject, [])
        settled = {version for each in newer for version in _list(each, "versions")}
        if dump.kind != KIND or not (set(_list(dump, "versions")) - settled) & reapply:
            continue
        part = _older(dump, newer) if newer else dump
        if part is not None:
            yield part
        newer.append(dump)


def _older(dump: Artifact, newer: Sequence[Artifact]) -> Artifact | None:
    """An older dump without what newer ones of its table hold; None when nothing is left that could be put back."""
    mode = dump.meta.get("mode")
    whole = [each for each in newer if each.meta.get("mode") != _COLUMNS]
    if mode == _SEQUENCE or (mode != _COLUMNS and not whole):
        return dump
    held = {column for each in newer for column in _worth(each)}
    rest = [column for column in _worth(dump) if column not in held]
    if mode == _COLUMNS:
        return _narrowed(dump, _COLUMNS, rest) if rest else None
    # Rows that only this one has come back too. Without a key those that both have could not be told from them.
    return None if rest and not _list(dump, "pk") else _narrowed(dump, _ROWS, rest)


def _narrowed(dump: Artifact, mode: str, lost: Sequence[str]) -> Artifact:
    meta = {**dump.meta, "mode": mode, "lost": json.dumps(list(lost))}
    return dump.model_copy(update={"meta": meta})


def _worth(dump: Artifact) -> list[str]:
    """The columns whose values a dump is there for."""
    return _list(dump, "lost" if dump.meta.get("mode") == _COLUMNS else "columns")


def _list(dump: Artifact, field: str) -> list[str]:
    return [str(each) for each in json.loads(dump.meta.get(field, "[]"))]
