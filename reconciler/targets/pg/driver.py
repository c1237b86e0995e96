"""What the database target asks of a driver, and the data that passes between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import JsonValue

from reconciler.targets.base import ApplyContext

Row = Mapping[str, JsonValue]
Direction = Literal["down", "up"]
#: Key of the transaction-level advisory lock that every migration of ours takes in its database, so that two of us
#: never interleave: the first eight bytes of sha256("reconciler/migrations") as a signed number, fixed for ever.
ADVISORY_LOCK = -1_621_633_911_255_758_158
#: Begins the application name of every session of ours that changes the schema.
APPLICATION = "reconciler"


@dataclass(frozen=True, slots=True)
class Limits:
    """How long the server may take.

    Attributes:
        lock: Seconds to wait for a lock.
        statement: Seconds one statement may run.
    """

    lock: float
    statement: float


@dataclass(frozen=True, slots=True)
class Script:
    """One migration script, read and checked.

    Attributes:
        version: Its version.
        direction: Whether it takes the version down or applies it.
        sql: Its text. Never leaves this process but for the database.
        name: The file's name part, as the history keeps it.
        where: The file, for messages.
        empty: Tables (quoted names) it makes whose rows come from a dump: what the script seeds them with is removed.
    """

    version: str
    direction: Direction
    sql: str
    name: str
    where: str
    empty: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stored:
    """What the history keeps of a version besides its number.

    Attributes:
        name: The file's name part, if known.
        rollback: The down script of the `rollback` column, if there is such a column and it is filled.
    """

    name: str | None
    rollback: str | None


@dataclass(frozen=True, slots=True)
class Server:
    """What preflight wants to know of the server.

    Attributes:
        version: `server_version_num`.
        problems: Why nothing can be changed now; empty when it can.
    """

    version: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What scripts would do, seen in a transaction that was rolled back.

    Attributes:
        changes: Rows of the catalog comparison: step, what, kind, schema, name, column, rows, bytes.
        after_undo: Rows of schema, name and column as they would be after taking it all back; None when not tried.
    """

    changes: Sequence[Row]
    after_undo: Sequence[Row] | None


def doing(script: Script) -> str:
    """What running a script is called in messages."""
    return (
        f"{'Taking down' if script.direction == 'down' else 'Applying'} migration {script.version}"
    )


class Driver(Protocol):
    """One way to a PostgreSQL database. All methods translate foreign errors into ours."""

    @property
    def direct(self) -> bool:
        """Whether it holds a session of its own (COPY, explicit transactions)."""

    def history(self) -> Mapping[str, str | None]:
        """Applied versions with the fingerprint of their stored statements; one round trip after connecting."""

    def stored(self, versions: Sequence[str]) -> Mapping[str, Stored]:
        """What the history keeps of some versions."""

    def server(self) -> Server:
        """Whether the server can be written to."""

    def rehearse(
        self, scripts: Sequence[Script], undo: Sequence[Script], limits: Limits
    ) -> Rehearsal:
        """Runs scripts, then those that take them back, in one transaction, and rolls it back.

        Raises:
            PreflightError: A script fails; names its file. Nothing was changed.
        """

    def migrate(self, script: Script, limits: Limits, tag: str, context: ApplyContext) -> bool:
        """One version in one transaction: guard, script, history row. Nothing changes on any error.

        Returns:
            False when the history already says so; nothing was done then.

        Raises:
            OutcomeUnknownError: The answer to the commit was lost.
        """

    def migrate_outside(
        self, script: Script, limits: Limits, tag: str, context: ApplyContext
    ) -> bool:
        """One statement that cannot run in a transaction, then the history row; otherwise as `migrate`."""

    def busy(self, tag: str) -> bool:
        """Whether a session of that application name is still at work."""

    def query(self, sql: str, context: ApplyContext | None = None) -> Sequence[Row]:
        """Runs text in one implicit transaction; rows of the last statement that gives any. For reading."""

    def snapshot(self, context: ApplyContext) -> AbstractContextManager[Snapshot]:
        """A consistent look at tables, for as long as the context is open."""

    def put_back(self, back: RowsBack, context: ApplyContext) -> int:
        """Merges dumped rows into their table and checks each; gives how many of them were left to differ."""


class Snapshot(Protocol):
    """A consistent look at tables."""

    def query(self, sql: str) -> Sequence[Row]:
        """Reads rows as JSON-like values."""

    def copy(self, relation: str, columns: Sequence[str]) -> Iterator[bytes]:
        """The rows of a table in COPY's text format, in pieces."""


@dataclass(frozen=True, slots=True)
class RowsBack:
    """A dump to be merged into its table.

    Attributes:
        relation: Quoted, qualified name.
        columns: Column names in the file, in order.
        types: Their SQL types.
        key: Columns that identify a row; empty when there are none.
        lost: Columns whose values are set in rows that are still there; empty unless some columns were lost.
        mode: `table` (all of it was lost), `columns`, or `rows` (some rows were lost).
        pieces: The file's bytes; can be begun again.
        sequences: Last value and whether it was handed out, by column.
    """

    relation: str
    columns: Sequence[str]
    types: Sequence[str]
    key: Sequence[str]
    lost: Sequence[str]
    mode: str
    pieces: Pieces
    sequences: Mapping[str, tuple[int, bool]]


class Pieces(Protocol):
    """A file that can be read from its beginning as often as needed."""

    def __call__(self) -> Iterator[bytes]:
        """Its bytes in pieces."""
