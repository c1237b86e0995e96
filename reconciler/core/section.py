"""What all mappings of a spec have in common: frozen, strict, closed, telling all faults at once.

Pydantic alone reports either the faults of the fields or those of the whole; a human wants both in
one go. Used by `spec`, `spec_verify` and their JSON Schema.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import InitErrorDetails

from reconciler.core.fields import AnyPath, EnvName, refusal
from reconciler.core.references import REFERENCE_WANTED

if TYPE_CHECKING:
    from reconciler.core.problems import Location


class Group(NamedTuple):
    """Fields of which so many may stand together.

    Attributes:
        names: The fields, as written in YAML.
        least: How many must be there.
        most: How many may be there.
    """

    names: tuple[str, ...]
    least: int = 1
    most: int = 1

    def fault(self, present: list[str]) -> str | None:
        """What is wrong with the fields that are there, or None."""
        if self.least <= len(present) <= self.most:
            return None
        match present:
            case []:
                found = "none"
            case [one, other]:
                found = f"both {one} and {other}"
            case _:
                found = ", ".join(present)
        amount = (
            "exactly" if self.least == self.most else "at most" if not self.least else "at least"
        )
        return f"needs {amount} one of {', '.join(self.names)}; found {found}"

    def as_schema(self) -> dict[str, Any]:
        """The same rule as JSON Schema."""
        each = [{"required": [name]} for name in self.names]
        if not self.least:
            return {"not": {"required": list(self.names)}}
        return {"oneOf": each} if self.most == 1 else {"anyOf": each}


def _as_schema(schema: dict[str, Any], model: type[Section]) -> None:
    rules = [group.as_schema() for group in model.groups] + list(model.schema_rules)
    for rule in rules[:1]:
        schema.update(rule)
    if rules[1:]:
        schema["allOf"] = rules[1:]


class Section(BaseModel):
    """A mapping of the spec. In YAML its fields are written in camelCase.

    Attributes:
        groups: Fields that exclude or need each other.
        schema_rules: Further rules for the JSON Schema, equal to what `faults` finds.
        not_a_mapping: What to say when something else stands here; None for the plain words.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        defer_build=True,  # only the whole document is ever validated: build that, once
        alias_generator=to_camel,
        validate_by_alias=True,
        validate_by_name=True,  # for Python; the loader switches it off: YAML has one spelling
        hide_input_in_errors=True,
        json_schema_extra=_as_schema,  # pydantic passes the model too
    )

    groups: ClassVar[tuple[Group, ...]] = ()
    schema_rules: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    not_a_mapping: ClassVar[str | None] = None

    def faults(self) -> Iterator[tuple[Location, str]]:
        """What is wrong between fields that are each right: where, and the message."""
        yield from ()

    @classmethod
    def faults_between(
        cls,
        data: Mapping[str, object],  # noqa: ARG003  # read by those who override it
    ) -> Iterator[tuple[Location, str]]:
        """The same, where it can be told from raw data even while some of the fields are wrong."""
        yield from ()

    @model_validator(mode="wrap")
    @classmethod
    def _all_at_once(cls, data: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(data, cls):
            return handler(data)
        if not isinstance(data, Mapping):
            if cls.not_a_mapping:
                raise refusal(cls.not_a_mapping)
            return handler(data)
        found = [
            _fault((), message)
            for group in cls.groups
            if (message := group.fault([name for name in group.names if _present(cls, data, name)]))
        ]
        found += [_fault(where, message) for where, message in cls.faults_between(data)]
        section = None
        try:
            section = handler(data)
        except ValidationError as exc:
            found += [
                InitErrorDetails(
                    type=refusal(error["ctx"]["message"])
                    if error["type"] == "refused"
                    else error["type"],
                    loc=error["loc"],
                    input=error["input"],
                    ctx=error.get("ctx", {}),
                )
                for error in exc.errors(include_url=False)
            ]
        if section is not None and not found:
            found += [_fault(where, message) for where, message in section.faults()]
        if found or section is None:
            raise ValidationError.from_exception_data(cls.__name__, found, hide_input=True)
        return section


def part(data: object, name: str) -> object:
    """A part of raw data (as parsed, or a section made before); None when there is none."""
    if isinstance(data, Mapping):
        return data.get(name)
    return getattr(data, name, None)


def parts(data: object) -> Sequence[object]:
    """The entries of what should be a list; nothing when it is none."""
    return data if isinstance(data, list | tuple) else ()


def _fault(where: Location, message: str) -> InitErrorDetails:
    return InitErrorDetails(type=refusal(message), loc=where, input=None)


def _present(cls: type[Section], data: Mapping[str, object], name: str) -> bool:
    """Whether a field is given, by its YAML name or by the name it has in Python."""
    return name in data or any(
        field.alias == name and data.get(python_name) is not None
        for python_name, field in cls.model_fields.items()
    )


class SecretRef(Section):
    """Where a secret is found. The secret itself never stands in a file that is kept or shown."""

    groups = (Group(("env", "file")),)
    not_a_mapping = REFERENCE_WANTED

    env: EnvName | None = None
    file: AnyPath | None = None

    def __str__(self) -> str:
        """For humans: `env NAME` or `file PATH`."""
        return f"env {self.env}" if self.env else f"file {self.file}"
