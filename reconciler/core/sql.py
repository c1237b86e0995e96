"""Judges SQL before it is run: what it destroys, what cannot be told from the text, what may not be in a migration.

Pure; called when migrations are resolved. A classifier of key words, not a parser: what it does not know it calls
unclear, and the dry run in a rolled-back transaction has the last word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from reconciler.core.sqlsplit import Kind, Statement, Token, split

_PLAIN, _LOCAL_ONLY = frozenset({"LOCAL", "CONSTRAINTS"}), "a setting that outlives the transaction"
_CONTROL = frozenset(
    {"BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE"}
)
#: Statements that destroy nothing by themselves.
_HARMLESS = frozenset(
    {"COMMENT", "NOTIFY", "LOCK", "ANALYZE", "REFRESH", "SHOW", "LISTEN", "UNLISTEN", "SECURITY"}
    | {"IMPORT", "VALUES", "TABLE", "CHECKPOINT", "FETCH", "CLOSE", "DECLARE", "DEALLOCATE"}
)
#: What `DROP` destroys data with; other kinds of objects hold none.
_DATA_KINDS = (
    *("TABLE", "FOREIGN TABLE", "MATERIALIZED VIEW", "SCHEMA", "TYPE", "DOMAIN", "SEQUENCE"),
    *("EXTENSION", "DATABASE", "TABLESPACE", "OWNED", "SERVER", "SUBSCRIPTION"),
)
_ACCESS = ("POLICY", "ROLE", "USER", "GROUP")
#: Words that stand before a bracket without being a function call, and functions that change nothing.
_WORDS = """
ALL AND ANY ARRAY AS BY CHECK COLUMNS CONFLICT CUBE DISTINCT ELSE EXCEPT EXISTS FILTER FROM GROUP
GROUPING HAVING IN INTERSECT INTO KEY LATERAL LIMIT NOT OFFSET ON ONLY OR ORDER OVER PARTITION
RETURNING ROLLUP ROW SELECT SET SETS SOME THEN UNION UNIQUE USING VALUE VALUES WHEN WHERE WINDOW
WITH WITHIN CHAR CHARACTER DECIMAL NUMERIC TIME TIMESTAMP VARCHAR VARYING BIT INTERVAL ABS ARRAY_AGG
ARRAY_LENGTH AVG CAST CEIL COALESCE CONCAT COUNT DATE_TRUNC EXTRACT FLOOR FORMAT GEN_RANDOM_UUID
GENERATE_SERIES GREATEST JSONB_AGG JSONB_BUILD_OBJECT JSON_BUILD_OBJECT LEAST LEFT LENGTH LOWER MAX
MD5 MIN MOD NOW NULLIF POSITION RANDOM REGEXP_REPLACE REPLACE RIGHT ROUND ROW_NUMBER SETVAL
SPLIT_PART STRING_AGG SUBSTR SUBSTRING SUM TO_CHAR TO_DATE TO_JSONB TO_TIMESTAMP TRIM UNNEST UPPER
"""
_NO_CALL = frozenset(_WORDS.split())


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a human should know about one statement.

    Attributes:
        kind: What it does, in SQL's own words (`DROP TABLE`).
        object: What it does it to; names only, never values.
    """

    kind: str
    object: str = ""

    def __str__(self) -> str:
        """`DROP TABLE public.users`."""
        return f"{self.kind} {self.object}".strip()


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is known about SQL text before it runs.

    Attributes:
        destructive: Statements that destroy or overwrite data.
        unclear: What cannot be told from the text.
        access: Changes of who may see what.
        refused: What may not stand in a migration at all.
        outlasting: Settings that outlive the transaction; allowed in up files only.
        outside: Statements that cannot run inside a transaction block.
        statements: How many statements there are.
    """

    destructive: tuple[Finding, ...] = ()
    unclear: tuple[Finding, ...] = ()
    access: tuple[Finding, ...] = ()
    refused: tuple[Finding, ...] = ()
    outlasting: tuple[Finding, ...] = ()
    outside: tuple[Finding, ...] = ()
    statements: int = 0

    @property
    def transactional(self) -> bool:
        """Whether all of it may run inside a transaction block."""
        return not self.outside


_Group = tuple[str, Finding]


def judge(sql: str) -> Judgement:
    """Judges a whole script. Never raises, whatever the text."""
    statements = [statement for statement in split(sql) if not statement.blank]
    groups: dict[str, list[Finding]] = {}
    for statement in statements:
        for group, finding in _judge(statement):
            known = groups.setdefault(group, [])
            if finding not in known:
                known.append(finding)
    fixed = {group: tuple(findings) for group, findings in groups.items()}
    return Judgement(**fixed, statements=len(statements))


def _judge(statement: Statement) -> Iterator[_Group]:
    if any(token.kind is Kind.BACKSLASH for token in statement.tokens):
        yield "refused", Finding("psql command (backslash)")
    head = statement.word(0)
    yield from _outside(statement)
    handler = _HANDLERS.get(head)
    if head in _CONTROL or (head == "PREPARE" and statement.word(1) == "TRANSACTION"):
        yield "refused", Finding("transaction control", head)
    elif handler is not None:
        yield from handler(statement)
    elif head not in _HARMLESS:
        yield "unclear", Finding("statement", head or "(unknown)")


def _outside(statement: Statement) -> Iterator[_Group]:
    """What PostgreSQL answers with 25001 inside a transaction block."""
    words = [token.word for token in statement.tokens]
    head, second = statement.word(0), statement.word(1)
    index_verb = head in {"CREATE", "DROP"} and "INDEX" in words[1:3]
    if "CONCURRENTLY" in words and (index_verb or head == "REINDEX" or "DETACH" in words):
        yield "outside", Finding(f"{head} ... CONCURRENTLY")
    elif head == "REINDEX" and {"DATABASE", "SYSTEM"} & set(words):
        yield "outside", Finding("REINDEX DATABASE")
    elif head == "VACUUM" or (head == "CLUSTER" and len(words) == 1):
        yield "outside", Finding(head)
    elif head in {"CREATE", "DROP"} and second in {"DATABASE", "TABLESPACE", "SUBSCRIPTION"}:
        yield "outside", Finding(f"{head} {second}")
    elif head == "ALTER" and (
        second == "SYSTEM" or (second == "DATABASE" and "TABLESPACE" in words)
    ):
        yield "outside", Finding(f"ALTER {second}")
    elif head == "DISCARD" and second == "ALL":
        yield "outside", Finding("DISCARD ALL")


def _name(tokens: Sequence[Token], index: int) -> tuple[str, int]:
    """A possibly qualified name at a position, and the position behind it."""
    parts: list[str] = []
    while index < len(tokens) and tokens[index].kind in {Kind.WORD, Kind.NAME}:
        parts.append(tokens[index].text)
        index += 1
        if index >= len(tokens) or tokens[index].text != ".":
            break
        index += 1
    return ".".join(parts), index


def _skip(statement: Statement, index: int, *words: str) -> int:
    while statement.word(index) in words:
        index += 1
    return index


def _names(statement: Statement, index: int) -> str:
    """A comma-separated list of names, as text."""
    names: list[str] = []
    while True:
        name, index = _name(statement.tokens, _skip(statement, index, "ONLY"))
        names.append(name)
        if index >= len(statement.tokens) or statement.tokens[index].text != ",":
            return ", ".join(name for name in names if name)
        index += 1


def _cascade(statement: Statement) -> Iterator[_Group]:
    if "CASCADE" in {token.word for token in statement.tokens[-2:]}:
        yield "unclear", Finding("CASCADE", f"of {statement.word(0)} {statement.word(1)}".strip())


def _drop(statement: Statement) -> Iterator[_Group]:
    yield from _cascade(statement)
    phrase = f"{statement.word(1)} {statement.word(2)}"
    for kind in _DATA_KINDS:
        if phrase.startswith(kind) and phrase[len(kind) : len(kind) + 1] in {"", " "}:
            start = _skip(statement, 1 + len(kind.split()), "IF", "EXISTS", "BY")
            yield "destructive", Finding(f"DROP {kind}", _names(statement, start))
            return
    if statement.word(1) in _ACCESS:
        start = _skip(statement, 2, "IF", "EXISTS")
        yield "access", Finding(f"DROP {statement.word(1)}", _names(statement, start))


def _alter(statement: Statement) -> Iterator[_Group]:
    yield from _cascade(statement)
    start = 2 if statement.word(1) != "FOREIGN" else 3
    name, index = _name(statement.tokens, _skip(statement, start, "IF", "EXISTS", "ONLY"))
    if "TABLE" in {statement.word(1), statement.word(2)}:
        for action in _actions(statement.tokens[index:]):
            yield from _table_action(Statement("", action), name)
    elif statement.word(1) == "TYPE" and statement.word(index) == "DROP":
        yield "destructive", Finding("ALTER TYPE DROP ATTRIBUTE", name)


def _actions(tokens: Sequence[Token]) -> Iterator[Sequence[Token]]:
    """The comma-separated actions of `ALTER TABLE`."""
    depth, action = 0, list[Token]()
    for token in tokens:
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if token.text == "," and depth == 0:
            yield action
            action = []
        else:
            action.append(token)
    yield action


def _table_action(action: Statement, table: str) -> Iterator[_Group]:
    verb, second = action.word(0), action.word(1)
    if verb == "DROP" and second not in {"CONSTRAINT", "EXPRESSION"}:
        column, _ = _name(action.tokens, _skip(action, 1, "COLUMN", "IF", "EXISTS"))
        yield "destructive", Finding("DROP COLUMN", f"{table}.{column}")
    elif verb == "ALTER":
        column, index = _name(action.tokens, _skip(action, 1, "COLUMN"))
        if "TYPE" in {action.word(index), action.word(index + 2)}:
            yield "destructive", Finding("ALTER COLUMN TYPE", f"{table}.{column}")
    elif verb in {"ATTACH", "DETACH"}:
        yield "destructive", Finding(f"{verb} PARTITION", table)
    elif (verb, second) in {("DISABLE", "ROW"), ("NO", "FORCE")}:
        yield "access", Finding("DISABLE ROW LEVEL SECURITY", table)


def _truncate(statement: Statement) -> Iterator[_Group]:
    yield from _cascade(statement)
    yield "destructive", Finding("TRUNCATE", _names(statement, _skip(statement, 1, "TABLE")))


def _query(statement: Statement) -> Iterator[_Group]:
    """Statements that read, or change rows: the change may stand anywhere inside."""
    tokens = statement.tokens
    for index, token in enumerate(tokens):
        before, after = statement.word(index - 1), statement.word(index + 1)
        opens = index == 0 or tokens[index - 1].text in {"(", ")"} or before == "ANALYZE"
        called = index + 1 < len(tokens) and tokens[index + 1].text == "("
        if token.word == "DELETE" and after == "FROM":
            yield "destructive", Finding("DELETE", _names(statement, index + 2))
        elif token.word == "UPDATE" and opens:
            yield "destructive", Finding("UPDATE", _names(statement, index + 1))
        elif token.word == "UPDATE" and before == "DO":
            yield "destructive", Finding("ON CONFLICT DO UPDATE")
        elif token.word in {"DELETE", "UPDATE"} and before == "THEN":
            yield "destructive", Finding(f"MERGE ... {token.word}")
        elif token.kind in {Kind.WORD, Kind.NAME} and called and _is_call(statement, index):
            yield "unclear", Finding("call of", token.text)


def _is_call(statement: Statement, index: int) -> bool:
    """Whether a name before a bracket is a function nobody vouches for (and not the table of an `INSERT`)."""
    before = index
    while before > 1 and statement.tokens[before - 1].text == ".":
        before -= 2
    # `INSERT INTO t (...)`, `... AS x (...)`, `WITH name (...)`: names that are given, not called.
    if statement.word(before - 1) in {"INTO", "AS", "WITH", "RECURSIVE"}:
        return False
    return statement.tokens[index].word not in _NO_CALL


def _set(statement: Statement) -> Iterator[_Group]:
    if statement.word(1) not in _PLAIN:
        group = (
            "refused" if "TRANSACTION" in {statement.word(1), statement.word(4)} else "outlasting"
        )
        yield group, Finding(_LOCAL_ONLY, f"{statement.word(0)} {statement.word(1)}".strip())


def _copy(statement: Statement) -> Iterator[_Group]:
    words = [token.word for token in statement.tokens]
    if "STDIN" in words:
        yield "refused", Finding("COPY FROM STDIN")
    elif "PROGRAM" in words or "FROM" in words:
        yield "unclear", Finding("COPY")
    yield from _query(statement)


def _create(statement: Statement) -> Iterator[_Group]:
    # Bodies of routines run later; a query after AS runs now.
    if {"TABLE", "MATERIALIZED"} & {statement.word(1), statement.word(2), statement.word(3)}:
        for index, token in enumerate(statement.tokens):
            if token.word == "AS" and statement.word(index + 1) in {"SELECT", "WITH", "EXECUTE"}:
                yield from _query(Statement("", statement.tokens[index + 1 :]))


def _access(statement: Statement) -> Iterator[_Group]:
    yield "access", Finding(statement.word(0))


def _unclear(statement: Statement) -> Iterator[_Group]:
    name, _ = _name(statement.tokens, 1)
    yield "unclear", Finding(statement.word(0), "" if statement.word(0) == "DO" else name)


def _nothing(_statement: Statement) -> Iterator[_Group]:
    return iter(())


_HANDLERS: dict[str, Callable[[Statement], Iterator[_Group]]] = {
    "DROP": _drop,
    "ALTER": _alter,
    "TRUNCATE": _truncate,
    "CREATE": _create,
    "SET": _set,
    "RESET": _set,
    "DISCARD": _set,
    "COPY": _copy,
    **dict.fromkeys(("SELECT", "WITH", "INSERT", "UPDATE", "DELETE", "MERGE"), _query),
    **dict.fromkeys(("EXPLAIN", "("), _query),
    **dict.fromkeys(("GRANT", "REVOKE", "REASSIGN"), _access),
    **dict.fromkeys(("DO", "CALL", "EXECUTE", "PREPARE", "LOAD"), _unclear),
    **dict.fromkeys(("VACUUM", "REINDEX", "CLUSTER"), _nothing),
}
