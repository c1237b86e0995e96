"""Reading real repositories: right answers, one-sentence errors, and nothing of the repository's own is ever run."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.core.errors import ReconcilerError, StepFailedError, TerminalError, TransientError
from reconciler.targets.shared import git_command
from reconciler.targets.shared.git_objects import leaves, parse_commit
from reconciler.targets.shared.git_status import parse_status
from reconciler.targets.shared.repository import Repository
from tests.support.repositories import Scratch, contents

pytestmark = pytest.mark.process


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    scratch = Scratch.create(tmp_path / "app")
    scratch.commit("first", {"a.txt": "one\n", "down/1.sql": "drop 1", "down/sub/2.sql": "drop 2"})
    scratch.git("tag", "v1")
    scratch.git("tag", "-a", "-m", "annotated", "v1-annotated")
    scratch.write("run.sh", "#!/bin/sh\n", executable=True)
    scratch.link("current", "a.txt")
    scratch.commit("second: déjà vu\n\nwith a body", {"a.txt": "two\n", "n\u00e4me\nx.txt": "odd"})
    return scratch


def trap(scratch: Scratch, name: str = "trap") -> tuple[Path, Path]:
    """A program that leaves a mark when it is run, and the mark."""
    program, mark = scratch.root.parent / f"{name}.sh", scratch.root.parent / f"{name}.ran"
    program.write_text(f"#!/bin/sh\ntouch {mark}\ncat\n")
    program.chmod(0o755)
    return program, mark


def test_every_way_to_name_a_commit_resolves_to_its_full_id(scratch: Scratch) -> None:
    repository = Repository(scratch.root)
    second = scratch.head()
    first = scratch.git("rev-parse", "HEAD~1")
    assert repository.resolve("HEAD") == second
    assert repository.resolve("main") == second
    assert repository.resolve(second) == second
    assert repository.resolve(second[:7]) == second
    for name in ("HEAD~1", "v1", "v1-annotated", "main^", first[:8]):
        assert repository.resolve(name) == first


@pytest.mark.parametrize(
    ("revision", "message"),
    [
        ("nope", "There is no commit nope in"),
        ("HEAD~9", "There is no commit HEAD~9 in"),
        ("deadbeef" * 5, "There is no commit deadbeef"),
        ("HEAD:a.txt", "There is no commit HEAD:a.txt in"),
        ("HEAD^{tree}", "is not a commit"),
        ("--all", "There is no commit --all in"),
        ("HEAD..HEAD~1", "There is no commit HEAD..HEAD~1"),
        ("", "'' is not a Git revision"),
        ("a\0b", "is not a Git revision"),
        ("a\nb", "is not a Git revision"),
    ],
)
def test_what_names_no_commit_is_said_in_one_sentence(
    scratch: Scratch, revision: str, message: str
) -> None:
    with pytest.raises(TerminalError) as caught:
        Repository(scratch.root).resolve(revision)
    assert message in caught.value.message
    assert "fatal" not in caught.value.message


def test_an_ambiguous_short_id_asks_for_more_digits(tmp_path: Path) -> None:
    scratch = Scratch.create(tmp_path / "app")
    scratch.long_history(400)
    ids = scratch.git("rev-list", "main").split()
    short = next(one[:4] for one in ids if sum(other.startswith(one[:4]) for other in ids) > 1)
    with pytest.raises(TerminalError, match="fits more than one commit") as caught:
        Repository(scratch.root).resolve(short)
    assert caught.value.hint == "Give more digits, or the full id."


def test_a_shallow_clone_says_that_it_is_one(scratch: Scratch, tmp_path: Path) -> None:
    scratch.git("clone", "-q", "--depth=1", f"file://{scratch.root}", str(tmp_path / "clone"))
    clone = Repository(tmp_path / "clone")
    assert clone.resolve("HEAD") == scratch.head()
    with pytest.raises(TerminalError, match="which is a shallow clone") as caught:
        clone.resolve("HEAD~1")
    assert "--unshallow" in caught.value.hint
    assert clone.missing_objects(scratch.head()) == []


def test_a_folder_that_is_no_repository_is_named(scratch: Scratch, tmp_path: Path) -> None:
    with pytest.raises(
        TerminalError, match=r"is not the top of a Git working tree; .*/app is"
    ) as e:
        Repository(scratch.root / "down")
    assert e.value.hint == f"Let spec.git.repository name {scratch.root}."
    with pytest.raises(TerminalError, match="is not a folder"):
        Repository(tmp_path / "absent")
    (tmp_path / "plain").mkdir()
    with pytest.raises(TerminalError, match="is not a Git repository"):
        Repository(tmp_path / "plain")
    scratch.git("clone", "-q", "--bare", str(scratch.root), str(tmp_path / "bare"))
    with pytest.raises(TerminalError, match="is a bare repository"):
        Repository(tmp_path / "bare")


def test_somebody_elses_repository_needs_the_users_own_word(
    scratch: Scratch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = scratch.head()
    for path in (scratch.root, scratch.root / ".git"):
        os.chown(path, 12345, -1)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("SUDO_UID", raising=False)
    with pytest.raises(TerminalError, match="belongs to user id 12345, but this command") as e:
        Repository(scratch.root)
    assert e.value.hint.endswith(f"git config --global --add safe.directory {scratch.root}")
    (tmp_path / ".gitconfig").write_text(f"[safe]\n\tdirectory = {scratch.root}\n")
    assert Repository(scratch.root).resolve("HEAD") == head
    (tmp_path / ".gitconfig").write_text(f"[safe]\n\tdirectory = {scratch.root}\n\tdirectory =\n")
    with pytest.raises(TerminalError, match="belongs to"):
        Repository(scratch.root)
    monkeypatch.setenv("SUDO_UID", "12345")
    assert Repository(scratch.root).resolve("HEAD") == head


def test_a_linked_work_tree_is_read_on_its_own(scratch: Scratch, tmp_path: Path) -> None:
    scratch.git("worktree", "add", "-q", "--detach", str(tmp_path / "linked"), "HEAD~1")
    linked = Repository(tmp_path / "linked")
    assert linked.head() == scratch.git("rev-parse", "HEAD~1")
    assert linked.head_ref() is None
    assert Repository(scratch.root).head_ref() == "refs/heads/main"


def test_files_are_read_at_a_commit_whatever_the_tree_holds(scratch: Scratch) -> None:
    first = scratch.git("rev-parse", "HEAD~1")
    scratch.write("a.txt", "local\n")
    tree = Repository(scratch.root).tree("HEAD~1")
    assert tree.commit == first
    assert tree.read_file("a.txt") == b"one\n"
    assert tree.read_file("./down/1.sql") == b"drop 1"
    assert list(tree.files_under("down")) == ["1.sql", "sub/2.sql"]
    assert tree.files_under("down/") == tree.files_under("down")
    assert tree.files_under("none") == {}
    assert tree.read_files(["a.txt", "gone"]) == {"a.txt": b"one\n"}
    assert Repository(scratch.root).tree("HEAD").read_file("n\u00e4me\nx.txt") == b"odd"


def test_hundreds_of_files_are_read_in_two_processes(tmp_path: Path) -> None:
    scratch = Scratch.create(tmp_path / "app")
    commit = scratch.commit("many", {f"m/{n:04}.sql": f"{n}" for n in range(800)})
    files = Repository(scratch.root).read_files(commit, [f"m/{n:04}.sql" for n in range(800)])
    assert len(files) == 800
    assert files["m/0799.sql"] == b"799"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone.txt", "has no file gone.txt"),
        ("down", "has no file down"),
        ("current", "current in commit .* is a symlink, not a file"),
        ("../a.txt", "is not a path inside the repository"),
        ("/etc/passwd", "is not a path inside the repository"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(scratch: Scratch, path: str, message: str) -> None:
    with pytest.raises(TerminalError, match=message):
        Repository(scratch.root).read_file(scratch.head(), path)


def test_a_huge_file_is_refused_before_it_is_read(scratch: Scratch) -> None:
    with pytest.raises(TerminalError, match=r"has 4 bytes; at most 3 are read"):
        Repository(scratch.root).read_file(scratch.head(), "a.txt", limit=3)


def test_a_commit_tells_its_subject_author_and_date(scratch: Scratch) -> None:
    info = Repository(scratch.root).commit_info(scratch.head())
    assert info.subject == "second: déjà vu"
    assert info.author == "Ada"
    assert info.label == f"{scratch.head()[:9]} second: déjà vu"
    assert info.parents == (scratch.git("rev-parse", "HEAD~1"),)
    assert int(info.date.timestamp()) == int(scratch.git("log", "-1", "--format=%ct"))


def test_a_commit_in_another_encoding_is_readable() -> None:
    raw = b"tree x\nauthor J\xfcrgen <j> 5 +0000\ncommitter x <y> bad\nencoding latin1\n\n\xfcber"
    info = parse_commit("a" * 40, raw)
    assert (info.subject, info.author, info.date.year) == ("über", "Jürgen", 1970)
    assert parse_commit("a" * 40, raw.replace(b"latin1", b"klingon")).subject == "\ufffdber"


def test_ancestry(scratch: Scratch) -> None:
    repository = Repository(scratch.root)
    second, first = scratch.head(), scratch.git("rev-parse", "HEAD~1")
    assert repository.is_ancestor(first, second)
    assert repository.is_ancestor(second, second)
    assert not repository.is_ancestor(second, first)
    with pytest.raises(StepFailedError, match="could not compare two commits"):
        repository.is_ancestor("0" * 40, first)


def test_status_tells_tracked_from_untracked(scratch: Scratch) -> None:
    repository = Repository(scratch.root)
    assert repository.status().changes == {}
    scratch.write("a.txt", "changed")
    scratch.write("staged.txt", "x")
    scratch.git("add", "staged.txt")
    scratch.write("new/x", "x")
    status = repository.status(untracked=True)
    assert {p: (c.staged, c.unstaged) for p, c in status.changes.items()} == {
        "a.txt": (".", "M"),
        "staged.txt": ("A", "."),
    }
    assert status.untracked == ["new/"]
    assert repository.status().untracked == []


def test_an_unknown_status_line_is_an_error_not_a_guess() -> None:
    with pytest.raises(StepFailedError, match="line of unknown form"):
        parse_status(b"9 what is this\0")


def test_export_is_what_a_checkout_would_be(scratch: Scratch, tmp_path: Path) -> None:
    scratch.commit("line ends", {".gitattributes": "*.bat eol=crlf\n", "w/x.bat": "a\nb\n"})
    scratch.write("a.txt", "local change")
    before = contents(scratch.root), (scratch.root / ".git/index").read_bytes()
    Repository(scratch.root).export(scratch.head(), tmp_path / "out")
    assert (contents(scratch.root), (scratch.root / ".git/index").read_bytes()) == before
    scratch.git("worktree", "add", "-q", "--detach", str(tmp_path / "truth"))
    assert contents(tmp_path / "out") == contents(tmp_path / "truth")
    assert (tmp_path / "out/w/x.bat").read_bytes() == b"a\r\nb\r\n"
    assert contents(tmp_path / "out")["run.sh"][0] == "executable"
    assert contents(tmp_path / "out")["current"] == ("link", b"a.txt")


def test_export_refuses_a_folder_in_use(scratch: Scratch, tmp_path: Path) -> None:
    with pytest.raises(TerminalError, match="is not empty"):
        Repository(scratch.root).export(scratch.head(), tmp_path)


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "x/../../../y"])
def test_export_refuses_a_symlink_that_leaves_it(
    scratch: Scratch, tmp_path: Path, target: str
) -> None:
    scratch.link("d/evil", target if target.startswith("/") else f"../{target}")
    scratch.commit("evil")
    with pytest.raises(TerminalError, match=r"symlink d/evil .* points out of the repository"):
        Repository(scratch.root).export(scratch.head(), tmp_path / "out")


def test_a_symlink_may_wander_inside() -> None:
    assert not leaves("a/b/link", "../../c/./d/../e")
    assert leaves("a/b/link", "../../../e")
    assert leaves("link", "..")


def test_a_commit_with_a_submodule_is_refused(scratch: Scratch, tmp_path: Path) -> None:
    scratch.git("update-index", "--add", "--cacheinfo", f"160000,{scratch.head()},lib")
    scratch.git("commit", "-q", "-m", "submodule")
    with pytest.raises(TerminalError, match="has a submodule at lib"):
        Repository(scratch.root).export(scratch.head(), tmp_path / "out")


def test_files_that_need_a_filter_program_are_refused_by_name(
    scratch: Scratch, tmp_path: Path
) -> None:
    commit = scratch.commit("lfs", {".gitattributes": "*.bin filter=lfs\n", "x/y.bin": "pointer"})
    with pytest.raises(TerminalError, match=r"needs the Git filter 'lfs' for x/y\.bin"):
        Repository(scratch.root).export(commit, tmp_path / "out")


def test_a_missing_object_is_found_and_named(scratch: Scratch) -> None:
    repository, head = Repository(scratch.root), scratch.head()
    blob = scratch.git("rev-parse", "HEAD:a.txt")
    (scratch.root / ".git/objects" / blob[:2] / blob[2:]).unlink()
    assert repository.missing_objects(head) == [blob]
    with pytest.raises(TerminalError, match="the clone is partial or damaged"):
        repository.read_file(head, "a.txt")


def test_nothing_the_repository_configures_is_run(scratch: Scratch, tmp_path: Path) -> None:
    program, mark = trap(scratch)
    hooks = scratch.root / ".git/hooks"
    hooks.mkdir(exist_ok=True)
    names = ("post-checkout", "post-index-change", "reference-transaction", "fsmonitor-watchman")
    for name in names:
        shutil.copy(program, hooks / name)
    commit = scratch.commit(
        "filters", {".gitattributes": "*.txt filter=evil diff=evil\n", "f.txt": "x\n"}
    )
    mark.unlink(missing_ok=True)
    extra = tmp_path / "extra"
    extra.write_text(f'[filter "in=cluded"]\n\tprocess = {program}\n\trequired = true\n')
    for key, value in {
        "core.fsmonitor": str(program),
        "core.pager": str(program),
        "diff.external": str(program),
        "diff.evil.textconv": str(program),
        "filter.evil.clean": str(program),
        "filter.evil.smudge": str(program),
        "filter.evil.process": str(program),
        "filter.evil.required": "true",
        "hook.late.command": str(program),
        "hook.late.event": "post-index-change",
        "gpg.program": str(program),
        "log.showSignature": "true",
        "core.sshCommand": str(program),
        "include.path": str(extra),
        "alias.status": f"!{program}",
    }.items():
        scratch.git("config", key, value)
    scratch.write("f.txt", "changed, so that a clean filter would run\n")
    repository = Repository(scratch.root)
    assert list(repository.status(untracked=True).changes) == ["f.txt"]
    repository.commit_info(commit)
    repository.read_file(commit, "a.txt")
    repository.missing_objects(commit)
    with pytest.raises(TerminalError, match="needs the Git filter 'evil'"):
        repository.export(commit, tmp_path / "out")
    assert not mark.exists()


def test_a_partial_clone_fetches_nothing(scratch: Scratch, tmp_path: Path) -> None:
    program, mark = trap(scratch)
    scratch.git("config", "uploadpack.allowFilter", "true")
    url, path = f"file://{scratch.root}", tmp_path / "clone"
    scratch.git("clone", "-q", "--filter=blob:none", "--no-checkout", url, str(path))
    clone = Scratch(path)
    clone.git("config", "remote.origin.url", f"ext::{program}")
    clone.git("config", "protocol.ext.allow", "always")
    repository = Repository(path)
    assert len(repository.missing_objects(scratch.head())) == 6
    with pytest.raises(TerminalError):
        repository.read_file(scratch.head(), "a.txt")
    assert not mark.exists()


def test_the_callers_git_variables_do_not_lead_astray(
    scratch: Scratch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Scratch.create(tmp_path / "other")
    other.commit("elsewhere", {"b": "b"})
    monkeypatch.setenv("GIT_DIR", str(other.root / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other.root))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other.root / ".git/index"))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(other.root / ".git/objects"))
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", "'core.bare'='true'")
    repository = Repository(scratch.root)
    assert repository.head() == scratch.head()
    assert repository.status().changes == {}
    assert repository.read_file(scratch.head(), "a.txt") == b"two\n"


def test_replacement_refs_are_not_believed(scratch: Scratch) -> None:
    second, first = scratch.head(), scratch.git("rev-parse", "HEAD~1")
    scratch.git("replace", second, first)
    assert Repository(scratch.root).read_file(second, "a.txt") == b"two\n"


def test_a_git_that_hangs_is_given_up(scratch: Scratch) -> None:
    repository = Repository(scratch.root)
    os.mkfifo(scratch.root / "pipe")
    with pytest.raises(TransientError, match=r"git hash-object in .* did not answer within 0.2 s"):
        repository.git.run("hash-object", "pipe", timeout=0.2)


def test_a_machine_without_git_is_told_so(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Repository(scratch.root)
    repository.head()
    monkeypatch.setattr(git_command._git_class(), "GIT_PYTHON_GIT_EXECUTABLE", "/nowhere/git")
    with pytest.raises(TerminalError, match="git program was not found"):
        repository.head()


def test_a_sha256_repository_is_read_too(tmp_path: Path) -> None:
    scratch = Scratch.create(tmp_path / "app", "--object-format=sha256")
    commit = scratch.commit("one", {"a": "1"})
    assert len(commit) == 64
    repository = Repository(scratch.root)
    assert repository.resolve(commit[:10]) == commit
    assert repository.read_file(commit, "a") == b"1"


def fastest(question: Callable[[], object]) -> float:
    """Seconds the quickest of several runs takes; others share the machine."""
    times = []
    for _ in range(10):
        start = time.perf_counter()
        question()
        times.append(time.perf_counter() - start)
    return min(times)


def test_a_long_history_costs_nothing(tmp_path: Path) -> None:
    scratch = Scratch.create(tmp_path / "app")
    scratch.long_history(20_000)
    # A branch far behind, as an upstream, is what makes `git status` walk the history.
    scratch.git("branch", "old", "main~19000")
    scratch.git("branch", "-q", "--set-upstream-to=old")
    repository = Repository(scratch.root)
    head = repository.head()
    questions: dict[str, Callable[[], object]] = {
        "status": repository.status,
        "resolve": lambda: repository.resolve("HEAD~1"),
        "info": lambda: repository.commit_info(head),
    }
    for name, question in questions.items():
        assert fastest(question) < 0.05, name


def test_errors_are_of_our_own_tree(scratch: Scratch) -> None:
    (scratch.root / ".git/index").write_bytes(b"damaged")
    with pytest.raises(ReconcilerError, match="could not read the status") as caught:
        Repository(scratch.root).status()
    assert isinstance(caught.value, StepFailedError)
