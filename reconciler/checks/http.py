"""The `http` check: a request, its status, and what the body must hold. Follows no redirects."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, cast

import httpx

from reconciler.checks.base import Attempt, CheckContext, Outcome, failed, passed, shown_url
from reconciler.core.section import SecretRef
from reconciler.network import client_options

if TYPE_CHECKING:
    from pydantic import JsonValue

    from reconciler.core.spec_verify import HttpCheck

#: Bytes of a body that are looked at.
MAX_BODY = 1024 * 1024
_STEP = re.compile(r"\.([A-Za-z_][A-Za-z0-9_-]*)|\[([0-9]{1,9})\]")
_HEADER_FORBIDS = re.compile(r"[^\t\x20-\x7e]")


class MissingValueError(LookupError):
    """A path leads nowhere; says how far it led."""


def probe(spec: HttpCheck, context: CheckContext, attempt: Attempt) -> Outcome:
    """Asks once."""
    where = f"{spec.method} {shown_url(spec.url)}"
    headers = {
        name: context.reveal(value) if isinstance(value, SecretRef) else value
        for name, value in spec.headers.items()
    }
    if any(_HEADER_FORBIDS.search(value) for value in headers.values()):
        return failed(f"{where}: a header's secret holds characters that HTTP forbids", final=True)
    try:
        with httpx.Client(timeout=attempt.timeout, **client_options(spec.url)) as client:
            request = client.build_request(
                spec.method, spec.url, headers={"user-agent": "rollback-reconciler", **headers}
            )
            status, body, whole = _send(client, request, attempt, wants_body=_wants_body(spec))
    except httpx.TimeoutException:
        return failed(f"{where}: expected {spec.status}, no answer within {attempt.timeout:.3g} s")
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        return failed(
            f"{where}: expected {spec.status}, got no answer ({str(exc) or type(exc).__name__})"
        )
    if status != spec.status:
        return failed(f"{where}: expected {spec.status}, got {status}")
    fault = _body_fault(spec, context, body)
    if fault is None:
        return passed(f"{where}: {status}")
    if not whole:
        fault += f" in the first {MAX_BODY} bytes"
    return failed(f"{where}: {fault}")


def _wants_body(spec: HttpCheck) -> bool:
    return spec.body is not None or spec.json_ is not None


def _send(
    client: httpx.Client, request: httpx.Request, attempt: Attempt, *, wants_body: bool
) -> tuple[int, bytes, bool]:
    """Status, body as far as it is looked at, and whether that is all of it."""
    until = time.monotonic() + attempt.timeout
    response = client.send(request, stream=True)
    try:
        body = bytearray()
        for part in response.iter_bytes() if wants_body else ():
            body += part
            if time.monotonic() > until:
                raise httpx.ReadTimeout("the answer trickles")
            if len(body) > MAX_BODY:
                return response.status_code, bytes(body[:MAX_BODY]), False
        return response.status_code, bytes(body), True
    finally:
        response.close()


def _body_fault(spec: HttpCheck, context: CheckContext, body: bytes) -> str | None:
    text = body.decode("utf-8", errors="replace") if _wants_body(spec) else ""
    if spec.body is not None and spec.body.contains not in text:
        return f"expected a body that contains {context.quote(spec.body.contains)}, got {context.quote(text)}"
    if spec.json_ is None:
        return None
    wanted = f"expected {spec.json_.path} to be {context.quote(spec.json_.equals)}"
    try:
        document = cast("JsonValue", json.loads(text))
    except (ValueError, RecursionError):
        return f"{wanted}, got a body that is not JSON: {context.quote(text)}"
    try:
        found = at_path(document, spec.json_.path)
    except MissingValueError as exc:
        return f"{wanted}, got nothing: {exc}"
    return None if same(found, spec.json_.equals) else f"{wanted}, got {context.quote(found)}"


def at_path(document: JsonValue, path: str) -> JsonValue:
    """The value at a path such as `$.items[0].id`.

    Args:
        document: A JSON document.
        path: `$`, then names after dots and numbers in brackets, as the spec's grammar has them.

    Raises:
        MissingValueError: There is no value at that path.
    """
    value, walked = document, "$"
    for match in _STEP.finditer(path):
        name, index = match.groups()
        if name is not None:
            if not isinstance(value, dict) or name not in value:
                raise MissingValueError(f"{walked} has no {name}")
            value = value[name]
        else:
            if not isinstance(value, list) or int(index) >= len(value):
                raise MissingValueError(f"{walked} has no element {index}")
            value = value[int(index)]
        walked += match.group()
    return value


def same(found: JsonValue, wanted: JsonValue) -> bool:
    """Whether two JSON values are equal and of one type; 1 and 1.0 are one number, true is none."""
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    if isinstance(found, int | float) and isinstance(wanted, int | float):
        return found == wanted
    return type(found) is type(wanted) and found == wanted
