"""SQL through the Management API's query route: each request one implicit transaction on some connection.

The same rules as on a connection of one's own, put into one guarded text a migration. Dumps, and the way back of rows,
work page by page; a direct connection does both better, and is used where the spec names one.
"""

# ruff: noqa: S608 - SQL is built here from quoted names and literals; see `name` and `literal`

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from pydantic import TypeAdapter

from reconciler.core.crashpoints import CrashPoint
from reconciler.core.errors import (
    OutcomeUnknownError,
    PreflightError,
    ReconcilerError,
    StepFailedError,
    TransientError,
)
from reconciler.targets.base import ApplyContext
from reconciler.targets.pg import rows as merging
from reconciler.targets.pg import sqlstate, texts
from reconciler.targets.pg.copytext import decode, encode, lines
from reconciler.targets.pg.driver import (
    APPLICATION,
    Limits,
    Rehearsal,
    Row,
    RowsBack,
    Script,
    Server,
    Snapshot,
    Stored,
    doing,
)
from reconciler.targets.pg.management import ManagementApi, SqlFailedError
from reconciler.targets.pg.outside import already_done, half_built_index

#: The platform cuts calls after about a minute.
_MOST_SECONDS = 50.0
#: A page of a dump: so many blocks where rows are small; where values may lie outside, so many bytes and rows.
_BLOCKS, _PAGE_BYTES, _PAGE_ROWS = 64, 512 * 1024, 20_000
_TOASTED = 2000
_BATCH_BYTES, _BATCH_ROWS = 256 * 1024, 1000
_PASSES = 10
_ROWS: TypeAdapter[list[Row]] = TypeAdapter(list[Row])
_FOREIGN_KEY = "23503"
_TOO_SLOW = "57014"


class ApiDriver:
    """The SQL part of a driver over the Management API.

    Args:
        api: The project.
    """

    direct = False

    def __init__(self, api: ManagementApi) -> None:
        self._api = api

    # --- looking --------------------------------------------------------------------------------

    def history(self) -> Mapping[str, str | None]:
        """Applied versions with the fingerprint of their stored statements."""
        try:
            rows: Sequence[Row] = self._ask(texts.READ_HISTORY)
        except SqlFailedError as exc:
            if exc.state in sqlstate.NO_HISTORY:
                return {}
            if exc.state != sqlstate.NO_COLUMN:
                raise _translated(exc, "Reading the migration history") from exc
            rows = self.query(texts.READ_VERSIONS)
        return {str(row["version"]): _text(row["fingerprint"]) for row in rows}

    def stored(self, versions: Sequence[str]) -> Mapping[str, Stored]:
        """What the history keeps of some versions."""
        if not versions:
            return {}
        rows = self.query(texts.stored_sql(versions))
        return {
            str(row["version"]): Stored(_text(row["name"]), _text(row["rollback"])) for row in rows
        }

    def server(self) -> Server:
        """Whether the server can be written to."""
        return texts.server(self.query(texts.READ_SERVER)[0])

    def busy(self, tag: str) -> bool:
        """Whether a session of that application name is still at work."""
        return bool(self.query(texts.busy_sql(tag))[0]["busy"])

    def query(self, sql: str, context: ApplyContext | None = None) -> Sequence[Row]:
        """Runs text in one implicit transaction; rows of the last statement that gives any. For reading."""
        try:
            return self._ask(sql, context)
        except SqlFailedError as exc:
            raise _translated(exc, "Reading the database") from exc

    def _ask(self, sql: str, context: ApplyContext | None = None) -> list[Row]:
        answer = self._api.post("/database/query", {"query": sql}, writes=False, context=context)
        return _ROWS.validate_python(answer or [])

    # --- rehearsing -----------------------------------------------------------------------------

    def rehearse(
        self, scripts: Sequence[Script], undo: Sequence[Script], limits: Limits
    ) -> Rehearsal:
        """Runs scripts, then those that take them back, in texts that end in an error and so undo themselves."""
        parts = [texts.BEGIN_SNAPSHOTS, texts.snapshot_sql(0)]
        for step, script in enumerate(scripts, 1):
            parts += [texts.script_sql(script), texts.snapshot_sql(step)]
        changes = self._rehearsed("".join(parts), texts.CHANGES, limits)
        if isinstance(changes, SqlFailedError):
            raise self._blamed(changes, (), scripts, "would fail", limits)
        if not undo:
            return Rehearsal(changes, None)
        both = "".join(texts.script_sql(script) for script in (*scripts, *undo))
        after = self._rehearsed(both, texts.SHAPE, limits)
        if isinstance(after, SqlFailedError):
            if after.state == _TOO_SLOW:  # taken together they pass the platform's limit
                return Rehearsal(changes, None)
            raise self._blamed(after, scripts, undo, "would fail on the way back", limits)
        return Rehearsal(changes, after)

    def _rehearsed(self, sql: str, result: str, limits: Limits) -> list[Row] | SqlFailedError:
        """Runs text, reads a result, and fails on purpose: the result travels in the error."""
        text = (
            texts.limits_sql(_capped(limits), f"{APPLICATION}/dry-run")
            + sql
            + f"""
DO $rehearsed$ DECLARE found text; BEGIN
  SELECT COALESCE(pg_catalog.jsonb_agg(q), '[]')::text INTO found FROM ({result}) q;
  RAISE EXCEPTION USING ERRCODE = '{sqlstate.REHEARSED}', MESSAGE = found;
END $rehearsed$;"""
        )
        try:
            self._ask(text)
        except SqlFailedError as exc:
            if exc.state != sqlstate.REHEARSED:
                return exc
            return _ROWS.validate_json(exc.primary)
        raise StepFailedError(
            "The dry run was not undone by the platform.",
            hint="Look at the database before going on.",
        )

    def _blamed(
        self,
        failure: SqlFailedError,
        before: Sequence[Script],
        scripts: Sequence[Script],
        verdict: str,
        limits: Limits,
    ) -> ReconcilerError:
        """Finds the script that fails by running ever more of them."""
        first = _translated(failure, "The dry run")
        if isinstance(first, TransientError):
            return first
        for count, script in enumerate(scripts, 1):
            text = "".join(texts.script_sql(one) for one in (*before, *scripts[:count]))
            again = self._rehearsed(text, "SELECT 1 AS done", limits)
            if isinstance(again, SqlFailedError):
                said = sqlstate.primary(again.state, again.primary)
                line = again.line - 1 - text.count("\n") + texts.script_sql(script).count("\n")
                where = f"{script.where}, line {line}" if again.line else script.where
                return PreflightError(
                    f"{where} {verdict} ({again.state}): {said}. Nothing was changed.",
                    hint=_translated(again, "The dry run").hint,
                )
        return first

    # --- changing -------------------------------------------------------------------------------

    def migrate(self, script: Script, limits: Limits, tag: str, context: ApplyContext) -> bool:
        """One version in one guarded text; False when the history already says so."""
        text = (
            texts.limits_sql(_capped(limits), tag)
            + texts.guard_sql(script)
            + texts.script_sql(script)
            + texts.row_sql(script)
        )
        context.at(CrashPoint.MID_EFFECT)
        return self._move(script, text, context)

    def migrate_outside(
        self, script: Script, limits: Limits, tag: str, context: ApplyContext
    ) -> bool:
        """One statement that cannot run in a transaction, then the history row; not atomic, but can be resumed."""
        if (script.version in self.history()) == (script.direction == "up"):
            return False
        leftover = half_built_index(script.sql)
        if leftover and self.query(texts.invalid_index_sql(leftover)):
            self._send(f"DROP INDEX CONCURRENTLY {leftover}", script, context)
        try:
            self._send(script.sql, script, context)
        except SqlFailedError as exc:
            if not (context.attempted and already_done(exc.state, script.sql)):
                raise _translated(exc, f"{doing(script)} ({script.where})") from exc
        context.at(CrashPoint.MID_EFFECT)
        text = (
            texts.limits_sql(_capped(limits), tag) + texts.guard_sql(script) + texts.row_sql(script)
        )
        return self._move(script, text, context)

    def _send(self, sql: str, script: Script, context: ApplyContext) -> None:
        context.guard()
        try:
            self._api.post("/database/query", {"query": sql}, context=context)
        except SqlFailedError as exc:
            if sqlstate.connection_lost(exc.state):
                raise _translated(exc, doing(script), outcome_known=False) from exc
            raise

    def _move(self, script: Script, text: str, context: ApplyContext) -> bool:
        context.guard()
        try:
            answer = self._api.post(
                "/database/query",
                {"query": text},
                context=context,
                answered=lambda: context.at(CrashPoint.APPLIED_UNREAD),
            )
        except SqlFailedError as exc:
            if exc.state in {sqlstate.ROW_ABSENT, sqlstate.ROW_PRESENT}:
                return False
            if (
                exc.state in sqlstate.NO_HISTORY
                and texts.HISTORY in exc.primary
                and script.direction == "down"
            ):
                return False
            where = f"{doing(script)} ({script.where})"
            raise _translated(exc, where, outcome_known=False) from exc
        rows = _ROWS.validate_python(answer or [])
        if [dict(row) for row in rows] != [{"reconciler": "moved", "version": script.version}]:
            raise OutcomeUnknownError(
                f"{doing(script)} was answered in an unexpected way; looking will tell."
            )
        return True

    # --- rows -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def snapshot(self, context: ApplyContext) -> Iterator[Snapshot]:
        """A look at tables page by page; whoever reads compares before and after."""
        yield _PagedSnapshot(self, context)

    def put_back(self, back: RowsBack, context: ApplyContext) -> int:
        """Merges dumped rows batch by batch; a batch whose parents come later is tried again after them."""
        failed = -1
        for _ in range(_PASSES):
            differing, waiting, last = self._pass(back, context)
            if not waiting:
                context.at(CrashPoint.APPLIED_UNREAD)
                return differing
            if waiting == failed and last is not None:
                raise _translated(last, f"Putting back rows of {back.relation}") from last
            failed = waiting
        raise StepFailedError(
            f"Rows of {back.relation} refer to each other too deeply to be put back in batches.",
            hint="Name a direct connection in spec.database.supabase.dsnFrom.",
        )

    def _pass(
        self, back: RowsBack, context: ApplyContext
    ) -> tuple[int, int, SqlFailedError | None]:
        differing = waiting = 0
        last: SqlFailedError | None = None
        for batch in _batches(back):
            context.at(CrashPoint.MID_EFFECT)
            context.guard()
            text = (
                texts.PLAIN_FORMS
                + merging.quiet_sql(back)
                + merging.merge_sql(back, batch)
                + merging.sequences_sql(back)
                + merging.loud_sql()
                + merging.differing_sql(back, batch)
            )
            try:
                answer = self._api.post("/database/query", {"query": text}, context=context)
            except SqlFailedError as exc:
                if exc.state != _FOREIGN_KEY:
                    raise _translated(exc, f"Putting back rows of {back.relation}") from exc
                waiting, last = waiting + 1, exc
                continue
            (count,) = _ROWS.validate_python(answer)
            if int(str(count["wrong"])):
                raise StepFailedError(
                    f"{count['wrong']} rows of {back.relation} did not come back as they were dumped."
                )
            differing += int(str(count["differing"]))
        return differing, waiting, last


class _PagedSnapshot:
    """Reads tables in pages, by the place of their rows."""

    def __init__(self, driver: ApiDriver, context: ApplyContext) -> None:
        self._driver = driver
        self._context = context

    def query(self, sql: str) -> Sequence[Row]:
        return self._driver.query(texts.PLAIN_FORMS + sql, self._context)

    def copy(self, relation: str, columns: Sequence[str]) -> Iterator[bytes]:
        """Rows by ranges of blocks, so that each request reads only its own part of the table."""
        values = ", ".join(f"{texts.name(column)}::text" for column in columns)
        for leaf, blocks in self._leaves(relation):
            wide = f"SELECT COALESCE(pg_catalog.max(pg_catalog.pg_column_size(t.*)), 0) AS widest FROM ONLY {leaf} t"
            widest = int(str(self.query(wide)[0]["widest"]))
            step = _BLOCKS if widest < _TOASTED else 1
            limit = max(1, _PAGE_BYTES // (2 * widest + 1)) if step == 1 else _PAGE_ROWS
            rows = f"SELECT ctid::text AS place, ARRAY[{values}]::text[] AS row FROM ONLY {leaf}"
            for block in range(0, blocks, step):
                yield from self._range(rows, f"({block},0)", f"({block + step},0)", limit)

    def _leaves(self, relation: str) -> list[tuple[str, int]]:
        """The tables that hold the rows, with their sizes in blocks."""
        name = texts.literal(relation.removeprefix("ONLY "))
        found = self.query(f"""
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS leaf,
       pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::int AS blocks
  FROM (SELECT relid FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass({name})) WHERE isleaf
        UNION SELECT pg_catalog.to_regclass({name})) p
  JOIN pg_catalog.pg_class c ON c.oid = p.relid AND c.relkind = 'r'
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace ORDER BY 1""")
        return [(str(row["leaf"]), int(str(row["blocks"]))) for row in found if "leaf" in row]

    def _range(self, select: str, first: str, end: str, limit: int) -> Iterator[bytes]:
        """The rows between two places, a page at a time."""
        while True:
            rows = self.query(
                f"{select} WHERE ctid > '{first}' AND ctid < '{end}' ORDER BY ctid LIMIT {limit}"
            )
            if not rows or "place" not in rows[0]:
                return
            yield b"".join(encode(_values(row["row"])) for row in rows)
            if len(rows) < limit:
                return
            first = str(rows[-1]["place"])


def _values(row: object) -> list[str | None]:
    return TypeAdapter(list[str | None]).validate_python(row)


def _batches(back: RowsBack) -> Iterator[str]:
    """The dump as typed row sources, small enough for a request; one without rows when it is empty."""
    batch: list[str] = []
    size = 0
    count = 0
    for line in lines(back.pieces()):
        values = ", ".join("NULL" if v is None else texts.literal(v) for v in decode(line))
        batch.append(f"({values})")
        size += len(line)
        if back.key and (size >= _BATCH_BYTES or len(batch) >= _BATCH_ROWS):
            count += 1
            yield _source(back, batch)
            batch, size = [], 0
    if batch or not count:
        yield _source(back, batch)


def _source(back: RowsBack, batch: Sequence[str]) -> str:
    numbered = [f"c{index}" for index in range(len(back.columns))]
    values = ", ".join(batch) or f"({', '.join('NULL' for _ in numbered)})"
    typed = ", ".join(
        f"v.{number}::text::{kind} AS {texts.name(column)}"
        for number, kind, column in zip(numbered, back.types, back.columns, strict=True)
    )
    none = "" if batch else " WHERE false"
    return f"(SELECT {typed} FROM (VALUES {values}) v ({', '.join(numbered)}){none})"


def _capped(limits: Limits) -> Limits:
    return Limits(min(limits.lock, _MOST_SECONDS), min(limits.statement, _MOST_SECONDS))


def _translated(exc: SqlFailedError, what: str, *, outcome_known: bool = True) -> ReconcilerError:
    return sqlstate.translate(exc.state, exc.primary, what, outcome_known=outcome_known)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
