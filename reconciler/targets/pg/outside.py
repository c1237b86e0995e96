"""Scripts of one statement that cannot run in a transaction: what a broken attempt leaves, and whether it was done."""

from __future__ import annotations

from reconciler.core.sqlsplit import split

_GONE = frozenset({"42704", "42P01"})  # no such object
_THERE = frozenset({"42P07"})  # it exists


def _words(sql: str) -> list[str]:
    statement = next((part for part in split(sql) if not part.blank), None)
    return [token.text for token in statement.tokens] if statement else []


def half_built_index(sql: str) -> str:
    """The index a `CREATE INDEX CONCURRENTLY` would make: a broken attempt leaves it behind, invalid. Empty otherwise.

    The name is as written; it lies in the schema of its table.
    """
    words = _words(sql)
    upper = [word.upper() for word in words]
    if "CREATE" not in upper[:1] or "CONCURRENTLY" not in upper or "ON" not in upper:
        return ""
    name = words[upper.index("CONCURRENTLY") + 1 : upper.index("ON")]
    if [word.upper() for word in name[:3]] == ["IF", "NOT", "EXISTS"]:
        name = name[3:]
    table = words[upper.index("ON") + 1 :]
    table = table[1:] if [word.upper() for word in table[:1]] == ["ONLY"] else table
    schema = f"{table[0]}." if len(table) > 1 and table[1] == "." else ""
    return schema + name[0] if len(name) == 1 else ""


def already_done(state: str, sql: str) -> bool:
    """Whether an error of a second attempt only says that the first one had its effect."""
    head = [word.upper() for word in _words(sql)[:1]]
    return (head == ["DROP"] and state in _GONE) or (head == ["CREATE"] and state in _THERE)


def without_concurrently(sql: str) -> str | None:
    """A form of the statement that can be rehearsed in a transaction; None where that would cost too much."""
    words = [word.upper() for word in _words(sql)]
    if words[:3] != ["DROP", "INDEX", "CONCURRENTLY"]:
        return None
    return "DROP INDEX " + " ".join(_words(sql)[3:]).replace(" . ", ".")
