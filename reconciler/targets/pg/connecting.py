"""Why no connection could be made, told without repeating the connection string."""

from __future__ import annotations

import re

import psycopg
from psycopg.conninfo import conninfo_to_dict

from reconciler.core.errors import ReconcilerError, StepFailedError, TargetUnavailableError

_SAFE_PLACE = re.compile(r"[A-Za-z0-9_./ -]+:\d{1,5}")
#: What libpq says when it cannot connect, and what that means. Its own text may quote pieces of a mistyped URL.
_CONNECT_TROUBLE = (
    ("password authentication failed", "28P01", "the password was refused"),
    ("no password supplied", "28P01", "a password is needed"),
    ("no pg_hba.conf entry", "28000", "the server does not admit this user from here"),
    ('role "', "28000", "there is no such role"),
    ('database "', "3D000", "there is no such database"),
    ("starting up", "", "the server is starting up"),
    ("shutting down", "", "the server is shutting down"),
    ("too many", "", "the server has no free connection"),
    ("remaining connection slots", "", "the server has no free connection"),
    ("Connection refused", "", "nobody listens there"),
    ("No such file", "", "nobody listens there"),
    ("timeout", "", "no answer in time"),
    ("translate host name", "", "the host name is not known"),
    ("SSL", "", "the encrypted connection failed"),
)


def no_connection(dsn: str, exc: psycopg.Error) -> ReconcilerError:
    """Our error for a connection that could not be made; holds nothing of the connection string but a plain host."""
    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.Error:
        return StepFailedError(
            "The connection string of the database cannot be read.",
            hint="It is a URL (postgresql://...) with special characters of the password percent-encoded.",
        )
    host = f"{parts.get('host') or parts.get('hostaddr') or 'the local socket'}"
    place = f"{host}:{parts.get('port') or 5432}"
    if not _SAFE_PLACE.fullmatch(place):
        place = "its server"
    said = str(exc)
    for words, state, meaning in _CONNECT_TROUBLE:
        if words in said:
            message = f"Cannot connect to the database at {place}: {meaning}."
            if state:
                return StepFailedError(message, hint="Check the connection string.")
            return TargetUnavailableError(message, retry_after=2.0)
    return TargetUnavailableError(f"Cannot connect to the database at {place}.", retry_after=2.0)
