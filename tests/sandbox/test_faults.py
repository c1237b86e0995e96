"""Each declared fault, seen from the outside; and the control routes that arm it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reconciler.sandbox.faults import Fault, FaultBook, FaultKind
from reconciler.sandbox.server import ApiServer
from reconciler.sandbox.store import now_ms
from reconciler.sandbox.vercel_api import VercelApi
from reconciler.sandbox.vercel_state import Settings, new_state
from tests.sandbox.practice import TOKEN, Caller, bearer, caller
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.process

ROLLBACK = "/v1/projects/{project}/rollback/{deployment}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApiServer]:
    settings = Settings(alias_delay_ms=0, alias_step_ms=0)
    initial = new_state(now=now_ms(), settings=settings)
    api = VercelApi(token=TOKEN, path=tmp_path / "state.json", initial=initial)
    with ApiServer(api) as running:
        yield running


@pytest.fixture
def old(server: ApiServer) -> str:
    assert isinstance(server.api, VercelApi)
    ids = [server.api.deploy(sha=sha * 40) for sha in "12"]
    return ids[0]


@pytest.fixture
def ask(server: ApiServer) -> Iterator[Caller]:
    with caller(server, "vercel") as client:
        yield client


def rollback(ask: Caller, deployment: str) -> httpx.Response:
    return ask.call("POST", f"/v1/projects/omniops/rollback/{deployment}")


def test_an_answer_is_lost_once_after_the_change_was_made(ask: Caller, old: str) -> None:
    ask.fault("lost-answer", method="post", path=ROLLBACK)
    with pytest.raises(httpx.RemoteProtocolError):
        rollback(ask, old)
    shown = ask.get("/v9/projects/omniops")
    assert shown["targets"]["production"]["id"] == old
    (effect,) = ask.effects()
    assert effect["ids"]["deployment"] == old
    assert rollback(ask, old).status_code == 409, "the second time nothing is lost"


def test_a_lost_answer_waits_for_a_change_that_was_accepted(ask: Caller, old: str) -> None:
    ask.fault("lost-answer", method="POST", path=ROLLBACK)
    assert rollback(ask, "dpl_none").status_code == 404
    with pytest.raises(httpx.RemoteProtocolError):
        rollback(ask, old)


@pytest.mark.parametrize(("kind", "effects"), [("error-before", 0), ("error-after", 1)])
def test_a_server_error_before_or_after_the_change(
    ask: Caller, old: str, kind: str, effects: int
) -> None:
    ask.fault(kind, method="POST", status=503)
    response = rollback(ask, old)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "internal_server_error"
    assert len(ask.effects()) == effects


def test_a_rate_limit_with_and_without_a_time(ask: Caller, old: str) -> None:
    ask.fault("rate-limited", delay_ms=7000)
    ask.fault("rate-limited", reset_headers=False)
    told = rollback(ask, old)
    assert told.status_code == 429
    assert told.headers["retry-after"] == "7"
    limit = told.json()["error"]["limit"]
    assert limit["remaining"] == 0
    assert limit["resetMs"] > now_ms()
    untold = rollback(ask, old)
    assert untold.status_code == 429
    assert "retry-after" not in untold.headers
    assert not ask.effects()
    assert rollback(ask, old).status_code == 201


def test_latency_delays_only_what_it_names(ask: Caller, old: str) -> None:
    ask.fault("latency", path="/v9/projects/*", delay_ms=300)
    begin = time.monotonic()
    ask.get("/v2/user")
    assert time.monotonic() - begin < 0.25
    ask.get("/v9/projects/omniops")
    assert time.monotonic() - begin >= 0.3


def test_slow_aliases_hold_one_move(ask: Caller, old: str) -> None:
    ask.fault("slow-aliases", method="POST", path=ROLLBACK, delay_ms=60_000)
    assert rollback(ask, old).status_code == 201
    shown = ask.get("/v9/projects/omniops")
    assert shown["lastAliasRequest"]["jobStatus"] == "pending"


def test_an_alias_fails(ask: Caller, old: str) -> None:
    ask.fault("alias-fails", method="POST", path=ROLLBACK)
    assert rollback(ask, old).status_code == 201
    shown = ask.get("/v9/projects/omniops")
    assert shown["lastAliasRequest"]["jobStatus"] == "failed"


def test_a_promote_is_queued_and_nothing_moves(ask: Caller, old: str) -> None:
    ask.fault("queued")
    response = ask.call("POST", f"/v10/projects/omniops/promote/{old}", {})
    assert response.status_code == 202
    assert not ask.effects()
    assert ask.get("/v9/projects/omniops")["targets"]["production"]["id"] != old


def test_connections_are_refused_for_a_while(ask: Caller, server: ApiServer, old: str) -> None:
    port = server.port
    ask.fault("refused", delay_ms=400)

    def refused() -> bool:
        try:
            ask.get("/v2/user")
        except httpx.ConnectError:
            return True
        except httpx.TransportError:
            return False  # an open connection is dropped first
        return False

    def answers() -> bool:
        try:
            return ask.call("GET", "/v2/user").status_code == 200
        except httpx.TransportError:
            return False

    wait_for(refused, what="a refused connection")
    wait_for(answers, what="the server's return")
    assert server.port == port
    assert rollback(ask, old).status_code == 201, "state and faults are as before"


def test_pause_and_resume_in_process(server: ApiServer) -> None:
    server.pause()
    url = f"{server.url}/v2/user"

    def refused() -> bool:
        try:
            httpx.get(url, trust_env=False)
        except httpx.ConnectError:
            return True
        return False

    assert refused(), "paused when `pause` returns"
    server.resume()
    assert httpx.get(url, trust_env=False).status_code == 403
    server.stop()
    server.stop()
    assert refused()


def test_faults_are_reported_and_cleared(ask: Caller, old: str) -> None:
    ask.fault("error-before", path="/v2/user", times=2)
    ask.call("GET", "/v2/user")
    (row,) = ask.ask_control("GET", "/__faults")["faults"]
    assert (row["struck"], row["state"]) == (1, "armed")
    assert ask.ask_control("DELETE", "/__faults")["faults"] == []
    assert ask.call("GET", "/v2/user").status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"faults": [{"kind": "nonsense"}]},
        {"faults": [{"kind": "latency"}]},
        {"faults": [{"kind": "lost-answer", "times": 0}]},
        {"faults": [{"kind": "lost-answer", "typo": 1}]},
        {},
    ],
)
def test_a_fault_that_means_nothing_is_refused(ask: Caller, body: object) -> None:
    headers = bearer(ask.control)
    response = ask.client.post("/__faults", json=body, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]


def test_control_has_a_token_of_its_own(ask: Caller) -> None:
    for token in ("", TOKEN):
        assert ask.client.get("/__effects", headers=bearer(token)).status_code == 401
    assert ask.client.get("/v2/user", headers=bearer(ask.control)).status_code == 403


def test_settings_are_checked_and_kept(ask: Caller) -> None:
    assert ask.ask_control("PATCH", "/__settings", {"plan": "hobby"})["plan"] == "hobby"
    headers = bearer(ask.control)
    wrong = ask.client.patch("/__settings", json={"plan": "free"}, headers=headers)
    assert wrong.status_code == 400
    assert "plan" in wrong.json()["error"]
    assert ask.client.patch("/__settings", content=b"{", headers=headers).status_code == 400
    assert ask.ask_control("GET", "/__settings")["plan"] == "hobby"


@given(
    skip=st.integers(0, 5),
    times=st.one_of(st.none(), st.integers(1, 5)),
    asked=st.integers(0, 15),
)
def test_a_fault_strikes_as_often_as_it_says(skip: int, times: int | None, asked: int) -> None:
    book = FaultBook()
    book.add(
        Fault(kind=FaultKind.LOST_ANSWER, method="POST", path="/a/{x}", skip=skip, times=times)
    )
    struck = [
        book.take((FaultKind.LOST_ANSWER,), "POST", f"/a/{number}") is not None
        for number in range(asked)
    ]
    assert not any(struck[:skip])
    expected = max(asked - skip, 0)
    assert sum(struck) == (expected if times is None else min(expected, times))
    assert book.take((FaultKind.LOST_ANSWER,), "GET", "/a/1") is None
    assert book.take((FaultKind.LOST_ANSWER,), "POST", "/a/1/b") is None


def test_a_timed_fault_needs_its_time() -> None:
    for kind in (FaultKind.LATENCY, FaultKind.REFUSED, FaultKind.SLOW_ALIASES):
        with pytest.raises(ValidationError, match="delay_ms"):
            Fault(kind=kind)
