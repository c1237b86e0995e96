"""Finding a repository's folders without asking Git, and whose they are. For `repository.py`."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from reconciler.core.errors import TerminalError
from reconciler.targets.shared.git_command import execute


def find_folders(root: Path) -> tuple[Path, Path]:
    """The Git folder of a working tree, and the one its linked work trees share (often the same).

    Raises:
        TerminalError: The folder is not the top of a working tree.
    """
    if not root.is_dir():
        raise TerminalError(f"{root} is not a folder, so there is no Git repository to use.")
    marker = root / ".git"
    git_dir = marker
    if marker.is_file():
        text = marker.read_text("utf-8", "surrogateescape").strip()
        git_dir = (root / text.removeprefix("gitdir:").strip()).resolve()
    if not (git_dir / "HEAD").exists():
        raise _not_a_repository(root)
    common_dir = git_dir
    if (git_dir / "commondir").exists():
        common = (git_dir / "commondir").read_text("utf-8", "surrogateescape").strip()
        common_dir = (git_dir / common).resolve()
    return git_dir.absolute(), common_dir.absolute()


def _not_a_repository(root: Path) -> TerminalError:
    if (root / "HEAD").exists() and (root / "objects").is_dir():
        return TerminalError(
            f"{root} is a bare repository; a repository with a working tree is needed.",
            hint="Give the folder the application runs from.",
        )
    above = next((folder for folder in root.parents if (folder / ".git").exists()), None)
    if above:
        return TerminalError(
            f"{root} is not the top of a Git working tree; {above} is.",
            hint=f"Let spec.git.repository name {above}.",
        )
    return TerminalError(
        f"{root} is not a Git repository.", hint="Let spec.git.repository name the working tree."
    )


def require_trusted(root: Path, git_dir: Path) -> None:
    """Refuses a repository of somebody else, as git does, unless this user told git to trust it.

    Git checks this only where it finds the repository itself; here it is told where the repository
    is.

    Raises:
        TerminalError: Working tree or Git folder belongs to another user.
    """
    mine = {os.geteuid()}
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdecimal():
        mine.add(int(os.environ["SUDO_UID"]))
    strangers = {folder.stat().st_uid for folder in (root, git_dir)} - mine
    if not strangers or _declared_safe(root):
        return
    raise TerminalError(
        f"{root} belongs to {_user(min(strangers))}, "
        f"but this command runs as {_user(os.geteuid())}.",
        hint=f"Run it as that user, or: git config --global --add safe.directory {root}",
    )


def _declared_safe(root: Path) -> bool:
    """Whether the user's or the system's configuration lists the folder."""
    spellings = {str(root), str(root.resolve())}
    safe = False
    for scope in ("--system", "--global"):
        answer = execute(
            ["--no-pager", "config", scope, "--null", "--get-all", "safe.directory"],
            cwd=Path("/"),
            env={"GIT_DIR": os.devnull, "LC_ALL": "C"},
        )
        for value in os.fsdecode(answer.out).split("\0")[:-1]:
            if not value:  # an empty entry forgets those before it
                safe = False
            elif value == "*" or value.rstrip("/") in spellings:
                safe = True
            elif value.endswith("/*"):
                safe = safe or any(path.startswith(value[:-1]) for path in spellings)
    return safe


def _user(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user id {uid}"
