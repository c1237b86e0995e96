"""The `tcp` check: somebody must accept a connection."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from reconciler.checks.base import Attempt, CheckContext, Outcome, failed, passed

if TYPE_CHECKING:
    from reconciler.core.spec_verify import TcpCheck


def probe(spec: TcpCheck, context: CheckContext, attempt: Attempt) -> Outcome:  # noqa: ARG001
    """Connects once."""
    where = f"tcp {spec.host}:{spec.port}"
    try:
        socket.create_connection((spec.host, spec.port), timeout=attempt.timeout).close()
    except TimeoutError:
        return failed(f"{where}: expected a connection, none within {attempt.timeout:.3g} s")
    except (OSError, UnicodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        return failed(f"{where}: expected a connection, got: {reason}")
    return passed(f"{where}: connected")
