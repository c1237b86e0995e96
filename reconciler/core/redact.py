"""Redaction: secrets are taken out of everything that is written, by known value first and by key pattern second."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar, cast

from pydantic import JsonValue

MASK = "[redacted]"
_MIN_SECRET = 6  # shorter values would blank out innocent text
_KEY = re.compile(
    r"(?i)(pass(word|wd|phrase)?|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credential|authorization|dsn|cookie)$"
)
_PATTERNS = (
    re.compile(r"(?i)\b(bearer\s+)[a-z0-9._~+/=-]{8,}"),
    re.compile(r"(?i)(\b[a-z][a-z0-9+.-]*://[^\s/:@]*:)[^\s/@]+(?=@)"),
    re.compile(
        r"(?i)(\b(?:password|passwd|pwd|secret|token|api[_-]?key)\s*[=:]\s*)(?:\"[^\"]*\"|'[^']*'|[^\s,;&]+)"
    ),
    re.compile(r"()\b(?:sbp|ghp|gho|ghs|github_pat|xox[abprs]|sk_live|vcp)_[A-Za-z0-9_]{12,}"),
)
_T = TypeVar("_T")


class Redactor:
    """Knows the secrets of this process and takes them out of text and JSON.

    Args:
        secrets: Values that must never be written. More can be learned later with `learn`.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: set[str] = set()
        self._known: re.Pattern[str] | None = None
        self.learn(*secrets)

    def learn(self, *secrets: str) -> None:
        """Adds secret values; surrounding white space is not part of them."""
        before = len(self._secrets)
        for secret in secrets:
            self._secrets.update(
                part
                for part in (secret.strip(), *secret.strip().splitlines())
                if len(part) >= _MIN_SECRET
            )
        if len(self._secrets) != before:
            longest_first = sorted(self._secrets, key=len, reverse=True)
            self._known = re.compile("|".join(re.escape(secret) for secret in longest_first))

    def text(self, text: str) -> str:
        """The text without secrets."""
        if self._known:
            text = self._known.sub(MASK, text)
        for pattern in _PATTERNS:
            text = pattern.sub(lambda match: f"{match.group(1)}{MASK}", text)
        return text

    def json(self, value: _T) -> _T:
        """The same JSON value with secrets taken out of every string, and of every value under a telling key."""
        return cast(_T, self._json(cast(JsonValue, value)))

    def _json(self, value: JsonValue) -> JsonValue:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self._json(item) for item in value]
        if isinstance(value, dict):
            return {
                self.text(key): MASK
                if _KEY.search(key) and isinstance(item, str) and item
                else self._json(item)
                for key, item in value.items()
            }
        return value
