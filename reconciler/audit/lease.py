"""The lease: at most one process acts on an environment.

It lives in the same row as the status, so that every write of the journal can check it in its own transaction.

A lease has an expiry and a token that rises with each holder. A holder whose lease has expired changes nothing
(`guard`), and its writes are refused even if it tries. A holder that died on this very machine is recognised by its
process id and start time, and its lease is taken over at once.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from sqlalchemy import Connection, bindparam, insert, select, update

from reconciler.audit.database import Database
from reconciler.audit.processes import alive, identity
from reconciler.audit.tables import EnvironmentRow
from reconciler.core.clock import Clock
from reconciler.core.errors import LeaseHeldError, LeaseLostError, LedgerError, ReconcilerError
from reconciler.core.phase import Phase
from reconciler.core.status import EnvironmentStatus

TTL = timedelta(seconds=30)
_MARGIN = 5.0  # seconds before expiry at which a holder already stops acting: clocks and scheduling are not exact
_MARGIN_SPAN = timedelta(seconds=_MARGIN)
_row = EnvironmentRow.__table__  # type: ignore[attr-defined]
_PRESENT = select(_row.c.lease_token, _row.c.lease_holder, _row.c.lease_expires).where(
    _row.c.name == bindparam("environment")
)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease.

    Attributes:
        name: For humans: `user@host (pid 123)`.
        process: `host/boot/pid/start time`: tells whether that very process still lives.
    """

    name: str
    process: str

    @classmethod
    def me(cls, actor: str) -> Holder:
        """This process."""
        return cls(name=f"{actor} (pid {os.getpid()})", process=identity(os.getpid()))


class Lease:
    """A held lease, renewed in the background until it is released.

    Args:
        database: The ledger's database.
        environment: The environment it is for.
        holder: Who takes it.
        clock: The clock.

    Raises:
        LeaseHeldError: Somebody else holds it.
        LedgerError: The database cannot be reached.
    """

    def __init__(self, database: Database, environment: str, holder: Holder, clock: Clock) -> None:
        self._database, self._environment, self._clock = database, environment, clock
        self._stop = threading.Event()
        begun = clock.monotonic()
        with database.writing() as connection:
            self.token, self._expires = self._acquire(connection, holder)
        self._good_until = begun + TTL.total_seconds() - _MARGIN
        self._renewer = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._renewer.start()

    def guard(self) -> None:
        """Raises LeaseLostError when this process may no longer act. Costs no round trip.

        Both clocks are asked: the monotonic one may stand still while the machine sleeps, the wall clock may be set.
        """
        if (
            self._clock.monotonic() >= self._good_until
            or self._clock.now() >= self._expires - _MARGIN_SPAN
        ):
            raise LeaseLostError(
                "This process has lost its lease on the environment and changes nothing more.",
                hint="Run `reconciler status` to see who holds it now.",
            )

    def check(self, connection: Connection) -> None:
        """Checks the lease inside a write transaction.

        Raises:
            LeaseLostError: The token is no longer ours, or has expired.
        """
        found = connection.execute(_PRESENT, {"environment": self._environment}).one()
        if (
            found.lease_token != self.token
            or found.lease_holder is None
            or found.lease_expires <= self._clock.now()
        ):
            self._good_until = float("-inf")
            raise LeaseLostError(
                "The lease on the environment is no longer ours; nothing was written.",
                hint="Run `reconciler status` to see who holds it now.",
            )

    def release(self) -> None:
        """Gives the lease back, if it is still ours.

        Raises:
            LedgerError: The database cannot be written.
        """
        self._stop.set()
        self._renewer.join()
        self._good_until = float("-inf")
        with self._database.writing() as connection:
            connection.execute(
                update(_row)
                .where(_row.c.name == self._environment, _row.c.lease_token == self.token)
                .values(lease_holder=None, lease_process=None, lease_since=None, lease_expires=None)
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # What could not be given back is taken over at once from a process that has ended, and ends by itself anyway.
        with suppress(LedgerError):
            self.release()

    def _acquire(self, connection: Connection, holder: Holder) -> tuple[int, datetime]:
        now = self._clock.now()
        found = connection.execute(
            select(
                _row.c.lease_token,
                _row.c.lease_holder,
                _row.c.lease_process,
                _row.c.lease_since,
                _row.c.lease_expires,
            ).where(_row.c.name == self._environment)
        ).one_or_none()
        values: dict[str, object] = {
            "lease_holder": holder.name,
            "lease_process": holder.process,
            "lease_since": now,
            "lease_expires": now + TTL,
        }
        if found is None:
            status = EnvironmentStatus(environment=self._environment)
            connection.execute(
                insert(_row).values(
                    name=self._environment,
                    phase=Phase.NEW.value,
                    status=status.model_dump_json(),
                    lease_token=1,
                    **values,
                )
            )
            return 1, now + TTL
        if (
            found.lease_holder is not None
            and found.lease_expires > now
            and alive(found.lease_process)
        ):
            raise held_error(
                self._environment, found.lease_holder, found.lease_since, found.lease_expires
            )
        token = int(found.lease_token) + 1
        connection.execute(
            update(_row).where(_row.c.name == self._environment).values(lease_token=token, **values)
        )
        return token, now + TTL

    def _renew(self) -> None:
        while not self._stop.wait(TTL.total_seconds() / 4):
            # When it cannot be renewed, a later try may succeed; if none does, `guard` stops this process in time.
            with suppress(ReconcilerError):
                if not self.renew():
                    return

    def renew(self) -> bool:
        """Moves the expiry on. Returns whether the lease is still ours; one that has expired is not.

        Raises:
            LedgerError: The database cannot be written.
        """
        begun, now = self._clock.monotonic(), self._clock.now()
        with self._database.writing() as connection:
            renewed = connection.execute(
                update(_row)
                .where(
                    _row.c.name == self._environment,
                    _row.c.lease_token == self.token,
                    _row.c.lease_expires > now,
                )
                .values(lease_expires=now + TTL)
            ).rowcount
        if renewed != 1:
            self._good_until = float("-inf")
            return False
        self._good_until, self._expires = begun + TTL.total_seconds() - _MARGIN, now + TTL
        return True


def held_error(environment: str, holder: str, since: datetime, expires: datetime) -> LeaseHeldError:
    """The error that names who holds a lease."""
    return LeaseHeldError(
        f"{environment} is being worked on by {holder} since {since:%H:%M:%S} UTC.",
        holder=holder,
        hint=f"Wait for it, or watch it with `reconciler status {environment}`. If that process is gone, "
        f"its lease ends by itself at {expires:%H:%M:%S} UTC.",
    )
