"""`doctor`: can this machine do all that a spec needs? Reads only; each line that is not ok names the next action."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from pydantic import BaseModel

from reconciler.assembly import Parts, ledger_url
from reconciler.audit.glance import glance
from reconciler.cli import diagnosis
from reconciler.cli.diagnosis import Finding, Level, ok, problem, warning
from reconciler.cli.exits import Exit
from reconciler.cli.session import Session, database_option, here, open_spec, output_option
from reconciler.clock import SystemClock
from reconciler.core.errors import ReconcilerError, UsageError
from reconciler.core.facts import TARGET_ORDER, Fact, Observation
from reconciler.core.redact import Redactor
from reconciler.core.runs import effective
from reconciler.core.section import SecretRef
from reconciler.core.spec import Spec
from reconciler.targets.base import Target, TargetMap
from reconciler.targets.together import resolve

if TYPE_CHECKING:
    from reconciler.project import Project
    from reconciler.targets.docker_host import DockerHost

_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "red"}
_POSTGRES_MAJOR = 10_000  # server_version is 160004 for 16.4


@click.command(epilog="Example: reconciler doctor specs/prod.yaml")
@click.argument("spec", required=False, type=click.Path(path_type=Path))
@output_option("table", "json")
@database_option
def doctor(spec: Path | None, output: str, database: str | None) -> int:
    """Check that this machine can do all that SPEC needs. Changes nothing, shows no secret."""
    session = open_spec(spec, database) if spec else None
    project = session.project if session else here()
    url = session.url if session else ledger_url(project, database)
    found: list[Finding] = []
    redactor = session.redactor if session else Redactor()
    for finding in _findings(session, project, url):
        clean = Finding(
            finding.name, finding.level, redactor.text(finding.message), redactor.text(finding.next)
        )
        found.append(clean)
        if output == "table":
            _show(clean)
    problems = sum(finding.level is Level.PROBLEM for finding in found)
    if output == "json":
        click.echo(diagnosis.render_json(found))
    elif problems:
        click.echo(f"{problems} problem{'s' if problems > 1 else ''} to mend.")
    else:
        click.echo("This machine can do it." if session else "Nothing is wrong with this machine.")
    return Exit.FAILED if problems else Exit.DONE


def _show(finding: Finding) -> None:
    level = click.style(f"{finding.level:<8}", fg=_COLOURS[finding.level])
    click.echo(f"{level} {finding.name:<20} {finding.message}")
    if finding.next:
        click.echo(f"{'':<29} next: {finding.next}")


def _findings(session: Session | None, project: Project, url: str) -> Iterator[Finding]:
    spec = session.source.spec if session else None
    host = _host(spec)
    yield diagnosis.python()
    yield diagnosis.git(needed=bool(spec and spec.git))
    yield from diagnosis.docker(host, needed=bool(spec and spec.docker))
    yield diagnosis.disk(project)
    yield diagnosis.states(project)
    yield from diagnosis.ledger(url)
    yield diagnosis.clock(diagnosis.engine_time(host))
    if session is None:
        yield diagnosis.pg_dump(None)
    else:
        yield from _of_spec(session)


def _host(spec: Spec | None) -> DockerHost:
    from reconciler.targets.docker_host import DockerHost

    section = spec.docker if spec else None
    return DockerHost(section.host, section.context) if section else DockerHost()


def _of_spec(session: Session) -> Iterator[Finding]:
    """What the spec needs beyond the machine."""
    spec, parts = session.source.spec, session.parts
    missing = False
    for where, reference in secrets_of(spec):
        finding = _secret(parts, where, reference)
        missing |= finding.level is Level.PROBLEM
        yield finding
    if spec.database:
        yield diagnosis.pg_dump(_server_major(spec, parts))
    if missing:
        yield warning("targets", "were not looked at", "Give the missing secrets, then try again.")
        return
    try:
        equipment = parts.equip(spec)
    except ReconcilerError as exc:
        yield problem("targets", exc.message, exc.hint or "Mend the spec.")
        return
    seen: list[Fact] = []
    for name in TARGET_ORDER:
        if name in equipment.targets:
            facts, finding = _observed(equipment.targets[name])
            seen.extend(facts)
            yield finding
    yield _goal(session, equipment.targets, Observation.of(SystemClock().now(), seen))
    for check in equipment.checker.once():
        name = f"check {check.name}"
        if check.passed:
            yield ok(name, check.detail or "passes")
        else:
            yield warning(
                name, check.detail, "Production is sick, or the check cannot reach it from here."
            )


def secrets_of(section: BaseModel, path: str = "") -> Iterator[tuple[str, SecretRef]]:
    """Every reference to a secret in a spec, with its path."""
    for name, field in type(section).model_fields.items():
        where = f"{path}.{field.alias or name}".lstrip(".")
        yield from _secrets_in(getattr(section, name), where)


def _secrets_in(value: object, where: str) -> Iterator[tuple[str, SecretRef]]:
    if isinstance(value, SecretRef):
        yield where, value
    elif isinstance(value, BaseModel):
        yield from secrets_of(value, where)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _secrets_in(item, f"{where}.{key}")
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from _secrets_in(item, f"{where}[{index}]")


def _secret(parts: Parts, where: str, reference: SecretRef) -> Finding:
    try:
        parts.secret(reference)
    except UsageError as exc:
        return problem("secret", f"{where}: {exc.message}", f"Provide {reference}.")
    return ok("secret", f"{where}: {reference} is there")


def _observed(target: Target) -> tuple[list[Fact], Finding]:
    began = time.monotonic()
    facts = list(target.observe())
    spent = time.monotonic() - began
    unknown = [fact for fact in facts if not fact.known]
    if unknown:
        message = f"{unknown[0].key} cannot be read: {unknown[0].unknown}"
        return facts, problem(
            target.name, message, "Repair the connection or the permissions it names."
        )
    return facts, ok(target.name, f"{len(facts)} facts read in {spent:.2f} s")


def _goal(session: Session, targets: TargetMap, observed: Observation) -> Finding:
    """Whether everything the spec names can be found."""
    spec = session.source.spec
    try:
        status, _ = glance(session.url, spec.name)
        generation = status.generation + (session.source.digest != status.spec_digest)
        pins, _ = effective(status, spec, generation)
        goal = resolve(targets, pins, observed)
    except ReconcilerError as exc:
        return problem("goal", exc.message, exc.hint or "Mend what the spec names.")
    return ok("goal", f"everything the spec names is found: {len(goal.wanted)} facts")


def _server_major(spec: Spec, parts: Parts) -> int | None:
    """The major version of the PostgreSQL server, where it can be asked directly."""
    import psycopg

    section = spec.database
    assert section is not None
    direct = section.postgres or section.supabase
    reference = direct.dsn_from if direct else None
    if not reference:
        return None
    try:
        with psycopg.connect(parts.secret(reference), connect_timeout=5) as connection:
            return connection.info.server_version // _POSTGRES_MAJOR
    except (psycopg.Error, ReconcilerError):
        return None  # the database target says why below
