"""Pictures of the state machine, drawn from the table: as Mermaid, as plain text, as a list of moves. Pure.

`tools/state_machine.py` writes them into the README and the docs; a test compares what is written there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reconciler.core.phase import TOUCHING_PHASES, WORK_ORDER, Phase
from reconciler.core.table import TABLE, Move

#: The way of a run that meets no obstacle; the plain picture is drawn along it.
SPINE = (Phase.NEW, *WORK_ORDER, Phase.VERIFY, Phase.STABLE)


def mermaid(table: Sequence[Move] = TABLE) -> str:
    """A Mermaid state diagram. Moves between the same two phases share an arrow."""
    arrows: dict[tuple[Phase, Phase], list[str]] = {}
    for move in table:
        arrows.setdefault((move.source, move.dest), []).append(move.trigger.value)
    touched = ",".join(phase.value for phase in Phase if phase in TOUCHING_PHASES)
    return "\n".join(
        (
            "stateDiagram-v2",
            f"    [*] --> {Phase.NEW.value}",
            *(
                f"    {source} --> {dest} : {', '.join(triggers)}"
                for (source, dest), triggers in arrows.items()
            ),
            "    classDef touched fill:#fde8e6,stroke:#b3261e,color:#410e0b",
            f"    class {touched} touched",
        )
    )


def text(table: Sequence[Move] = TABLE) -> str:
    """A picture for a terminal: the straight way from top to bottom, every other move to its right."""
    lines: list[str] = []
    for phase, following in zip(SPINE, (*SPINE[1:], None), strict=True):
        straight, others = _exits(table, phase, following)
        lines += _station(phase, others, on_spine=straight is not None)
        if straight is not None:
            lines += [f"  │ {straight.trigger.value}", "  ▼"]
    for phase in Phase:
        if phase not in SPINE:
            lines += ["", *_station(phase, _exits(table, phase, None)[1], on_spine=False)]
    return "\n".join(lines)


def moves(table: Sequence[Move] = TABLE) -> str:
    """Every move as a row of a Markdown table."""
    rows = (f"| {move.source} | {move.trigger} | {move.dest} | {move.why} |" for move in table)
    return "\n".join(("| from | trigger | to | meaning |", "| --- | --- | --- | --- |", *rows))


def embedded(document: str, name: str, content: str) -> str:
    """A document with the text between two marker lines replaced.

    Raises:
        ValueError: It has no such markers, or more than one pair of them.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if document.count(begin) != 1 or document.count(end) != 1:
        raise ValueError(f"the markers of {name} must stand in the document once")
    before, _, rest = document.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{content}\n{end}{after}"


def pictures(table: Sequence[Move] = TABLE) -> dict[str, str]:
    """What the docs embed, by the name of its markers."""
    return {
        "state machine": f"```mermaid\n{mermaid(table)}\n```",
        "state machine as text": f"```text\n{text(table)}\n```",
        "moves": moves(table),
    }


def _exits(
    table: Sequence[Move], phase: Phase, following: Phase | None
) -> tuple[Move | None, list[Move]]:
    """The move along the spine, and the others."""
    here = [move for move in table if move.source is phase]
    straight = next((move for move in here if move.dest is following), None)
    return straight, [move for move in here if move is not straight]


def _station(phase: Phase, exits: Sequence[Move], *, on_spine: bool) -> Iterator[str]:
    label = f"{phase.value}{' !' if phase in TOUCHING_PHASES else ''}"
    if not exits:
        yield label
    for number, move in enumerate(exits):
        left = label if number == 0 else "  │" if on_spine else ""
        arrow = f"─ {move.trigger.value} ".ljust(20, "─")
        yield f"{left:<12}{arrow}▶ {move.dest}"
