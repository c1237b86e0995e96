"""What a practice production knows about itself: its name, its ports, its releases, where its files are.

The record is written before anything is made, so that `sandbox down` finds its way after a crash too.
Used by every other file of the practice production.
"""

from __future__ import annotations

import hashlib
import random
import re
import socket
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from reconciler.core.errors import UsageError
from reconciler.sandbox.store import write_atomically

#: A Compose project name that is also the start of image names.
_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
# Below the ports that systems give to outgoing connections: while a container is being replaced,
# nobody else is given its port by chance.
_FIRST_PORT, _LAST_PORT = 15_000, 30_000

PROJECT_REF = "abcdefghijklmnopqrst"
VERCEL_PROJECT, VERCEL_TEAM = "practice-shop", "practice"
DATABASE = "shop"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Pace(_Model):
    """How fast the practice Vercel is; milliseconds."""

    build_ms: int = 300
    alias_delay_ms: int = 300
    alias_step_ms: int = 200


class Ports(_Model):
    """Ports on loopback; they stay the same when something is started again."""

    app: int
    redis: int
    postgres: int
    vercel: int
    supabase: int


class Release(_Model):
    """One release of the practice shop.

    Attributes:
        version: As the team calls it; also the tag of its images and its commit.
        commit: Full commit id.
        migration: The newest migration it brings.
        deployment: Vercel's id of its front end; None until it was deployed.
    """

    version: str
    commit: str
    migration: str
    deployment: str | None = None


class Record(_Model):
    """The content of `sandbox.json`; no secret is in it.

    Attributes:
        name: Compose project, prefix of images.
        ports: Where everything listens.
        supabase: Whether the spec reaches the database through the Supabase API.
        pace: Speed of the practice Vercel.
        ready: Everything was made.
        images: Shared images that were not on the engine before.
        good: The release that works.
        bad: The release that does not.
    """

    format: int = 1
    name: str
    ports: Ports
    supabase: bool = False
    pace: Pace = Pace()
    ready: bool = False
    images: tuple[str, ...] = ()
    good: Release | None = None
    bad: Release | None = None


class Places:
    """Where the files of a practice production are.

    Args:
        root: Its folder: the repository, and so the root of the reconciler's project.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.own = self.root / ".sandbox"
        self.record = self.own / "sandbox.json"
        self.postgres = self.own / "postgres"
        self.secrets = self.root / ".secrets"
        self.vercel_token = self.secrets / "vercel-token"
        self.supabase_token = self.secrets / "supabase-token"
        self.database_url = self.secrets / "database-url"
        self.spec = self.root / "specs" / "prod.yaml"

    def read(self) -> Record | None:
        """The record; None when the folder holds no practice production.

        Raises:
            UsageError: There is one that this program cannot read.
        """
        try:
            return Record.model_validate_json(self.record.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as exc:
            raise UsageError(
                f"{self.record} is not the record of a practice production.",
                hint=f"If nothing in it is of use: rm -r {self.root}",
            ) from exc

    def write(self, record: Record) -> Record:
        """Replaces the record durably, and gives it back."""
        self.own.mkdir(parents=True, exist_ok=True)
        write_atomically(self.record, record.model_dump_json(indent=1).encode() + b"\n")
        return record


def default_name(root: Path) -> str:
    """A name for the practice production of a folder; the same each time."""
    return f"practice-{hashlib.sha256(str(root.absolute()).encode()).hexdigest()[:6]}"


def checked_name(name: str) -> str:
    """The name, if Docker takes it for projects and images.

    Raises:
        UsageError: It does not.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f'"{name}" cannot be the name of a practice production.',
            hint="Use lower-case letters, digits and dashes, 40 at most, a letter first.",
        )
    return name


def pick_ports() -> Ports:
    """Five loopback ports that are free at this moment.

    Raises:
        UsageError: None can be found.
    """
    found: list[int] = []
    candidates = random.sample(range(_FIRST_PORT, _LAST_PORT), 500)
    for port in candidates:
        if len(found) == len(Ports.model_fields):
            break
        if _is_free(port):
            found.append(port)
    else:
        raise UsageError(f"No free ports between {_FIRST_PORT} and {_LAST_PORT} on loopback.")
    return Ports(**dict(zip(Ports.model_fields, found, strict=True)))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
