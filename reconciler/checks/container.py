"""The `container` check: a service runs, and is healthy where it has a healthcheck."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.checks.base import Attempt, CheckContext, Outcome, failed, passed
from reconciler.core.facts import HEALTHY, RUNNING, service_state

if TYPE_CHECKING:
    from reconciler.core.spec_verify import ContainerCheck


def probe(spec: ContainerCheck, context: CheckContext, attempt: Attempt) -> Outcome:  # noqa: ARG001
    """Looks once."""
    where = f"service {spec.service}: expected {RUNNING} or {HEALTHY}"
    if context.containers is None:
        return failed(f"{where}, but no containers are declared", final=True)
    key = service_state(spec.service)
    fact = next((fact for fact in context.containers() if fact.key == key), None)
    if fact is None or (fact.known and fact.value is None):
        return failed(f"{where}, got no container")
    if not fact.known:
        return failed(f"{where}, which cannot be read: {fact.unknown}")
    if fact.value in {RUNNING, HEALTHY}:
        return passed(f"service {spec.service}: {fact.value}")
    detail = f" ({fact.detail})" if fact.detail else ""
    return failed(f"{where}, got {fact.value}{detail}")
