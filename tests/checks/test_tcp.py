"""The tcp check against real sockets."""

from __future__ import annotations

import socket

from reconciler.checks import tcp
from reconciler.core.spec_verify import TcpCheck
from tests.checks.support import attempt, context


def test_a_listener_is_enough() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert tcp.probe(TcpCheck(host="127.0.0.1", port=port), context(), attempt()).passed
    outcome = tcp.probe(TcpCheck(host="127.0.0.1", port=port), context(), attempt())
    assert not outcome.passed
    assert f"tcp 127.0.0.1:{port}: expected a connection, got: Connection refused" in outcome.detail


def test_a_name_that_nobody_knows() -> None:
    outcome = tcp.probe(TcpCheck(host="nobody.invalid", port=1), context(), attempt(2))
    assert not outcome.passed
    assert "nobody.invalid:1" in outcome.detail
