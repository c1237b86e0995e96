"""The Supabase Management API as far as databases need it: one request at a time, every answer judged.

Facts: supabase.com/docs/reference/api (v1). More status codes occur than are declared, so the text decides first.
"""

from __future__ import annotations

import random
import re
import weakref
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx
from pydantic import JsonValue, TypeAdapter

from reconciler.core.errors import (
    OutcomeUnknownError,
    RateLimitedError,
    ReconcilerError,
    StepFailedError,
    TargetUnavailableError,
    TerminalError,
    TransientError,
    UsageError,
)
from reconciler.network import client_options, is_loopback
from reconciler.targets.base import ApplyContext

_REF = re.compile(r"[a-z]{20}")
_TOKEN = re.compile(r"[\x21-\x7e]+")
_JSON: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)
#: Calls are cut by the platform after about 60 s; we listen a little longer.
_TIMEOUT = 75.0
_RATE_WAITS = 4
_DEFAULT_WINDOW = 60.0
_OK, _BAD_REQUEST, _UNAUTHORIZED, _PAYMENT, _FORBIDDEN, _NOT_FOUND, _TOO_MANY = (
    300,
    400,
    401,
    402,
    403,
    404,
    429,
)
_SERVER_ERROR = 500
_SQL = re.compile(r"(?:ERROR|FATAL|PANIC):\s+([0-9A-Z]{5}):\s*([^\n]*)")
_LINE = re.compile(r"^LINE (\d+): ", re.MULTILINE)
#: The platform could not reach the database: the statement was not begun.
_UNREACHED = ("ECONNREFUSED", "ENOTFOUND", "EHOSTUNREACH")
#: It was, and the connection broke.
_BROKEN = ("ECONNRESET", "EPIPE", "ETIMEDOUT", "Connection terminated", "timeout")
_NEVER_SENT = (
    *(httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError),
    *(httpx.UnsupportedProtocol, httpx.LocalProtocolError),
)


class SqlFailedError(Exception):
    """The database refused a statement; translated where it is known what was being done.

    Args:
        state: SQLSTATE.
        primary: The primary message.
        line: The line of the text it found fault with; 0 when it did not say.
    """

    def __init__(self, state: str, primary: str, line: int = 0) -> None:
        super().__init__(state)
        self.state = state
        self.primary = primary
        self.line = line


class ManagementApi:
    """One project behind the Management API.

    Args:
        ref: The project's 20 letters.
        token: Access token; kept to itself.
        api_url: Base URL.
        transport: Replaces the network, for tests.

    Raises:
        UsageError: Ref, token or URL cannot be used.
    """

    def __init__(
        self, ref: str, token: str, api_url: str, transport: httpx.BaseTransport | None = None
    ) -> None:
        if not _REF.fullmatch(ref):
            raise UsageError("The Supabase project reference is not 20 lower-case letters.")
        if not _TOKEN.fullmatch(token):
            raise UsageError(
                "The Supabase access token is empty, or holds blanks or odd characters."
            )
        parts = urlsplit(api_url)
        local = is_loopback(parts.hostname or "")
        if parts.scheme != "https" and not (parts.scheme == "http" and local):
            raise UsageError("The Supabase API address is not an https URL.")
        self._path = f"/v1/projects/{ref}"
        self._client = httpx.Client(
            base_url=api_url.rstrip("/"),
            timeout=httpx.Timeout(_TIMEOUT, connect=5.0),
            follow_redirects=False,
            transport=transport,
            **client_options(api_url),
            headers={"authorization": f"Bearer {token}", "user-agent": "rollback-reconciler"},
        )
        self.close = weakref.finalize(self, self._client.close)

    def get(self, path: str, context: ApplyContext | None = None) -> JsonValue:
        """Reads something of the project."""
        return self._request("GET", path, None, writes=False, context=context)

    def post(
        self,
        path: str,
        body: JsonValue,
        *,
        writes: bool = True,
        context: ApplyContext | None = None,
        answered: Callable[[], None] | None = None,
    ) -> JsonValue:
        """Sends something, once.

        Args:
            path: Below the project.
            body: JSON.
            writes: Whether it changes anything: then a lost answer is an unknown outcome.
            context: Waits out a rate limit with it.
            answered: Called when an answer has come, before it is read.

        Raises:
            SqlFailedError: The database refused; nothing was changed.
            OutcomeUnknownError: It was sent, and what became of it is not known.
            RateLimitedError: Too many requests; nothing was done.
            TransientError: It could not be sent now.
            TerminalError: It was refused.
        """
        return self._request("POST", path, body, writes=writes, context=context, answered=answered)

    def _request(
        self,
        method: str,
        path: str,
        body: JsonValue,
        *,
        writes: bool,
        context: ApplyContext | None,
        answered: Callable[[], None] | None = None,
    ) -> JsonValue:
        for attempt in range(_RATE_WAITS + 1):
            try:
                return self._once(method, path, body, writes=writes, answered=answered)
            except RateLimitedError as exc:
                if context is None or attempt == _RATE_WAITS:
                    raise
                context.progress("waiting for Supabase's rate limit")
                context.sleep(exc.retry_after or _DEFAULT_WINDOW)
        raise AssertionError("unreachable")  # pragma: no cover

    def _once(
        self,
        method: str,
        path: str,
        body: JsonValue,
        *,
        writes: bool,
        answered: Callable[[], None] | None,
    ) -> JsonValue:
        what = f"Supabase {method} {path or 'project'}"
        lost: type[TransientError] = OutcomeUnknownError if writes else TargetUnavailableError
        try:
            response = self._client.request(
                method, self._path + path, json=body if method == "POST" else None
            )
        except _NEVER_SENT as exc:
            raise TargetUnavailableError(
                f"{what}: no connection could be made.", retry_after=2.0
            ) from exc
        except httpx.TimeoutException as exc:
            raise lost(f"{what}: no answer in time.", retry_after=2.0) from exc
        except httpx.HTTPError as exc:
            raise lost(f"{what}: the connection was lost.", retry_after=2.0) from exc
        if answered is not None and response.status_code != _TOO_MANY:
            answered()
        if response.status_code < _OK:
            try:
                return _JSON.validate_json(response.content) if response.content else None
            except ValueError as exc:
                raise lost(f"{what}: the answer is not JSON.", retry_after=2.0) from exc
        raise _judged(what, response, lost)


def _judged(
    what: str, response: httpx.Response, lost: type[TransientError]
) -> ReconcilerError | SqlFailedError:
    """What an answer that is no success means; its text decides before its status."""
    status, text = response.status_code, _message(response)
    if status == _TOO_MANY:
        wait = _seconds(
            response.headers.get("x-ratelimit-reset") or response.headers.get("retry-after")
        )
        jitter = random.uniform(0.1, 1.0)  # noqa: S311 - no secret
        return RateLimitedError(f"{what}: too many requests.", retry_after=wait + jitter)
    found = _SQL.search(text)
    if found:
        line = _LINE.search(text)
        return SqlFailedError(found[1], found[2], int(line[1]) if line else 0)
    if any(sign in text for sign in _UNREACHED):
        return TargetUnavailableError(
            f"{what}: Supabase cannot reach the database ({status}).", retry_after=5.0
        )
    if status >= _SERVER_ERROR or any(sign in text for sign in _BROKEN):
        return lost(f"{what}: the platform failed ({status}).", retry_after=5.0)
    if "PITR is not enabled" in text:
        return StepFailedError("Point-in-time recovery is not enabled for this project.")
    if "has been removed" in text:
        return StepFailedError("This Supabase project has been removed.")
    meaning, hint = _MEANINGS.get(status, ("it was refused", ""))
    return TerminalError(f"{what}: {meaning} ({status}).", hint=hint)


_MEANINGS = {
    _UNAUTHORIZED: (
        "the access token is not accepted",
        "Make a new token, or check where it comes from.",
    ),
    _PAYMENT: ("the project's plan does not include this", ""),
    _FORBIDDEN: (
        "the token may not do this",
        "Use a token with the database read and write permissions.",
    ),
    _NOT_FOUND: (
        "there is no such project, or it has no such feature",
        "Check spec.database.supabase.projectRef.",
    ),
    _BAD_REQUEST: ("the request was refused", ""),
}


def _message(response: httpx.Response) -> str:
    """The text of an error body; understands a flat object and `{"error": {...}}`."""
    try:
        data = _JSON.validate_json(response.content)
    except ValueError:
        return ""
    inner = data.get("error", data) if isinstance(data, dict) else None
    message = inner.get("message") if isinstance(inner, dict) else inner
    return message if isinstance(message, str) else ""


def _seconds(text: str | None) -> float:
    try:
        return max(0.0, float(text)) if text else _DEFAULT_WINDOW
    except ValueError:
        return _DEFAULT_WINDOW
