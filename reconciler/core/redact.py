"""Redaction: secrets are taken out of everything that is written, by known value first and by key pattern second.

What people read is masked without mercy. What the machine reads again out of the ledger (facts, pins, goals, a spec's
text) must come back as it was: with POSTGRES_PASSWORD=postgres and a service of that name, masking the value there
would make another goal of it. There only values are masked that cannot be a name: those that look random, or hold other
characters than names do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TypeVar, cast
from urllib.parse import quote

from pydantic import JsonValue

MASK = "[redacted]"
_MIN_SECRET = 6  # shorter values would blank out innocent text
_KEY = re.compile(
    r"(?i)(pass(word|wd|phrase)?|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credential|authorization|dsn|cookie)s?$"
)
_PATTERNS = (
    re.compile(r"(?i)(\bbearer\s+)[a-z0-9._~+/=-]{8,}"),
    re.compile(r"(?i)(\bauthorization[\"']?\s*[:=]\s*[\"']?(?:basic|token)\s+)[a-z0-9._~+/=-]{6,}"),
    re.compile(r"(?i)(\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@\"'<>]*:)[^\s/\"'<>]+(?=@)"),
    re.compile(
        r"(?i)((?:password|passwd|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key)"
        r"[\"']?\s*[=:]\s*)(?:\"[^\"]*\"|'[^']*'|[^\s,;&\"']+)"
    ),
    re.compile(r"()\b(?:sbp|ghp|gho|ghs|github_pat|xox[abprs]|sk_live|vcp)_[A-Za-z0-9_]{12,}"),
    re.compile(
        r"()-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)",
        re.DOTALL,
    ),
)
#: Keys of a ledger entry's body whose content the projection reads again.
_MACHINE = frozenset(
    {"run", "override", "goal", "resolved", "recoveryPoint", "observed", "facts", "artifacts", "failure",
     "certificate", "checksBefore", "text", "path", "digest", "decision", "outcome", "verdict"}
)  # fmt: skip
#: Keys under which, even there, words for people stand.
_WORDS = frozenset(
    {"message", "hint", "detail", "details", "before_details", "unknown", "why", "note"}
)
_NAME = re.compile(r"[A-Za-z0-9._:/@-]+")
_RANDOM = re.compile(r"[A-Za-z0-9+_=-]{24,}")
_HEX = re.compile(r"(?:sha256:)?[0-9a-f]+")
_T = TypeVar("_T")


class Redactor:
    """Knows the secrets of this process and takes them out of text and JSON.

    Args:
        secrets: Values that must never be written. More can be learned later with `learn`.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: set[str] = set()
        self._all: re.Pattern[str] | None = None
        self._strict: re.Pattern[str] | None = None
        self.learn(*secrets)

    def learn(self, *secrets: str) -> None:
        """Adds secret values; surrounding white space is not part of them. Each line of one is secret by itself."""
        new = {
            form
            for secret in secrets
            for part in (secret.strip(), *(line.strip() for line in secret.splitlines()))
            if len(part) >= _MIN_SECRET and part not in MASK
            for form in (part, json.dumps(part)[1:-1], quote(part, safe=""))
        }
        if new <= self._secrets:
            return
        self._secrets |= new
        self._all = _any_of(self._secrets)
        self._strict = _any_of({secret for secret in self._secrets if not _may_be_name(secret)})

    def text(self, text: str) -> str:
        """The text without secrets."""
        text = _masked(text, self._all)
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
                self.text(key): self._machine(item)
                if key in _MACHINE
                else _hushed(item)
                if _KEY.search(key)
                else self._json(item)
                for key, item in value.items()
            }
        return value

    def _machine(self, value: JsonValue) -> JsonValue:
        """What is read again: its shape and its names stay what they are."""
        if isinstance(value, str):
            return _masked(value, self._strict)
        if isinstance(value, list):
            return [self._machine(item) for item in value]
        if isinstance(value, dict):
            return {
                key: self._json(item) if key in _WORDS else self._machine(item)
                for key, item in value.items()
            }
        return value


def _may_be_name(secret: str) -> bool:
    """Whether a value could as well be the name of a service, an image, a commit, a path."""
    return bool(_HEX.fullmatch(secret) or (_NAME.fullmatch(secret) and not _RANDOM.search(secret)))


def _any_of(secrets: set[str]) -> re.Pattern[str] | None:
    """Finds secrets at every position, the longest first, so that overlapping ones are all seen."""
    longest_first = sorted(secrets, key=len, reverse=True)
    choices = "|".join(re.escape(secret) for secret in longest_first)
    return re.compile(f"(?=({choices}))") if secrets else None


def _masked(text: str, pattern: re.Pattern[str] | None) -> str:
    if pattern is None:
        return text
    made: list[str] = []
    end = 0  # where the last masked span ends
    for match in pattern.finditer(text):
        start, stop = match.span(1)
        if start > end or not made:
            made += [text[end:start], MASK]
        end = max(end, stop)
    return "".join(made) + text[end:] if made else text


def _hushed(value: JsonValue) -> JsonValue:
    """What stands under a telling key, masked whole."""
    if isinstance(value, dict):
        return {key: _hushed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_hushed(item) for item in value]
    return value if value is None or isinstance(value, bool) or not value else MASK
