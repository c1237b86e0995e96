from __future__ import annotations

import pytest

from reconciler.core.loader import parse_spec
from reconciler.core.spec import Spec
from tests.core.corpus_cases import CORPUS, HEAD, Case, cases

CASES = cases()


def test_the_corpus_is_large_and_names_are_unique() -> None:
    assert len(CASES) >= 200
    assert len({case.name for case in CASES}) == len(CASES)
    assert (CORPUS / "README.md").exists()


def test_the_head_of_the_corpus_is_right() -> None:
    assert isinstance(parse_spec(HEAD + "  git: {commit: v1}\n"), Spec)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_fault_is_told_at_its_place(case: Case) -> None:
    problems = parse_spec(case.text, "specs/prod.yaml")

    assert isinstance(problems, list), "was accepted"
    shown = "\n".join(map(str, problems))
    assert len(problems) == len(case.expected), shown
    for problem, expected in zip(problems, case.expected, strict=True):
        where = (problem.line, problem.column, problem.path)
        assert where == (expected.line, expected.column, expected.path), shown
        assert expected.message in problem.message
        assert str(problem).startswith(f"specs/prod.yaml:{expected.line}:{expected.column}: ")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_message_is_long_or_has_line_breaks(case: Case) -> None:
    problems = parse_spec(case.text)
    assert isinstance(problems, list)
    for problem in problems:
        assert problem.message.isprintable()
        assert len(str(problem)) < 300


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.name.startswith("secrets: ")], ids=lambda case: case.name
)
def test_no_secret_is_shown(case: Case) -> None:
    problems = parse_spec(case.text)
    shown = str(problems) + repr(problems)
    assert "hunter2" not in shown
    assert "0123456789abcdef" not in shown
    assert "c2lnbmF0dXJl" not in shown
