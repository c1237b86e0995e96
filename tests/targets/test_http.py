"""The HTTP wrapper: patient reading, writing once, and nothing secret in any error."""

from __future__ import annotations

import socket
import threading
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.errors import (
    OutcomeUnknownError,
    RateLimitedError,
    ReconcilerError,
    TargetUnavailableError,
    UsageError,
)
from reconciler.targets.shared.http import (
    GET_ATTEMPTS,
    HttpClient,
    HttpFormatError,
    HttpRefusedError,
    error_code_and_text,
    one_line,
    retry_after,
    segment,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.process

TOKEN = "sekret_token_1234567890"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class Script:
    """Answers requests from a list; what is left over at the end repeats."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.slept: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def client(self, **options: float) -> HttpClient:
        return HttpClient(
            "https://api.example.test",
            service="Example",
            token=TOKEN,
            transport=httpx.MockTransport(self),
            sleep=self.slept.append,
            max_body=int(options.get("max_body", 1000)),
            budget=options.get("budget", 30.0),
        )


def ok(text: str = "{}") -> httpx.Response:
    return httpx.Response(200, text=text)


@pytest.mark.parametrize(
    "trouble",
    [
        httpx.Response(429),
        httpx.Response(500),
        httpx.Response(503),
        httpx.ReadTimeout("late"),
        httpx.ConnectTimeout("late"),
        httpx.RemoteProtocolError("gone"),
    ],
)
def test_a_get_is_repeated_until_it_succeeds(trouble: httpx.Response | Exception) -> None:
    script = Script(trouble, trouble, ok('{"a": 1}'))
    assert script.client().get("/x").json() == {"a": 1}
    assert len(script.requests) == 3
    assert len(script.slept) == 2


def test_a_get_gives_up_after_a_bounded_number_of_attempts() -> None:
    script = Script(httpx.Response(502))
    with pytest.raises(TargetUnavailableError, match="502"):
        script.client().get("/x")
    assert len(script.requests) == GET_ATTEMPTS


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 422])
def test_a_refusal_is_not_repeated(status: int) -> None:
    script = Script(httpx.Response(status, json={"error": {"code": "nope", "message": "No way"}}))
    with pytest.raises(HttpRefusedError) as caught:
        script.client().get("/x")
    assert len(script.requests) == 1
    assert (caught.value.status, caught.value.code, caught.value.reason) == (
        status,
        "nope",
        "No way",
    )
    assert "No way" in caught.value.message


def test_retry_after_in_seconds_is_obeyed() -> None:
    script = Script(httpx.Response(429, headers={"retry-after": "7"}), ok())
    script.client().get("/x")
    assert script.slept == [7.0]


def test_retry_after_as_a_date_is_obeyed() -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=9), usegmt=True)
    script = Script(httpx.Response(503, headers={"retry-after": when}), ok())
    script.client().get("/x")
    assert 5 < script.slept[0] <= 9


def test_a_longer_wait_than_the_budget_is_left_to_the_caller() -> None:
    script = Script(httpx.Response(429, headers={"retry-after": "3600"}))
    with pytest.raises(RateLimitedError) as caught:
        script.client().get("/x")
    assert caught.value.retry_after == 3600
    assert script.slept == []


@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        (httpx.Response(500), OutcomeUnknownError),
        (httpx.Response(504), OutcomeUnknownError),
        (httpx.ReadTimeout("late"), OutcomeUnknownError),
        (httpx.WriteError("cut"), OutcomeUnknownError),
        (httpx.RemoteProtocolError("gone"), OutcomeUnknownError),
        (httpx.Response(201, text="x" * 2000), OutcomeUnknownError),
        (httpx.Response(429), RateLimitedError),
        (httpx.ConnectError("refused"), TargetUnavailableError),
        (httpx.ConnectTimeout("late"), TargetUnavailableError),
        (httpx.Response(409), HttpRefusedError),
        (httpx.Response(302, headers={"location": "https://elsewhere.test"}), HttpRefusedError),
    ],
)
def test_a_post_is_sent_once_whatever_happens(
    trouble: httpx.Response | Exception, error: type[ReconcilerError]
) -> None:
    script = Script(trouble)
    with pytest.raises(error) as caught:
        script.client().post("/x")
    assert type(caught.value) is error
    assert len(script.requests) == 1
    assert script.slept == []


def test_redirects_are_never_followed() -> None:
    script = Script(httpx.Response(301, headers={"location": "https://elsewhere.test"}))
    with pytest.raises(HttpRefusedError, match="redirect"):
        script.client().get("/x")
    assert [request.url.host for request in script.requests] == ["api.example.test"]


def test_an_endless_answer_is_cut_off() -> None:
    with pytest.raises(HttpFormatError, match="longer than 1000 bytes"):
        Script(ok("x" * 1001)).client().get("/x")


def test_an_answer_that_is_not_json_may_be_asked_for_again() -> None:
    with pytest.raises(TargetUnavailableError, match="not JSON"):
        Script(ok("<html>")).client().get("/x").json()


@pytest.mark.parametrize(
    "trouble",
    [
        httpx.Response(403, json={"error": {"code": TOKEN, "message": f"bad token {TOKEN}!"}}),
        httpx.ReadError(f"header Bearer {TOKEN}"),
        httpx.Response(200, text=f'not json {TOKEN}"'),
    ],
)
def test_the_token_is_in_no_error(trouble: httpx.Response | Exception) -> None:
    with pytest.raises(ReconcilerError) as caught:
        Script(trouble).client(budget=0).get("/x").json()
    assert TOKEN not in caught.value.message
    assert TOKEN not in caught.value.hint


@pytest.mark.parametrize("token", ["two words", "line\n", "ümlaut", "nul\0"])
def test_a_token_that_http_forbids_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(UsageError) as caught:
        HttpClient("https://api.example.test", service="Example", token=token)
    assert token not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "url",
    ["ftp://x.test", "api.vercel.com", "https://", "https://user:pw@x.test", "http://x.test"],
)
def test_addresses_that_cannot_be_trusted_are_refused(url: str) -> None:
    with pytest.raises(UsageError):
        HttpClient(url, service="Example")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_plain_http_is_accepted_on_this_machine(host: str) -> None:
    HttpClient(f"http://{host}:1", service="Example").close()


def test_the_other_clock_is_noted() -> None:
    ahead = format_datetime(datetime.now(UTC) + timedelta(seconds=120), usegmt=True)
    client = Script(httpx.Response(200, text="{}", headers={"date": ahead})).client()
    client.get("/x")
    assert 115 < client.clock_offset < 125


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"error":{"code":"c","message":"m"}}', ("c", "m")),
        (b'{"err":{"code":"c","message":"m"}}', ("c", "m")),
        (b'{"code":"c","message":"m"}', ("c", "m")),
        (b'{"message":"m"}', ("", "m")),
        (b'{"error":"bad","message":"m"}', ("bad", "m")),
        (b'{"error":"bad"}', ("bad", "bad")),
        (b'{"error":{"code":5,"message":[]}}', ("", "")),
        (b"[1]", ("", "")),
        (b"<html>", ("", "")),
        (b"", ("", "")),
    ],
)
def test_error_bodies_of_every_known_shape(body: bytes, expected: tuple[str, str]) -> None:
    assert error_code_and_text(body) == expected


def test_error_texts_are_one_cut_line() -> None:
    text = one_line("a\nb\x1b[31m\x00" + "c" * 1000)
    assert len(text) == 300
    assert text.startswith("a b [31m c")


@given(st.binary(max_size=300))
def test_no_error_body_breaks_the_reader(body: bytes) -> None:
    code, text = error_code_and_text(body)
    assert "\n" not in code + text


@given(st.text(max_size=40))
def test_retry_after_is_a_time_or_nothing(value: str) -> None:
    wait = retry_after(value, NOW)
    assert wait is None or wait >= 0


def test_retry_after_reads_both_forms() -> None:
    assert retry_after("120", NOW) == 120
    assert retry_after("Sun, 22 Nov 2026 12:01:00 GMT", NOW) == 60
    assert retry_after("Sun, 22 Nov 2026 11:00:00 GMT", NOW) == 0
    assert retry_after("soon", NOW) is None
    assert retry_after(None, NOW) is None


def test_a_segment_cannot_leave_its_place_in_the_path() -> None:
    assert "/" not in segment("../../v2/user?x=1#y")


@pytest.fixture
def serve() -> Iterator[Callable[[bytes], str]]:
    """A raw server for one connection: whatever bytes it is told to answer, then it hangs up."""
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(answer: bytes) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def run() -> None:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        threads.append(thread)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener in listeners:
        listener.close()
    for thread in threads:
        thread.join(5)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 201 Created\r\ncontent-length: 10\r\n\r\nabc"])
def test_an_answer_lost_on_a_real_connection_is_an_unknown_outcome(
    serve: Callable[[bytes], str], answer: bytes
) -> None:
    client = HttpClient(serve(answer), service="Example", token=TOKEN)
    with pytest.raises(OutcomeUnknownError):
        client.post("/x")
    client.close()


def test_a_refused_real_connection_is_known_to_have_done_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = HttpClient(f"http://127.0.0.1:{port}", service="Example")
    with pytest.raises(TargetUnavailableError) as caught:
        client.post("/x")
    assert not isinstance(caught.value, OutcomeUnknownError)
    client.close()
