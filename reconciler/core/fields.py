"""The kinds of single values a spec is made of: image references, revisions, paths, addresses.

Each is a plain type with a rule that says, in one place, what is accepted (for Python and for the
JSON Schema) and what to tell whoever wrote something else. Used by `spec` and `spec_verify` only.
"""

from __future__ import annotations

import math
import posixpath
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    PlainValidator,
    Strict,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from reconciler.core.duration import DURATION_PATTERN, Duration
from reconciler.core.references import has_user_info, secret_refusal

if TYPE_CHECKING:
    from collections.abc import Callable

#: What stands in a pinned value for "as it was when everything was last verified".
LAST_KNOWN_GOOD = "last-known-good"


def refusal(message: str) -> PydanticCustomError:
    """An error whose message is shown as it is."""
    return PydanticCustomError("refused", "{message}", {"message": message})


@dataclass(frozen=True)
class Rule:
    """What a text must look like.

    Attributes:
        pattern: The whole text must match; understood alike by Python and by ECMA 262.
        needs: What is wanted, for the message: "needs <needs>".
        longest: Most characters accepted.
        check: Looks deeper than a pattern can; returns a message, or None when all is well.
    """

    pattern: str
    needs: str
    longest: int = 1024
    check: Callable[[str], str | None] | None = None

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._accept, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "pattern": self.pattern, "maxLength": self.longest}

    def _accept(self, text: str) -> str:
        if len(text) > self.longest:
            raise refusal(f"has {len(text)} characters; {self.longest} at most")
        if message := self.check(text) if self.check else None:
            raise refusal(message)
        # `$` would also match before a line break at the end.
        if text.endswith("\n") or re.search(self.pattern, text) is None:
            raise refusal(f"needs {self.needs}")
        return text


def _path_fault(text: str) -> str | None:
    if text.startswith(("/", "~")) or "\\" in text or re.match(r"[A-Za-z]:", text):
        return "needs a path relative to the project root, with forward slashes"
    if posixpath.normpath(text).split("/", 1)[0] == "..":
        return "leads out of the project root"
    return None


def _any_path_fault(text: str) -> str | None:
    return None if text.startswith("/") else _path_fault(text)


def _image_fault(text: str) -> str | None:
    if text == LAST_KNOWN_GOOD or "@" in text or text.startswith("sha256:"):
        return None
    if ":" not in text.rsplit("/", 1)[-1]:
        return "names neither tag nor digest; write for example name:v1.2 or name@sha256:..."
    return None


def _revision_fault(text: str) -> str | None:
    if text.startswith("-") or ".." in text or "@{" in text or text.endswith((".lock", "/")):
        return "needs one commit: a full or short id, a tag, a branch, HEAD~1, or last-known-good"
    return None


def _address_fault(text: str) -> str | None:
    return secret_refusal("an address with a user or a password") if has_user_info(text) else None


def _http_fault(text: str) -> str | None:
    if fault := _address_fault(text):
        return fault
    if re.search(r"(?i)[?&](?:[a-z]+[-_])?(?:token|secret|password|api[-_]?key)=", text):
        return "carries a secret in its query; send it in a header, as {env: NAME} or {file: PATH}"
    return None


#: A path below the project root. Links that lead out of it are found in `project`, on the disk.
RelPath = Annotated[
    str,
    Rule(r"^[^\x00-\x1f\x7f/~\\][^\x00-\x1f\x7f\\]*$", "a path", check=_path_fault),
]
#: A path below the project root, or an absolute one (`/run/secrets/...`).
AnyPath = Annotated[
    str,
    Rule(r"^[^\x00-\x1f\x7f~\\][^\x00-\x1f\x7f\\]*$", "a path", check=_any_path_fault),
]
EnvName = Annotated[
    str, Rule(r"^[A-Za-z_][A-Za-z0-9_]*$", "the name of an environment variable", 255)
]
DnsLabel = Annotated[
    str,
    Rule(
        r"^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$",
        "a DNS label: lower-case letters, digits and inner hyphens",
        63,
    ),
]
Revision = Annotated[
    str,
    Rule(
        r"^[A-Za-z0-9_](?:[A-Za-z0-9._/+-]*)(?:[~^][0-9]*)*$",
        "a commit: a full or short id, a tag, a branch, HEAD~1, or last-known-good",
        255,
        _revision_fault,
    ),
]
ComposeProject = Annotated[
    str,
    Rule(
        r"^[a-z0-9][a-z0-9_-]*$",
        "a Compose project name: lower-case letters, digits, hyphens, underscores",
        255,
    ),
]
ComposeName = Annotated[
    str, Rule(r"^[A-Za-z0-9][A-Za-z0-9._-]*$", "a name of letters, digits, dots, hyphens", 255)
]
#: The reference grammar of the OCI distribution specification, or the id of a local image.
ImageRef = Annotated[
    str,
    Rule(
        r"^(?:last-known-good|sha256:[a-f0-9]{64}"
        r"|(?:[A-Za-z0-9.-]+(?::[0-9]+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*"
        r"(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(?:@sha256:[a-f0-9]{64})?)$",
        "an image reference such as app:v1.2, registry.example/app@sha256:..., or last-known-good",
        512,
        _image_fault,
    ),
]
Sha256 = Annotated[str, Rule(r"^[a-f0-9]{64}$", "a SHA-256 in 64 lower-case hex digits", 64)]
#: Scheme and address as DOCKER_HOST has them.
DockerHost = Annotated[
    str,
    Rule(
        r"^(?:unix:///|(?:tcp|ssh|http|https|npipe)://)[A-Za-z0-9._~@:/\[\]%-]+$",
        "a Docker host such as unix:///var/run/docker.sock or ssh://deploy@host",
        check=lambda text: (
            secret_refusal("an address with a password")
            if re.search(r"//[^/]*:[^/]*@", text)
            else None
        ),
    ),
]
ProjectRef = Annotated[
    str, Rule(r"^[a-z]{20}$", "a Supabase project reference: 20 lower-case letters", 20)
]
#: Migration files begin with digits: a time stamp (Supabase) or a counter.
MigrationVersion = Annotated[
    str,
    Rule(
        r"^(?:[0-9]{1,32}|last-known-good)$",
        "a migration version in digits, quoted, or last-known-good",
        32,
    ),
]
#: RFC 3339 section 5.6.
Timestamp = Annotated[
    str,
    Rule(
        r"^[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])[Tt](?:[01][0-9]|2[0-3])"
        r":[0-5][0-9]:(?:[0-5][0-9]|60)(?:\.[0-9]{1,9})?(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])$",
        "a time with its offset, such as 2025-11-18T02:30:00Z",
        40,
    ),
]
HttpUrl = Annotated[
    str,
    Rule(
        r"^https?://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?(?:[/?#][!-~]*)?$",
        "an address such as https://app.example.com/health",
        2048,
        _http_fault,
    ),
]
RedisUrl = Annotated[
    str,
    Rule(
        r"^rediss?://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?(?:/[0-9]{0,3})?$",
        "an address such as redis://localhost:6379/0; one with a password goes into urlFrom",
        check=_address_fault,
    ),
]
HostName = Annotated[
    str,
    Rule(
        r"^(?:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]+|[A-Za-z0-9._-]+)$", "a host name or an IP address", 253
    ),
]
VercelName = Annotated[str, Rule(r"^[A-Za-z0-9][A-Za-z0-9._-]*$", "a name or an id of Vercel", 100)]
VercelDeployment = Annotated[
    str,
    Rule(
        r"^(?:last-known-good|dpl_[A-Za-z0-9]+"
        r"|(?:https://)?(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z0-9-]+/?)$",
        "a deployment id (dpl_...), its host name, or last-known-good",
        300,
    ),
]
CheckName = Annotated[
    str,
    Rule(
        r"^[A-Za-z0-9](?:[A-Za-z0-9 ._:/-]*[A-Za-z0-9])?$",
        "a name that begins and ends with a letter or digit",
        63,
    ),
]
HeaderName = Annotated[
    str, Rule(r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$", "the name of an HTTP header", 128)
]
#: A path into a JSON document, from its root `$`: `$.a.b`, `$.items[0].id`.
JsonPath = Annotated[
    str,
    Rule(
        r"^\$(?:\.[A-Za-z_][A-Za-z0-9_-]*|\[[0-9]{1,9}\])*$",
        "a path such as $.status or $.items[0].id",
    ),
]
#: One line of text.
Line = Annotated[str, Rule(r"^[^\x00-\x08\x0a-\x1f\x7f]+$", "text on one line", 4096)]
#: Text that may have several lines.
Block = Annotated[str, Rule(r"\S", "some text", 65536)]


def _to_duration(value: object) -> Duration:
    if isinstance(value, Duration):
        span = value
    elif isinstance(value, str):
        try:
            span = Duration.parse(value)
        except ValueError as exc:
            raise refusal(str(exc)) from exc
    else:
        raise refusal("needs a duration with its unit, such as 30s or 15m")
    if not span:
        raise refusal("must be longer than nothing")
    return span


#: A span of time longer than nothing.
Span = Annotated[
    Duration,
    PlainValidator(_to_duration),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": DURATION_PATTERN,
            "examples": ["500ms", "30s", "15m", "1h30m"],
        }
    ),
]

Scalar = str | int | float | bool | None


def _to_scalar(value: object) -> Scalar:
    if value is None or isinstance(value, str | int | float):
        return value
    raise refusal("needs one value to compare with, not a list or a mapping")


def _to_number(value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise refusal("needs a number")
    return value


#: What a JSON document may hold at a path.
JsonScalar = Annotated[
    Scalar,
    PlainValidator(_to_scalar),
    WithJsonSchema({"type": ["string", "number", "boolean", "null"]}),
]
#: What the first column of a row may hold.
SqlScalar = Annotated[
    str | int | float | bool,
    PlainValidator(_to_scalar),
    WithJsonSchema({"type": ["string", "number", "boolean"]}),
]
Number = Annotated[int | float, PlainValidator(_to_number), WithJsonSchema({"type": "number"})]


#: Lists come from the parser as lists and are kept as tuples, which strictness would refuse.
AsTuple = Strict(strict=False)
