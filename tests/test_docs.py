"""The documents say what the program says: commands, phases, reasons, pictures, examples, links."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.audit.tables import LedgerRow
from reconciler.cli.app import COMMANDS
from reconciler.cli.exits import Exit
from reconciler.core.conditions import ConditionType, Reason
from reconciler.core.crashpoints import CrashPoint
from reconciler.core.entry import EntryKind, Origin, Outcome
from reconciler.core.loader import parse_spec
from reconciler.core.phase import Phase, Trigger
from reconciler.core.picture import embedded, mermaid, pictures, text
from reconciler.core.spec import Spec
from reconciler.core.table import TABLE, Move
from reconciler.loop import Kind
from tests.support.world import GOOD, Stage, source

ROOT = Path(__file__).resolve().parents[1]
_FIRST = ("README.md", "CHANGELOG.md", "states/README.md", "specs/README.md")
DOCUMENTS = sorted([*(ROOT / name for name in _FIRST), *(ROOT / "docs").rglob("*.md")])
OPERATOR, AUDITOR = ROOT / "docs/operations/operator.md", ROOT / "docs/operations/auditor.md"


def read(path: Path | str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def blocks(path: Path | str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", read(path), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_operators_manual(command: str) -> None:
    assert f"`reconciler {command}" in read(OPERATOR)


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_is_explained(reason: Reason) -> None:
    assert f"`{reason.value}`" in read(OPERATOR)


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.BUSY])
def test_every_event_of_watch_is_listed(kind: Kind) -> None:
    assert f"`{kind.value}`" in read(OPERATOR)


def test_every_condition_and_exit_code_is_in_the_operators_manual() -> None:
    for condition in ConditionType:
        assert f"| `{condition.value}` |" in read(OPERATOR)
    for code in Exit:
        assert f"| {code.value} |" in read(OPERATOR)


@pytest.mark.parametrize("phase", list(Phase))
def test_every_phase_is_explained(phase: Phase) -> None:
    assert f"| `{phase.value}` |" in read("docs/state-machine.md")


def test_every_crash_point_is_explained() -> None:
    for point in CrashPoint:
        assert f"| `{point.value}` |" in read("docs/architecture.md")


def test_every_column_and_word_of_the_ledger_is_explained() -> None:
    manual = read(AUDITOR)
    for column in LedgerRow.__table__.columns:  # type: ignore[attr-defined]
        assert f"`{column.name}`" in manual
    for word in (*EntryKind, *Origin, *Outcome):
        assert f"`{word.value}`" in manual


def test_the_pictures_are_those_of_the_table() -> None:
    done = subprocess.run(
        [sys.executable, "tools/state_machine.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"run tools/state_machine.py: {done.stdout}{done.stderr}"


def test_the_pictures_show_every_move_and_no_other() -> None:
    drawn = set()
    for source_, dest, triggers in re.findall(
        r"^    (\w+) --> (\w+) : (.+)$", mermaid(), re.MULTILINE
    ):
        drawn |= {(source_, trigger, dest) for trigger in triggers.split(", ")}
    assert drawn == {(move.source, move.trigger, move.dest) for move in TABLE}
    for move in TABLE:
        assert f"| {move.source} | {move.trigger} | {move.dest} |" in pictures()["moves"]
    words = re.findall(r"[a-z-]+", text())
    for move in TABLE:
        assert move.trigger.value in words


def test_another_table_is_another_picture() -> None:
    more = (*TABLE, Move(Phase.STALLED, Trigger.REJECTED, Phase.NEW, "made up"))
    assert mermaid(more) != mermaid()
    assert text(more) != text()
    assert "made up" in pictures(more)["moves"]


def test_a_document_without_the_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="once"):
        embedded("nothing here", "moves", "x")


def test_the_spec_in_the_readme_is_valid() -> None:
    (example,) = blocks("README.md", "yaml")
    spec = parse_spec(example.encode(), "README.md")
    assert isinstance(spec, Spec), [str(problem) for problem in spec]


def test_the_readme_fits_a_screen_or_two() -> None:
    assert len(read("README.md").splitlines()) <= 150


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", read(path)):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {
                re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings
            }
            assert anchor in slugs, target


def test_the_list_of_decisions_is_complete() -> None:
    listed = read("docs/adr/README.md")
    for path in (ROOT / "docs/adr").glob("0*.md"):
        assert f"({path.name})" in listed
        body = path.read_text(encoding="utf-8")
        assert [line for line in body.splitlines() if line.startswith("## ")] == [
            "## Context",
            "## Decision",
            "## Consequences",
        ]
        assert len(body.splitlines()) <= 40, "half a page"


def test_the_auditors_questions_are_answered_by_a_real_ledger(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    status = stage.engine().converge(source(GOOD))
    assert status.run is not None
    questions = [
        question.strip()
        for block in blocks(AUDITOR, "sql")
        for question in re.split(r";\s*(?:\n|$)", block)
        if question.strip()
    ]
    ledger = sqlite3.connect(f"file:{tmp_path}/audit.db?mode=ro", uri=True)
    answers = []
    for question in questions:
        asked = question.replace("= 7", "= 1")
        values = [status.run.id] * asked.count("?")
        answers.append(ledger.execute(asked, values).fetchall())
    ledger.close()
    changes, certificate, unresolved, spec = answers
    assert [row[-1] for row in changes] == ["capture", "stable"]
    assert "dpl_good" in certificate[0][0]
    assert unresolved == []
    assert spec[0][0].startswith("apiVersion")
