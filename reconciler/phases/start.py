"""Start: services come up and are waited for until healthy; only then does front-end traffic move."""

from __future__ import annotations

from reconciler.core.facts import Observation
from reconciler.core.phase import Phase, Trigger
from reconciler.phases.base import PhaseResult, Work
from reconciler.phases.touch import touch


def run(work: Work, observed: Observation) -> tuple[PhaseResult, Observation]:
    """Applies the steps of this phase."""
    return touch(work, Phase.START, observed, Trigger.STARTED)
