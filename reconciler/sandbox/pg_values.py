"""Shapes PostgreSQL's text values into JSON the way Supabase's query route does, and back.

Pure; called by `supabase_query`. The model is postgres-meta over node-postgres, whose odd corners
are kept on purpose: a bigint is a number while that is safe, bigints in an array are texts,
numerics are texts but numbers in an array, and arrays of types it does not know stay PostgreSQL
text. Compared value by value with node-postgres 8 on PostgreSQL 15.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

# Type numbers of PostgreSQL's catalog, stable for ever.
_BOOL, _BYTEA, _INT8, _INT2, _INT4, _OID = 16, 17, 20, 21, 23, 26
_JSON, _JSONB, _FLOAT4, _FLOAT8, _CIRCLE = 114, 3802, 700, 701, 718
_SAFE_INTEGER = 2**53 - 1


def to_json(text: str | None, type_number: int) -> object:
    """A value as JSON; None is SQL null.

    Args:
        text: PostgreSQL's text form.
        type_number: Its type's oid.
    """
    if text is None:
        return None
    if type_number in _ARRAYS:
        return _map(parse_array(text), _ARRAYS[type_number])
    return _SCALARS.get(type_number, str)(text)


def to_text(value: object) -> str | None:
    """A JSON parameter as the text that node-postgres would send; None is SQL null."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        return "{" + ",".join(_element(item) for item in value) + "}"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    # Booleans, other numbers and objects have JSON's own text.
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def parse_array(text: str) -> list[object]:
    """PostgreSQL's array text as nested lists of texts and None.

    Raises:
        ValueError: The text is not an array.
    """
    if text.startswith("["):  # bounds, as in [0:1]={a,b}
        text = text[text.index("=") + 1 :]
    if not text.startswith("{"):
        raise ValueError("an array begins with a brace")
    value, end = _parse_list(text, 1)
    if end != len(text):
        raise ValueError("an array ends with its brace")
    return value


def _parse_list(text: str, at: int) -> tuple[list[object], int]:
    items: list[object] = []
    while text[at] != "}":
        item: object
        if text[at] == "{":
            item, at = _parse_list(text, at + 1)
        elif text[at] == '"':
            item, at = _parse_quoted(text, at + 1)
        else:
            end = min(index for index in (text.find(",", at), text.find("}", at)) if index >= 0)
            bare, at = text[at:end], end
            item = None if bare == "NULL" else bare
        items.append(item)
        if text[at] == ",":
            at += 1
    return items, at + 1


def _parse_quoted(text: str, at: int) -> tuple[str, int]:
    letters: list[str] = []
    while text[at] != '"':
        if text[at] == "\\":
            at += 1
        letters.append(text[at])
        at += 1
    return "".join(letters), at + 1


def _map(value: object, scalar: Callable[[str], object]) -> object:
    if isinstance(value, list):
        return [_map(item, scalar) for item in value]
    return scalar(value) if isinstance(value, str) else None


def _element(value: object) -> str:
    if isinstance(value, list):
        return to_text(value) or "{}"
    text = to_text(value)
    if text is None:
        return "NULL"
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _bigint(text: str) -> object:
    number = int(text)
    return number if abs(number) <= _SAFE_INTEGER else text


def _float(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _bytea(text: str) -> object:
    return {"type": "Buffer", "data": list(bytes.fromhex(text.removeprefix("\\x")))}


def _circle(text: str) -> object:
    x, y, radius = (
        float(part) for part in text.strip("<>").replace("(", "").replace(")", "").split(",")
    )
    return {"x": x, "y": y, "radius": radius}


def _json(text: str) -> object:
    value: object = json.loads(text)
    return value


def _bool(text: str) -> bool:
    return text == "t"


_SCALARS: Final[dict[int, Callable[[str], object]]] = {
    _BOOL: _bool,
    _BYTEA: _bytea,
    _INT8: _bigint,
    **dict.fromkeys((_INT2, _INT4, _OID), int),
    **dict.fromkeys((_FLOAT4, _FLOAT8), _float),
    **dict.fromkeys((_JSON, _JSONB), _json),
    _CIRCLE: _circle,
}

# Arrays of: bool, bytea, int2, int4, oid, float4, float8, numeric, json, jsonb; then those whose
# elements stay text: bpchar, varchar, text, int8, macaddr, inet, cidr, uuid, money, numrange, and
# all dates and times.
_ARRAYS: Final[dict[int, Callable[[str], object]]] = {
    1000: _bool,
    1001: _bytea,
    **dict.fromkeys((1005, 1007, 1028), int),
    **dict.fromkeys((1021, 1022, 1231), _float),
    **dict.fromkeys((199, 3807), _json),
    **dict.fromkeys((1014, 1015, 1009, 1016, 1040, 1041, 651, 2951, 791, 3907), str),
    **dict.fromkeys((1115, 1182, 1183, 1185, 1187, 1270), str),
}
