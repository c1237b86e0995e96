"""What every kind of check is lent and what it answers. Nothing here does any I/O.

A kind is one function, `probe(spec, context, attempt)`, that tries once and says in one line what
was expected and what came. Trying again, deadlines and threads are the business of `runner`.
"""

from __future__ import annotations

import json
import os
import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from psycopg import Connection

    from reconciler.core.clock import Clock
    from reconciler.core.facts import Fact
    from reconciler.core.redact import Redactor
    from reconciler.core.section import SecretRef

#: Characters of a line that is shown, and of a foreign value quoted in it.
MAX_DETAIL, MAX_QUOTE = 400, 80
_LONGEST_QUOTED = 4096

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How a check ended.

    Attributes:
        name: Its name in the spec.
        kind: `http`, `tcp`, `command`, `sql`, `redis` or `container`.
        passed: Whether it passed.
        detail: What was expected and what came, in one line, without secrets.
        attempts: How often it was tried.
        duration: Seconds from the first try to the last.
        at: When it ended (UTC).
    """

    name: str
    kind: str
    passed: bool
    detail: str
    attempts: int
    duration: float
    at: datetime


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one try ended.

    Attributes:
        passed: Whether it passed.
        detail: What was expected and what came.
        final: A failure that trying again cannot change (a program that does not exist).
    """

    passed: bool
    detail: str
    final: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try.

    Attributes:
        timeout: Seconds it may take.
        cancelled: Set when nobody waits for its end any more.
    """

    timeout: float
    cancelled: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class CheckContext:
    """What checks are lent by whoever puts the program together.

    Attributes:
        root: Project root; commands run there.
        secret: Reads a secret; its errors are ours.
        redactor: Takes secrets out of everything that is said, and learns those that are read.
        clock: Tells when a check ended, and paces the soak.
        connect: Opens a connection to a database, within so many seconds: the one the reference
            leads to, or the database section's when it is None. May raise our errors.
        containers: Facts of the Compose project's services, as the docker target observes them.
        environ: Environment of commands.
        progress: Tells the person watching what is being waited for.
    """

    root: Path
    secret: Callable[[SecretRef], str]
    redactor: Redactor
    clock: Clock
    connect: Callable[[SecretRef | None, float], Connection[Any]] | None = None
    containers: Callable[[], Sequence[Fact]] | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    progress: Callable[[str], None] = lambda _: None

    def reveal(self, reference: SecretRef) -> str:
        """A secret, remembered so that it is never shown.

        Raises:
            UsageError: There is none.
        """
        secret = self.secret(reference)
        self.redactor.learn(secret)
        return secret

    def line(self, text: str) -> str:
        """Text made fit to be shown: without secrets, on one line, cut."""
        return one_line(self.redactor.text(text), MAX_DETAIL)

    def quote(self, value: object) -> str:
        """A foreign value as short JSON, for use inside a line.

        Secrets are taken out before it is cut: half a secret is a secret that nobody recognises.
        """
        if isinstance(value, str):
            value = self.redactor.text(value[:_LONGEST_QUOTED])
        shown = self.redactor.text(json.dumps(value, ensure_ascii=False, default=str))
        return one_line(shown, MAX_QUOTE)


def passed(detail: str) -> Outcome:
    """A try that passed."""
    return Outcome(passed=True, detail=detail)


def failed(detail: str, *, final: bool = False) -> Outcome:
    """A try that failed."""
    return Outcome(passed=False, detail=detail, final=final)


def one_line(text: str, limit: int) -> str:
    """Text on one line, without control characters, cut to a number of characters."""
    flat = " ".join(_CONTROL.sub(" ", text).split())
    return flat if len(flat) <= limit else flat[: limit - 3] + "..."


def shown_url(url: str) -> str:
    """An address without user, password, query and fragment."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))
