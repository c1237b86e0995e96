"""What the model found wrong, in words that say what would be right. Used by `loader` and `project`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

from reconciler.core.problems import Location, did_you_mean
from reconciler.core.section import Section
from reconciler.core.shown import shown
from reconciler.core.spec import Spec

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from reconciler.core.yamltree import Node

_SHOWN_FIELDS = 12


_NEEDS_MAPPING = "needs a mapping (`name: value` lines), found {found}"
_NEEDS_LIST = "needs a list, found {found}"
#: Messages by the kind pydantic gives an error; `{found}` is what stands there.
_MESSAGES = {
    "refused": "{message}",
    "missing": "is missing",
    "string_type": "needs text, found {found}",
    "int_type": "needs a whole number, found {found}",
    "int_from_float": "needs a whole number, found {found}",
    "bool_type": "needs true or false, found {found}",
    "model_type": _NEEDS_MAPPING,
    "dict_type": _NEEDS_MAPPING,
    "mapping_type": _NEEDS_MAPPING,
    "tuple_type": _NEEDS_LIST,
    "list_type": _NEEDS_LIST,
    "too_short": "needs at least one entry",
    "too_long": "has too many entries; {max_length} at most",
    "greater_than_equal": "must be at least {ge}, found {found}",
    "less_than_equal": "must be at most {le}, found {found}",
}


def explain(
    error: ErrorDetails, location: Location, node: Node | None, model: type[Section] = Spec
) -> str | None:
    """The message for one error, or None where another error has said it already.

    Args:
        error: As pydantic gives it.
        location: Its place in the document.
        node: What stands there; None when nothing does.
        model: What the document is.
    """
    kind, ctx = error["type"], error.get("ctx", {})
    if kind == "default_factory_not_called":
        return None
    if kind == "extra_forbidden":
        return _unknown_field(location, model)
    found = _found(node, secret=_holds_secrets(location))
    if kind == "literal_error":
        return _choice(str(ctx["expected"]), found, node)
    template = _MESSAGES.get(kind, f"cannot be accepted ({kind.replace('_', ' ')})")
    message = template.format_map({**ctx, "found": found})
    if kind == "string_type" and node is not None and isinstance(node.content, bool | int | float):
        message += ": put it in quotes"
    return message


def _found(node: Node | None, *, secret: bool) -> str:
    if node is None or node.content is None:
        return "nothing"
    if isinstance(node.content, dict | list):
        return "a mapping" if isinstance(node.content, dict) else "a list"
    if secret:
        return "a plain value"
    if isinstance(node.content, str):
        return shown(node.content)
    return str(node.text) if isinstance(node.content, bool) else f"the number {node.text}"


def _holds_secrets(location: Location) -> bool:
    return any(
        part == "headers" or (isinstance(part, str) and part.endswith("From")) for part in location
    )


def _choice(expected: str, found: str, node: Node | None) -> str:
    choices = re.findall(r"'([^']*)'", expected)
    if not choices:  # build: true is the only literal that is no text
        return f"can only be {expected.lower()}, found {found}; otherwise leave it out"
    wanted = (
        f"must be {choices[0]}" if len(choices) == 1 else f"must be one of {', '.join(choices)}"
    )
    meant = did_you_mean(node.text, choices) if node is not None and node.text else None
    return f"{wanted}, found {found}" + (f"; did you mean {meant}?" if meant else "")


def _unknown_field(location: Location, model: type[Section]) -> str:
    known = _fields_at(location[:-1], model)
    if meant := did_you_mean(str(location[-1]), known):
        return f"unknown field; did you mean {meant}?"
    listed = ", ".join(known[:_SHOWN_FIELDS])
    return f"unknown field; known here: {listed}" if listed else "unknown field"


def _fields_at(location: Location, model: type[Section]) -> list[str]:
    """The names a mapping at this place may have, as written in YAML."""
    at: type[Section] | None = model
    where = iter(location)
    for part in where:
        if at is None:
            return []
        field = next((f for n, f in at.model_fields.items() if (f.alias or n) == part), None)
        if field is None:
            return []
        at = _section_in(field.annotation)
        if _is_collection(field.annotation):
            next(where, None)
    return [field.alias or name for name, field in at.model_fields.items()] if at else []


def _section_in(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    found = (_section_in(argument) for argument in get_args(annotation))
    return next((section for section in found if section), None)


def _is_collection(annotation: Any) -> bool:
    origin = getattr(annotation, "__origin__", None)
    return origin in (tuple, Mapping) or any(
        getattr(argument, "__origin__", None) in (tuple, Mapping)
        for argument in get_args(annotation)
    )
