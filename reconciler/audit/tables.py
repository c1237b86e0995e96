"""The rows: one append-only ledger, and one mutable row an environment, with its lease and projected status."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, Column, Dialect, Index, Text
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, SQLModel

#: The Alembic revision this program works with.
SCHEMA_REVISION = "0001"


class UtcText(TypeDecorator[datetime]):
    """A UTC time as sortable ISO text: SQLite has no type for it, and text compares the same everywhere."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - the base class's signature
        """Writes UTC."""
        return None if value is None else utc_text(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Reads an aware time."""
        return None if value is None else datetime.fromisoformat(value)


def utc_text(at: datetime) -> str:
    """A UTC time as text of fixed width (`2025-11-18T03:04:05.000006+00:00`)."""
    return at.isoformat(timespec="microseconds")


class LedgerRow(SQLModel, table=True):
    """One entry. Rows are only ever added; triggers in the database refuse anything else."""

    __tablename__: ClassVar[Any] = "ledger"
    __table_args__ = (
        Index("ledger_environment_seq", "environment", "seq"),
        Index("ledger_run_seq", "run", "seq"),
        Index("ledger_generation_seq", "environment", "generation", "seq"),
        Index("ledger_at", "at"),
    )

    seq: int = Field(primary_key=True)
    at: datetime = Field(sa_column=Column(UtcText, nullable=False))
    environment: str
    run: str | None = None
    kind: str
    actor: str
    origin: str
    reason: str
    generation: int
    from_state: str | None = None
    trigger: str | None = None
    to_state: str | None = None
    target: str | None = None
    effect: str | None = None
    body: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    leaf_hash: str


class EnvironmentRow(SQLModel, table=True):
    """One environment: who holds it, and its status as projected from the ledger."""

    __tablename__: ClassVar[Any] = "environments"

    name: str = Field(primary_key=True)
    phase: str
    status: str = Field(sa_column=Column(Text, nullable=False))
    lease_token: int = 0
    lease_holder: str | None = None
    lease_process: str | None = None
    lease_since: datetime | None = Field(default=None, sa_column=Column(UtcText))
    lease_expires: datetime | None = Field(default=None, sa_column=Column(UtcText))
