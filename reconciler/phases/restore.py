"""Restore: tree, images, volumes and migrations are brought to the goal while nothing uses them."""

from __future__ import annotations

from reconciler.core.facts import Observation
from reconciler.core.phase import Phase, Trigger
from reconciler.phases.base import PhaseResult, Work
from reconciler.phases.touch import touch


def run(work: Work, observed: Observation) -> tuple[PhaseResult, Observation]:
    """Applies the steps of this phase."""
    return touch(work, Phase.RESTORE, observed, Trigger.RESTORED)
