"""One thin wrapper round httpx, used by every target that speaks a REST API.

It reads with patience and writes once: a GET is repeated on 429, 5xx and lost connections within a
budget, a POST is sent exactly one time and a lost answer becomes `OutcomeUnknownError`, so that the
caller looks before it acts again. Foreign errors are translated here and nowhere else; the bearer
token cannot appear in any of them.
"""

from __future__ import annotations

import random
import re
import time
import weakref
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import httpx
from pydantic import JsonValue, TypeAdapter

from reconciler.core.errors import (
    OutcomeUnknownError,
    RateLimitedError,
    TargetUnavailableError,
    TerminalError,
    UsageError,
)
from reconciler.network import client_options, is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Bytes of an answer that are read at most.
MAX_BODY = 8 * 1024 * 1024
#: Characters of a foreign error text that are repeated at most.
MAX_ERROR_TEXT = 300
#: Times a GET is sent at most, and seconds after which no further one is begun.
GET_ATTEMPTS = 4
GET_BUDGET = 30.0

_JSON: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)
_TOO_MANY = 429
_SERVER_ERROR = 500
_CLIENT_ERROR = 400
_REDIRECT = 300
_TOKEN = re.compile(r"[\x21-\x7e]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
#: The request never left this machine, so nothing can have been done by it.
_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.LocalProtocolError,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)


class HttpRefusedError(TerminalError):
    """The other side understood the request and refused it.

    Args:
        message: What was refused and why, in its own words (cut, without secrets).
        status: HTTP status.
        code: Its own code for the reason, empty when it gave none.
        reason: Its own words alone.
        hint: The next action.
    """

    def __init__(
        self, message: str, *, status: int, code: str = "", reason: str = "", hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.code = code
        self.reason = reason


class HttpFormatError(TerminalError):
    """The answer is not what the API promises: too long, or JSON of another shape."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One successful answer.

    Attributes:
        status: HTTP status, 200 to 299.
        body: The body, at most `max_body` bytes.
        what: The request in words, for error texts.
    """

    status: int
    body: bytes
    what: str

    def json(self) -> JsonValue:
        """The body as JSON.

        Raises:
            TargetUnavailableError: It is not JSON: something between us and the API answered, or it
                was cut short.
        """
        try:
            return _JSON.validate_json(self.body)
        except ValueError as exc:
            raise TargetUnavailableError(f"{self.what}: the answer is not JSON.") from exc


def segment(text: str) -> str:
    """A value made safe as one segment of a path."""
    return quote(text, safe="")


def one_line(text: str, limit: int = MAX_ERROR_TEXT) -> str:
    """Foreign text made fit for one line of output: control characters out, blanks merged, cut."""
    flat = " ".join(_CONTROL.sub(" ", text).split())
    return flat if len(flat) <= limit else flat[: limit - 3] + "..."


def retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds to wait according to a `Retry-After` header; None when it is absent or senseless.

    Source: RFC 9110 section 10.2.3 (a number of seconds or an HTTP date).
    """
    if value is None:
        return None
    text = value.strip()
    if re.fullmatch(r"\d{1,9}", text, re.ASCII):
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def error_code_and_text(body: bytes) -> tuple[str, str]:
    """The code and the words of an error body, both empty when it holds neither.

    Understands `{"error": {...}}`, `{"err": {...}}`, a flat object, and `{"error": "text"}`; other
    bodies give no text, since an HTML page helps nobody.
    """
    try:
        data = _JSON.validate_json(body)
    except ValueError:
        return "", ""
    if not isinstance(data, dict):
        return "", ""
    inner = data.get("error") or data.get("err") or data
    if isinstance(inner, str):
        message = data.get("message")
        return one_line(inner), one_line(message) if isinstance(message, str) else one_line(inner)
    if not isinstance(inner, dict):
        return "", ""
    code, message = inner.get("code"), inner.get("message")
    return (
        one_line(code, 80) if isinstance(code, str) else "",
        one_line(message) if isinstance(message, str) else "",
    )


class HttpClient:
    """A client of one API.

    Args:
        base_url: Where the API answers; plain http is accepted for this machine only.
        service: Its name in error texts ("Vercel").
        token: Bearer token; empty for none.
        timeout: Seconds to wait for a connection, a write or the next bytes of an answer.
        max_body: Bytes of an answer that are read at most.
        budget: Seconds after which a GET is not tried again.
        transport: Replaces the network, for tests.
        sleep: Waits between attempts.
        monotonic: Seconds that only go forward.

    Raises:
        UsageError: The base URL cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        *,
        service: str,
        token: str = "",
        timeout: float = 15.0,
        max_body: int = MAX_BODY,
        budget: float = GET_BUDGET,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        parts = urlsplit(base_url)
        local = is_loopback(parts.hostname or "")
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username:
            raise UsageError(f"The API address of {service} is not an http or https URL.")
        if parts.scheme == "http" and not local:
            raise UsageError(
                f"The API address of {service} is plain http: the token would cross the network "
                "unprotected.",
                hint="Use an https address; plain http is accepted for this machine only.",
            )
        if token and not _TOKEN.fullmatch(token):
            # The HTTP library would repeat the header, token and all, in its own error.
            raise UsageError(
                f"The token for {service} holds blanks or characters that HTTP forbids.",
                hint="Check the variable or file it comes from.",
            )
        self.service = service
        #: Server clock minus ours in seconds, from the `Date` header of the last answer (whole
        #: seconds).
        self.clock_offset = 0.0
        self._secrets = (token,) if token else ()
        self._max_body = max_body
        self._budget = budget
        self._total = timeout * 4
        self._sleep = sleep
        self._monotonic = monotonic
        self._client = httpx.Client(
            base_url=base_url.rstrip("/"),
            timeout=httpx.Timeout(timeout, connect=min(timeout, 5.0)),
            follow_redirects=False,
            transport=transport,
            **client_options(base_url),
            headers={
                "accept": "application/json",
                "accept-encoding": "identity",
                "user-agent": "rollback-reconciler",
                **({"authorization": f"Bearer {token}"} if token else {}),
            },
        )
        self.close = weakref.finalize(self, self._client.close)

    def get(self, path: str, params: Mapping[str, str] | None = None) -> Reply:
        """Reads, patiently: repeated on 429, 5xx and lost connections.

        Raises:
            RateLimitedError: Still refused for too many requests, or told to wait longer than the
                budget.
            TargetUnavailableError: Still not reachable or not ready.
            HttpRefusedError: Refused for another reason.
            HttpFormatError: The answer is too long.
        """
        until = self._monotonic() + self._budget
        for attempt in range(1, GET_ATTEMPTS + 1):
            try:
                return self._send("GET", path, params)
            except (TargetUnavailableError, RateLimitedError) as exc:
                # Full jitter keeps several environments from knocking at the same instant.
                backoff = random.uniform(0.5, 1.0) * 0.5 * 2**attempt  # noqa: S311 - no secret
                pause = backoff if exc.retry_after is None else exc.retry_after
                if attempt == GET_ATTEMPTS or self._monotonic() + pause > until:
                    raise
                self._sleep(pause)
        raise AssertionError("unreachable")  # pragma: no cover

    def post(
        self, path: str, params: Mapping[str, str] | None = None, body: JsonValue = None
    ) -> Reply:
        """Changes, once: never sent again from here.

        Raises:
            RateLimitedError: Refused for too many requests; nothing was done.
            TargetUnavailableError: The connection could not be made; nothing was sent.
            OutcomeUnknownError: It was sent and no usable answer came: look before sending again.
            HttpRefusedError: Refused.
        """
        return self._send("POST", path, params, body)

    def _send(
        self, method: str, path: str, params: Mapping[str, str] | None, body: JsonValue = None
    ) -> Reply:
        what = f"{self.service} {method} {path}"
        lost: type[OutcomeUnknownError | TargetUnavailableError] = (
            TargetUnavailableError if method == "GET" else OutcomeUnknownError
        )
        try:
            with self._client.stream(
                method, path, params=params, json={} if body is None and method != "GET" else body
            ) as response:
                self._note_clock(response.headers.get("date"))
                content = self._read(response, what)
        except _NEVER_SENT as exc:
            raise TargetUnavailableError(
                f"{what}: no connection could be made ({self._cause(exc)})."
            ) from exc
        except httpx.TimeoutException as exc:
            raise lost(f"{what}: no answer in time.") from exc
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise lost(f"{what}: the connection was lost ({self._cause(exc)}).") from exc
        except HttpFormatError as exc:
            if method == "GET":
                raise
            raise OutcomeUnknownError(exc.message) from exc
        return self._judge(what, response, content, lost)

    def _read(self, response: httpx.Response, what: str) -> bytes:
        """The body, within its limits of size and total time."""
        until = self._monotonic() + self._total
        chunks: list[bytes] = []
        size = 0
        for part in response.iter_bytes():
            size += len(part)
            if size > self._max_body:
                raise HttpFormatError(f"{what}: the answer is longer than {self._max_body} bytes.")
            if self._monotonic() > until:
                raise httpx.ReadTimeout("the answer trickles")
            chunks.append(part)
        return b"".join(chunks)

    def _judge(
        self,
        what: str,
        response: httpx.Response,
        content: bytes,
        lost: type[OutcomeUnknownError | TargetUnavailableError],
    ) -> Reply:
        status = response.status_code
        if status < _REDIRECT:
            return Reply(status=status, body=content, what=what)
        code, text = error_code_and_text(content)
        code, text = self._redact(code), self._redact(text)
        wait = retry_after(response.headers.get("retry-after"), datetime.now(UTC))
        tag = f"{status}, {code}" if code else str(status)
        words = f"{what}: {text or response.reason_phrase or 'no reason given'} ({tag})"
        if status == _TOO_MANY:
            raise RateLimitedError(words, retry_after=wait)
        if status >= _SERVER_ERROR:
            raise lost(words, retry_after=wait)
        if status < _CLIENT_ERROR:
            raise HttpRefusedError(
                f"{what}: answered with a redirect, which is never followed ({status}).",
                status=status,
                hint=f"Check the API address of {self.service}.",
            )
        raise HttpRefusedError(words, status=status, code=code, reason=text)

    def _note_clock(self, date: str | None) -> None:
        if date is None:
            return
        try:
            moment = parsedate_to_datetime(date)
        except ValueError:
            return
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        self.clock_offset = (moment - datetime.now(UTC)).total_seconds()

    def _redact(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _cause(self, exc: Exception) -> str:
        return self._redact(one_line(str(exc), 120)) or type(exc).__name__
