"""Reading a Git repository: revisions, commits, files of a commit, the working tree's state.

Changes nothing. The git target observes through it, the docker and database targets read compose
files, migrations and build contexts *at a commit* through it. No question costs more with a longer
history. Processes are started by `git_command.py`.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from reconciler.core.errors import StepFailedError, TerminalError
from reconciler.targets.shared.git_command import NOT_DURABLE, WRITE_TIMEOUT, GitCommand
from reconciler.targets.shared.git_folder import find_folders, require_trusted
from reconciler.targets.shared.git_objects import (
    EXECUTABLE,
    FILE,
    SUBMODULE,
    SYMLINK,
    CommitInfo,
    TreeFile,
    leaves,
    parse_batch,
    parse_commit,
    parse_tree_line,
    require_unfiltered,
    submodule_error,
)
from reconciler.targets.shared.git_status import Status, parse_status

FULL_ID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
#: A file of a commit above this is not read into memory (bytes).
READ_LIMIT = 16 * 1024 * 1024
#: Paths that are named one by one on a command line.
ARGUMENT_LIMIT = 500


class Repository:
    """One repository with a working tree.

    Args:
        path: The top folder of the working tree.

    Raises:
        TerminalError: It is no such folder, or belongs to a user whose files git does not trust.
    """

    def __init__(self, path: Path) -> None:
        self.root = path.absolute()
        self.git_dir, self.common_dir = find_folders(self.root)
        require_trusted(self.root, self.git_dir)
        self.git = GitCommand(self.root, self.git_dir, self.common_dir)

    @property
    def shallow(self) -> bool:
        """Whether the clone lacks older commits."""
        return (self.common_dir / "shallow").exists()

    def resolve(self, revision: str) -> str:
        """The full commit id of a revision: full or short id, tag, branch, `HEAD~1`.

        Raises:
            TerminalError: There is no such commit, or the short id is ambiguous.
        """
        if not revision.strip() or any(character < " " for character in revision):
            raise TerminalError(f"{revision!r} is not a Git revision.")
        answer = self.git.run("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
        name = answer.out.decode("ascii", "replace").strip()
        if answer.status == 0 and FULL_ID.fullmatch(name):
            return name
        raise self._unresolved(revision, answer.err)

    def _unresolved(self, revision: str, complaint: str) -> TerminalError:
        if "is ambiguous" in complaint:
            return TerminalError(
                f"The short id {revision} fits more than one commit in {self.root}.",
                hint="Give more digits, or the full id.",
            )
        if "expected commit type" in complaint:
            return TerminalError(f"{revision} in {self.root} is not a commit.")
        if self.shallow:
            return TerminalError(
                f"There is no commit {revision} in {self.root}, which is a shallow clone.",
                hint=f"git -C {self.root} fetch --unshallow",
            )
        return TerminalError(
            f"There is no commit {revision} in {self.root}.",
            hint=f"If it is on the server: git -C {self.root} fetch --all --tags",
        )

    def head(self) -> str:
        """The full commit id HEAD stands on.

        Raises:
            TerminalError: There is no commit yet.
        """
        status = self.status()
        if status.commit is None:
            raise TerminalError(f"{self.root} has no commit yet.")
        return status.commit

    def head_ref(self) -> str | None:
        """The symbolic ref HEAD stands on (`refs/heads/main`); None when it is detached."""
        return self.status().head_ref

    def status(self, *, untracked: bool = False, index: Path | None = None) -> Status:
        """Where HEAD stands, and what differs between HEAD, index and working tree.

        One process; no history is read.

        Args:
            untracked: Also list untracked files that are not ignored; a folder of them is one
                entry.
            index: A private index to compare with instead.

        Raises:
            StepFailedError: Git cannot read index or HEAD.
        """
        out = self.git.ask(
            "read the status",
            *("status", "--porcelain=v2", "-z", "--branch", "--no-ahead-behind", "--no-renames"),
            # "dirty" compares a submodule's commit only; more would start git inside it
            *("--ignore-submodules=dirty", f"--untracked-files={'normal' if untracked else 'no'}"),
            index=index,
        )
        return parse_status(out)

    def commit_info(self, commit: str) -> CommitInfo:
        """Subject, author and date of a commit.

        Raises:
            StepFailedError: It is not there.
        """
        out = self.git.ask(f"read commit {commit[:9]}", "cat-file", "commit", _full(commit))
        return parse_commit(commit, out)

    def is_ancestor(self, ancestor: str, commit: str) -> bool:
        """Whether a commit is the other one, or one of its ancestors.

        Raises:
            StepFailedError: One of them is not there.
        """
        arguments = ("merge-base", "--is-ancestor", _full(ancestor), _full(commit))
        answer = self.git.run(*arguments)
        if answer.status not in {0, 1}:
            raise StepFailedError(f"Git could not compare two commits: {answer.complaint}.")
        return answer.status == 0

    def tree(self, revision: str) -> SourceTree:
        """The files of a commit, to be read without checking it out.

        Raises:
            TerminalError: There is no such commit.
        """
        commit = revision if FULL_ID.fullmatch(revision) else self.resolve(revision)
        return SourceTree(self, commit)

    def list_files(self, commit: str, *paths: str) -> list[TreeFile]:
        """All files of a commit, or those at (or below) the given paths, in tree order.

        Raises:
            StepFailedError: The commit, or one of its folders, is not there.
        """
        out = self.git.ask(
            f"list the files of {commit[:9]}",
            *("ls-tree", "-r", "-z", "--long", "--full-tree", _full(commit), "--", *paths),
        )
        return [parse_tree_line(line) for line in out.split(b"\0") if line]

    def files_under(self, commit: str, folder: str) -> dict[str, str]:
        """Blob ids of the regular files below a folder of a commit, by name relative to it.

        Empty when the commit has no such folder.

        Raises:
            StepFailedError: The commit is not there.
        """
        prefix = _inside(folder)
        files = self.list_files(commit, *([prefix] if prefix else []))
        start = f"{prefix}/" if prefix else ""
        return {
            file.path[len(start) :]: file.id
            for file in files
            if file.mode in {FILE, EXECUTABLE} and file.path.startswith(start)
        }

    def read_file(self, commit: str, path: str, *, limit: int = READ_LIMIT) -> bytes:
        """A file as it was committed (no line-end conversion, no filter).

        Args:
            commit: Full id.
            path: From the top of the repository.
            limit: Bytes above which it is refused.

        Raises:
            TerminalError: There is no such file; or it is too large, a symlink or a submodule.
        """
        name = _inside(path)
        files = self.read_files(commit, [name], limit=limit)
        if name not in files:
            raise TerminalError(f"Commit {commit[:9]} has no file {path}.")
        return files[name]

    def read_files(
        self, commit: str, paths: Iterable[str], *, limit: int = READ_LIMIT
    ) -> dict[str, bytes]:
        """Several files in two processes, by the path asked for.

        A path the commit does not have is left out.

        Raises:
            TerminalError: One is too large, or a symlink or submodule.
        """
        wanted = {_inside(path): path for path in paths}
        if not wanted:
            return {}
        # A command line has a limit; beyond that many names the whole tree is the shorter answer.
        names = wanted if len(wanted) <= ARGUMENT_LIMIT else ()
        found = [file for file in self.list_files(commit, *names) if file.path in wanted]
        for file in found:
            if file.mode not in {FILE, EXECUTABLE}:
                kind = "a symlink" if file.mode == SYMLINK else "a submodule"
                raise TerminalError(f"{file.path} in commit {commit[:9]} is {kind}, not a file.")
            if (file.size or 0) > limit:
                raise TerminalError(
                    f"{file.path} in commit {commit[:9]} has {file.size} bytes; "
                    f"at most {limit} are read."
                )
        blobs = self.read_blobs(file.id for file in found)
        return {wanted[file.path]: blobs[file.id] for file in found}

    def read_blobs(self, ids: Iterable[str]) -> dict[str, bytes]:
        """Contents of blobs by id, in one process.

        Raises:
            TerminalError: One of them is missing from the repository.
        """
        unique = sorted({_full(name) for name in ids})
        if not unique:
            return {}
        feed = "".join(f"{name}\n" for name in unique).encode()
        out = self.git.ask("read files", "cat-file", "--batch", stdin=feed)
        blobs: dict[str, bytes] = {}
        for name, content in parse_batch(out).items():
            if content is None:
                raise TerminalError(
                    f"The object {name[:9]} is missing from {self.root}: "
                    "the clone is partial or damaged.",
                    hint=f"git -C {self.root} fetch --refetch",
                )
            blobs[name] = content
        return blobs

    def missing_objects(self, commit: str) -> list[str]:
        """Ids of files and folders of a commit that the clone lacks (partial clone, damage).

        Raises:
            StepFailedError: The commit's own tree cannot be read.
        """
        out = self.git.ask(
            f"check that {commit[:9]} is complete",
            *("rev-list", "--objects", "--no-walk", "--missing=print", _full(commit)),
            timeout=WRITE_TIMEOUT,
        )
        return [line[1:].decode() for line in out.splitlines() if line.startswith(b"?")]

    def filtered(self, paths: Sequence[str], *, index: Path | None = None) -> dict[str, str]:
        """Which of the paths need a filter program (git-lfs ...).

        Attributes come from the working tree, or from a private index where one is given, and
        from the repository's `info/attributes`.

        Returns:
            The filter's name by path; paths without a filter are left out.
        """
        if not paths:
            return {}
        out = self.git.ask(
            "read attributes",
            *("check-attr", "-z", "--stdin", *(["--cached"] if index else []), "filter"),
            index=index,
            stdin=b"".join(os.fsencode(path) + b"\0" for path in paths),
        )
        words = [os.fsdecode(word) for word in out.split(b"\0")]
        found = zip(words[0::3], words[2::3], strict=False)
        return {
            path: value for path, value in found if value not in {"unspecified", "unset", "set"}
        }

    def export(self, commit: str, destination: Path) -> None:
        """Writes the files of a commit into an empty folder, as a checkout would.

        Line ends, symlinks and exec bits are kept; index and working tree are not touched;
        `export-ignore` and `export-subst` do not apply.

        Args:
            commit: Full id.
            destination: An empty folder, or one to be made.

        Raises:
            TerminalError: The folder is not empty; the commit has a submodule, a symlink that
                leaves the folder, or a file that needs a filter program; or files are missing from
                the clone.
        """
        destination.mkdir(parents=True, exist_ok=True)
        if any(destination.iterdir()):
            raise TerminalError(f"{destination} is not empty, so no commit is written into it.")
        files = self.list_files(commit)
        self._require_contained(commit, files)
        with tempfile.TemporaryDirectory(prefix="reconciler-") as folder:
            index = Path(folder) / "index"
            self.git.ask(
                f"read the tree of {commit[:9]}",
                *NOT_DURABLE,
                "read-tree",
                _full(commit),
                index=index,
            )
            require_unfiltered(
                self.filtered([file.path for file in files], index=index), f"Commit {commit[:9]}"
            )
            self.git.ask(
                f"write the files of {commit[:9]}",
                *("checkout-index", "--all", "--quiet", "--force"),
                index=index,
                work_tree=destination.absolute(),
                timeout=WRITE_TIMEOUT,
            )

    def _require_contained(self, commit: str, files: Sequence[TreeFile]) -> None:
        submodule = next((file.path for file in files if file.mode == SUBMODULE), None)
        if submodule:
            raise submodule_error(commit, submodule)
        links = [file for file in files if file.mode == SYMLINK]
        targets = self.read_blobs(file.id for file in links)
        for link in links:
            if leaves(link.path, os.fsdecode(targets[link.id])):
                raise TerminalError(
                    f"The symlink {link.path} in commit {commit[:9]} points out of the repository."
                )


@dataclass(frozen=True, slots=True)
class SourceTree:
    """The files of one commit: `Repository` with the commit already said.

    Attributes:
        repository: Where it is read from.
        commit: Full id.
    """

    repository: Repository
    commit: str

    def list_files(self, *paths: str) -> list[TreeFile]:
        """See `Repository.list_files`."""
        return self.repository.list_files(self.commit, *paths)

    def files_under(self, folder: str) -> Mapping[str, str]:
        """See `Repository.files_under`."""
        return self.repository.files_under(self.commit, folder)

    def read_file(self, path: str, *, limit: int = READ_LIMIT) -> bytes:
        """See `Repository.read_file`."""
        return self.repository.read_file(self.commit, path, limit=limit)

    def read_files(self, paths: Iterable[str], *, limit: int = READ_LIMIT) -> dict[str, bytes]:
        """See `Repository.read_files`."""
        return self.repository.read_files(self.commit, paths, limit=limit)

    def export(self, destination: Path) -> None:
        """See `Repository.export`."""
        self.repository.export(self.commit, destination)


def _full(commit: str) -> str:
    if not FULL_ID.fullmatch(commit):
        raise ValueError(f"{commit!r} is not a full object id")
    return commit


def _inside(path: str) -> str:
    """A path from the top of the repository in its one spelling; empty for the top itself."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts:
        raise TerminalError(f"{path} is not a path inside the repository.")
    return "" if pure == PurePosixPath() else str(pure)
