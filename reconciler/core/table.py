"""Every legal move of the state machine, as data. The picture in the docs is generated from this table."""

from __future__ import annotations

from typing import NamedTuple

from reconciler.core.phase import Phase, Trigger


class Move(NamedTuple):
    """One legal move.

    Attributes:
        source: The phase it leaves.
        trigger: What moves it.
        dest: The phase it enters.
        why: What the move means, for the picture and the docs.
    """

    source: Phase
    trigger: Trigger
    dest: Phase
    why: str


TABLE: tuple[Move, ...] = (
    Move(Phase.NEW, Trigger.MATCHES, Phase.VERIFY, "first sight, already as wanted"),
    Move(Phase.NEW, Trigger.DRIFTED, Phase.CAPTURE, "first sight, not as wanted"),
    Move(Phase.STABLE, Trigger.DRIFTED, Phase.CAPTURE, "the vector differs from the goal"),
    Move(
        Phase.STABLE,
        Trigger.MATCHES,
        Phase.VERIFY,
        "a new generation that production already satisfies",
    ),
    Move(
        Phase.CAPTURE,
        Trigger.PREPARED,
        Phase.STOP,
        "everything for the way there and back is in hand",
    ),
    Move(Phase.CAPTURE, Trigger.APPROVAL_NEEDED, Phase.APPROVE, "policy asks for a human"),
    Move(
        Phase.CAPTURE,
        Trigger.STALL,
        Phase.STALLED,
        "preflight failed, production untouched by this run",
    ),
    Move(Phase.APPROVE, Trigger.APPROVED, Phase.STOP, "a human approved"),
    Move(Phase.APPROVE, Trigger.REJECTED, Phase.STABLE, "a human rejected; nothing was touched"),
    Move(Phase.STOP, Trigger.STOPPED, Phase.RESTORE, "affected services are down"),
    Move(
        Phase.RESTORE,
        Trigger.RESTORED,
        Phase.START,
        "tree, images, volumes, migrations are as wanted",
    ),
    Move(Phase.START, Trigger.STARTED, Phase.VERIFY, "services are up and traffic has moved"),
    Move(Phase.VERIFY, Trigger.VERIFIED, Phase.STABLE, "every fact equal, every check passed"),
    Move(Phase.VERIFY, Trigger.DRIFTED, Phase.CAPTURE, "facts still differ, another attempt"),
    *(
        Move(
            phase, Trigger.COMPENSATE, Phase.CAPTURE, "failed half way: back to the captured vector"
        )
        for phase in (Phase.CAPTURE, Phase.STOP, Phase.RESTORE, Phase.START, Phase.VERIFY)
    ),
    *(
        Move(phase, Trigger.STALL, Phase.STALLED, "a human must act")
        for phase in (Phase.STOP, Phase.RESTORE, Phase.START, Phase.VERIFY)
    ),
    Move(
        Phase.STALLED, Trigger.RESUMED, Phase.CAPTURE, "a human resumed, or a new generation came"
    ),
)
