"""What teams do to their production between two commands: bad commits, vendors' faults, secrets lying about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from reconciler.sandbox.practice_source import git
from tests.support.production import Practice

_AUTHOR = {
    "GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "ada@shop.example",
    "GIT_COMMITTER_NAME": "Ada", "GIT_COMMITTER_EMAIL": "ada@shop.example",
}  # fmt: skip
MIGRATION_SECRET = "canary-in-a-migration-4711"


def commit_change(
    practice: Practice, change: Callable[[Path], object], *, on: str | None = None
) -> str:
    """Commits a change: on `main`, or beside it on another commit, after which `main` is checked out again."""
    root = practice.root
    if on is not None:
        git(root, "checkout", "--quiet", on)
    change(root)
    git(root, "add", "--all", "--", "app", "worker", "supabase", "docker-compose.yml")
    git(root, "commit", "--quiet", "--message", "change", env=_AUTHOR)
    commit = git(root, "rev-parse", "HEAD")
    if on is not None:
        git(root, "checkout", "--quiet", "main")
    return commit


def commit_broken_build(practice: Practice) -> str:
    """A commit after the good one whose worker cannot be built."""

    def spoil(root: Path) -> None:
        path = root / "worker" / "Dockerfile"
        path.write_text(path.read_text() + "RUN exit 7\n")

    return commit_change(practice, spoil, on=practice.good_world.commit)


def down_file(root: Path, version: str) -> Path:
    """The down file of a migration."""
    return next((root / "supabase" / "rollbacks").glob(f"{version}_*"))


def forget_earlier_heads(practice: Practice) -> None:
    """Makes Git forget where HEAD stood before."""
    git(practice.root, "reflog", "expire", "--expire=now", "--all")
    (practice.root / ".git" / "ORIG_HEAD").unlink(missing_ok=True)


def fault(practice: Practice, **what: object) -> None:
    """Switches a fault of the practice Vercel on."""
    practice.production.vercel.call("POST", "/__faults", {"faults": [what]}, control=True)


def plant_canaries(practice: Practice) -> list[str]:
    """Every secret a careless team has lying about: token, database password, container env, migration."""
    places = practice.production.places
    version = practice.broken_world.versions[-1]

    def leak(root: Path) -> None:
        path = down_file(root, version)
        path.write_text(
            path.read_text() + f"\nCOMMENT ON TABLE public.orders IS '{MIGRATION_SECRET}';\n"
        )

    commit_change(practice, leak)
    dsn = places.database_url.read_text().strip()
    return [
        places.vercel_token.read_text().strip(),
        urlsplit(dsn).password or dsn,
        (practice.root / "app.env").read_text().strip().partition("=")[2],
        MIGRATION_SECRET,
    ]
