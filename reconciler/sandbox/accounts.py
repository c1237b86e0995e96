"""The operating system account that a PostgreSQL server of the practice production runs under.

PostgreSQL refuses to run as root. Whoever is root gets an account that exists already and owns
nothing; no account is made, and no permission of a folder that was there before is changed.
Called by `postgres.py`.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from reconciler.core.errors import PreflightError

# In order of preference; an administrator or Debian's package made the first two, if they are there.
_ACCOUNTS = ("reconciler-pg", "postgres", "nobody")

SYSTEM_FOLDER = Path("/var/lib/reconciler")
"""Where root keeps what the account has to reach and what the project's folder hides from it."""


class SpawnOptions(TypedDict, total=False):
    """The part of `subprocess.Popen`'s arguments that changes the account."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Account:
    """An account without privileges."""

    name: str
    uid: int
    gid: int

    @property
    def spawn_options(self) -> SpawnOptions:
        """The arguments for `subprocess` that start a program under this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Give a file or a whole folder to this account."""
        os.lchown(path, self.uid, self.gid)
        for parent, folders, files in os.walk(path):
            for name in (*folders, *files):
                os.lchown(Path(parent, name), self.uid, self.gid)

    def can_enter(self, folder: Path) -> bool:
        """Tell whether every folder on the way lets this account through, by trying it."""
        try:
            done = subprocess.run(["test", "-x", folder], check=False, **self.spawn_options)
        except PermissionError:
            return False
        return done.returncode == 0


def unprivileged_account() -> Account | None:
    """Give the account to run servers under, or None when we are not root and run them ourselves.

    Raises:
        PreflightError: We are root and the machine has no fitting account.
    """
    if os.geteuid() != 0:
        return None
    for name in _ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise PreflightError(
        "PostgreSQL refuses to run as root and the machine has no account to run it under.",
        hint="Run as an ordinary user, or: useradd --system reconciler-pg",
    )
