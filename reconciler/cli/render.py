"""How plans, certificates and failures look to a person: plain text with a little colour."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import click

from reconciler.core.certificate import Certificate, Recovery
from reconciler.core.drift import Comparison, Drift, Verdict
from reconciler.core.phase import WORK_ORDER, Phase
from reconciler.core.plan import Plan, Step
from reconciler.core.status import EnvironmentStatus, Run

_SHORT = 19  # characters of a digest that are shown: "sha256:" and twelve


def short(value: str | None) -> str:
    """A value for a narrow column: digests and commit ids cut, absence named."""
    if value is None:
        return "absent"
    if value.startswith("sha256:"):
        return value[:_SHORT]
    return (
        value[:12]
        if len(value) in (40, 64) and all(c in "0123456789abcdef" for c in value)
        else value
    )


def drift_lines(drift: Drift) -> Iterator[str]:
    """The differing facts, one a line."""
    rows = [fact for fact in drift.facts if fact.verdict is not Verdict.EQUAL]
    width = max((len(fact.key) for fact in rows), default=0)
    for fact in rows:
        yield f"  {fact.key:<{width}}  {_side(fact.observed, fact.observed_detail)} -> {_wanted(fact)}"


def _wanted(fact: Comparison) -> str:
    if fact.verdict is Verdict.UNKNOWN:
        return click.style(f"cannot be read: {fact.why}", fg="yellow")
    if fact.verdict is Verdict.PENDING:
        return f"{fact.detail or 'to be made'} (made during capture)"
    return _side(fact.wanted, fact.detail)


def _side(value: str | None, detail: str) -> str:
    return f"{short(value)} ({detail})" if detail and detail != value else short(value)


def plan_lines(plan: Plan) -> Iterator[str]:
    """The steps in order, by phase, with what cannot be undone and what loses data marked."""
    number = 0
    for phase in WORK_ORDER:
        steps = plan.of(phase)
        if not steps:
            continue
        touched = "" if phase is Phase.CAPTURE else "   production is touched"
        yield click.style(f"{phase}", bold=True) + click.style(touched, dim=True)
        for step in steps:
            number += 1
            yield f"  {number:>2}. {step.summary}{_marks(step)}"
    if plan.touches_production:
        yield f"Expected downtime: {_downtime(plan)}"


def _marks(step: Step) -> str:
    marks = []
    if step.data_loss:
        marks.append(click.style("DATA LOSS (dumped first)", fg="red", bold=True))
    if step.irreversible:
        marks.append(click.style("IRREVERSIBLE", fg="red"))
    return "".join(f"  [{mark}]" for mark in marks)


def _downtime(plan: Plan) -> str:
    seconds = plan.downtime
    return f"about {seconds:.0f} s" if seconds >= 1 else "under a second" if seconds else "none"


def certificate_lines(certificate: Certificate) -> Iterator[str]:
    """The certificate, fact by fact, and the recovery times."""
    title = "vector from before the run" if certificate.compensated else "generation"
    number = "" if certificate.compensated else f" {certificate.generation}"
    yield click.style(
        f"Certificate  {certificate.environment}, {title}{number}, run {certificate.run}", bold=True
    )
    width = max((len(fact.key) for fact in certificate.facts), default=0)
    for fact in certificate.facts:
        detail = f"  ({fact.detail})" if fact.detail and fact.detail != fact.value else ""
        yield f"  {click.style('=', fg='green')} {fact.key:<{width}}  {fact.value or 'absent'}{detail}"
    for check in certificate.checks:
        mark = click.style("✓", fg="green") if check.passed else click.style("✗", fg="red")
        yield f"  {mark} check {check.name} ({check.kind})  {check.detail}"
    yield from recovery_lines(certificate.recovery)


def recovery_lines(recovery: Recovery) -> Iterator[str]:
    """The recovery times against what was promised."""
    promised = recovery.targets.get("total")
    target = ""
    if promised is not None:
        verdict = (
            click.style("missed", fg="red")
            if "total" in recovery.missed
            else click.style("met", fg="green")
        )
        target = f" (target {promised:.0f} s: {verdict})"
    yield f"Recovery: restored after {recovery.restored:.1f} s, stable after {recovery.total:.1f} s{target}"
    if recovery.outage is not None:
        yield f"  outage window {recovery.outage:.2f} s" + (
            f"; front end and back end differed for {recovery.split:.2f} s"
            if recovery.split is not None
            else ""
        )
    missed = [name for name in recovery.missed if name != "total"]
    if missed:
        yield click.style(f"  missed targets: {', '.join(missed)}", fg="red")


def stalled_lines(status: EnvironmentStatus) -> Iterator[str]:
    """Why an environment is stalled and what can be done, for a tired reader."""
    run = status.run
    failure = run.failure if run else None
    yield click.style(f"{status.environment} is STALLED: a human must act.", fg="red", bold=True)
    if failure is None or run is None:
        return
    untouched = "" if run.touched else " Production was not touched."
    yield f"Why:  {failure.message} (in {failure.phase}, {failure.reason}){untouched}"
    if failure.hint:
        yield f"Next: {failure.hint}"
    yield f"Then: reconciler resume {status.environment} --reason ...     to go on (or change the spec and apply it)"
    others = [point.id for point in status.recovery_points[:2]]
    for point in others:
        yield f"  or: reconciler rollback {status.environment} --to {point}"
    yield f"Read: reconciler history {status.environment} --run {run.id}"


def compensated_lines(status: EnvironmentStatus, run: Run) -> Iterator[str]:
    """What became of a run that went back, and how to try again."""
    name, failure = status.environment, run.failure
    yield click.style(f"{name} could not be brought to where it should be.", fg="red", bold=True)
    yield f"Why:  {status.held.message if status.held else failure and failure.message}"
    yield "Now:  the release from before the run is back, as certified above."
    yield f"Next: {(failure.hint if failure else '') or 'mend the cause.'}"
    yield f"Then: change the spec, or reconciler resume {name} --reason ...     to try it again as it stands"
    yield f"Read: reconciler history {name} --run {run.id}"


def join(lines: Iterable[str]) -> str:
    """Lines as one text."""
    return "\n".join(lines)
