"""One thing wrong with a file a human wrote, and where. Loaders make problems, the CLI shows them.

Lines and columns are 1-based, as editors count them. A path names a place in the document the way a
human would say it: `spec.verify.checks[0].http.url`; a key that is not a plain word is quoted:
`spec.docker.services["my.app"].image`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Keys and list positions leading from the root of a document to a place in it.
Location = tuple[str | int, ...]

#: A longer key in a message would bury the message.
_LONGEST_KEY = 64

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")
_PATH_PART = re.compile(r"""\.?([A-Za-z0-9_-]+)|\[(\d+)\]|\[("(?:[^"\\]|\\.)*")\]""")


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a text, 1-based."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Problem:
    """One located error.

    Attributes:
        file: Name of the file as the user gave it.
        line: 1-based.
        column: 1-based, counted in characters.
        path: Place in the document (`spec.git.commit`); empty where it could not be read.
        message: What is wrong and what would be right. Never holds a secret, nor a line break.
        hint: The next action, where the message alone does not say it.
    """

    file: str
    line: int
    column: int
    path: str
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        """`file:line:column: path: message`, the form editors and CI make links of."""
        where = f"{self.file}:{self.line}:{self.column}"
        return f"{where}: {self.path}: {self.message}" if self.path else f"{where}: {self.message}"


def in_reading_order(problems: Iterable[Problem]) -> list[Problem]:
    """Sorted as a reader meets them in the file, each once."""
    return sorted(
        dict.fromkeys(problems), key=lambda p: (p.file, p.line, p.column, p.path, p.message)
    )


def format_path(location: Location) -> str:
    """A location as text; `parse_path` is its inverse (but for keys so long that they are cut)."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN_KEY.fullmatch(part) and len(part) <= _LONGEST_KEY:
            text += f".{part}" if text else part
        else:
            cut = part if len(part) <= _LONGEST_KEY else part[:_LONGEST_KEY] + "..."
            text += f"[{json.dumps(cut)}]"
    return text


def parse_path(path: str) -> Location:
    """The location a path names.

    Raises:
        ValueError: The text is no path.
    """
    parts: list[str | int] = []
    end = 0
    while end < len(path):
        match = _PATH_PART.match(path, end)
        if match is None:
            raise ValueError(f"not a path in a document: {path!r}")
        plain, index, quoted = match.groups()
        parts.append(plain if plain is not None else int(index) if index else json.loads(quoted))
        end = match.end()
    return tuple(parts)


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant, or None.

    Case and the separators `-` and `_` do not count: `env_files` means `envFiles`.
    """
    from difflib import get_close_matches

    def bare(text: str) -> str:
        return text.lower().replace("-", "").replace("_", "")

    by_bare = {bare(name): name for name in known}
    close = get_close_matches(bare(word[:_LONGEST_KEY]), by_bare, n=1, cutoff=0.6)
    return by_bare[close[0]] if close else None
