"""Remembered answers of Compose: found again by another process, bounded, and never for another program."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.targets.compose_answers import Answers, key_of


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "docker-compose"
    path.write_text("one", encoding="utf-8")
    return path


def test_an_answer_is_found_by_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "answers.json"
    assert Answers(path).get("key") is None
    Answers(path).keep("key", "app 123")
    assert Answers(path).get("key") == "app 123"
    assert [each.name for each in path.parent.iterdir()] == ["answers.json"]


def test_the_oldest_is_forgotten(tmp_path: Path) -> None:
    answers = Answers(tmp_path / "answers.json")
    for number in range(70):
        answers.keep(str(number), "x")
    assert answers.get("0") is None
    assert answers.get("69") == "x"


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"key": 1}'])
def test_a_broken_file_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "answers.json"
    path.write_text(text, encoding="utf-8")
    answers = Answers(path)
    assert answers.get("key") is None
    answers.keep("key", "found")
    assert Answers(path).get("key") == "found"


def test_a_folder_that_cannot_be_made_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    answers = Answers(tmp_path / "file" / "answers.json")
    answers.keep("key", "found")
    assert answers.get("key") == "found"


def test_another_question_or_another_program_is_another_key(program: Path) -> None:
    first = key_of([str(program)], ["config"], "services: {}")
    assert first == key_of([str(program)], ["config"], "services: {}")
    assert first != key_of([str(program)], ["config"], "services: {a: {}}")
    assert first != key_of([str(program)], ["config", "-q"], "services: {}")
    stat = program.stat()
    program.write_text("two", encoding="utf-8")
    os.utime(program, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert first != key_of([str(program)], ["config"], "services: {}")


def test_a_program_that_may_be_replaced_unseen_is_asked_again(tmp_path: Path) -> None:
    assert key_of(["docker", "compose"], ["version"], "") is None
    assert key_of([str(tmp_path / "gone")], ["version"], "") is None


def test_a_secret_in_the_question_is_not_kept(program: Path, tmp_path: Path) -> None:
    key = key_of([str(program)], ["config"], "environment: {TOKEN: hunter2}")
    assert key
    path = tmp_path / "answers.json"
    Answers(path).keep(key, "app 123")
    assert "hunter2" not in path.read_text(encoding="utf-8")
