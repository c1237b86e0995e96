"""Puts the parts together: from a spec to its targets and checks, from a project to its ledger. Called by `cli` and `loop`.

The only place that knows which class stands behind which section of a spec, and the only one that reads secrets; each
secret is told to the redactor before anybody can write it.
"""

from __future__ import annotations

import getpass
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from reconciler.core.redact import Redactor
from reconciler.core.section import SecretRef
from reconciler.project import Project, read_secret

if TYPE_CHECKING:
    pass


def actor() -> str:
    """Who acts: RECONCILER_ACTOR, or `user@host`."""
    named = os.environ.get("RECONCILER_ACTOR")
    if named:
        return named
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def ledger_url(project: Project, given: str | None) -> str:
    """The ledger's database: as given (`--database`), as the project says, or `audit.db` in the state folder."""
    return given or project.database_url or f"sqlite:///{project.states_dir / 'audit.db'}"


@dataclass(frozen=True, slots=True)
class Parts:
    """Makes targets and checks of specs of one project.

    Attributes:
        project: Where the specs live.
        redactor: Is told every secret that is read.
        spec_path: The spec's own file, which a checkout must not change.
    """

    project: Project
    redactor: Redactor
    spec_path: Path

    def secret(self, reference: SecretRef) -> str:
        """Reads a secret and tells the redactor."""
        value = read_secret(reference, self.project.root)
        self.redactor.learn(value)
        password = urlsplit(value).password if "://" in value else None
        if password:
            self.redactor.learn(password, unquote(password))
        return value
