"""Reading the ledger: entries, runs, specs of generations. Never writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, func, select

from reconciler.audit.database import Database
from reconciler.audit.journal import read_status
from reconciler.audit.tables import EnvironmentRow, LedgerRow
from reconciler.core.certificate import Certificate
from reconciler.core.entry import Entry
from reconciler.core.phase import Phase
from reconciler.core.projection import fold
from reconciler.core.status import EnvironmentStatus

_ledger = LedgerRow.__table__  # type: ignore[attr-defined]
_environments = EnvironmentRow.__table__  # type: ignore[attr-defined]
_PAGE = 500


def status_of(database: Database, environment: str) -> EnvironmentStatus:
    """The stored status of an environment."""
    with database.reading() as connection:
        return read_status(connection, environment)


def rebuilt_status(database: Database, environment: str) -> EnvironmentStatus:
    """The status folded anew from all entries; equal to the stored one, or something is wrong."""
    return fold((entry for _, entry in entries(database, environment)), environment)


def entries(
    database: Database,
    environment: str | None = None,
    *,
    run: str | None = None,
    since: datetime | None = None,
    kinds: Sequence[str] = (),
    after: int = 0,
) -> Iterator[tuple[int, Entry]]:
    """Entries in ledger order, with their sequence numbers; read page by page, so memory stays bounded."""
    query = select(_ledger).order_by(_ledger.c.seq).limit(_PAGE)
    if environment is not None:
        query = query.where(_ledger.c.environment == environment)
    if run is not None:
        query = query.where(_ledger.c.run == run)
    if since is not None:
        query = query.where(_ledger.c.at >= since)
        after = max(after, _last_before(database, since))
    if kinds:
        query = query.where(_ledger.c.kind.in_(kinds))
    while True:
        with database.reading() as connection:
            page = connection.execute(query.where(_ledger.c.seq > after)).all()
        for row in page:
            yield row.seq, entry_of(row)
        if len(page) < _PAGE:
            return
        after = page[-1].seq


def _last_before(database: Database, since: datetime) -> int:
    """A sequence number before which nothing was recorded at that time or later: pages begin there."""
    query = select(func.min(_ledger.c.seq)).where(_ledger.c.at >= since)
    with database.reading() as connection:
        first = connection.execute(query).scalar()
    return 0 if first is None else int(first) - 1


def entry_of(row: Row[Any]) -> Entry:
    """The entry stored in a ledger row."""
    columns = dict(row._mapping)  # noqa: SLF001 - the documented way to a row's names
    return Entry.model_validate(
        {key: value for key, value in columns.items() if key not in ("seq", "leaf_hash")}
    )


def spec_text(database: Database, environment: str, generation: int) -> tuple[str, str]:
    """The path and full text of the spec that was accepted as a generation.

    Raises:
        LookupError: The ledger has no such generation (a bug, since generations are made by recording them).
    """
    query = (
        select(_ledger.c.body)
        .where(
            _ledger.c.environment == environment,
            _ledger.c.generation == generation,
            _ledger.c.kind == "decision",
        )
        .order_by(_ledger.c.seq)
    )
    with database.reading() as connection:
        for (body,) in connection.execute(query):
            if body.get("decision") == "spec-accepted":
                return str(body["path"]), str(body["text"])
    raise LookupError(f"{environment} has no generation {generation}")


def environments(database: Database) -> list[str]:
    """The names of all environments ever seen."""
    with database.reading() as connection:
        return [
            name
            for (name,) in connection.execute(
                select(_environments.c.name).order_by(_environments.c.name)
            )
        ]


def run_of(database: Database, run: str) -> str | None:
    """The environment a run belongs to."""
    with database.reading() as connection:
        return connection.execute(
            select(_ledger.c.environment).where(_ledger.c.run == run).limit(1)
        ).scalar()


def certificate_of(database: Database, run: str) -> Certificate | None:
    """The certificate a run earned; None when it never became stable."""
    query = (
        select(_ledger.c.body)
        .where(_ledger.c.run == run, _ledger.c.to_state == Phase.STABLE.value)
        .order_by(_ledger.c.seq.desc())
        .limit(1)
    )
    with database.reading() as connection:
        body = connection.execute(query).scalar()
    return (
        Certificate.model_validate(body["certificate"]) if body and "certificate" in body else None
    )
