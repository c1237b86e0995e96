"""The SQL both drivers send: history, guard, catalog snapshots. Text only: session and API share it."""

# ruff: noqa: S608 - SQL is built here from quoted names and literals; see `name` and `literal`

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reconciler.core.migrations import is_version
from reconciler.core.sqlsplit import stored, unwrapped
from reconciler.targets.pg import sqlstate
from reconciler.targets.pg.driver import ADVISORY_LOCK, Limits, Row, Script, Server

HISTORY = "supabase_migrations.schema_migrations"
#: The md5 is taken over what `core.migrations.fingerprint` takes of a file.
READ_HISTORY = rf"""
SELECT version, pg_catalog.md5(pg_catalog.convert_to(pg_catalog.translate(
    pg_catalog.array_to_string(statements, ''), E'; \t\r\n\f\x0B', ''), 'UTF8')) AS fingerprint
FROM {HISTORY} WHERE version ~ '^[0-9]+$'"""
#: A history that has nothing but versions.
READ_VERSIONS = (
    f"SELECT version, NULL::text AS fingerprint FROM {HISTORY} WHERE version ~ '^[0-9]+$'"
)
READ_SERVER = """
SELECT pg_catalog.current_setting('server_version_num')::int AS version,
       pg_catalog.pg_is_in_recovery() AS standby,
       pg_catalog.current_setting('transaction_read_only') = 'on' AS read_only,
       pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMP') AS temp"""


def server(row: Row) -> Server:
    """What the answer to `READ_SERVER` means."""
    problems = []
    if row["standby"]:
        problems.append("The database is a standby, which is read-only.")
    elif row["read_only"]:
        problems.append("The database is in read-only mode.")
    elif not row["temp"]:
        problems.append("The role may not make temporary tables, which the dry run needs.")
    return Server(int(str(row["version"])), tuple(problems))


#: Text forms that do not depend on the session, so that a dump and its reading back agree.
PLAIN_FORMS = """
SET LOCAL DateStyle = ISO; SET LOCAL IntervalStyle = postgres; SET LOCAL TimeZone = UTC;
SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = hex; SET LOCAL row_security = off;
SET LOCAL client_encoding = UTF8;"""


def literal(text: str) -> str:
    """A string constant; the same whatever `standard_conforming_strings` says."""
    quoted = text.replace("'", "''")
    return f" E'{quoted}'".replace("\\", "\\\\") if "\\" in quoted else f"'{quoted}'"


def name(*parts: str) -> str:
    """A quoted, qualified name."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def names(columns: Iterable[str], prefix: str = "") -> str:
    """Quoted names, separated by commas."""
    return ", ".join(prefix + name(column) for column in columns)


def version_literal(version: str) -> str:
    """A version as a constant; digits only, whatever the caller let through."""
    if not is_version(version):
        raise ValueError(f"not a migration version: {version!r}")
    return f"'{version}'"


def limits_sql(limits: Limits, tag: str) -> str:
    """Limits that hold for this transaction only."""
    return (
        f"SET LOCAL lock_timeout = {int(limits.lock * 1000)};"
        f" SET LOCAL statement_timeout = {int(limits.statement * 1000)};"
        " SET LOCAL idle_in_transaction_session_timeout = 60000;"
        f" SET LOCAL application_name = {literal(tag)};"
    )


def session_limits_sql(limits: Limits) -> str:
    """Limits for a session that will not have a transaction around its statement."""
    return f"SET lock_timeout = {int(limits.lock * 1000)}; SET statement_timeout = {int(limits.statement * 1000)}"


def invalid_index_sql(index: str) -> str:
    """A row when an index of that name is there and was never finished."""
    return (
        "SELECT 1 AS invalid FROM pg_catalog.pg_index"
        f" WHERE indexrelid = pg_catalog.to_regclass({literal(index)}) AND NOT indisvalid"
    )


def _raise(state: str, message: str) -> str:
    return f"RAISE EXCEPTION USING ERRCODE = '{state}', MESSAGE = {literal(message)};"


def _ensure_column(column: str, kind: str) -> str:
    return f"""
  IF NOT EXISTS (SELECT 1 FROM pg_catalog.pg_attribute WHERE attname = '{column}' AND NOT attisdropped
                 AND attrelid = pg_catalog.to_regclass('{HISTORY}')) THEN
    ALTER TABLE {HISTORY} ADD COLUMN {column} {kind};
  END IF;"""


#: The three columns of the Supabase CLI; asks for ownership only where something is missing.
_CREATE_HISTORY = f"""
  IF pg_catalog.to_regclass('{HISTORY}') IS NULL THEN
    CREATE SCHEMA IF NOT EXISTS supabase_migrations;
    CREATE TABLE {HISTORY} (version text NOT NULL PRIMARY KEY);
  END IF;{_ensure_column("statements", "text[]")}{_ensure_column("name", "text")}"""


def guard_sql(script: Script) -> str:
    """Takes our lock, and makes sure that history is where the plan believes it to be."""
    version = version_literal(script.version)
    later = f"(length(version), version) > (length({version}), {version})"
    head = f"""
  IF NOT pg_catalog.pg_try_advisory_xact_lock({ADVISORY_LOCK}) THEN
    {_raise(sqlstate.LOCK_TAKEN, "the advisory lock of the migrations is taken")}
  END IF;"""
    if script.direction == "down":
        body = f"""
  PERFORM 1 FROM {HISTORY} WHERE version = {version} FOR UPDATE;
  IF NOT FOUND THEN
    {_raise(sqlstate.ROW_ABSENT, f"migration {script.version} is not in the history")}
  END IF;
  IF EXISTS (SELECT 1 FROM {HISTORY} WHERE version ~ '^[0-9]+$' AND {later}) THEN
    {_raise(sqlstate.NOT_NEWEST, f"migration {script.version} is not the newest applied any more")}
  END IF;"""
        return f"DO $guard$ BEGIN{head}{body}\nEND $guard$;"
    body = f"""
  IF EXISTS (SELECT 1 FROM {HISTORY} WHERE version = {version}) THEN
    {_raise(sqlstate.ROW_PRESENT, f"migration {script.version} is in the history already")}
  END IF;"""
    absent = _absent_sql(script.empty)
    return f"DO $guard$ BEGIN{head}{_CREATE_HISTORY}{body}{absent}\nEND $guard$;"


def script_sql(script: Script) -> str:
    """The script on lines of its own; it may end in a comment or lack its last semicolon."""
    sql = unwrapped(script.sql) if script.direction == "up" else script.sql
    return f"\n{sql}\n;\n{_emptied(script.empty)}"


def _absent_sql(tables: Sequence[str]) -> str:
    """Remembers, for this transaction, which of the tables do not exist yet."""
    if not tables:
        return ""
    array = ", ".join(literal(table) for table in tables)
    return f"""
  PERFORM pg_catalog.set_config('reconciler.absent', COALESCE((SELECT pg_catalog.jsonb_agg(t)::text
    FROM pg_catalog.unnest(ARRAY[{array}]) t WHERE pg_catalog.to_regclass(t) IS NULL), '[]'), true);"""


def _emptied(tables: Sequence[str]) -> str:
    """Takes seeds out of tables the script has just made, whose rows come back from a dump.

    Seeds that other rows refer to stay; they are merged with the dump.
    """
    return "".join(
        f"DO $seed$ BEGIN IF pg_catalog.current_setting('reconciler.absent')::jsonb ? {literal(table)}"
        f" AND pg_catalog.to_regclass({literal(table)}) IS NOT NULL THEN DELETE FROM {table}; END IF;"
        " EXCEPTION WHEN foreign_key_violation THEN NULL; END $seed$;\n"
        for table in tables
    )


def row_sql(script: Script) -> str:
    """Moves the history by exactly one row."""
    version = version_literal(script.version)
    if script.direction == "down":
        change = f"DELETE FROM {HISTORY} WHERE version = {version}"
    else:
        array = ", ".join(literal(text) for text in stored(script.sql))
        change = (
            f"INSERT INTO {HISTORY} (version, statements, name)"
            f" VALUES ({version}, ARRAY[{array}]::text[], {literal(script.name)})"
        )
    tag = _free_tag(change)
    return f"""DO {tag} DECLARE moved bigint; BEGIN
  {change};
  GET DIAGNOSTICS moved = ROW_COUNT;
  IF moved <> 1 THEN {_raise(sqlstate.ROW_COUNT, f"the history row of {script.version} moved by itself")} END IF;
END {tag};
NOTIFY pgrst, 'reload schema';
SELECT 'moved' AS reconciler, {version} AS version;"""


def _free_tag(text: str) -> str:
    """A dollar quote that does not occur in a text."""
    number = 0
    while f"$row{number}$" in text:
        number += 1
    return f"$row{number}$"


def stored_sql(versions: Sequence[str]) -> str:
    """Name and down script of versions; columns that not every history has are asked for by way of JSON."""
    wanted = ", ".join(version_literal(version) for version in versions)
    return f"""
SELECT h.version, r.row ->> 'name' AS name,
       CASE pg_catalog.jsonb_typeof(r.row -> 'rollback') WHEN 'array' THEN
         (SELECT pg_catalog.string_agg(part, E';\\n')
            FROM pg_catalog.jsonb_array_elements_text(r.row -> 'rollback') part)
       END AS rollback
FROM {HISTORY} h, LATERAL (SELECT pg_catalog.to_jsonb(h) AS row) r WHERE h.version IN ({wanted})"""


def busy_sql(tag: str) -> str:
    """Whether a session of that name works."""
    return (
        "SELECT count(*) AS busy FROM pg_catalog.pg_stat_activity WHERE application_name ="
        f" {literal(tag)} AND pid <> pg_catalog.pg_backend_pid() AND state <> 'idle'"
    )


_FOREIGN = "n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'supabase_migrations')"
_CATALOG = "pg_temp.reconciler_catalog"
BEGIN_SNAPSHOTS = """
CREATE TEMP TABLE reconciler_catalog (step int, kind text, id oid, sub int, schema text, name text, col text,
  shape text, estimate bigint, bytes bigint, main bigint, file oid, changed bigint, parent oid) ON COMMIT DROP;"""


def snapshot_sql(step: int) -> str:
    """Writes down what exists now: tables and columns with all that tells a loss, other objects by name."""
    return f"""
INSERT INTO {_CATALOG} (step, kind, id, sub) VALUES ({step}, 'step', 0, 0);
INSERT INTO {_CATALOG}
SELECT {step}, CASE c.relkind WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' ELSE 'table' END,
       c.oid, 0, n.nspname, c.relname, NULL, NULL, c.reltuples, pg_catalog.pg_table_size(c.oid),
       pg_catalog.pg_relation_size(c.oid), pg_catalog.pg_relation_filenode(c.oid),
       pg_catalog.pg_stat_get_xact_tuples_updated(c.oid) + pg_catalog.pg_stat_get_xact_tuples_deleted(c.oid),
       CASE WHEN c.relispartition THEN
         (SELECT inhparent FROM pg_catalog.pg_inherits WHERE inhrelid = c.oid LIMIT 1) END
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'm', 'f') AND {_FOREIGN}
UNION ALL
SELECT {step}, 'column', c.oid, a.attnum, n.nspname, c.relname, a.attname,
       pg_catalog.format_type(a.atttypid, a.atttypmod), c.reltuples, NULL, NULL, NULL, NULL, NULL
  FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND NOT c.relispartition
   AND c.relkind IN ('r', 'p') AND {_FOREIGN}
UNION ALL
SELECT {step}, CASE c.relkind WHEN 'S' THEN 'sequence' WHEN 'v' THEN 'view' ELSE 'index' END,
       c.oid, 0, n.nspname, c.relname, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('S', 'v', 'i', 'I') AND {_FOREIGN}
UNION ALL
SELECT {step}, 'function', p.oid, 0, n.nspname, p.proname, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE {_FOREIGN}
UNION ALL
SELECT {step}, 'policy', p.oid, 0, n.nspname, c.relname, p.polname, NULL, NULL, NULL, NULL, NULL, NULL, NULL
  FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class c ON c.oid = p.polrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE {_FOREIGN}
UNION ALL
SELECT {step}, 'trigger', t.oid, 0, n.nspname, c.relname, t.tgname, NULL, NULL, NULL, NULL, NULL, NULL, NULL
  FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE NOT t.tgisinternal AND {_FOREIGN};"""


#: What each step took away, altered or emptied, against the snapshot before it.
CHANGES = f"""
SELECT a.step, 'gone' AS what, a.kind, a.schema, a.name, a.col, a.estimate, a.bytes
  FROM {_CATALOG} a LEFT JOIN {_CATALOG} b
    ON b.step = a.step + 1 AND (b.kind, b.id, b.sub) = (a.kind, a.id, a.sub)
 WHERE b.step IS NULL AND a.step < (SELECT max(step) FROM {_CATALOG})
   AND (a.kind <> 'column' OR EXISTS (
     SELECT 1 FROM {_CATALOG} t WHERE t.step = a.step + 1 AND t.kind = 'table' AND t.id = a.id))
   AND NOT (a.parent IS NOT NULL AND NOT EXISTS (
     SELECT 1 FROM {_CATALOG} p WHERE p.step = a.step + 1 AND p.kind = 'table' AND p.id = a.parent))
UNION ALL
SELECT a.step, 'altered', a.kind, a.schema, a.name, a.col, a.estimate, a.bytes
  FROM {_CATALOG} a JOIN {_CATALOG} b ON b.step = a.step + 1 AND (b.kind, b.id, b.sub) = (a.kind, a.id, a.sub)
 WHERE a.kind = 'column' AND a.shape <> b.shape
UNION ALL
SELECT a.step, 'rows', a.kind, a.schema, a.name, NULL, greatest(b.changed - a.changed, 0), a.bytes
  FROM {_CATALOG} a JOIN {_CATALOG} b ON b.step = a.step + 1 AND (b.kind, b.id, b.sub) = (a.kind, a.id, a.sub)
 WHERE a.kind = 'table' AND (b.changed > a.changed OR (a.file <> b.file AND a.main > 0 AND b.main = 0))
ORDER BY 1, 2, 3, 4, 5, 6"""
SHAPE = f"""
SELECT n.nspname AS schema, c.relname AS name, a.attname AS col
  FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p') AND {_FOREIGN}"""
