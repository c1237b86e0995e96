r"""COPY's text format: one row a line, tabs between values, `\N` for NULL. Pure; for a driver that has no COPY.

Source: PostgreSQL documentation, COPY, "Text Format".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

_ESCAPED = {
    "\\": "\\\\",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}
_TABLE = str.maketrans(_ESCAPED)
_PLAIN = {escaped[1]: character for character, escaped in _ESCAPED.items()}
_ESCAPE = re.compile(r"\\([bfnrtv\\])")


def encode(values: Sequence[str | None]) -> bytes:
    """One row as a line."""
    return ("\t".join("\\N" if v is None else v.translate(_TABLE) for v in values) + "\n").encode()


def decode(line: bytes) -> list[str | None]:
    """The values of one line."""
    return [
        None if part == "\\N" else _ESCAPE.sub(lambda match: _PLAIN[match[1]], part)
        for part in line.decode().removesuffix("\n").split("\t")
    ]


def lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Whole lines from pieces of any size."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line + b"\n"
    if rest:
        yield rest
