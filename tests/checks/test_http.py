"""The http check against a real server."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.checks import http
from reconciler.core.redact import MASK
from reconciler.core.spec_verify import HttpCheck
from tests.checks.support import SECRETS, attempt, context

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.checks.base import Outcome


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/slow":
            self.server.released.wait(10)  # type: ignore[attr-defined]
        if path == "/moved":
            self.send_response(302)
            self.send_header("location", "/")
            self.end_headers()
            return
        body = {
            "/": b'{"status": "ok", "items": [{"id": 7}], "on": true}',
            "/echo": json.dumps({"got": "x" * 30 + (self.headers["Authorization"] or "")}).encode(),
            "/huge": b"x" * (http.MAX_BODY + 10),
            "/text": b"all is well \xff\n",
        }.get(path)
        self.send_response(200 if body is not None else 503)
        self.send_header("content-length", str(len(body or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body or b"")

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.released = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.released.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()
    thread.join()


def ask(url: str, seconds: float = 5.0, **spec: Any) -> Outcome:
    return http.probe(HttpCheck.model_validate({"url": url, **spec}), context(), attempt(seconds))


@pytest.mark.parametrize(
    ("path", "spec"),
    [
        ("/", {}),
        ("/", {"method": "HEAD"}),
        ("/missing", {"status": 503}),
        ("/moved", {"status": 302}),
        ("/text", {"body": {"contains": "is well"}}),
        ("/", {"json": {"path": "$.status", "equals": "ok"}}),
        ("/", {"json": {"path": "$.items[0].id", "equals": 7}}),
        ("/", {"json": {"path": "$.on", "equals": True}}),
    ],
)
def test_what_is_as_wanted_passes(base: str, path: str, spec: dict[str, Any]) -> None:
    outcome = ask(base + path, **spec)
    assert outcome.passed, outcome.detail


@pytest.mark.parametrize(
    ("path", "spec", "words"),
    [
        ("/missing", {}, "expected 200, got 503"),
        ("/moved", {}, "expected 200, got 302"),
        ("/text", {"body": {"contains": "ill"}}, 'contains "ill", got "all is well'),
        ("/huge", {"body": {"contains": "y"}}, "in the first 1048576 bytes"),
        ("/text", {"json": {"path": "$.a", "equals": 1}}, "a body that is not JSON"),
        ("/", {"json": {"path": "$.status", "equals": "up"}}, 'to be "up", got "ok"'),
        ("/", {"json": {"path": "$.items[0].id", "equals": "7"}}, 'to be "7", got 7'),
        ("/", {"json": {"path": "$.on", "equals": 1}}, "to be 1, got true"),
        ("/", {"json": {"path": "$.items[3]", "equals": 1}}, "$.items has no element 3"),
        ("/", {"json": {"path": "$.nope.x", "equals": 1}}, "$ has no nope"),
    ],
)
def test_a_failure_says_what_was_expected_and_what_came(
    base: str, path: str, spec: dict[str, Any], words: str
) -> None:
    outcome = ask(base + path, **spec)
    assert not outcome.passed
    assert words in outcome.detail


def test_a_slow_answer_is_given_up(base: str) -> None:
    began = time.monotonic()
    outcome = ask(f"{base}/slow", seconds=0.2)
    assert "no answer within 0.2 s" in outcome.detail
    assert time.monotonic() - began < 3


def test_nobody_there() -> None:
    assert "got no answer" in ask("http://127.0.0.1:1/").detail


def test_a_secret_header_is_sent_and_never_shown(base: str) -> None:
    lent = context()
    spec = HttpCheck.model_validate(
        {
            "url": f"{base}/echo",
            "headers": {"Authorization": {"env": "APP_KEY"}},
            "body": {"contains": "not in there"},
        }
    )
    outcome = http.probe(spec, lent, attempt())
    assert SECRETS["APP_KEY"][:10] not in lent.line(outcome.detail)
    assert MASK in lent.line(outcome.detail)
    arrived = spec.model_copy(
        update={"body": None, "json_": http_json("$.got", "x" * 30 + SECRETS["APP_KEY"])}
    )
    assert http.probe(arrived, lent, attempt()).passed


def http_json(path: str, equals: object) -> Any:
    made = HttpCheck.model_validate({"url": "http://x/", "json": {"path": path, "equals": equals}})
    return made.json_


def test_the_query_is_not_shown(base: str) -> None:
    assert "hidden" not in ask(f"{base}/missing?hidden=1#part").detail


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(JSON)
def test_the_root_is_the_document(document: Any) -> None:
    assert http.at_path(document, "$") == document
    assert http.at_path({"a": [document]}, "$.a[0]") == document
    assert http.same(document, document) or isinstance(document, dict | list)
