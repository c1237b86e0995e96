"""How a value may be shown in a message: short, on one line, never if it might be a secret."""

from __future__ import annotations

import json

from reconciler.core.references import secrets_in

_LONGEST = 40


def shown(text: str) -> str:
    """A text in quotes, or what can be said of it without showing it."""
    if len(text) > _LONGEST or any(secrets_in(text)):
        return f"a text of {len(text)} characters"
    return json.dumps(text, ensure_ascii=not text.isprintable())
