"""What a SQLSTATE means for us: try again, or say what a human must do. Used by both database drivers at their edge.

Only the state and the primary message are ever repeated: statement text, `DETAIL` and `LINE` may hold row contents.
States: PostgreSQL documentation, appendix "PostgreSQL Error Codes".
"""

from __future__ import annotations

import re

from reconciler.core.errors import (
    OutcomeUnknownError,
    ReconcilerError,
    StepFailedError,
    TargetUnavailableError,
    TransientError,
)

#: Raised by our own guard blocks (a class PostgreSQL will never use).
LOCK_TAKEN, NOT_NEWEST, ROW_ABSENT, ROW_PRESENT, ROW_COUNT, REHEARSED = (
    *("RC001", "RC002", "RC003", "RC004", "RC005"),
    "RC100",
)
#: No such table, no such schema: nothing was ever applied.
NO_HISTORY = frozenset({"42P01", "3F000"})
NO_COLUMN = "42703"

_TRY_AGAIN = {
    "55P03": ("A lock was not free in time; nothing was changed.", 5.0),
    "40P01": ("A deadlock was resolved against us; nothing was changed.", 2.0),
    "40001": ("A concurrent change got in between; nothing was changed.", 2.0),
    "53300": ("The server has no free connection.", 5.0),
    "57P03": ("The server is starting up.", 5.0),
    LOCK_TAKEN: ("Another rollback or migration of ours is running in this database.", 5.0),
}
_MISSING = "The script does not fit this database: something it names is missing. Check the drift."
_PRESENT = (
    "The script does not fit this database: something it makes is there already. Check the drift."
)
_HINTS = {
    "57014": "Raise spec.database.statementTimeout, or split the script.",
    "25P04": "Raise transaction_timeout on the server, or split the script.",
    "2BP01": "Other objects depend on it: extend the script so that it removes or changes them first.",
    "42501": "The role may not do this: own the object, or connect as a role that does.",
    "25006": "The database is read-only: a standby, or a full disk. Make it writable first.",
    "25001": "This statement cannot run in a transaction: give it a script of its own, alone.",
    "55P04": "A new enum value can be used only after its commit: split the script.",
    "25P02": "The transaction had failed before; this is a fault of the program, please report it.",
    "28P01": "Check the password in the connection string.",
    "28000": "Check user and authentication rules of the connection string.",
    "3D000": "Check the database name in the connection string.",
    "42601": "Correct the script.",
    "53100": "Free disk space on the database server.",
    NOT_NEWEST: "Somebody else migrates this database. Look at its history, then resume.",
    ROW_PRESENT: "Somebody else migrates this database. Look at its history, then resume.",
    ROW_ABSENT: "Somebody else migrates this database. Look at its history, then resume.",
    ROW_COUNT: "The script itself changed the history table: take that out of it.",
    **dict.fromkeys(("42P01", "42703", "42704", "3F000", "42883"), _MISSING),
    **dict.fromkeys(("42P07", "42701", "42710", "42723", "42P06"), _PRESENT),
}
_CLASS_HINTS = {
    "23": "The data does not satisfy a constraint: correct the script or the data.",
    "22": "The data does not fit a type: correct the script or the data.",
}
#: In these the primary message may quote a value or a piece of the statement.
_QUOTING = ("22", "42601", "P0")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")


def primary(state: str, message: str | None) -> str:
    """The primary message, on one line, without quoted values where such messages hold them."""
    text = " ".join((message or "no message").split())
    if state.startswith(_QUOTING):
        text = _QUOTED.sub('"..."', text)
    return text[:300]


def connection_lost(state: str) -> bool:
    """Whether a state means that the connection, not the statement, failed."""
    return state.startswith("08") or state in {"57P01", "57P02", "57P04", "57P05", "25P03"}


def translate(
    state: str, message: str | None, doing: str, *, outcome_known: bool = True
) -> ReconcilerError:
    """Our error for a SQLSTATE.

    Args:
        state: The five characters.
        message: The primary message.
        doing: What was being done ("Taking down 2025...").
        outcome_known: False when a commit may have been on its way.
    """
    words = f"{doing} failed ({state}): {primary(state, message)}"
    if connection_lost(state):
        if outcome_known:
            return TargetUnavailableError(f"{words}; nothing was changed.", retry_after=2.0)
        return OutcomeUnknownError(f"{words}; whether it was done is found by looking.")
    if state in _TRY_AGAIN:
        meaning, wait = _TRY_AGAIN[state]
        return TransientError(f"{words}. {meaning}", retry_after=wait)
    hint = _HINTS.get(state) or _CLASS_HINTS.get(state[:2], "")
    return StepFailedError(words, hint=hint)
