"""Secrets in files: which texts look like one, and the reference that has to stand in its place.

Secrets never stand in a spec; `{env: NAME}` or `{file: PATH}` does. The spec's text is kept in the
ledger and shown to auditors, comments included, so the loader asks here about every value, every
key and every comment. Whoever needs the secret itself (a target, a check) reads it at its own edge.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Prefixes by which vendors make their secrets known. Short tails do where the prefix is no word.
_TOKENS: tuple[tuple[str, str], ...] = (
    ("a Supabase token", r"sbp_[A-Za-z0-9_]{6,}|sb_secret_[A-Za-z0-9_-]{6,}"),
    ("a Vercel token", r"vc[pikar]_[A-Za-z0-9]{20,}"),
    ("a GitHub token", r"gh[pousr]_[A-Za-z0-9]{6,}|github_pat_[A-Za-z0-9_]{6,}"),
    ("a GitLab token", r"glpat-[A-Za-z0-9_-]{6,}"),
    ("a Slack token", r"xox[abeoprs]-[A-Za-z0-9-]{6,}|xapp-[0-9]-[A-Za-z0-9-]{6,}"),
    ("a Slack webhook address", r"hooks\.slack\.com/services/T[A-Za-z0-9]+/B[A-Za-z0-9]+/\w+"),
    ("an npm token", r"npm_[A-Za-z0-9]{30,}"),
    ("a Docker Hub token", r"dckr_(?:pat|oat)_[A-Za-z0-9_-]{6,}"),
    ("an AWS access key", r"(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Za-z])"),
    (
        "an API key",
        r"(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{10,}|sk-(?:ant-|proj-)?[A-Za-z0-9_-]{32,}",
    ),
    (
        "a signed web token",
        r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
    ),
    (
        "an authorization header",
        r"(?i:bearer|basic)[ \t]+(?=[A-Za-z._~+/=-]*[0-9])[A-Za-z0-9._~+/=-]{16,}",
    ),
    ("a private key", r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----"),
    ("a password", r"(?i:(?:pg|ssl)?password|passwd|pwd)=(?![$<{%*.])[^\s'\"&]+"),
)
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    + "|".join(f"(?P<t{i}>{pattern})" for i, (_, pattern) in enumerate(_TOKENS))
    + ")"
)
#: The user part of an address, with a password in it: `redis://:pw@host`, `postgres://me:pw@host`.
_URL_PASSWORD = re.compile(
    r"(?<![A-Za-z0-9])[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s/?#@:'\"]*:(?P<password>[^\s/?#@'\"]+)@"
)
#: What people write where a password would be, in a comment.
_PLACEHOLDER = re.compile(r"\$.*|<.*>|\{.*\}|\*+|\.+|x+|(?i:pass|password|passwd|pw|secret)")

_SECRET_NAME = re.compile(
    r"(?i)(?:proxy-)?authorization|(?:set-)?cookie2?"
    r"|.*(?:token|secret|password|passwd|credential)s?|(?:x-)?(?:.*[-_])?api[-_]?key|x-vercel-protection-bypass"
)

_HOW = "write {env: NAME} or {file: PATH} and keep the secret out of the spec"

#: The whole advice, for a secret that stands where a reference belongs.
REFERENCE_WANTED = f"needs a reference to a secret: {_HOW}"
#: For a header that carries secrets by its nature.
PLAIN_HEADER = f"is a header that carries a secret: {_HOW}"


def secrets_in(text: str, *, comment: bool = False) -> Iterator[tuple[int, str, str]]:
    """What looks like a secret in a text: offset, kind, and the matching text (never to be shown).

    Args:
        text: A value, a key, or a whole file.
        comment: The text is for readers: `postgres://user:password@host` is then no secret.
    """
    for match in _TOKEN.finditer(text):
        kind = _TOKENS[int((match.lastgroup or "t0")[1:])][0]
        yield match.start(), kind, match.group()
    for match in _URL_PASSWORD.finditer(text):
        if not (comment and _PLACEHOLDER.fullmatch(match["password"])):
            yield match.start(), "an address with a password", match.group()


def secret_refusal(kind: str) -> str:
    """The message for a text that looks like a secret. It does not show the text."""
    return f"looks like {kind}; {_HOW}"


def names_secret(name: str) -> bool:
    """Whether a header or query parameter of this name carries a secret."""
    return _SECRET_NAME.fullmatch(name) is not None


def has_user_info(url: str) -> bool:
    """Whether an address names a user or a password before its host."""
    try:
        return "@" in urlsplit(url).netloc
    except ValueError:
        return "@" in url
