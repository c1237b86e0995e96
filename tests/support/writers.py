"""Processes that write to a ledger, for tests of what happens between processes. Run as `python -m`, one role each."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from reconciler.audit.database import Database
from reconciler.audit.journal import Journal, Listener
from reconciler.audit.lease import Holder, Lease
from reconciler.audit.queries import status_of
from reconciler.clock import SystemClock
from reconciler.core.clock import Clock
from reconciler.core.conditions import Reason
from reconciler.core.entry import EntryKind, Origin
from reconciler.core.errors import LedgerError
from reconciler.core.redact import Redactor


@contextmanager
def journal(
    database: Database,
    environment: str = "prod",
    *,
    clock: Clock | None = None,
    redactor: Redactor | None = None,
    listeners: tuple[Listener, ...] = (),
) -> Iterator[Journal]:
    """A journal under its lease."""
    clock = clock or SystemClock()
    with Lease(database, environment, Holder.me("ada@laptop"), clock) as lease:
        yield Journal(
            database,
            lease,
            status_of(database, environment),
            actor="ada@laptop",
            origin=Origin.CLI,
            redactor=redactor or Redactor(),
            clock=clock,
            listeners=listeners,
        )


def note(book: Journal, message: str = "a note") -> None:
    """Writes an entry that means nothing."""
    book.write(EntryKind.NOTIFICATION, Reason.PROGRESSING, {"message": message})


class Writer:
    """A process in one of the roles below."""

    def __init__(self, role: str, *arguments: str) -> None:
        root = Path(__file__).parents[2]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.writers", role, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
        )

    @property
    def out(self) -> IO[str]:
        assert self.process.stdout
        return self.process.stdout

    def says(self) -> str:
        """Its next line; empty when it has ended."""
        return self.out.readline().strip()

    def go(self) -> None:
        """Lets it go on."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> int:
        """Waits for its end."""
        assert self.process.stdin
        self.process.stdin.close()
        self.out.read()
        self.out.close()
        return self.process.wait(60)


@contextmanager
def _no_more_than(size: int) -> Iterator[None]:
    """Files of this process may not grow beyond a size, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def _main(role: str, url: str, *arguments: str) -> None:
    database = Database(url)
    _say("ready")
    sys.stdin.readline()
    match role:
        case "append":
            name, count = arguments
            with journal(database, name) as book:
                for number in range(int(count)):
                    note(book, f"{name} {number}")
        case "hold":
            try:
                with journal(database):
                    _say("held")
                    sys.stdin.readline()
            except Exception as exc:  # noqa: BLE001 - the test wants to know
                _say(type(exc).__name__)
        case "full":
            with journal(database) as book:
                note(book, "before")
                with _no_more_than(int(arguments[0])):
                    try:
                        note(book, "x" * 2_000_000)
                    except LedgerError as exc:
                        _say(exc.message)
                    _say(str(book.status.entries))
                note(book, "after")
        case "create":
            with database.reading():
                _say("created")
    database.close()


if __name__ == "__main__":
    _main(*sys.argv[1:])
