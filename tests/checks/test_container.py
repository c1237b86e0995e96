"""The container check."""

from __future__ import annotations

import pytest

from reconciler.checks import container
from reconciler.core.facts import Fact, service_state
from reconciler.core.spec_verify import ContainerCheck
from tests.checks.support import attempt, context


@pytest.mark.parametrize(
    ("fact", "good", "words"),
    [
        (Fact(key=service_state("app"), value="healthy"), True, "healthy"),
        (Fact(key=service_state("app"), value="running"), True, "running"),
        (Fact(key=service_state("app"), value="starting"), False, "got starting"),
        (Fact(key=service_state("app"), value="exited", detail="code 1"), False, "(code 1)"),
        (Fact(key=service_state("app")), False, "got no container"),
        (Fact(key=service_state("app"), unknown="engine away"), False, "cannot be read: engine"),
        (Fact(key=service_state("other"), value="healthy"), False, "got no container"),
    ],
)
def test_running_or_healthy_passes(fact: Fact, good: object, words: str) -> None:
    lent = context(containers=lambda: [fact])
    outcome = container.probe(ContainerCheck(service="app"), lent, attempt())
    assert outcome.passed is good
    assert words in outcome.detail


def test_without_containers_there_is_nothing_to_look_at() -> None:
    outcome = container.probe(ContainerCheck(service="app"), context(), attempt())
    assert outcome.final
