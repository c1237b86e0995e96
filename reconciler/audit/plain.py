"""JSON that every database stores and gives back unchanged, whatever a file name or a program put into a message."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pydantic import JsonValue


def plain_body(body: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """A body with all that is in it made plain."""
    return {plain_text(key): plain(item) for key, item in body.items()}


def plain(value: JsonValue) -> JsonValue:
    """The value with what UTF-8, JSON or PostgreSQL cannot hold written out (lone surrogates, zero bytes, nan)."""
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {plain_text(key): plain(item) for key, item in value.items()}
    return value


def plain_text(text: str) -> str:
    """The text with lone surrogates and zero bytes written out."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")
