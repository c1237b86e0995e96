"""Cuts SQL text into statements and tokens without understanding it. Pure; called by the classifier and the drivers.

The rules are those of PostgreSQL's own lexer (`scan.l`) and, for where a statement ends, of psql: a semicolon outside
parentheses and outside a `BEGIN ATOMIC` body. Anything can be cut, broken text too; the parts joined are the original.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache


class Kind(Enum):
    """What a token is."""

    SPACE = "space"
    COMMENT = "comment"
    STRING = "string"  # also dollar-quoted
    NAME = "name"  # a quoted identifier
    WORD = "word"  # a key word or plain identifier
    END = "end"  # a semicolon
    BACKSLASH = "backslash"  # outside any quotes: a psql command
    OTHER = "other"  # numbers, operators, brackets, one character each


@dataclass(frozen=True, slots=True)
class Token:
    """One token.

    Attributes:
        kind: What it is.
        text: Its characters, unchanged.
    """

    kind: Kind
    text: str

    @property
    def word(self) -> str:
        """The key word in capitals; empty for anything but a word."""
        return self.text.upper() if self.kind is Kind.WORD else ""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement with the space and comments before it.

    Attributes:
        text: All its characters, the closing semicolon included.
        tokens: Its tokens without space, comments and the closing semicolon.
    """

    text: str
    tokens: Sequence[Token]

    @property
    def blank(self) -> bool:
        """Whether nothing but space, comments and semicolons is in it."""
        return not self.tokens

    def word(self, index: int) -> str:
        """The key word at a position, in capitals; empty beyond the end and for anything else."""
        return self.tokens[index].word if 0 <= index < len(self.tokens) else ""


_LEXICAL = r"""
      (?P<space>[ \t\r\n\f\v]+)
    | (?P<comment>--[^\r\n]*)
    | (?P<block>/\*)
    | (?P<string>
          [eE]'(?:[^'\\]|\\.|''|'[ \t\f\v]*[\r\n][ \t\r\n\f\v]*'|\\$)*+'?
        | (?:[bBxXnN]|[uU]&)?'(?:[^']|'')*+'? )
    | (?P<name>(?:[uU]&)?"(?:[^"]|"")*+"?)
    | (?P<dollar>\$(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*)?\$)
    | (?P<word>[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*)
    | (?P<number>[0-9][A-Za-z0-9_.]*)
    | (?P<end>;)
    | (?P<backslash>\\)
    | (?P<other>.)
    """
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_KINDS = {
    "space": Kind.SPACE,
    "comment": Kind.COMMENT,
    "string": Kind.STRING,
    "name": Kind.NAME,
    "word": Kind.WORD,
    "end": Kind.END,
    "backslash": Kind.BACKSLASH,
}
#: A `BEGIN` opens a body only in these (as psql has it).
_ROUTINE = re.compile(r"CREATE (OR REPLACE )?(FUNCTION|PROCEDURE)\b")
_ROUTINE_WORDS = frozenset({"CREATE", "OR", "REPLACE", "FUNCTION", "PROCEDURE"})


@cache
def _token() -> re.Pattern[str]:
    """Compiled when the first SQL is read: most commands read none, and it takes 10 ms."""
    return re.compile(_LEXICAL, re.VERBOSE | re.DOTALL)


def tokens(sql: str) -> Iterator[Token]:
    """All tokens of a text; joined they are the text."""
    next_token = _token().match
    position = 0
    while position < len(sql):
        match = next_token(sql, position)
        if match is None:  # cannot be: the last alternative takes any character
            yield Token(Kind.OTHER, sql[position:])
            return
        kind, end = match.lastgroup or "other", match.end()
        if kind == "block":
            end = _comment_end(sql, end)
            kind = "comment"
        elif kind == "dollar":
            closing = sql.find(match.group(), end)
            end = len(sql) if closing < 0 else closing + len(match.group())
            kind = "string"
        yield Token(_KINDS.get(kind, Kind.OTHER), sql[position:end])
        position = end


def _comment_end(sql: str, position: int) -> int:
    """Where a block comment ends, comments inside it included; the end of the text when it is never closed."""
    depth = 1
    for edge in _COMMENT_EDGE.finditer(sql, position):
        depth += 1 if edge.group() == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(sql)


def split(sql: str) -> list[Statement]:
    """The statements of a text, in order; their texts joined are the text.

    What follows the last semicolon (space, a comment, or a statement without one) is the last element.
    """
    found: list[Statement] = []
    text: list[str] = []
    meaning: list[Token] = []
    parentheses = bodies = 0
    head: list[str] = []
    for token in tokens(sql):
        text.append(token.text)
        if token.kind in {Kind.SPACE, Kind.COMMENT}:
            continue
        if token.kind is Kind.END and parentheses == 0 and bodies == 0:
            found.append(Statement("".join(text), tuple(meaning)))
            text, meaning, head = [], [], []
            continue
        meaning.append(token)
        if token.text == "(":
            parentheses += 1
        elif token.text == ")":
            parentheses = max(0, parentheses - 1)
        elif token.kind is Kind.WORD:
            if token.word in _ROUTINE_WORDS and len(meaning) <= len(_ROUTINE_WORDS):
                head.append(token.word)
            if parentheses == 0 and _ROUTINE.match(" ".join(head)):
                bodies = _depth(bodies, token.word)
    if text:
        found.append(Statement("".join(text), tuple(meaning)))
    return found


def _depth(depth: int, word: str) -> int:
    """How deep inside `BEGIN ATOMIC` bodies a routine's text is after one more word."""
    if word == "BEGIN" or (word == "CASE" and depth):
        return depth + 1
    return max(0, depth - 1) if word == "END" else depth


def stored(sql: str) -> list[str]:
    """The statements as the Supabase CLI keeps them in the history table: trimmed, without closing semicolons."""
    trimmed = (statement.text.strip().rstrip(";").strip() for statement in split(sql))
    return [text for text in trimmed if text]


def unwrapped(sql: str) -> str:
    """The text without a `BEGIN` ... `COMMIT` around all of it, since it is going to run inside a transaction anyway.

    Text with any other transaction control is given back unchanged. Line numbers stay the same.
    """
    parts = split(sql)
    real = [index for index, part in enumerate(parts) if not part.blank]
    if len(real) < 2:  # noqa: PLR2004 - an opening and a closing statement
        return sql
    opening = " ".join(token.word for token in parts[real[0]].tokens)
    closing = " ".join(token.word for token in parts[real[-1]].tokens)
    if opening not in {"BEGIN", "BEGIN TRANSACTION", "BEGIN WORK", "START TRANSACTION"}:
        return sql
    if closing not in {"COMMIT", "COMMIT TRANSACTION", "COMMIT WORK", "END"}:
        return sql
    for index in (real[0], real[-1]):
        parts[index] = Statement(re.sub(r"[^\r\n]", " ", parts[index].text), ())
    return "".join(part.text for part in parts)
