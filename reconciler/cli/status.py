"""`status`, `points` and `history`: reading only, and quick."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from reconciler.assembly import ledger_url
from reconciler.audit.glance import Holding, glance, names
from reconciler.audit.processes import alive
from reconciler.cli.exits import Exit
from reconciler.cli.render import join, short, stalled_lines
from reconciler.cli.session import database_option, here, output_option, unknown_environment
from reconciler.clock import SystemClock
from reconciler.core.duration import Duration
from reconciler.core.entry import Entry
from reconciler.core.errors import UsageError
from reconciler.core.phase import RUN_PHASES, Phase
from reconciler.core.status import EnvironmentStatus
from reconciler.core.story import tell

_COLOURS = {Phase.STABLE: "green", Phase.STALLED: "red", Phase.APPROVE: "yellow"}
_COLUMNS = (
    "seq", "at", "environment", "run", "kind", "actor", "origin", "reason", "generation",
    "from_state", "trigger", "to_state", "target", "effect", "message",
)  # fmt: skip


@click.command(epilog="Example: reconciler status prod -o json")
@click.argument("environment", required=False)
@output_option("table", "json")
@database_option
def status(environment: str | None, output: str, database: str | None) -> int:
    """Show where ENVIRONMENT (or each one) stands now. Exits 3 when one of them is stalled."""
    project = here()
    url = ledger_url(project, database)
    known = names(url)
    if environment is not None and environment not in known:
        raise unknown_environment(environment, url, project)
    found = [glance(url, name) for name in ([environment] if environment else known)]
    if output == "json":
        items = [_json(state, holding) for state, holding in found]
        click.echo(
            json.dumps(items[0] if environment else {"kind": "List", "items": items}, indent=2)
        )
    elif not found:
        click.echo("No environment is on record yet. Next: reconciler apply specs/prod.yaml")
    else:
        for state, holding in found:
            click.echo(join(_lines(state, holding)))
    stalled = any(state.phase is Phase.STALLED for state, _ in found)
    return Exit.STALLED if stalled else Exit.DONE


def _lines(state: EnvironmentStatus, holding: Holding | None) -> Iterator[str]:
    phase = click.style(state.phase.value.upper(), fg=_COLOURS.get(state.phase, "cyan"), bold=True)
    suffix = ", suspended" if state.suspended else ""
    yield f"{state.environment}: {phase}  generation {state.generation}{suffix}"
    if state.phase is Phase.STALLED:
        yield join(stalled_lines(state))
    for condition in state.conditions:
        since = condition.last_transition.strftime("%Y-%m-%d %H:%M:%S")
        yield f"  {condition.type:<11} {condition.status:<7} {condition.reason} since {since} UTC  {condition.message}"
    if state.phase in RUN_PHASES and state.run:
        who = "nobody works on it: the same apply goes on from here"
        if holding and holding.expires > SystemClock().now() and alive(holding.process):
            who = f"{holding.holder} works on it"
        yield f"  run {state.run.id}, since {state.run.started:%H:%M:%S} UTC; {who}"
    if state.phase is Phase.APPROVE and state.run:
        yield f"  Next: reconciler approve (or reject) {state.run.id} --reason ..."
    if state.held:
        yield f"  held: {state.held.message}"
    width = max((len(key) for key in state.observed), default=0)
    for key, value in state.observed.items():
        yield f"  {key:<{width}}  {short(value)}"
    if good := state.last_known_good:
        yield f"  last known good: {good.id}, verified {good.at:%Y-%m-%d %H:%M:%S} UTC"


def _json(state: EnvironmentStatus, holding: Holding | None) -> dict[str, Any]:
    from reconciler.audit.statefile import document

    body: dict[str, Any] = document(state)
    if holding and holding.expires > SystemClock().now():
        body["status"]["lease"] = {
            "holder": holding.holder,
            "since": holding.since.isoformat(),
            "expires": holding.expires.isoformat(),
        }
    return body


@click.command(epilog="Example: reconciler points prod")
@click.argument("environment")
@output_option("table", "json")
@database_option
def points(environment: str, output: str, database: str | None) -> int:
    """List the verified states ENVIRONMENT can go back to, newest first."""
    project = here()
    url = ledger_url(project, database)
    if environment not in names(url):
        raise unknown_environment(environment, url, project)
    state, _ = glance(url, environment)
    if output == "json":
        items = [point.model_dump(mode="json") for point in state.recovery_points]
        click.echo(json.dumps({"kind": "List", "items": items}, indent=2))
        return Exit.DONE
    if not state.recovery_points:
        click.echo(f"{environment} has no verified state yet; `rollback` would take it to HEAD~1.")
    for point in state.recovery_points:
        now = "  (as it is now)" if dict(point.vector) == dict(state.observed) else ""
        click.echo(
            f"{point.id}  verified {point.at:%Y-%m-%d %H:%M:%S} UTC, generation {point.generation}{now}"
        )
        for key, value in point.vector.items():
            if not key.endswith((".state", ".config")):
                detail = point.details.get(key, "")
                click.echo(f"    {key}  {short(value)}{f'  ({detail})' if detail else ''}")
    return Exit.DONE


@click.command(epilog="Example: reconciler history prod --since 2d -o csv")
@click.argument("environment", required=False)
@click.option("--run", metavar="RUN", help="Only this run (`last` for the newest).")
@click.option(
    "--since",
    metavar="WHEN",
    help="A duration back from now (2h, 7d) or a UTC time (2025-11-18T03:00).",
)
@output_option("table", "json", "csv")
@database_option
def history(
    environment: str | None, run: str | None, since: str | None, output: str, database: str | None
) -> int:
    """Tell what happened: who wanted what and why, each phase with its duration, each effect with its result."""
    from reconciler.audit.database import Database
    from reconciler.audit.queries import entries

    project = here()
    url = ledger_url(project, database)
    if environment is not None and environment not in names(url):
        raise unknown_environment(environment, url, project)
    if run == "last":
        runs = [glance(url, name)[0].run for name in ([environment] if environment else names(url))]
        newest = max((item for item in runs if item), key=lambda item: item.started, default=None)
        if newest is None:
            raise UsageError("There is no run yet.", hint="reconciler apply specs/prod.yaml")
        run = newest.id
    found = entries(Database(url), environment, run=run, since=_when(since))
    if output == "json":
        _write_json(found)
    elif output == "csv":
        _write_csv(found)
    else:
        for line in tell(entry for _, entry in found):
            click.echo(line)
    return Exit.DONE


def _when(text: str | None) -> datetime | None:
    """A point in time from a duration back or an ISO time.

    Raises:
        click.BadParameter: It is neither.
    """
    if text is None:
        return None
    days = re.fullmatch(r"(\d{1,5})d", text)
    try:
        if days:
            return datetime.now(UTC) - timedelta(days=int(days[1]))
        return datetime.now(UTC) - Duration.parse(text).timedelta
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            "needs a duration such as 2h or 7d, or a time such as 2025-11-18T03:00"
        ) from None
    return at.replace(tzinfo=at.tzinfo or UTC).astimezone(UTC)


def _record(seq: int, entry: Entry) -> dict[str, Any]:
    return {"seq": seq, **entry.model_dump(mode="json")}


def _write_json(found: Iterator[tuple[int, Entry]]) -> None:
    """One JSON document, written as it is read."""
    click.echo('{"apiVersion": "reconciler/v1", "kind": "History", "items": [', nl=False)
    for number, (seq, entry) in enumerate(found):
        click.echo(("," if number else "") + "\n" + json.dumps(_record(seq, entry)), nl=False)
    click.echo("\n]}")


def _write_csv(found: Iterator[tuple[int, Entry]]) -> None:
    click.echo(_csv_line(_COLUMNS), nl=False)
    for seq, entry in found:
        record = _record(seq, entry)
        record["message"] = (
            entry.body.get("message") or entry.body.get("note") or entry.body.get("error")
        )
        click.echo(_csv_line([record.get(name) for name in _COLUMNS]), nl=False)


def _csv_line(cells: Sequence[object]) -> str:
    """One CSV line. A cell that a spreadsheet would take for a formula gets a quote in front."""
    safe = ["" if cell is None else str(cell) for cell in cells]
    safe = [
        f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell for cell in safe
    ]
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow(safe)
    return stream.getvalue()
