"""The journal: the only writer of the ledger. Entry, status and the check of the lease are one transaction.

Listeners (progress, state file) are told after the commit, never before, so they report only what is truly on record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from pydantic import JsonValue, TypeAdapter
from sqlalchemy import Connection, bindparam, func, insert, select, update

from reconciler.audit.database import Database
from reconciler.audit.glance import stored_status
from reconciler.audit.hashes import leaf_hash
from reconciler.audit.lease import Lease
from reconciler.audit.plain import plain_body, plain_text
from reconciler.audit.tables import EnvironmentRow, LedgerRow, utc_text
from reconciler.core.clock import Clock
from reconciler.core.conditions import Reason
from reconciler.core.entry import Entry, EntryKind, Origin
from reconciler.core.errors import LeaseLostError
from reconciler.core.machine import fire
from reconciler.core.phase import Phase, Trigger
from reconciler.core.projection import project
from reconciler.core.redact import Redactor
from reconciler.core.status import EnvironmentStatus

_ledger = LedgerRow.__table__  # type: ignore[attr-defined]
_environments = EnvironmentRow.__table__  # type: ignore[attr-defined]
_JSON: TypeAdapter[Mapping[str, JsonValue]] = TypeAdapter(Mapping[str, JsonValue])

# Built once: building a statement takes longer than running it, and each write waits while services are down.
_NEWEST = select(func.coalesce(func.max(_ledger.c.seq), 0))
_APPEND = insert(_ledger)
_STORE = (
    update(_environments)
    .where(
        _environments.c.name == bindparam("environment"),
        _environments.c.phase == bindparam("believed"),
    )
    .values(phase=bindparam("entered"), status=bindparam("projected"))
)


class Listener(Protocol):
    """Is told of each entry once it is on record."""

    def recorded(self, entry: Entry, status: EnvironmentStatus) -> None:
        """Called after the commit, with the status the entry led to."""


class Journal:
    """Writes one environment's entries while its lease is held.

    Args:
        database: The ledger's database.
        lease: The held lease; every write checks it.
        status: The status at the time the lease was taken (`read_status`).
        actor: Who acts (`user@host`).
        origin: Through which door.
        redactor: Takes secrets out of everything that is written.
        clock: The clock.
        listeners: Told of each entry after it is committed.
    """

    def __init__(
        self,
        database: Database,
        lease: Lease,
        status: EnvironmentStatus,
        *,
        actor: str,
        origin: Origin,
        redactor: Redactor,
        clock: Clock,
        listeners: tuple[Listener, ...] = (),
    ) -> None:
        self._database, self._lease, self._clock = database, lease, clock
        self._actor, self._origin, self._redactor = actor, origin, redactor
        self._listeners = listeners
        self.status = status

    def guard(self) -> None:
        """Raises LeaseLostError when this process may no longer act."""
        self._lease.guard()

    def write(
        self,
        kind: EntryKind,
        reason: Reason,
        body: Mapping[str, Any],
        *,
        generation: int | None = None,
        run: str | None = None,
        target: str | None = None,
        effect: str | None = None,
    ) -> None:
        """Records an entry that moves nothing.

        Raises:
            LeaseLostError: The lease is no longer ours; nothing was written.
            LedgerError: The database refused; nothing was written.
        """
        self._append(
            kind, reason, body, generation, run=run or self._run_id(), target=target, effect=effect
        )

    def move(
        self,
        trigger: Trigger,
        reason: Reason,
        body: Mapping[str, Any],
        *,
        generation: int | None = None,
        run: str | None = None,
    ) -> Phase:
        """Moves the environment by a trigger of the table and records it, in one transaction.

        Returns:
            The phase it is in now.

        Raises:
            IllegalMoveError: The table has no such move (a bug).
            LeaseLostError: The lease is no longer ours, or the phase is not what we believed; nothing was written.
            LedgerError: The database refused; nothing was written.
        """
        source = self.status.phase
        dest = fire(source, trigger)
        self._append(
            EntryKind.TRANSITION,
            reason,
            body,
            generation,
            run=run or self._run_id(),
            from_state=source,
            trigger=trigger,
            to_state=dest,
        )
        return dest

    def _run_id(self) -> str | None:
        run = self.status.run
        return run.id if run and run.finished is None else None

    def _append(
        self,
        kind: EntryKind,
        reason: Reason,
        body: Mapping[str, Any],
        generation: int | None,
        **columns: Any,
    ) -> None:
        entry = Entry(
            environment=self.status.environment,
            at=self._clock.now(),
            kind=kind,
            actor=plain_text(self._actor),
            origin=self._origin,
            reason=reason,
            generation=self.status.generation if generation is None else generation,
            body=self._redactor.json(plain_body(_JSON.validate_python(body))),
            **columns,
        )
        status = project(self.status, entry)
        with self._database.writing() as connection:
            self._lease.check(connection)
            append(connection, entry)
            self._store(connection, status)
        self.status = status
        for listener in self._listeners:
            try:
                listener.recorded(entry, status)
            except (
                OSError
            ):  # what shows things has lost its stream: production does not wait for that
                self._listeners = tuple(item for item in self._listeners if item is not listener)

    def _store(self, connection: Connection, status: EnvironmentStatus) -> None:
        stored = connection.execute(
            _STORE,
            {
                "environment": status.environment,
                "believed": self.status.phase.value,
                "entered": status.phase.value,
                "projected": status.model_dump_json(),
            },
        )
        if stored.rowcount != 1:
            raise LeaseLostError(
                f"{status.environment} is not in phase {self.status.phase} as this process believed; nothing was"
                " written.",
                hint="Run `reconciler status` to see where it stands.",
            )


def append(connection: Connection, entry: Entry) -> int:
    """Adds an entry at the end of the ledger, inside the caller's transaction.

    Returns:
        Its sequence number: one more than the last, without gaps.
    """
    seq = int(connection.execute(_NEWEST).scalar_one()) + 1
    columns = entry_columns(seq, entry)
    hashed: dict[str, JsonValue] = {**columns, "at": utc_text(entry.at)}
    connection.execute(_APPEND, {**columns, "leaf_hash": leaf_hash(hashed)})
    return seq


def entry_columns(seq: int, entry: Entry) -> dict[str, Any]:
    """The columns of an entry, as stored."""
    return {"seq": seq, **entry.model_dump(mode="json", exclude={"at"}), "at": entry.at}


def read_status(connection: Connection, environment: str) -> EnvironmentStatus:
    """The stored status of an environment; a new one when it was never seen."""
    found = connection.execute(
        select(_environments.c.status).where(_environments.c.name == environment)
    ).scalar()
    return (
        EnvironmentStatus(environment=environment)
        if found is None
        else stored_status(environment, found)
    )
