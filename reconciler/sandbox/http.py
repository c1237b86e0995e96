"""Requests, answers and routes: what the two practice APIs have in common.

`Api` is the base of `vercel_api.VercelApi` and `supabase_api.SupabaseApi`; `server.ApiServer`
puts one on a port. Nothing here touches a socket, so an API can be asked in process too.
"""

from __future__ import annotations

import hmac
import json
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from pydantic import BaseModel, ValidationError

from reconciler.sandbox.faults import (
    AFTER,
    BEFORE,
    Fault,
    FaultBook,
    FaultKind,
    FaultList,
    route_regex,
)

if TYPE_CHECKING:
    import re
    from collections.abc import Mapping, Sequence

    from reconciler.sandbox.store import Effect

JsonObject: TypeAlias = dict[str, object]
OK, CREATED, ACCEPTED = 200, 201, 202
BAD_REQUEST, UNAUTHORIZED, PAYMENT_REQUIRED, FORBIDDEN, NOT_FOUND = 400, 401, 402, 403, 404
CONFLICT, TOO_LARGE, UNPROCESSABLE, TOO_MANY, SERVER_ERROR = 409, 413, 422, 429, 500


@dataclass(frozen=True)
class Request:
    """One HTTP request, decoded as far as every route needs it."""

    method: str
    path: str
    query: Mapping[str, Sequence[str]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def arg(self, name: str) -> str | None:
        """The last value of a query parameter, None when absent."""
        values = self.query.get(name)
        return values[-1] if values else None

    def bearer(self) -> str:
        """The bearer token, empty when there is none."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""


@dataclass(frozen=True)
class Response:
    """One answer. `payload` None means no body and therefore no content type."""

    status: int
    payload: object = None
    headers: Mapping[str, str] = field(default_factory=dict)
    lines: str | None = None
    """A body of plain lines instead of JSON."""
    bare: bool = False
    """Leave out the headers that go with every answer."""

    def content(self) -> tuple[bytes, str | None]:
        """Body and content type."""
        if self.lines is not None:
            return self.lines.encode(), "application/x-ndjson"
        if self.payload is None:
            return b"", None
        text = json.dumps(self.payload, separators=(",", ":"), ensure_ascii=False)
        return text.encode(), "application/json; charset=utf-8"


class ApiError(Exception):
    """Ends a request with an error answer that is already in the vendor's shape."""

    def __init__(self, response: Response) -> None:
        super().__init__(f"answered {response.status}")
        self.response = response


@dataclass(frozen=True)
class Call:
    """A request, the route it matched (with the version it named) and the path's values."""

    request: Request
    route: str
    values: Mapping[str, str]


Handler: TypeAlias = Callable[[Call], Response]
LOST = None
"""What `Api.answer` gives when the change was made and its answer has to be lost."""


class Api(ABC):
    """One vendor's API: routes, authentication, error shapes, faults.

    Args:
        token: The only bearer token that is accepted.
    """

    def __init__(self, token: str) -> None:
        if not token:
            raise ValueError("a practice server needs a token")
        self._token = token
        self.faults = FaultBook()
        self._routes: list[tuple[str, str, re.Pattern[str], Handler]] = []

    def add_route(self, method: str, pattern: str, handler: Handler) -> None:
        """Serve one more route; earlier ones win."""
        self._routes.append((method, pattern, route_regex(pattern), handler))

    @abstractmethod
    def effects(self) -> list[Effect]:
        """The log of accepted changes."""

    @abstractmethod
    def configure(self, changes: bytes) -> JsonObject:
        """Change durable settings (a JSON object, may be empty) and give all of them back.

        Raises:
            ValidationError: A setting is unknown or has a wrong value; nothing is changed.
        """

    @abstractmethod
    def error(self, status: int, message: str, code: str = "") -> Response:
        """An error answer in the vendor's shape."""

    @abstractmethod
    def unauthorized(self, request: Request) -> Response:
        """The answer to a missing or wrong token."""

    @abstractmethod
    def rate_limited(self, fault: Fault) -> Response:
        """The vendor's 429, with or without a reset time as the fault says."""

    def admit(self, request: Request) -> Response | None:
        """Say no before anything else happens (a rate limit); None lets the request in."""
        del request
        return None

    def headers(self, request: Request) -> Mapping[str, str]:
        """Headers that go with every answer."""
        del request
        return {}

    def refuse(self, status: int, message: str, code: str = "") -> ApiError:
        """The exception that ends a request with an error in the vendor's shape."""
        return ApiError(self.error(status, message, code))

    def answer(self, request: Request) -> Response | None:
        """Serve one request, faults included; `LOST` when the connection must just be closed."""
        response = self._answer(request)
        if response is LOST:
            return LOST
        if response.bare:
            return response
        return replace(response, headers={**self.headers(request), **response.headers})

    def _answer(self, request: Request) -> Response | None:
        if not hmac.compare_digest(request.bearer().encode(), self._token.encode()):
            return self.unauthorized(request)
        if refusal := self.admit(request):
            return refusal
        method, path = request.method, request.path
        if late := self.faults.take((FaultKind.LATENCY,), method, path):
            time.sleep(late.delay_ms / 1000)
        if fault := self.faults.take(BEFORE, method, path):
            if fault.kind is FaultKind.RATE_LIMITED:
                return self.rate_limited(fault)
            return self.outage(fault.status)
        response = self._dispatch(request)
        if response.status < BAD_REQUEST and (fault := self.faults.take(AFTER, method, path)):
            return LOST if fault.kind is FaultKind.LOST_ANSWER else self.outage(fault.status)
        return response

    def outage(self, status: int) -> Response:
        """The vendor's answer when its own side fails."""
        return self.error(status, "Internal Server Error", "internal_server_error")

    def _dispatch(self, request: Request) -> Response:
        try:
            for method, pattern, regex, handler in self._routes:
                match = regex.fullmatch(request.path) if method == request.method else None
                if match:
                    values = match.groupdict()
                    route = f"{method} {pattern}".replace("{v}", values.get("v", ""))
                    return handler(Call(request, route, values))
        except ApiError as exc:
            return exc.response
        except Exception:  # noqa: BLE001 - a bug here must not take the practice production down
            traceback.print_exc(file=sys.stderr)
            return self.outage(SERVER_ERROR)
        return self.error(NOT_FOUND, f"Cannot {request.method} {request.path}", "not_found")

    def json_object(self, request: Request) -> JsonObject:
        """The body as a JSON object; an empty body is an empty object.

        Raises:
            ApiError: 400, the body is something else.
        """
        if not request.body.strip():
            return {}
        try:
            value: object = json.loads(request.body)
        except ValueError as exc:
            raise self.refuse(BAD_REQUEST, "Invalid JSON", "bad_request") from exc
        if not isinstance(value, dict):
            raise self.refuse(BAD_REQUEST, "The body must be a JSON object", "bad_request")
        return value


class Control:
    """The control routes beside an API: arm faults, read effects, change settings.

    They have their own token and are never part of what a vendor serves.

    Args:
        api: The API that is controlled.
        token: The control token.
        pause: Refuses connections for a number of milliseconds; called for `refused` faults.
    """

    def __init__(self, api: Api, token: str, pause: Callable[[int], None]) -> None:
        if not token:
            raise ValueError("the control routes need a token of their own")
        self._api, self._token, self._pause = api, token, pause

    @staticmethod
    def serves(path: str) -> bool:
        """Whether a path belongs to the control routes."""
        return path.startswith("/__")

    def answer(self, request: Request) -> Response:
        """Serve one control request; errors are `{"error": text}`."""
        if not hmac.compare_digest(request.bearer().encode(), self._token.encode()):
            return Response(UNAUTHORIZED, {"error": "wrong control token"})
        try:
            return self._route(request)
        except ValidationError as exc:
            problems = [f"{_place(item['loc'])}: {item['msg']}" for item in exc.errors()]
            return Response(BAD_REQUEST, {"error": "; ".join(problems)})
        except ApiError as exc:
            return exc.response

    def _route(self, request: Request) -> Response:
        match (request.method, request.path):
            case ("GET", "/__effects"):
                return Response(OK, {"effects": [_json(item) for item in self._api.effects()]})
            case ("GET", "/__settings"):
                return Response(OK, self._api.configure(b"{}"))
            case ("PATCH", "/__settings"):
                return Response(OK, self._api.configure(request.body))
            case ("GET", "/__faults"):
                pass
            case ("POST", "/__faults"):
                self.arm(*FaultList.model_validate_json(request.body).faults)
            case ("DELETE", "/__faults"):
                self._api.faults.clear()
            case _:
                return Response(NOT_FOUND, {"error": "no such control route"})
        return self._faults()

    def arm(self, *faults: Fault) -> None:
        """Arm faults; one of kind `refused` strikes at once."""
        for fault in faults:
            if fault.kind is FaultKind.REFUSED:
                self._pause(fault.delay_ms)
            else:
                self._api.faults.add(fault)

    def _faults(self) -> Response:
        rows = [
            {**_json(item.fault), "struck": item.struck, "state": item.state}
            for item in self._api.faults.report()
        ]
        return Response(OK, {"faults": rows})


def _json(model: BaseModel) -> JsonObject:
    return model.model_dump(mode="json")


def _place(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in loc) or "body"
