"""Where a SQLite ledger lies: one answer for the quick reader and for SQLAlchemy."""

from __future__ import annotations

from pathlib import Path

_SQLITE = "sqlite:///"


def sqlite_path(url: str) -> Path | None:
    """The file of a SQLite URL, as it stands there; None for other databases. A question mark begins its options."""
    return Path(url.removeprefix(_SQLITE).partition("?")[0]) if url.startswith(_SQLITE) else None
