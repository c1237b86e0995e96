"""Stop: the services that change are taken down, and only those."""

from __future__ import annotations

from reconciler.core.facts import Observation
from reconciler.core.phase import Phase, Trigger
from reconciler.phases.base import PhaseResult, Work
from reconciler.phases.touch import touch


def run(work: Work, observed: Observation) -> tuple[PhaseResult, Observation]:
    """Applies the steps of this phase."""
    return touch(work, Phase.STOP, observed, Trigger.STOPPED)
