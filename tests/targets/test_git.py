"""The git target against real repositories: it never loses work, and a kill at any instant converges."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pytest

from reconciler.core.crashpoints import TARGET_POINTS, CrashPoint
from reconciler.core.errors import (
    LeaseLostError,
    PreflightError,
    StepFailedError,
    TerminalError,
    TransientError,
)
from reconciler.core.facts import GIT_COMMIT, GIT_DIRTY, GIT_HEAD, Fact, Goal, Observation
from reconciler.core.phase import WORK_ORDER, Phase
from reconciler.core.pins import Pins
from reconciler.core.plan import Step
from reconciler.targets.base import Applied
from reconciler.targets.git import GitTarget
from reconciler.targets.shared.git_command import Answer, GitCommand
from tests.support.repositories import Lent, Scratch, contents

pytestmark = pytest.mark.process

PROTECTED = ("specs/prod.yaml", "states")


class Bench:
    """One repository, its target, and what the engine would do with it."""

    def __init__(self, scratch: Scratch, dirty: Literal["refuse", "stash"] = "refuse") -> None:
        self.scratch = scratch
        self.root = scratch.root
        self.dirty: Literal["refuse", "stash"] = dirty
        self.target = self.fresh()

    def fresh(self) -> GitTarget:
        return GitTarget(self.root, protected=PROTECTED, dirty=self.dirty)

    def observe(self) -> Observation:
        return Observation.of(datetime.now(UTC), self.target.observe())

    def facts(self) -> dict[str, str | None]:
        return {key: fact.value for key, fact in self.observe().facts.items()}

    def goal(self, commit: str, head: str | None = None) -> Goal:
        resolution = self.target.resolve(Pins(git=commit, head=head), self.observe(), Goal())
        return Goal(
            wanted={wanted.key: wanted for wanted in resolution.wanted},
            materials={"git": resolution.materials},
        )

    def plan(self, goal: Goal, *phases: Phase) -> list[Step]:
        observed = self.observe()
        return [
            step
            for phase in phases or WORK_ORDER
            for step in self.target.plan(phase, observed, goal)
        ]

    def apply(self, steps: Sequence[Step], lent: Lent | None = None) -> list[Applied]:
        return [self.target.apply(step, lent or Lent(self.root.parent)) for step in steps]

    def go(self, commit: str, head: str | None = None) -> list[Applied]:
        """The whole way, as the engine goes it: plan, capture, restore."""
        return self.apply(self.plan(self.goal(commit, head)), Lent(self.root.parent))


def two_releases(root: Path) -> Scratch:
    """A good release and a bad one that differ in every way two commits can."""
    scratch = Scratch.create(root)
    scratch.write("bin/run", "#!/bin/sh\necho good\n", executable=True)
    scratch.write("bin/flips", "x", executable=True)
    scratch.link("current", "app/good.txt")
    scratch.link("becomes-folder", "bin")
    scratch.commit(
        "good release",
        {
            ".gitattributes": "*.bat text eol=crlf\n",
            ".gitignore": "*.log\n",
            "app/good.txt": "good\n",
            "app/same.txt": "same\n",
            "only-good/deep/down.txt": "x\n",
            "file-then-folder": "a file\n",
            "folder-then-file/inner/x.txt": "inner\n",
            "win.bat": "echo good\n",
            "specs/prod.yaml": "commit: good\n",
            "n\u00e4me with \nnewline": "odd\n",
            "empty": "",
        },
    )
    scratch.git("tag", "good")
    scratch.git("rm", "-rq", "only-good", "file-then-folder", "folder-then-file", "becomes-folder")
    scratch.write("bin/flips", "x")
    scratch.link("current", "app/bad.txt")
    scratch.write("win.bat", "echo bad\r\n")
    scratch.commit(
        "bad release",
        {
            ".gitattributes": "*.txt text\n",
            "app/good.txt": "good, changed\n",
            "app/bad.txt": "bad\n",
            "bin/run": "#!/bin/sh\necho bad\n",
            "file-then-folder/now/a.txt": "a folder\n",
            "folder-then-file": "now a file\n",
            "becomes-folder/x.txt": "x\n",
            "new/deep/er.txt": "new\n",
            "specs/prod.yaml": "commit: bad\n",
            "n\u00e4me with \nnewline": "odder\n",
        },
    )
    scratch.git("tag", "bad")
    return scratch


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    return two_releases(tmp_path / "app")


@pytest.fixture
def bench(scratch: Scratch) -> Bench:
    return Bench(scratch)


@pytest.fixture
def truth(scratch: Scratch, tmp_path: Path) -> dict[str, tuple[str, bytes]]:
    """What a plain clone of the good release holds."""
    scratch.git("clone", "-q", "-b", "good", str(scratch.root), str(tmp_path / "truth"))
    return contents(tmp_path / "truth")


def without_spec(files: dict[str, tuple[str, bytes]]) -> dict[str, tuple[str, bytes]]:
    return {path: one for path, one in files.items() if path != "specs/prod.yaml"}


def leftovers(root: Path) -> list[str]:
    git = root / ".git"
    found = [*git.glob("*.lock"), *(git / "reconciler").glob("*"), *root.rglob(".reconciler*")]
    return [str(path.relative_to(root)) for path in found]


# --- observing ---------------------------------------------------------------------------------


def test_a_clean_tree_on_a_branch(bench: Bench) -> None:
    observed = bench.observe()
    head = bench.scratch.head()
    assert observed.get(GIT_COMMIT) == Fact(
        key=GIT_COMMIT, value=head, detail=f"{head[:9]} bad release"
    )
    assert observed.value(GIT_HEAD) == "refs/heads/main"
    assert observed.value(GIT_DIRTY) == "clean"


def test_a_detached_head_is_known_to_be_on_no_branch(bench: Bench) -> None:
    bench.scratch.git("checkout", "-q", "--detach")
    fact = bench.observe().get(GIT_HEAD)
    assert fact.known
    assert fact.value is None


def test_dirty_names_the_first_files_and_counts_the_rest(bench: Bench) -> None:
    for number in range(8):
        bench.scratch.write(f"staged{number}", "x")
    bench.scratch.git("add", "-A")
    fact = bench.observe().get(GIT_DIRTY)
    assert fact.value == "dirty"
    assert fact.detail == "staged0, staged1, staged2, staged3, staged4 and 3 more"


def test_untracked_ignored_and_protected_files_are_not_dirt(bench: Bench) -> None:
    bench.scratch.write("untracked", "x")
    bench.scratch.write("debug.log", "x")
    bench.scratch.write("specs/prod.yaml", "commit: edited\n")
    assert bench.facts()[GIT_DIRTY] == "clean"


def test_observing_changes_nothing_at_all(bench: Bench) -> None:
    (bench.root / "app/same.txt").touch()  # would make git refresh its index
    before = sorted((p, p.lstat().st_mtime_ns) for p in bench.root.rglob("*"))
    bench.observe()
    assert sorted((p, p.lstat().st_mtime_ns) for p in bench.root.rglob("*")) == before


def test_observing_takes_two_processes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    run = GitCommand.run

    def counted(self: GitCommand, *arguments: str, **options: object) -> object:
        calls.append(arguments[0])
        return run(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(GitCommand, "run", counted)
    bench.observe()
    assert calls == ["status", "cat-file"]


def test_what_cannot_be_read_is_unknown_with_the_reason(tmp_path: Path) -> None:
    facts = GitTarget(tmp_path / "absent", protected=()).observe()
    assert {fact.key for fact in facts} == {GIT_COMMIT, GIT_HEAD, GIT_DIRTY}
    assert all("is not a folder" in (fact.unknown or "") for fact in facts)


def test_a_repository_without_commits_is_unknown(tmp_path: Path) -> None:
    bench = Bench(Scratch.create(tmp_path / "app"))
    assert "has no commit yet" in (bench.observe().get(GIT_COMMIT).unknown or "")
    assert bench.observe().value(GIT_HEAD) == "refs/heads/main"


def test_a_damaged_index_is_unknown_not_a_crash(bench: Bench) -> None:
    (bench.root / ".git/index").write_bytes(b"damaged")
    assert "could not read the status" in (bench.observe().get(GIT_COMMIT).unknown or "")


# --- resolving and planning --------------------------------------------------------------------


def test_a_pin_becomes_the_full_id(bench: Bench) -> None:
    goal = bench.goal("good")
    wanted = goal.wanted[GIT_COMMIT]
    assert wanted.value == bench.scratch.git("rev-parse", "good")
    assert wanted.detail == f"{wanted.value[:9]} good release"
    assert GIT_HEAD not in goal.wanted


def test_the_branch_is_wanted_only_while_it_points_there(bench: Bench) -> None:
    assert bench.goal("bad", "refs/heads/main").value(GIT_HEAD) == "refs/heads/main"
    assert bench.goal("good", "refs/heads/main").value(GIT_HEAD) is None
    assert bench.goal("bad", "refs/heads/gone").value(GIT_HEAD) is None
    assert bench.goal("bad", "refs/tags/bad").value(GIT_HEAD) is None


def test_no_pin_wants_nothing(bench: Bench) -> None:
    resolution = bench.target.resolve(Pins(), bench.observe(), Goal())
    assert resolution.wanted == ()
    assert bench.plan(Goal()) == []


def test_a_missing_commit_is_a_terminal_error(bench: Bench) -> None:
    with pytest.raises(TerminalError, match="There is no commit v9 in"):
        bench.goal("v9")


def test_a_commit_with_a_submodule_is_refused_before_planning(bench: Bench) -> None:
    scratch = bench.scratch
    scratch.git("update-index", "--add", "--cacheinfo", f"160000,{scratch.head()},lib")
    scratch.git("commit", "-q", "-m", "submodule")
    commit = scratch.head()
    scratch.git("reset", "-q", "--hard", "HEAD~1")
    with pytest.raises(TerminalError, match="has a submodule at lib; submodules cannot be taken"):
        bench.goal(commit)


def test_nothing_is_planned_at_the_goal(bench: Bench) -> None:
    assert bench.plan(bench.goal("HEAD")) == []
    assert bench.plan(bench.goal("HEAD", "refs/heads/main")) == []


def test_the_plan_is_a_check_then_a_checkout(bench: Bench) -> None:
    steps = bench.plan(bench.goal("good"))
    assert [(step.key, step.touches, step.once) for step in steps] == [
        ("capture/git/preflight/worktree", False, False),
        ("restore/git/checkout/worktree", True, False),
    ]
    assert "good release" in steps[1].summary


def test_the_stash_is_planned_where_it_is_needed(scratch: Scratch) -> None:
    bench = Bench(scratch, "stash")

    def restore() -> list[str]:
        return [step.action for step in bench.plan(bench.goal("good"), Phase.RESTORE)]

    assert restore() == ["checkout"]
    scratch.write("only-good", "an untracked file where the goal has a folder")
    assert restore() == ["stash", "checkout"]
    (scratch.root / "only-good").unlink()
    scratch.write("app/same.txt", "local\n")
    assert restore() == ["stash", "checkout"]
    assert next(s for s in bench.plan(bench.goal("good")) if s.action == "stash").once


@pytest.mark.parametrize("path", ["/etc", "../x", ".", ""])
def test_a_protected_path_must_lie_inside(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="is not a path inside the repository"):
        GitTarget(tmp_path, protected=[path])


# --- going there -------------------------------------------------------------------------------


def test_a_checkout_is_what_a_fresh_clone_would_be(
    bench: Bench, truth: dict[str, tuple[str, bytes]]
) -> None:
    bench.scratch.write("keep.log", "ignored, stays")
    bench.scratch.write("app/notes", "untracked, stays")
    notes = [applied.note for applied in bench.go("good")]
    now = contents(bench.root)
    assert now.pop("keep.log") == ("file", b"ignored, stays")
    assert now.pop("app/notes") == ("file", b"untracked, stays")
    assert now.pop("specs/prod.yaml") == ("file", b"commit: bad\n")
    assert now == without_spec(truth)
    assert now["win.bat"] == ("file", b"echo good\r\n")
    assert bench.facts() == {
        GIT_COMMIT: bench.scratch.git("rev-parse", "good"),
        GIT_HEAD: None,
        GIT_DIRTY: "clean",
    }
    assert bench.scratch.porcelain() == [" M specs/prod.yaml", "?? app/notes"]
    assert "main stays at" in notes[-1]
    assert bench.scratch.git("rev-parse", "main") == bench.scratch.git("rev-parse", "bad")
    assert bench.plan(bench.goal("good")) == []
    assert leftovers(bench.root) == []


def test_the_way_back_returns_to_the_branch(bench: Bench) -> None:
    before = contents(bench.root)
    bench.go("good")
    applied = bench.go("bad", "refs/heads/main")
    assert contents(bench.root) == before
    assert bench.scratch.branch() == "refs/heads/main"
    assert bench.scratch.porcelain() == []
    assert {fact.key: fact.value for fact in applied[-1].facts}[GIT_HEAD] == "refs/heads/main"
    assert "HEAD is on main" in applied[-1].note


def test_only_the_branch_is_wanted_back(bench: Bench) -> None:
    bench.scratch.git("checkout", "-q", "--detach")
    bench.go("bad", "refs/heads/main")
    assert bench.scratch.branch() == "refs/heads/main"


def test_the_reflog_says_who_moved_head(bench: Bench) -> None:
    bench.go("good")
    assert "reconciler: run-1: checkout of" in bench.scratch.git("reflog", "-1", "HEAD")


def test_doing_it_twice_is_doing_it_once(bench: Bench) -> None:
    steps = bench.plan(bench.goal("good"))
    bench.apply(steps)
    now, head = contents(bench.root), bench.scratch.git("reflog", "HEAD")
    again = bench.apply(steps, Lent(bench.root.parent, attempted=datetime.now(UTC)))
    assert again[-1].note.startswith("0 files written, 0 deleted")
    assert (contents(bench.root), bench.scratch.git("reflog", "HEAD")) == (now, head)


def test_commits_with_equal_trees_move_head_alone(bench: Bench) -> None:
    bench.scratch.git("commit", "-q", "--allow-empty", "-m", "empty")
    applied = bench.go("bad")
    assert applied[-1].note.startswith("0 files written, 0 deleted")
    assert bench.facts()[GIT_COMMIT] == bench.scratch.git("rev-parse", "bad")


def test_a_linked_work_tree_is_taken_back_alone(bench: Bench, tmp_path: Path) -> None:
    bench.scratch.git("worktree", "add", "-q", "-b", "live", str(tmp_path / "live"))
    live = Bench(Scratch(tmp_path / "live"))
    live.go("good")
    assert live.facts()[GIT_COMMIT] == bench.scratch.git("rev-parse", "good")
    assert bench.facts()[GIT_HEAD] == "refs/heads/main"
    assert bench.scratch.porcelain() == []


def test_git_folder_on_another_file_system(tmp_path: Path) -> None:
    shelf = Path("/dev/shm") / f"reconciler-test-{os.getpid()}"
    try:
        scratch = two_releases(tmp_path / "app")
        shutil.copytree(scratch.root / ".git", shelf, symlinks=True)
        shutil.rmtree(scratch.root / ".git")
        (scratch.root / ".git").write_text(f"gitdir: {shelf}\n")
        assert shelf.stat().st_dev != scratch.root.stat().st_dev
        before = contents(scratch.root)
        bench = Bench(scratch)
        bench.go("good")
        bench.go("bad", "refs/heads/main")
        assert contents(scratch.root) == before
        assert scratch.porcelain() == []
        assert leftovers(scratch.root) == []
    finally:
        shutil.rmtree(shelf, ignore_errors=True)


def test_a_group_shared_folder_hands_its_group_on(bench: Bench) -> None:
    os.chown(bench.root / "app", -1, 4242)
    (bench.root / "app").chmod(0o2775)
    bench.go("good")
    assert (bench.root / "app/good.txt").stat().st_gid == 4242


def test_hooks_and_monitors_never_run(bench: Bench, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    program = tmp_path / "trap.sh"
    program.write_text(f"#!/bin/sh\ntouch {mark}\n")
    program.chmod(0o755)
    hooks = bench.root / ".git/hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("post-checkout", "reference-transaction", "post-index-change"):
        shutil.copy(program, hooks / name)
    bench.scratch.git("config", "core.fsmonitor", str(program))
    bench.scratch.git("config", "core.hooksPath", str(hooks))
    bench.dirty = "stash"
    bench.target = bench.fresh()
    bench.scratch.write("app/same.txt", "local\n")
    mark.unlink(missing_ok=True)
    bench.go("good")
    bench.observe()
    bench.go("bad", "refs/heads/main")
    assert not mark.exists()
    bench.scratch.git("checkout", "-q", "good")
    assert mark.exists()  # the trap itself works


def test_a_file_mode_the_repository_ignores_is_no_change(bench: Bench) -> None:
    bench.scratch.git("config", "core.fileMode", "false")
    (bench.root / "app/same.txt").chmod(0o755)
    assert bench.facts()[GIT_DIRTY] == "clean"
    bench.go("good")
    assert bench.facts()[GIT_COMMIT] == bench.scratch.git("rev-parse", "good")


def test_many_files(tmp_path: Path) -> None:
    scratch = Scratch.create(tmp_path / "app")
    many = {f"d{n % 40}/f{n}": f"{n}" for n in range(1200)}
    good = scratch.commit("one", many)
    scratch.commit("two", {path: text + "!" for path, text in many.items()})
    bench = Bench(scratch)
    applied = bench.go(good)
    assert applied[-1].note.startswith("1200 files written")
    assert scratch.porcelain() == []


# --- refusing ----------------------------------------------------------------------------------


def refused(bench: Bench, commit: str = "good") -> PreflightError:
    """The refusal of a preflight; the tree must be as it was."""
    goal = bench.goal(commit)
    before = contents(bench.root), bench.scratch.git("rev-parse", "HEAD")
    with pytest.raises(PreflightError) as caught:
        bench.apply(bench.plan(goal, Phase.CAPTURE))
    assert (contents(bench.root), bench.scratch.git("rev-parse", "HEAD")) == before
    return caught.value


def test_local_changes_are_refused_by_name(bench: Bench) -> None:
    bench.scratch.write("app/same.txt", "local\n")
    error = refused(bench)
    assert error.message == f"{bench.root} has uncommitted changes: app/same.txt."
    assert "stash" in error.hint


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.write("app/good.txt", "local\n"),
        lambda s: (s.write("app/good.txt", "staged\n"), s.git("add", "-A")),
        lambda s: (s.root / "app/same.txt").unlink(),
        lambda s: s.git("rm", "-q", "--cached", "app/same.txt"),
        lambda s: (s.root / "app/same.txt").chmod(0o755),
        lambda s: s.link("app/same.txt", "elsewhere"),
        lambda s: (s.write("added", "x"), s.git("add", "added")),
        lambda s: (s.write("later", "x"), s.git("add", "-N", "later")),
        lambda s: (
            s.git("update-index", "--assume-unchanged", "app/good.txt"),
            s.write("app/good.txt", "hidden\n"),
        ),
    ],
    ids=["edited", "staged", "deleted", "unstaged", "mode", "link", "added", "intent", "hidden"],
)
def test_no_kind_of_local_change_slips_through(
    bench: Bench, change: Callable[[Scratch], object]
) -> None:
    change(bench.scratch)
    assert "has uncommitted changes" in refused(bench).message


def test_a_local_change_that_equals_the_goal_is_still_the_users(bench: Bench) -> None:
    bench.scratch.write("app/good.txt", "good\n")
    (bench.root / "new/deep/er.txt").unlink()
    assert refused(bench).message.endswith("app/good.txt, new/deep/er.txt.")


def test_files_hidden_from_git_but_not_touched_are_left_alone(bench: Bench) -> None:
    bench.scratch.git("update-index", "--assume-unchanged", "app/same.txt")
    bench.scratch.write("app/same.txt", "hidden\n")
    bench.go("good")
    assert (bench.root / "app/same.txt").read_text() == "hidden\n"


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("only-good/deep/down.txt", "only-good/deep/down.txt"),
        ("only-good", "only-good"),
        ("file-then-folder/now/b.txt", "file-then-folder/now/b.txt"),
        ("file-then-folder/debug.log", "file-then-folder/debug.log"),
        ("becomes-folder/.git/config", "becomes-folder/.git/config"),
    ],
)
def test_untracked_and_ignored_files_in_the_way_are_refused_by_name(
    bench: Bench, path: str, named: str
) -> None:
    bench.scratch.write(path, "mine\n")
    assert named in refused(bench).message


def test_an_untracked_file_that_is_already_right_is_not_in_the_way(bench: Bench) -> None:
    bench.scratch.write("only-good/deep/down.txt", "x\n")
    bench.go("good")
    assert bench.scratch.porcelain() == [" M specs/prod.yaml"]


def test_an_untracked_symlink_is_not_followed(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "outside/deep").mkdir(parents=True)
    (tmp_path / "outside/deep/down.txt").write_text("outside\n")
    bench.scratch.link("only-good", str(tmp_path / "outside"))
    assert "only-good" in refused(bench).message
    assert (tmp_path / "outside/deep/down.txt").read_text() == "outside\n"


def test_a_commit_with_a_file_where_the_states_are_is_refused(bench: Bench) -> None:
    bench.scratch.write("states", "a file\n")
    commit = bench.scratch.commit("states is a file")
    bench.scratch.git("rm", "-q", "states")
    bench.scratch.commit("and now a folder", {"x/y": "1"})
    bench.scratch.write("states/prod.yaml", "mine\n")
    bench.go(commit)  # protected: the folder stays, the commit's file does not come
    assert (bench.root / "states/prod.yaml").read_text() == "mine\n"


def test_a_missing_object_is_found_before_anything_stops(bench: Bench) -> None:
    blob = bench.scratch.git("rev-parse", "good:app/good.txt")
    (bench.root / ".git/objects" / blob[:2] / blob[2:]).unlink()
    error = refused(bench)
    assert "1 files of commit" in error.message
    assert "partial or damaged" in error.message


def test_a_damaged_object_is_found_before_anything_stops(bench: Bench) -> None:
    blob = bench.scratch.git("rev-parse", "good:app/good.txt")
    path = bench.root / ".git/objects" / blob[:2] / blob[2:]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-6] + b"damage")
    assert "could not write the wanted files" in refused(bench).message


def test_a_filter_on_a_file_to_be_written_is_refused(bench: Bench) -> None:
    attributes = {".gitattributes": "*.bin filter=lfs\n"}
    commit = bench.scratch.commit("lfs", attributes | {"a.bin": "pointer"})
    bench.scratch.commit("changed", {"a.bin": "other pointer"})
    bench.scratch.commit("not changed", {"b": "b"})
    with pytest.raises(TerminalError, match=r"needs the Git filter 'lfs' for a\.bin"):
        bench.go(commit)
    bench.go("HEAD~1")  # a.bin does not change, so nothing keeps us


@pytest.mark.parametrize(
    ("begin", "name", "way_out"),
    [
        (("merge", "-q", "other"), "merge", "merge --abort"),
        (("rebase", "-q", "other"), "rebase", "rebase --abort"),
        (("cherry-pick", "other"), "cherry-pick", "cherry-pick --abort"),
        (("revert", "--no-edit", "HEAD~1"), "revert", "revert --abort"),
        (("bisect", "start"), "bisect", "bisect reset"),
    ],
)
def test_an_operation_in_progress_is_named_with_its_way_out(
    bench: Bench, begin: tuple[str, ...], name: str, way_out: str
) -> None:
    scratch = bench.scratch
    scratch.git("checkout", "-q", "-b", "other")
    scratch.commit("theirs", {"app/same.txt": "theirs\n"})
    scratch.git("checkout", "-q", "main")
    scratch.commit("ours", {"app/same.txt": "ours\n"})
    scratch.commit("ours again", {"app/same.txt": "ours again\n"})
    scratch.git(*begin, check=False)
    assert f"a {name} is in progress" in bench.observe().get(GIT_DIRTY).detail
    error = refused(bench)
    assert error.message == f"A {name} is in progress in {bench.root}."
    assert error.hint.endswith(way_out)


def test_unresolved_conflicts_are_refused_even_with_a_stash(scratch: Scratch) -> None:
    bench = Bench(scratch, "stash")
    scratch.write("app/same.txt", "stashed\n")
    scratch.git("stash")
    scratch.commit("other", {"app/same.txt": "committed\n"})
    scratch.git("stash", "apply", check=False)
    assert "Unresolved conflicts" in refused(bench).message


def test_a_sparse_checkout_is_refused(bench: Bench) -> None:
    bench.scratch.git("sparse-checkout", "set", "app")
    error = refused(bench)
    assert "is a sparse checkout" in error.message
    assert error.hint.endswith("sparse-checkout disable")


@pytest.mark.parametrize("name", ["index.lock", "HEAD.lock"])
def test_a_lock_that_stays_is_named_and_never_removed(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.targets.git_preflight.PATIENCE", 0.2)
    monkeypatch.setattr("reconciler.targets.git_workspace.PATIENCE", 0.2)
    lock = bench.root / ".git" / name
    lock.touch()
    error = refused(bench)
    assert f"{lock} exists" in error.message
    assert error.hint == f"If no git command is running there: rm {lock}"
    assert lock.exists()


# --- between capture and restore ---------------------------------------------------------------


def test_work_done_after_capture_is_not_lost(bench: Bench) -> None:
    steps = bench.plan(bench.goal("good"))
    bench.apply(steps[:1])
    bench.scratch.write("app/good.txt", "precious\n")
    bench.scratch.write("only-good/deep/down.txt", "precious too\n")
    before = contents(bench.root)
    with pytest.raises(StepFailedError, match=r"since capture: app/good\.txt, only-good") as caught:
        bench.apply(steps[1:])
    assert caught.value.hint == "Commit, move or remove these changes, then resume."
    assert contents(bench.root) == before
    assert leftovers(bench.root) == []


def test_a_commit_made_after_capture_is_not_left_behind(bench: Bench) -> None:
    steps = bench.plan(bench.goal("good"))
    bench.apply(steps[:1])
    commit = bench.scratch.commit("hotfix", {"app/same.txt": "hot\n"})
    with pytest.raises(StepFailedError, match=f"was moved to {commit[:9]} since capture"):
        bench.apply(steps[1:])


def test_a_git_command_at_work_makes_us_wait_then_give_way(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.targets.git_workspace.PATIENCE", 0.2)
    steps = bench.plan(bench.goal("good"))
    (bench.root / ".git/index.lock").touch()
    with pytest.raises(TransientError, match="Another git process is at work"):
        bench.apply(steps[1:])


def test_a_lost_lease_changes_nothing(bench: Bench) -> None:
    def lost() -> None:
        raise LeaseLostError("lost")

    before = contents(bench.root)
    with pytest.raises(LeaseLostError):
        bench.apply(bench.plan(bench.goal("good")), Lent(bench.root.parent, guard=lost))
    assert contents(bench.root) == before
    assert bench.scratch.porcelain() == []
    assert not (bench.root / ".git/index.lock").exists()


# --- stashing ----------------------------------------------------------------------------------


@pytest.fixture
def messy(scratch: Scratch) -> Bench:
    """Local work of every kind, some of it in the way of the good release."""
    scratch.write("app/same.txt", "local\n")
    scratch.write("app/good.txt", "local too\n")
    scratch.git("add", "app/good.txt")
    scratch.write("app/good.txt", "staged, then changed again\n")
    scratch.write("added", "staged\n")
    scratch.git("add", "added")
    (scratch.root / "new/deep/er.txt").unlink()
    scratch.link("bin/run", "flips")
    scratch.write("only-good", "untracked file where the goal has a folder\n")
    scratch.write("file-then-folder/mine.log", "ignored file where the goal has a file\n")
    scratch.write("harmless", "untracked, in nobody's way\n")
    return Bench(scratch, "stash")


def test_a_stash_keeps_everything_and_gives_it_back(
    messy: Bench, truth: dict[str, tuple[str, bytes]]
) -> None:
    before = contents(messy.root)
    index = messy.scratch.git("ls-files", "--stage")
    applied = messy.go("good")
    assert "git stash apply" in applied[1].note
    now = contents(messy.root)
    assert now.pop("harmless") == before["harmless"]
    assert without_spec(now) == without_spec(truth)
    assert messy.facts()[GIT_DIRTY] == "clean"
    assert "reconciler run-1" in messy.scratch.git("stash", "list")
    back = messy.go("bad", "refs/heads/main")
    assert "git stash apply" in back[-1].note
    messy.scratch.git("stash", "apply", "--index")
    assert contents(messy.root) == before
    assert messy.scratch.git("ls-files", "--stage") == index


def test_with_nothing_to_keep_no_stash_is_made(messy: Bench) -> None:
    goal = messy.goal("good")
    steps = messy.plan(goal, Phase.RESTORE)
    messy.scratch.git("stash", "-a", "-q")
    messy.scratch.git("stash", "drop", "-q")
    assert messy.apply(steps)[0].note == "no local changes to keep"
    assert messy.scratch.git("stash", "list") == ""


def test_a_stash_is_made_once(messy: Bench) -> None:
    steps = messy.plan(messy.goal("good"), Phase.RESTORE)
    messy.apply(steps[:1])
    again = messy.apply(steps[:1], Lent(messy.root.parent, attempted=datetime.now(UTC)))
    assert again[0].note.endswith("(found by looking)")
    assert len(messy.scratch.git("stash", "list").splitlines()) == 1


def test_work_done_after_the_stash_is_not_lost(messy: Bench) -> None:
    steps = messy.plan(messy.goal("good"), Phase.RESTORE)
    messy.apply(steps[:1])
    messy.scratch.write("app/same.txt", "later still\n")
    with pytest.raises(StepFailedError, match=r"since capture: app/same\.txt"):
        messy.apply(steps[1:])
    assert (messy.root / "app/same.txt").read_text() == "later still\n"


def test_a_dirty_tree_at_the_goal_is_stashed_and_cleaned(messy: Bench) -> None:
    messy.go("bad", "refs/heads/main")
    assert messy.facts()[GIT_DIRTY] == "clean"
    assert messy.scratch.branch() == "refs/heads/main"
    assert "reconciler run-1" in messy.scratch.git("stash", "list")


def test_what_no_stash_can_keep_is_refused(scratch: Scratch) -> None:
    bench = Bench(scratch, "stash")
    os.mkfifo(scratch.root / "only-good")
    assert "nothing a stash can keep: only-good" in refused(bench).message


# --- being killed ------------------------------------------------------------------------------


def killed(action: Callable[[Callable[[], None]], None], at: int) -> bool:
    """Runs an action in a child that kills itself at the given tick; False if it finished first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside a test runner's thread
        child = os.fork()
    if child == 0:
        count = 0

        def tick() -> None:
            nonlocal count
            count += 1
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)

        status = 1
        try:
            action(tick)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.waitstatus_to_exitcode(status) == 0
    return False


def ticking(tick: Callable[[], None]) -> None:
    """Makes every Git process and every change of a file or folder an instant to be killed at."""

    def wrapped(owner: object, name: str) -> None:
        original = getattr(owner, name)

        def instrumented(*arguments: object, **options: object) -> object:
            tick()
            return original(*arguments, **options)

        setattr(owner, name, instrumented)

    wrapped(GitCommand, "run")
    for name in ("replace", "unlink", "rmdir", "mkdir"):
        wrapped(Path, name)
    wrapped(os, "link")


def copies(template: Path, folder: Path) -> Iterator[Path]:
    for number in range(1, 10_000):
        copy = folder / f"copy{number}"
        shutil.copytree(template, copy, symlinks=True)
        yield copy


def run_restore(root: Path, dirty: Literal["refuse", "stash"], tick: Callable[[], None]) -> None:
    bench = Bench(Scratch(root), dirty)
    steps = bench.plan(bench.goal("good"), Phase.RESTORE)
    ticking(tick)
    bench.apply(steps)


@pytest.mark.crash
@pytest.mark.parametrize("point", TARGET_POINTS)
@pytest.mark.parametrize("action", ["preflight", "stash", "checkout"])
def test_a_kill_at_a_named_point_converges(
    messy: Bench, truth: dict[str, tuple[str, bytes]], action: str, point: CrashPoint
) -> None:
    def run(tick: Callable[[], None]) -> None:
        def on(reached: CrashPoint) -> None:
            if reached is point:
                tick()

        for step in messy.plan(messy.goal("good")):
            lent = Lent(messy.root.parent, on=on if step.action == action else None)
            messy.target.apply(step, lent)

    assert killed(run, 1)
    messy.apply(
        messy.plan(messy.goal("good")), Lent(messy.root.parent, attempted=datetime.now(UTC))
    )
    now = contents(messy.root)
    now.pop("harmless")
    assert without_spec(now) == without_spec(truth)
    assert messy.facts()[GIT_DIRTY] == "clean"
    assert len(messy.scratch.git("stash", "list").splitlines()) == 1


def test_each_step_announces_both_points_once(messy: Bench) -> None:
    for step in messy.plan(messy.goal("good")):
        lent = Lent(messy.root.parent)
        messy.target.apply(step, lent)
        assert tuple(lent.points) == TARGET_POINTS, step.key


def test_what_a_killed_checkout_leaves_is_seen(bench: Bench) -> None:
    (bench.root / ".git/index.lock").write_text("reconciler run-1 4194305\n")
    fact = bench.observe().get(GIT_DIRTY)
    assert (fact.value, fact.detail) == ("dirty", "a checkout was interrupted")
    bench.go("HEAD")
    assert bench.facts()[GIT_DIRTY] == "clean"
    assert not (bench.root / ".git/index.lock").exists()


@pytest.mark.parametrize("text", ["", "commit"])
def test_a_head_lock_our_killed_git_left_is_removed(
    bench: Bench, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.targets.git_workspace.PATIENCE", 0.2)
    begun = datetime.now(UTC)
    steps = bench.plan(bench.goal("good"))
    lock = bench.root / ".git/HEAD.lock"
    lock.write_text(text and bench.scratch.git("rev-parse", "good") + "\n")
    with pytest.raises(StepFailedError, match=r"HEAD of .* is locked by another git process"):
        bench.apply(steps[1:])
    assert lock.exists()
    bench.apply(steps[1:], Lent(bench.root.parent, attempted=begun))
    assert bench.plan(bench.goal("good")) == []


def test_a_head_lock_of_somebody_else_is_never_removed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.targets.git_workspace.PATIENCE", 0.2)
    lock = bench.root / ".git/HEAD.lock"
    for text, begun in (("ref: refs/heads/x\n", 0.0), ("", 60.0)):
        lock.write_text(text)
        attempted = datetime.fromtimestamp(time.time() + begun, UTC)
        with pytest.raises(StepFailedError, match="is locked by another"):
            bench.apply(
                bench.plan(bench.goal("good"), Phase.RESTORE),
                Lent(bench.root.parent, attempted=attempted),
            )
        assert lock.exists()


def test_a_disk_that_refuses_leaves_a_tree_that_can_be_finished(
    bench: Bench, truth: dict[str, tuple[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.name == "win.bat":
            raise OSError(errno.ENOSPC, "No space left on device", str(self), None, str(target))
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(StepFailedError, match=r"win\.bat could not be replaced: No space") as e:
            bench.go("good")
    assert "then resume" in e.value.hint
    assert bench.facts()[GIT_HEAD] == "refs/heads/main"
    bench.go("good")
    assert without_spec(contents(bench.root)) == without_spec(truth)


def test_a_full_disk_is_found_in_capture(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run = GitCommand.run

    def full(self: GitCommand, *arguments: str, **options: object) -> Answer:
        if arguments[0] == "checkout-index":
            return Answer(128, b"", "error: unable to write file x: No space left on device")
        return run(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(GitCommand, "run", full)
    error = refused(bench)
    assert "unable to write file x: No space left on device" in error.message
    assert error.hint == "Free disk space, then resume."


_PARTS = 4


@pytest.mark.timeout(1200)
@pytest.mark.crash
@pytest.mark.parametrize("dirty", ["refuse", "stash"])
@pytest.mark.parametrize("part", range(_PARTS))
def test_a_kill_at_any_instant_converges(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    dirty: Literal["refuse", "stash"],
    part: int,
) -> None:
    """Killed before each Git process and each change, then taken on, or back as in a compensation.

    The instants are dealt out to several tests, which run side by side.
    """
    template: Bench = request.getfixturevalue("messy" if dirty == "stash" else "bench")
    old = contents(template.root)
    truth: dict[str, tuple[str, bytes]] = request.getfixturevalue("truth")
    kills = part + 1 - _PARTS
    for root in copies(template.root, tmp_path):
        if not killed(lambda tick, root=root: run_restore(root, dirty, tick), kills + _PARTS):  # type: ignore[misc]
            break
        kills += _PARTS
        way = "back" if kills % 3 == 0 else "on"
        bench = Bench(Scratch(root), dirty)
        lent = Lent(tmp_path, attempted=datetime.now(UTC))
        if way == "on":
            bench.apply(bench.plan(bench.goal("good")), lent)
            now = contents(root)
            now.pop("harmless", None)
            assert without_spec(now) == without_spec(truth), kills
            assert bench.facts()[GIT_HEAD] is None, kills
        else:
            bench.apply(bench.plan(bench.goal("bad", "refs/heads/main")), lent)
            assert bench.facts()[GIT_HEAD] == "refs/heads/main", kills
            if dirty == "refuse":
                assert contents(root) == old, kills
        assert bench.facts()[GIT_DIRTY] == "clean", kills
        assert bench.plan(bench.goal("good" if way == "on" else "bad")) == [], kills
        stashes = bench.scratch.git("stash", "list").splitlines()
        assert len(stashes) == (1 if dirty == "stash" else 0), kills
        if stashes and way == "back":
            bench.scratch.git("stash", "apply", "--index")
            assert contents(root) == old, kills
        assert [path for path in leftovers(root) if "work-" not in path] == [], kills
        shutil.rmtree(root)
    assert kills > 40
