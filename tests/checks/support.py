"""What the tests of the checks share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconciler.checks.base import Attempt, CheckContext
from reconciler.clock import SystemClock
from reconciler.core.errors import UsageError
from reconciler.core.redact import Redactor
from reconciler.core.spec_verify import Check

if TYPE_CHECKING:
    from reconciler.core.section import SecretRef

SECRETS = {"APP_KEY": "key-0123456789abcdef"}


def secret(reference: SecretRef) -> str:
    """A secret from a table, as the project would read it from its environment."""
    if reference.env not in SECRETS:
        raise UsageError(f"the secret in {reference} is empty or missing")
    return SECRETS[reference.env]


def context(root: Path | None = None, **more: Any) -> CheckContext:
    """A context with everything that no test needs to choose."""
    given: dict[str, Any] = {
        "root": root or Path.cwd(),
        "secret": secret,
        "redactor": Redactor(),
        "clock": SystemClock(),
        "environ": {"PATH": os.environ["PATH"]},
    }
    return CheckContext(**{**given, **more})


def check(kind: str, spec: Any, **more: Any) -> Check:
    """A check as it is written in a spec."""
    return Check.model_validate({"name": f"a {kind} check", kind: spec, **more})


def attempt(timeout: float = 5.0) -> Attempt:
    """One try."""
    return Attempt(timeout)
