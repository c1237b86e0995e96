"""What commands that act have in common: finding the spec and its ledger, and putting an engine together."""

from __future__ import annotations

import difflib
import importlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from reconciler import probes
from reconciler.assembly import Equipment, Parts, actor, ledger_url
from reconciler.audit.glance import Holding, glance, names
from reconciler.cli.progress import Progress
from reconciler.clock import SystemClock
from reconciler.core.entry import Origin
from reconciler.core.errors import UsageError
from reconciler.core.redact import Redactor
from reconciler.core.spec import Spec
from reconciler.core.status import EnvironmentStatus
from reconciler.project import CONFIG_NAME, LoadedSpec, Project, find_project, load_spec

if TYPE_CHECKING:
    from reconciler.engine import Engine

_F = TypeVar("_F", bound=Callable[..., Any])


def database_option(command: _F) -> _F:
    """`--database URL`, the same for every command."""
    return click.option(
        "--database",
        metavar="URL",
        envvar="RECONCILER_DATABASE_URL",
        help="The ledger's database (sqlite:///... or postgresql://...). Default: audit.db in the state folder.",
    )(command)


def output_option(*formats: str) -> Callable[[_F], _F]:
    """`-o FORMAT`; the first format is the default."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(formats),
        default=formats[0],
        show_default=True,
        help="Format of stdout.",
    )


def reason_option(command: _F) -> _F:
    """`--reason TEXT`, required: the ledger keeps why."""
    return click.option("--reason", required=True, metavar="TEXT", help="Why; kept in the ledger.")(
        command
    )


def spec_argument(command: _F) -> _F:
    """`SPEC`, a path."""
    return click.argument("spec", type=click.Path(path_type=Path))(command)


@dataclass(frozen=True, slots=True)
class Session:
    """One spec, loaded, with everything needed to act on it."""

    source: LoadedSpec
    url: str
    redactor: Redactor = field(default_factory=Redactor)
    _equipped: list[tuple[Spec, Equipment]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    @property
    def project(self) -> Project:
        """The project of the spec."""
        return self.source.project

    @property
    def environment(self) -> str:
        """The environment's name."""
        return self.source.spec.name

    @property
    def parts(self) -> Parts:
        """Makes targets and checks."""
        return Parts(self.project, self.redactor, self.source.path)

    def equip(self, spec: Spec) -> Equipment:
        """Targets and checks of a spec, the same ones each time: a look and the run after it share connections.

        Raises:
            UsageError: A secret that it refers to is not there.
            TerminalError: A path leads out of the project.
        """
        for known, equipment in self._equipped:
            if known == spec:
                return equipment
        equipment = self.parts.equip(spec)
        self._equipped.append((spec, equipment))
        return equipment

    def glance(self) -> tuple[EnvironmentStatus, Holding | None]:
        """The environment's status and who holds it, without loading the writing side of the ledger."""
        return glance(self.url, self.environment)

    def engine(self, reporter: Progress, origin: Origin = Origin.CLI) -> Engine:
        """An engine for this spec's project."""
        from reconciler.audit.database import Database
        from reconciler.audit.statefile import StateFile
        from reconciler.engine import Engine
        from reconciler.setting import Setting

        states = self.project.states_dir
        return Engine(
            Setting(
                database=Database(self.url),
                states=states,
                equip=self.equip,
                parse=self.parts.parse,
                redactor=self.redactor,
                clock=SystemClock(),
                reporter=reporter,
                listeners=(
                    StateFile(states),
                    reporter,
                ),
                actor=actor(),
                origin=origin,
                probe=probes.installed,
            )
        )


def load_writing_side() -> None:
    """Begins to load what writing a ledger needs, while the caller waits for other systems.

    Loading it takes as long as half of what such a command computes, and a look is mostly waiting. Only foreign
    libraries are loaded aside, which share no half-loaded modules with what the caller loads meanwhile.
    """
    threading.Thread(
        target=importlib.import_module, args=("sqlmodel",), name="load sqlmodel"
    ).start()


def open_spec(path: Path, database: str | None) -> Session:
    """Loads a spec and finds its ledger.

    Raises:
        SpecInvalidError: The spec or its project's settings cannot be accepted.
    """
    source = load_spec(path)
    return Session(source, ledger_url(source.project, database))


def open_environment(environment: str, database: str | None) -> Session:
    """Finds the spec of an environment by name: where the ledger says it lies, else in the folder of specs.

    Raises:
        UsageError: No such environment is known here.
    """
    project = here()
    url = ledger_url(project, database)
    status, _ = glance(url, environment)
    candidates = [Path(status.spec_path)] if status.spec_path else []
    candidates += [project.specs_dir / f"{environment}{suffix}" for suffix in (".yaml", ".yml")]
    for path in candidates:
        if path.is_file():
            return Session(load_spec(path), url)
    raise unknown_environment(environment, url, project)


def here() -> Project:
    """The project of the present folder."""
    return find_project(Path.cwd() / CONFIG_NAME)


def unknown_environment(environment: str, url: str, project: Project) -> UsageError:
    """The error for an environment that nobody has heard of, with the nearest name."""
    known = sorted({*names(url), *(path.stem for path in project.specs_dir.glob("*.y*ml"))})
    close = difflib.get_close_matches(environment, known, n=1)
    hint = f"Did you mean {close[0]}?" if close else f"Known here: {', '.join(known) or 'none'}."
    return UsageError(f"There is no environment {environment} in {project.root}.", hint=hint)
