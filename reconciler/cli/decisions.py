"""Decisions of humans: resume, suspend, approve, reject. Each needs a reason, and the ledger keeps it."""

from __future__ import annotations

import click

from reconciler.assembly import ledger_url
from reconciler.audit.glance import glance, names
from reconciler.cli.apply import converge_and_show, refuse_if_held, show_rest
from reconciler.cli.exits import Exit
from reconciler.cli.progress import Progress
from reconciler.cli.session import (
    Session,
    database_option,
    here,
    open_environment,
    output_option,
    reason_option,
)
from reconciler.core.conditions import Reason
from reconciler.core.entry import EntryKind
from reconciler.core.errors import UsageError
from reconciler.core.phase import Phase, Trigger


@click.command(epilog='Example: reconciler resume prod --reason "disk was full, freed"')
@click.argument("environment")
@reason_option
@output_option("table", "json")
@database_option
def resume(environment: str, reason: str, output: str, database: str | None) -> int:
    """Go on with ENVIRONMENT: after a stall, after `suspend`, or with a generation that was held."""
    session = open_environment(environment, database)
    status, holding = session.glance()
    refuse_if_held(environment, holding)
    if status.suspended:
        with session.engine(Progress()).session(environment) as journal:
            journal.write(
                EntryKind.DECISION, Reason.RESUMED, {"decision": "unsuspended", "message": reason}
            )
        click.echo(f"{environment} is no longer suspended.")
        return Exit.DONE
    return converge_and_show(session, output, resume=reason)


@click.command(
    epilog='Example: reconciler suspend prod --reason "data migration by hand until 18:00"'
)
@click.argument("environment")
@reason_option
@database_option
def suspend(environment: str, reason: str, database: str | None) -> int:
    """Keep ENVIRONMENT from being changed by `apply` and `watch`. `rollback` still works."""
    session = open_environment(environment, database)
    with session.engine(Progress()).session(environment) as journal:
        journal.write(
            EntryKind.DECISION, Reason.SUSPENDED, {"decision": "suspended", "message": reason}
        )
    click.echo(
        f"{environment} is suspended. reconciler resume {environment} --reason ... ends that."
    )
    return Exit.DONE


@click.command(
    epilog='Example: reconciler approve 20251118-030405-a1b2c3 --reason "agreed with on-call"'
)
@click.argument("run")
@reason_option
@output_option("table", "json")
@database_option
def approve(run: str, reason: str, output: str, database: str | None) -> int:
    """Let the waiting RUN go on, and see it through."""
    session = _waiting(run, database)
    progress = Progress()
    with session.engine(progress).session(session.environment) as journal:
        _still_waiting(journal.status.phase, run)
        journal.write(
            EntryKind.APPROVAL, Reason.APPROVED, {"verdict": "approved", "message": reason}
        )
        journal.move(Trigger.APPROVED, Reason.APPROVED, {"message": reason})
    return converge_and_show(session, output)


@click.command(
    epilog='Example: reconciler reject 20251118-030405-a1b2c3 --reason "not on a Friday"'
)
@click.argument("run")
@reason_option
@output_option("table", "json")
@database_option
def reject(run: str, reason: str, output: str, database: str | None) -> int:
    """End the waiting RUN. Nothing was touched; its generation is held until the spec changes or somebody resumes."""
    session = _waiting(run, database)
    engine = session.engine(Progress())
    with engine.session(session.environment) as journal:
        _still_waiting(journal.status.phase, run)
        engine.reject(journal, reason)
        status = journal.status
    show_rest(status, output)
    return Exit.DONE


def _waiting(run: str, database: str | None) -> Session:
    """The session of the environment whose present run waits for approval."""
    url = ledger_url(here(), database)
    for name in names(url):
        status, _ = glance(url, name)
        if status.run and status.run.id == run:
            return open_environment(name, database)
    raise UsageError(
        f"There is no run {run} that could wait.",
        hint="`reconciler status` shows what waits for approval.",
    )


def _still_waiting(phase: Phase, run: str) -> None:
    if phase is not Phase.APPROVE:
        raise UsageError(
            f"Run {run} is not waiting for approval; its environment is in phase {phase}."
        )
