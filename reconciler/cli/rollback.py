"""`rollback`: the emergency command."""

from __future__ import annotations

from pathlib import Path

import click

from reconciler.assembly import actor
from reconciler.cli.apply import converge_and_show, refuse_if_held
from reconciler.cli.exits import Exit
from reconciler.cli.render import drift_lines, join, plan_lines
from reconciler.cli.session import (
    Session,
    database_option,
    load_writing_side,
    open_environment,
    open_spec,
    output_option,
)
from reconciler.clock import SystemClock
from reconciler.core import facts as f
from reconciler.core.conditions import Reason
from reconciler.core.drift import compare
from reconciler.core.errors import NoLastKnownGoodError, UsageError
from reconciler.core.facts import Observation, RecoveryPoint
from reconciler.core.pins import DockerPins, Pins, ServicePin
from reconciler.core.specedit import set_pins
from reconciler.core.status import EnvironmentStatus, Override
from reconciler.core.vectors import pins_from_vector, rollback_point
from reconciler.targets.together import observe, plan, resolve


@click.command(epilog="Example: reconciler rollback prod --yes")
@click.argument("environment")
@click.option(
    "--to",
    "point",
    metavar="POINT",
    help="A recovery point (see `reconciler points`). Default: the newest that differs from now.",
)
@click.option(
    "--reason", default="rollback by command", metavar="TEXT", help="Why; kept in the ledger."
)
@click.option(
    "--spec",
    "spec_path",
    type=click.Path(path_type=Path),
    help="The spec, if it is not in the folder of specs.",
)
@click.option(
    "--write-spec", is_flag=True, help="Also write the change into the spec, comments kept."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@output_option("table", "json")
@database_option
def rollback(
    environment: str,
    point: str | None,
    reason: str,
    spec_path: Path | None,
    write_spec: bool,
    yes: bool,
    output: str,
    database: str | None,
) -> int:
    """Take ENVIRONMENT back to its last known good state, now.

    Does not wait for the spec to be edited: the spec's generation is held, and neither `apply` nor `watch` brings the
    bad release back while the spec is unchanged.
    """
    session = (
        open_spec(spec_path, database) if spec_path else open_environment(environment, database)
    )
    if session.environment != environment:
        raise UsageError(
            f"{session.source.path.name} is the spec of {session.environment}, not of {environment}."
        )
    status, holding = session.glance()
    refuse_if_held(environment, holding)
    equipment = session.equip(session.source.spec)
    load_writing_side()
    observed = observe(equipment.targets, SystemClock())
    pins, where = _where_to(session, status, observed, point)
    goal = resolve(equipment.targets, pins, observed)
    drift = compare(goal, observed)
    click.echo(f"Back to {where}:", err=True)
    click.echo(join(drift_lines(drift)), err=True)
    click.echo(join(plan_lines(plan(equipment.targets, observed, goal))), err=True)
    if not yes and not click.confirm(f"Take {environment} back?", err=True):
        return Exit.INTERRUPTED
    generation = status.generation + (session.source.digest != status.spec_digest)
    override = Override(
        generation=generation,
        reason=Reason.ROLLBACK,
        message=f"Rolled back to {where}: {reason}",
        pins=pins,
        by=actor(),
        at=SystemClock().now(),
    )
    code = converge_and_show(session, output, rollback=override)
    wanted = {key: want.value for key, want in goal.wanted.items()}
    changes = (
        {} if _is_what_the_spec_says(status, generation, wanted) else _spec_changes(session, wanted)
    )
    if changes and code == Exit.DONE:
        _make_permanent(session, changes, write=write_spec)
    return code


def _where_to(
    session: Session, status: EnvironmentStatus, observed: Observation, wanted: str | None
) -> tuple[Pins, str]:
    """The pins to go to, and how to call them.

    Raises:
        UsageError: The named point does not exist.
        NoLastKnownGoodError: Nothing to go back to.
    """
    now = {key: fact.value for key, fact in observed.facts.items()}
    if wanted is not None:
        chosen = next((item for item in status.recovery_points if item.id == wanted), None)
        if chosen is None:
            known = ", ".join(item.id for item in status.recovery_points) or "none"
            raise UsageError(
                f"{status.environment} has no recovery point {wanted}.",
                hint=f"Known points: {known}.",
            )
        return pins_from_vector(chosen.vector), _called(chosen)
    newest = rollback_point(status.recovery_points, now)
    if newest is not None:
        return pins_from_vector(newest.vector), _called(newest)
    if status.recovery_points:
        raise NoLastKnownGoodError(
            f"{status.environment} already runs its only verified state.",
            hint="Name where to go in the spec and apply it.",
        )
    return _parent_commit(
        session
    ), "the parent of the present commit (HEAD~1): no verified state is on record"


def _called(point: RecoveryPoint) -> str:
    commit = point.vector.get(f.GIT_COMMIT)
    return f"{point.id}, verified {point.at:%Y-%m-%d %H:%M} UTC" + (
        f", commit {commit[:12]}" if commit else ""
    )


def _parent_commit(session: Session) -> Pins:
    spec = session.source.spec
    if spec.git is None:
        raise NoLastKnownGoodError(
            f"No verified state of {spec.name} is on record, and its spec names no Git repository.",
            hint="Name where to go in the spec and apply it.",
        )
    services = spec.docker.services if spec.docker else {}
    docker = (
        DockerPins(services={name: ServicePin(build=True) for name in services})
        if spec.docker
        else None
    )
    return Pins(git="HEAD~1", docker=docker)


def _is_what_the_spec_says(
    status: EnvironmentStatus, generation: int, wanted: dict[str, str | None]
) -> bool:
    """Whether the spec, as it was last resolved, asks for that very release."""
    resolved = status.resolved
    if resolved is None or resolved.generation != generation or status.held:
        return False
    return {key: want.value for key, want in resolved.goal.wanted.items()} == wanted


def _spec_changes(session: Session, vector: dict[str, str | None]) -> dict[str, str]:
    """The pins of the spec that would have to change for this to be what it says, by their path."""
    spec = session.source.spec
    changes: dict[str, str | None] = {}
    if spec.git and spec.git.commit != vector.get(f.GIT_COMMIT):
        changes["spec.git.commit"] = vector.get(f.GIT_COMMIT)
    for name, service in (spec.docker.services if spec.docker else {}).items():
        image = vector.get(f.service_image(name))
        if service.image is not None and service.image != image:
            changes[f"spec.docker.services.{name}.image"] = image
    if spec.database and spec.database.migration != vector.get(f.DATABASE_VERSION):
        changes["spec.database.migration"] = vector.get(f.DATABASE_VERSION)
    if spec.vercel and spec.vercel.deployment != vector.get(f.VERCEL_DEPLOYMENT):
        changes["spec.vercel.deployment"] = vector.get(f.VERCEL_DEPLOYMENT)
    return {path: value for path, value in changes.items() if value}


def _make_permanent(session: Session, changes: dict[str, str], *, write: bool) -> None:
    path = session.source.path
    if write:
        path.write_text(set_pins(session.source.text, changes), encoding="utf-8")
        click.echo(f"Written to {path}; commit it to make the rollback permanent.", err=True)
        return
    click.echo(
        f"The spec still asks for the other release and is held. To make this permanent, change {path}:",
        err=True,
    )
    for where, value in changes.items():
        click.echo(f'  {where}: "{value}"', err=True)
    click.echo("or let `--write-spec` do it.", err=True)
