"""What an engine is put together from, once, by the command line or the loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from reconciler.audit.database import Database
from reconciler.audit.journal import Listener
from reconciler.core.clock import Clock
from reconciler.core.entry import Origin
from reconciler.core.redact import Redactor
from reconciler.core.spec import Spec
from reconciler.phases.base import Checker, Probe, Reporter
from reconciler.probes import installed
from reconciler.targets.base import TargetMap


class SpecSource(Protocol):
    """A spec as it was loaded."""

    @property
    def path(self) -> Path:
        """Where it lies."""

    @property
    def text(self) -> str:
        """Its full text."""

    @property
    def spec(self) -> Spec:
        """The model."""

    @property
    def digest(self) -> str:
        """Its identity: comments and the order of keys do not count."""


class Equipment(Protocol):
    """What a spec needs to be acted on. Made by the caller, who knows secrets and paths."""

    @property
    def targets(self) -> TargetMap:
        """The targets it declares."""

    @property
    def checker(self) -> Checker:
        """Its checks."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Everything that is the same for all environments and runs."""

    database: Database
    states: Path
    equip: Callable[[Spec], Equipment]
    parse: Callable[[str, str], Spec]
    redactor: Redactor
    clock: Clock
    reporter: Reporter
    listeners: tuple[Listener, ...]
    actor: str
    origin: Origin
    probe: Probe = installed
