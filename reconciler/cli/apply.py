"""`plan` and `apply`."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from reconciler.audit.glance import Holding
from reconciler.audit.processes import alive
from reconciler.cli.errors import show_error
from reconciler.cli.exits import Exit, exit_of
from reconciler.cli.progress import Progress
from reconciler.cli.render import (
    certificate_lines,
    compensated_lines,
    drift_lines,
    join,
    plan_lines,
    stalled_lines,
)
from reconciler.cli.session import (
    Session,
    database_option,
    load_writing_side,
    open_spec,
    output_option,
    spec_argument,
)
from reconciler.clock import SystemClock
from reconciler.core.certificate import Certificate
from reconciler.core.conditions import Reason
from reconciler.core.errors import LeaseHeldError, ReconcilerError
from reconciler.core.phase import RUN_PHASES, Phase
from reconciler.core.status import EnvironmentStatus
from reconciler.look import Look, look


@click.command(epilog="Example: reconciler plan specs/prod.yaml --exit-code")
@spec_argument
@click.option(
    "--exit-code", is_flag=True, help="Exit 0 without drift, 1 with drift, above 1 on errors."
)
@output_option("table", "json")
@database_option
def plan(spec: Path, exit_code: bool, output: str, database: str | None) -> int:
    """Show every change `apply` would make, in order. Touches and writes nothing."""
    session = open_spec(spec, database)
    try:
        seen = _look(session)
    except ReconcilerError as exc:
        if not exit_code or exit_of(exc) is not Exit.FAILED:
            raise
        show_error(exc)
        return Exit.STALLED  # 1 would mean drift
    if seen.drift.unknown:
        for fact in seen.drift.unknown:
            click.secho(f"{fact.key} cannot be read: {fact.why}", fg="yellow", err=True)
        click.echo(
            "Nothing can be planned until that can be read. Next: reconciler doctor", err=True
        )
        return Exit.STALLED
    if output == "json":
        click.echo(json.dumps(_plan_json(seen), indent=2))
    elif seen.drift.equal:
        click.echo(
            f"{session.environment}: nothing to do; all {len(seen.drift.facts)} facts are as wanted."
        )
    else:
        click.echo(
            f"{session.environment}: generation {seen.generation}, {len(seen.drift.differing)} facts differ"
        )
        click.echo(join(drift_lines(seen.drift)))
        click.echo(join(plan_lines(seen.plan)))
    return Exit.FAILED if exit_code and not seen.drift.equal else Exit.DONE


@click.command(epilog="Example: reconciler apply specs/prod.yaml --yes")
@spec_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@output_option("table", "json")
@database_option
def apply(spec: Path, yes: bool, output: str, database: str | None) -> int:
    """Bring production to what SPEC says, and prove it."""
    session = open_spec(spec, database)
    status, holding = session.glance()
    refuse_if_held(session.environment, holding)
    if status.suspended:
        click.echo(
            f"{session.environment} is suspended; reconciler resume {session.environment} --reason ...",
            err=True,
        )
        return Exit.STALLED
    fresh_spec = session.source.digest != status.spec_digest
    if status.phase is Phase.STALLED and not fresh_spec:
        return show_rest(status, output)
    if status.phase is Phase.APPROVE:
        return show_rest(status, output)
    if status.held and status.held.reason is Reason.REJECTED and not fresh_spec:
        return _held(status, output)
    if status.phase not in RUN_PHASES and not (yes and fresh_spec):
        seen = _look_if_possible(session)
        if seen is not None and seen.drift.equal and not seen.fresh:
            return _nothing_to_do(session, status, seen, output)
        readable = (
            seen is None or not seen.drift.unknown
        )  # the engine looks again, and says what is wrong
        if readable and not yes and not _confirmed(session, seen):
            return Exit.INTERRUPTED
    elif status.phase not in RUN_PHASES:
        _look_ahead(session)
    return converge_and_show(session, output)


def _look(session: Session) -> Look:
    status, _ = session.glance()
    equipment = session.equip(session.source.spec)
    return look(
        status, session.source.spec, session.source.digest, equipment.targets, SystemClock()
    )


def _look_ahead(session: Session) -> None:
    """Looks once while the writing side is loaded: what Compose has to render is ready when the engine asks for it."""
    with suppress(ReconcilerError):  # the engine meets it again, and records it
        session.equip(session.source.spec)
        load_writing_side()
        _look(session)


def _look_if_possible(session: Session) -> Look | None:
    """A look; None when the goal cannot be resolved, which the run's capture explains and records."""
    from reconciler.core.errors import TerminalError, UsageError

    try:
        return _look(session)
    except UsageError:
        raise
    except TerminalError:
        return None


def refuse_if_held(environment: str, holding: Holding | None) -> None:
    """Raises LeaseHeldError when a living process works on the environment."""
    if holding and holding.expires > SystemClock().now() and alive(holding.process):
        raise LeaseHeldError(
            f"{environment} is being worked on by {holding.holder} since {holding.since:%H:%M:%S} UTC.",
            holder=holding.holder,
            hint=f"Wait for it, or watch it with `reconciler status {environment}`.",
        )


def _confirmed(session: Session, seen: Look | None) -> bool:
    if seen is None:
        click.echo(
            "The goal cannot be resolved yet; capture will say why. Production is not touched by that.",
            err=True,
        )
    else:
        click.echo(join(drift_lines(seen.drift)), err=True)
        click.echo(join(plan_lines(seen.plan)), err=True)
    return click.confirm(f"Apply this to {session.environment}?", err=True)


def _nothing_to_do(session: Session, status: EnvironmentStatus, seen: Look, output: str) -> int:
    """The vector is as wanted: nothing is written. Checks are looked at once: a sick production is not called fine."""
    checks = session.equip(session.source.spec).checker.once()
    failed = [check for check in checks if not check.passed]
    held = status.held
    if output == "json":
        body = {
            "environment": session.environment,
            "phase": status.phase.value,
            "changed": False,
            "held": held.message if held else None,
            "checks": [check.model_dump(mode="json") for check in checks],
        }
        click.echo(json.dumps(body, indent=2))
    else:
        click.echo(
            f"{session.environment} is {status.phase}: all {len(seen.drift.facts)} facts are as wanted; nothing to do."
        )
    for check in failed:
        click.secho(f"  ✗ check {check.name} fails: {check.detail}", fg="red", err=True)
    _restore_state_file(session, status)
    if held:
        return _held(status, "table")
    if failed:
        click.echo(f"Next: reconciler rollback {session.environment}", err=True)
        return Exit.FAILED
    return Exit.DONE


def _held(status: EnvironmentStatus, output: str) -> int:
    """Says that a generation is held, why, and what ends that."""
    assert status.held is not None
    if output == "json":
        body = {
            "environment": status.environment,
            "phase": status.phase.value,
            "held": status.held.message,
        }
        click.echo(json.dumps(body, indent=2))
    click.echo(f"Held: {status.held.message}", err=True)
    click.echo(
        f"Next: change the spec. `reconciler resume {status.environment} --reason ...` would bring "
        f"generation {status.generation} on again as it stands.",
        err=True,
    )
    return Exit.STALLED


def _restore_state_file(session: Session, status: EnvironmentStatus) -> None:
    """Writes the state file again if somebody has deleted it: it is a projection of the ledger."""
    states = session.project.states_dir
    if status.entries and not (states / f"{status.environment}.yaml").exists():
        from reconciler.audit.statefile import write_state_file

        write_state_file(states, status)


def converge_and_show(session: Session, output: str, **how: Any) -> int:
    """Runs the engine with live progress, then shows where it came to rest."""
    progress = Progress()
    engine = session.engine(progress)
    try:
        status = engine.converge(session.source, **how)
    finally:
        progress.close()
    return show_rest(status, output, certificate=engine.certificate(status))


def show_rest(
    status: EnvironmentStatus, output: str, certificate: Certificate | None = None
) -> int:
    """Where an environment came to rest, and the exit code for it."""
    code = _rest_code(status)
    if output == "json":
        run = status.run
        body = {
            "environment": status.environment,
            "phase": status.phase.value,
            "generation": status.generation,
            "run": run.id if run else None,
            "held": status.held.message if status.held else None,
            "failure": run.failure.model_dump(mode="json") if run and run.failure else None,
            "certificate": certificate.model_dump(mode="json") if certificate else None,
        }
        click.echo(json.dumps(body, indent=2))
        return code
    if status.phase is Phase.STALLED:
        click.echo(join(stalled_lines(status)), err=True)
        return code
    if status.phase is Phase.APPROVE and status.run:
        click.echo(f"{status.environment} waits for approval; production is not touched.", err=True)
        click.echo(
            f"Next: reconciler approve (or reject) {status.run.id} --reason ...",
            err=True,
        )
        return code
    if certificate:
        click.echo(join(certificate_lines(certificate)))
    if status.run and status.run.compensating:
        click.echo(join(compensated_lines(status, status.run)), err=True)
    else:
        click.echo(click.style(f"{status.environment} is {status.phase}.", fg="green", bold=True))
        if status.held and status.held.reason.value == "Rollback":
            click.echo(f"Held: {status.held.message}", err=True)
    return code


def _rest_code(status: EnvironmentStatus) -> int:
    if status.phase in (Phase.STALLED, Phase.APPROVE):
        reason = status.run.failure.reason.value if status.run and status.run.failure else ""
        return Exit.REFUSED if reason == "PolicyRefused" else Exit.STALLED
    if status.run and status.run.compensating:
        return Exit.FAILED
    return Exit.DONE


def _plan_json(seen: Look) -> dict[str, Any]:
    return {
        "apiVersion": "reconciler/v1",
        "kind": "Plan",
        "environment": seen.status.environment,
        "generation": seen.generation,
        "drift": [
            fact.model_dump(mode="json")
            for fact in seen.drift.facts
            if fact in seen.drift.differing
        ],
        "unknown": [fact.model_dump(mode="json") for fact in seen.drift.unknown],
        "steps": [step.model_dump(mode="json", exclude={"args"}) for step in seen.plan.steps],
        "expectedDowntimeSeconds": seen.plan.downtime,
        "dataLoss": seen.plan.data_loss,
    }
