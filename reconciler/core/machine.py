"""The state machine itself: the only importer of `transitions`, the only place where a phase changes.

`transitions` would add a `to_<state>` shortcut to every state; `auto_transitions=False` removes it, so that only the
moves of the table exist. One typed method, `fire`, stands for the triggers the library generates by name.
"""

from __future__ import annotations

from functools import lru_cache

from transitions import Machine, MachineError

from reconciler.core.phase import Phase, Trigger
from reconciler.core.table import TABLE


class IllegalMoveError(Exception):
    """A move outside the table was asked for: a bug in this program, so of neither error family."""


class _Model:
    """What `transitions` moves; it sets `state` on it."""

    state: str


@lru_cache(maxsize=1)
def _machine() -> Machine:
    return Machine(
        model=None,
        states=[phase.value for phase in Phase],
        transitions=[[move.trigger.value, move.source.value, move.dest.value] for move in TABLE],
        initial=Phase.NEW.value,
        auto_transitions=False,
        send_event=False,
    )


def fire(phase: Phase, trigger: Trigger) -> Phase:
    """The phase a trigger leads to.

    Args:
        phase: The phase the environment is in.
        trigger: What happened.

    Returns:
        The phase it is in afterwards. The caller stores both in one transaction.

    Raises:
        IllegalMoveError: The table has no such move.
    """
    machine = _machine()
    model = _Model()
    machine.add_model(model, initial=phase.value)
    try:
        machine.events[trigger.value].trigger(model)
    except MachineError as exc:
        raise IllegalMoveError(f"no move from {phase} by {trigger}") from exc
    finally:
        machine.remove_model(model)
    return Phase(model.state)


def legal(phase: Phase) -> tuple[Trigger, ...]:
    """The triggers that may fire in a phase."""
    return tuple(move.trigger for move in TABLE if move.source is phase)
