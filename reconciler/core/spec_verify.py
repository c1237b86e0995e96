"""The `verify` part of a spec: what a release must pass, and for how long. Read by `checks`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Discriminator, Field, Tag

from reconciler.core.duration import Duration
from reconciler.core.fields import (
    AsTuple,
    Block,
    CheckName,
    ComposeName,
    HeaderName,
    HostName,
    HttpUrl,
    JsonPath,
    JsonScalar,
    Line,
    Number,
    RedisUrl,
    Span,
    SqlScalar,
)
from reconciler.core.references import PLAIN_HEADER, names_secret
from reconciler.core.section import Group, SecretRef, Section, part, parts

if TYPE_CHECKING:
    from reconciler.core.problems import Location

HeaderValue = Annotated[
    Annotated[Line, Tag("text")] | Annotated[SecretRef, Tag("reference")],
    Discriminator(lambda value: "reference" if isinstance(value, Mapping | SecretRef) else "text"),
]


class BodyCheck(Section):
    """What the text of an answer must hold."""

    contains: Block = Field(description="Text that must occur in the body, exactly as written.")


class JsonCheck(Section):
    """What a JSON answer must hold."""

    path: JsonPath = Field(description="Where to look, from the root: $.status, $.items[0].id.")
    equals: JsonScalar = Field(description="The value wanted there, of the same type.")


class HttpCheck(Section):
    """An HTTP request and the answer it must get. Redirects are not followed."""

    schema_rules = (
        {
            "if": {"required": ["method"], "properties": {"method": {"const": "HEAD"}}},
            "then": {"not": {"anyOf": [{"required": ["body"]}, {"required": ["json"]}]}},
        },
    )

    url: HttpUrl = Field(description="Address, without user, password or token.")
    status: int = Field(default=200, ge=100, le=599, description="Status code wanted.")
    method: Literal["GET", "HEAD"] = Field(default="GET", description="GET, or HEAD for no body.")
    headers: Mapping[HeaderName, HeaderValue] = Field(
        default={},
        description="Request headers: plain text, or {env: NAME} / {file: PATH} for secrets.",
    )
    body: BodyCheck | None = Field(default=None, description="What the body must hold.")
    json_: JsonCheck | None = Field(
        default=None, alias="json", description="What the body, read as JSON, must hold."
    )

    def faults(self) -> Iterator[tuple[Location, str]]:
        """A body that HEAD does not bring; a secret written into a header."""
        if self.method == "HEAD":
            for name, value in (("body", self.body), ("json", self.json_)):
                if value is not None:
                    yield (name,), "HEAD brings no body to look into; use GET"
        for header, content in self.headers.items():
            if isinstance(content, str) and names_secret(header):
                yield ("headers", header), PLAIN_HEADER


class TcpCheck(Section):
    """A TCP connection that must be accepted."""

    host: HostName = Field(description="Host name or IP address.")
    port: int = Field(ge=1, le=65535, description="Port.")


class SqlCheck(Section):
    """A query, run read-only; the first column of its first row is compared."""

    groups = (Group(("min", "max", "equals"), most=3),)
    schema_rules = (
        {"not": {"required": ["equals", "min"]}},
        {"not": {"required": ["equals", "max"]}},
    )

    query: Block = Field(description="One SELECT; the first column of its first row is compared.")
    min: Number | None = Field(default=None, description="Smallest value accepted.")
    max: Number | None = Field(default=None, description="Largest value accepted.")
    equals: SqlScalar | None = Field(
        default=None, description="The value wanted, of the same type."
    )
    dsn_from: SecretRef | None = Field(
        default=None,
        description="Connection string of another database; without it the database section's.",
    )

    def faults(self) -> Iterator[tuple[Location, str]]:
        """Bounds that contradict each other."""
        if self.equals is not None and (self.min is not None or self.max is not None):
            yield ("equals",), "stands alone: with it, leave out min and max"
        if self.min is not None and self.max is not None and self.min > self.max:
            yield ("min",), "is larger than max"


class RedisCheck(Section):
    """A Redis server that must answer PING."""

    groups = (Group(("url", "urlFrom")),)

    url: RedisUrl | None = Field(default=None, description="Address without a password.")
    url_from: SecretRef | None = Field(default=None, description="Address that holds a password.")


class ContainerCheck(Section):
    """A Compose service that must be running, and healthy where it has a healthcheck."""

    service: ComposeName = Field(description="Name of the service in the Compose file.")


#: The kinds of check; a check has exactly one.
KINDS = ("http", "tcp", "command", "sql", "redis", "container")


class Check(Section):
    """One check: a name and exactly one kind."""

    groups = (Group(KINDS),)

    name: CheckName = Field(description="Shown in progress, certificate and ledger; unique.")
    http: HttpCheck | None = Field(default=None, description="An HTTP request.")
    tcp: TcpCheck | None = Field(default=None, description="A TCP connection.")
    command: Annotated[tuple[Line, ...], AsTuple] | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="Program and arguments, run in the project root, no shell; exit 0 wanted.",
    )
    sql: SqlCheck | None = Field(default=None, description="A query and the value it must give.")
    redis: RedisCheck | None = Field(default=None, description="A Redis server that answers.")
    container: ContainerCheck | None = Field(default=None, description="A service that runs.")
    timeout: Span | None = Field(
        default=None,
        description="Longest time for one try; otherwise what is left of verify.timeout.",
    )
    retries: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Tries after the first; without it, until verify.timeout is over.",
    )
    interval: Span = Field(default=Duration(2_000), description="Pause between two tries.")

    @property
    def kind(self) -> str:
        """Which kind of check it is: one of KINDS."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)


class Soak(Section):
    """Watching a release for a while after its checks have passed once."""

    duration: Span = Field(description="How long all checks are repeated.")
    interval: Span = Field(default=Duration(30_000), description="Pause between two rounds.")
    failure_limit: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Failed rounds that are tolerated; one more and the release has failed.",
    )

    def faults(self) -> Iterator[tuple[Location, str]]:
        """A soak without a single round."""
        if self.interval > self.duration:
            yield (
                (),
                f"its interval ({self.interval}) is longer than its duration ({self.duration})",
            )


class Verify(Section):
    """What must hold before a release counts as stable."""

    timeout: Span = Field(
        default=Duration(120_000), description="Longest time until every check has passed once."
    )
    checks: Annotated[tuple[Check, ...], AsTuple] = Field(
        default=(), max_length=200, description="Checks; all of them must pass."
    )
    soak: Soak | None = Field(default=None, description="Watching it for a while afterwards.")

    @classmethod
    def faults_between(cls, data: Mapping[str, object]) -> Iterator[tuple[Location, str]]:
        """Two checks of one name could not be told apart in the ledger."""
        seen: dict[str, int] = {}
        for index, check in enumerate(parts(data.get("checks"))):
            name = part(check, "name")
            if isinstance(name, str) and seen.setdefault(name, index) != index:
                yield ("checks", index, "name"), f"is already the name of checks[{seen[name]}]"
