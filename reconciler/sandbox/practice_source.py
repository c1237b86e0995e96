"""The practice shop's repository: its releases as commits, made from the files in `template/`.

Each folder of the template is a release; its files lie over those of the release before. Secrets and
the settings of this machine are beside the repository's files, ignored by Git and of mode 0600.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from pathlib import Path

from reconciler.core.errors import PreflightError, StepFailedError
from reconciler.sandbox.practice_record import Places, Record, Release
from reconciler.sandbox.practice_redis import REDIS_IMAGE

TEMPLATE = Path(__file__).with_name("template")
GOOD, BAD = "1.4.0", "1.5.0"
#: Version, days before now, subject of the commit.
_HISTORY = (
    ("1.2.0", 36, "Shop and worker"),
    ("1.3.0", 22, "Orders"),
    ("1.4.0", 8, "Order status"),
    ("1.5.0", 0, "Coupons"),
)
_DAY = 86_400
_EXECUTABLE = ".sh"
# Neither the user's settings nor the repository that this may be called from shall have a say.
_FOREIGN = "GIT_"


def create(places: Places, record: Record) -> tuple[Release, Release]:
    """Makes the repository with all releases committed, checked out at the good one.

    Returns:
        The good and the bad release.

    Raises:
        PreflightError: There is no Git.
        StepFailedError: Git refused.
    """
    root = places.root
    git(root, "init", "--quiet", "--initial-branch=main")
    for key, value in {
        "user.name": "Practice Team",
        "user.email": "team@practice.example",
        "commit.gpgSign": "false",
        "gc.auto": "0",
    }.items():
        git(root, "config", key, value)
    _write_private(places, record)
    now = int(time.time())
    releases = [_commit(root, record.name, *entry, now=now) for entry in _HISTORY]
    by_version = {release.version: release for release in releases}
    good, bad = by_version[GOOD], by_version[BAD]
    # Production runs from `main`; the bad release waits on a branch until it is merged.
    git(root, "branch", "release-1.5.0", bad.commit)
    git(root, "reset", "--quiet", "--hard", good.commit)
    return good, bad


def git(root: Path, *arguments: str, env: dict[str, str] | None = None) -> str:
    """Runs Git in the repository; gives its output.

    Raises:
        PreflightError: There is no Git.
        StepFailedError: Git refused.
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)}
    try:
        done = subprocess.run(
            ["git", "-c", "core.hooksPath=/dev/null", *arguments],
            cwd=root,
            env={**clean, "LC_ALL": "C", **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as exc:
        raise PreflightError(
            "The git command is not on this machine.", hint="Install Git."
        ) from exc
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise StepFailedError(f"git {arguments[0]} in {root}: {reason}")
    return done.stdout.strip()


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(text, encoding="utf-8")


def _write_private(places: Places, record: Record) -> None:
    ports = record.ports
    write_private(places.root / ".env", f"APP_PORT={ports.app}\nREDIS_PORT={ports.redis}\n")
    write_private(places.root / "app.env", f"SESSION_SECRET=practice_{secrets.token_hex(16)}\n")


def _commit(root: Path, name: str, version: str, days: int, subject: str, *, now: int) -> Release:
    folder = TEMPLATE / version
    for source in sorted(folder.rglob("*")):
        if not source.is_file():
            continue
        relative = source.relative_to(folder)
        target = root / (".gitignore" if str(relative) == "gitignore" else relative)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = source.read_text(encoding="utf-8")
        target.write_text(text.replace("@NAME@", name).replace("@REDIS@", REDIS_IMAGE), "utf-8")
        target.chmod(0o755 if target.suffix == _EXECUTABLE else 0o644)
    git(root, "add", "--all")
    when = f"{now - days * _DAY} +0000"
    dates = {"GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}
    git(root, "commit", "--quiet", "-m", f"{version}: {subject}", env=dates)
    git(root, "tag", f"v{version}")
    commit = git(root, "rev-parse", "HEAD")
    newest = max(path.name for path in (root / "supabase" / "migrations").glob("*.sql"))
    return Release(version=version, commit=commit, migration=newest.partition("_")[0])
