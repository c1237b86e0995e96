"""Where scripts come from: the tree of a commit, the working folder; and the small formats of the database target."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.errors import StepFailedError, TransientError
from reconciler.targets.pg.copytext import decode, encode, lines
from reconciler.targets.pg.losses import findings
from reconciler.targets.pg.outside import already_done, half_built_index, without_concurrently
from reconciler.targets.pg.source import MigrationSource
from reconciler.targets.pg.sqlstate import translate
from reconciler.targets.pg.texts import literal
from reconciler.targets.shared.repository import Repository

UP, DOWN = "supabase/migrations", "supabase/rollbacks"


def git(root: Path, *words: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.test")
    done = subprocess.run(
        ["git", *identity, *words], cwd=root, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def commit(root: Path) -> str:
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "x", "--allow-empty")
    return git(root, "rev-parse", "HEAD")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q", "-b", "main")
    return tmp_path


def source(root: Path) -> MigrationSource:
    return MigrationSource(root, UP, DOWN, Repository(root))


def test_files_of_the_bad_commit_are_found_after_the_tree_has_gone_back(tree: Path) -> None:
    write(tree, f"{UP}/1_a.sql", "a")
    good = commit(tree)
    write(tree, f"{UP}/2_b.sql", "b")
    write(tree, f"{DOWN}/2_b.sql", "undo b")
    bad = commit(tree)
    git(tree, "checkout", "-q", good)
    files = source(tree)
    found = files.find("down", ["2"], files.places(bad, good))["2"]
    assert (found.path, found.commit, found.name) == (f"{DOWN}/2_b.sql", bad, "b")
    assert files.text(found.path, found.commit, found.sha256) == "undo b"
    # nobody remembers the bad commit: where HEAD stood before is looked at last
    assert files.find("down", ["2"], files.places(good))["2"].commit == bad


def test_a_version_that_differs_between_commits_is_told(tree: Path) -> None:
    write(tree, f"{DOWN}/1_a.sql", "old")
    first = commit(tree)
    write(tree, f"{DOWN}/1_a.sql", "new")
    second = commit(tree)
    write(tree, f"{DOWN}/1_a.sql", "in the folder")
    files = source(tree)
    found = files.find("down", ["1"], files.places(second, first))["1"]
    assert found.commit == second
    assert found.others == (f"{DOWN}/1_a.sql at {first[:9]}", f"{DOWN}/1_a.sql")


def test_without_git_the_working_folder_serves(tmp_path: Path) -> None:
    write(tmp_path, f"{UP}/1_a.sql", "\ufeffSELECT 1")
    write(tmp_path, f"{UP}/old/0_z.sql", "x")
    files = MigrationSource(tmp_path, UP, DOWN)
    found = files.find("up", ["0", "1"], files.places("f" * 40))
    assert list(found) == ["1"]
    assert files.text(found["1"].path, None, found["1"].sha256) == "SELECT 1"
    assert files.files("down").files == {}
    with pytest.raises(StepFailedError, match="has changed since it was checked"):
        files.text(found["1"].path, None, "0" * 64)


def test_a_project_inside_a_larger_repository(tree: Path) -> None:
    root = tree / "apps" / "web"
    write(root, f"{UP}/1_a.sql", "a")
    first = commit(tree)
    (root / UP / "1_a.sql").unlink()
    files = MigrationSource(root, UP, DOWN, Repository(tree))
    assert files.find("up", ["1"], files.places(first))["1"].commit == first


@given(
    st.lists(
        st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
        min_size=1,
    )
)
def test_copy_text_keeps_every_value(values: list[str | None]) -> None:
    line = encode(values)
    assert line.count(b"\n") == 1
    assert decode(line) == values


@given(st.lists(st.binary(max_size=9)))
def test_lines_from_pieces_of_any_size(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    found = list(lines(pieces))
    assert b"".join(found) == whole
    assert all(line.endswith(b"\n") for line in found[:-1])


def test_literals_hold_their_content() -> None:
    assert literal("it's") == "'it''s'"
    assert literal("a\\'b") == " E'a\\\\''b'"


@pytest.mark.parametrize(
    ("sql", "index"),
    [
        ("CREATE INDEX CONCURRENTLY i ON t (a)", "i"),
        ('create unique index concurrently if not exists "I x" on only s.t (a)', 's."I x"'),
        ("CREATE INDEX i ON t (a)", ""),
        ("CREATE INDEX CONCURRENTLY ON t (a)", ""),
        ("VACUUM", ""),
        ("", ""),
    ],
)
def test_the_index_a_broken_attempt_leaves(sql: str, index: str) -> None:
    assert half_built_index(sql) == index


def test_second_attempts_outside_a_transaction() -> None:
    assert already_done("42704", "DROP INDEX CONCURRENTLY i")
    assert already_done("42P07", "-- x\nCREATE INDEX CONCURRENTLY i ON t (a)")
    assert not already_done("42P01", "CREATE INDEX CONCURRENTLY i ON t (a)")
    assert (
        without_concurrently("DROP INDEX CONCURRENTLY IF EXISTS s.i, j;")
        == "DROP INDEX IF EXISTS s.i , j"
    )
    assert without_concurrently("CREATE INDEX CONCURRENTLY i ON t (a)") is None


def test_losses_of_one_table_in_several_versions_are_joined() -> None:
    def row(step: int, what: str, kind: str, col: str | None = None) -> dict[str, str | int | None]:
        return {
            "step": step,
            "what": what,
            "kind": kind,
            "schema": "public",
            "name": "t",
            "col": col,
            "estimate": 7,
            "bytes": 8192,
        }

    found = findings(
        [
            row(0, "gone", "column", "a"),
            row(0, "gone", "policy", "p"),
            row(1, "altered", "column", "b"),
            row(2, "gone", "table"),
        ],
        ["3", "2", "1"],
    )
    (loss,) = found.losses
    assert (loss.mode, loss.columns, loss.converted, loss.versions) == (
        "table",
        ("a", "b"),
        ("b",),
        ("1", "2", "3"),
    )
    assert str(found) == "would go: table public.t (about 7 rows); policy public.t.p"


@pytest.mark.parametrize(
    ("state", "message", "secret"),
    [
        ("22P02", 'invalid input syntax for type integer: "hunter2"', "hunter2"),
        ("42601", 'syntax error at or near "hunter2"', "hunter2"),
        ("P0001", "'hunter2' is not allowed", "hunter2"),
    ],
)
def test_messages_do_not_quote_values(state: str, message: str, secret: str) -> None:
    assert secret not in translate(state, message, "It").message


def test_states_that_pass_by_themselves() -> None:
    for state in ("55P03", "40P01", "40001", "53300", "57P01", "08006"):
        assert isinstance(translate(state, "x", "It"), TransientError)
    for state in ("57014", "2BP01", "42501", "25006", "23505"):
        error = translate(state, "x", "It")
        assert isinstance(error, StepFailedError)
        assert error.hint
