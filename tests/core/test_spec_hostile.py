"""Whatever a file holds: an answer, soon, and never a traceback."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.core.loader import MAX_PROBLEMS, parse_spec
from reconciler.core.problems import Problem
from reconciler.core.spec import Spec
from reconciler.core.yamltree import MAX_BYTES, MAX_DEPTH, MAX_VALUES
from tests.core.corpus_cases import HEAD

EXAMPLE = (Path(__file__).parents[2] / "specs/prod.yaml").read_text("utf-8")
FULL = MAX_BYTES - 100


def refused(data: str | bytes) -> list[Problem]:
    problems = parse_spec(data, "f")
    assert isinstance(problems, list)
    assert problems
    assert len(problems) <= MAX_PROBLEMS + 1
    for problem in problems:
        assert problem.line >= 1
        assert problem.column >= 1
        assert problem.message.isprintable()
        assert str(problem).startswith(f"f:{problem.line}:{problem.column}: ")
    assert problems == sorted(problems, key=lambda p: p.line) or len(problems) > MAX_PROBLEMS
    return problems


HOSTILE = {
    "one word": "a: " + "x" * FULL,
    "many words": "a: " + "x " * (FULL // 2),
    "many lines of one text": "a: " + "x\n  " * (FULL // 4),
    "one quoted text": 'a: "' + "x" * FULL + '"',
    "quoted lines": 'a: "' + "x\n  " * (FULL // 4) + '"',
    "escapes": 'a: "' + "\\x41" * (FULL // 4) + '"',
    "one comment": "#" + "c" * FULL,
    "many comments": "# c\n" * (FULL // 4),
    "blank lines": "\n" * FULL,
    "spaces": " " * FULL + "a",
    "block text": "a: |\n" + "  x\n" * (FULL // 4),
    "stairs in a block text": "a: |\n" + "".join(" " * i + "\n" for i in range(700, 1, -1)),
    "open lists": "a: " + "[" * FULL,
    "open mappings": "{" * FULL,
    "open both": "[{a: " * (FULL // 5),
    "nested block lists": "- " * (FULL // 2),
    "complex keys": "? " * (FULL // 2),
    "stairs": "".join(" " * i + "k:\n" for i in range(700)),
    "unclosed quote": 'a: "' + "x\n" * (FULL // 2),
    "colons": ":" * FULL,
    "commas": "[" + "," * FULL,
    "flow numbers": "a: [" + "1," * (FULL // 2) + "]",
    "digits": "a: " + "1" * FULL,
    "digits and underscores": "a: 1" + "_" * FULL + "x",
    "5000 digits": "a: " + "9" * 5000,
    "long key": "x" * FULL + ": b",
    "long quoted key": '"' + "x" * 1000 + '": b',
    "long anchor": "a: &" + "x" * FULL + " b",
    "long tag": "a: !" + "x" * FULL + " b",
    "escaped tag": "a: !" + "%41" * (FULL // 3) + " b",
    "long directive": "%Y " + "x" * FULL,
    "directives": "%FOO x\n" * (FULL // 7),
    "documents": "---\n" * (FULL // 4),
    "many keys": "\n".join(f"k{i}: v" for i in range(FULL // 10)),
    "one key often": "a: b\n" * (FULL // 5),
    "laughs": "a: &a [x,x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)},*{chr(97 + i)}]\n" for i in range(20)
    ),
    "half tokens": "a: " + "-eyJaaaaaaaaa" * (FULL // 13),
    "half addresses": "a: " + "x://u:p" * (FULL // 7),
    "half headers": "a: " + "bearer " * (FULL // 7),
    "half passwords": "# " + "password=" * (FULL // 9),
    "many tokens": "# ghp_abcdef " * (FULL // 13),
    "many unknown services": HEAD + "  docker:\n    project: p\n    services:\n" + "".join(
        f"      s{i}: {{image: x{i}, foo: 1}}\n" for i in range(1200)
    ),
    "long commit": HEAD + "  git: {commit: " + "a~1" * 40_000 + "}",
    "long image": HEAD + "  docker: {project: p, services: {a: {image: '" + "a-" * 40_000 + "'}}}",
    "long host": HEAD + "  vercel: {project: p, tokenFrom: {env: A}, deployment: " + "a." * 40_000 + "}",
    "long address": HEAD + "  verify: {checks: [{name: a, http: {url: 'http://" + "a" * 40_000 + " '}}]}",
    "long duration": HEAD + "  verify: {timeout: '" + "1h" * 40_000 + "'}",
    "wide characters": "a: " + "\U0001f600" * (FULL // 4),
}  # fmt: skip


def seconds_for(text: str) -> float:
    began = time.process_time()
    refused(text)
    return time.process_time() - began


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_text_is_refused_soon(text: str) -> None:
    # Half a second on an idle machine; on a busy one, measured against a harmless text of full size.
    took = seconds_for(text)
    assert took < 0.5 or took < 4 * seconds_for(HOSTILE["many words"])


@pytest.mark.parametrize("size", [MAX_BYTES + 1, 50_000_000])
def test_a_large_file_is_refused_at_once_and_its_size_told(size: int) -> None:
    began = time.process_time()
    (problem,) = refused(b"#" * size)
    assert str(size) in problem.message
    assert "128 KiB" in problem.message
    assert time.process_time() - began < 0.1


def test_the_limits_are_told() -> None:
    assert f"{MAX_DEPTH} levels" in refused("[" * 60)[0].message
    assert f"{MAX_VALUES} values" in refused("a: [" + "1," * 6000 + "]")[0].message


@pytest.mark.parametrize(
    ("data", "line", "column", "message"),
    [
        (b"apiVersion: \xff\xfe", 1, 13, "not UTF-8"),
        (b"a: 1\nb: \xc3\xa4\xff", 2, 5, "not UTF-8"),
        (EXAMPLE.encode("utf-16"), 1, 1, "UTF-16"),
        (EXAMPLE.encode("utf-32"), 1, 1, "UTF-16"),
        (b"\x7fELF\x02\x01\x01\x00\x00", 1, 8, "NUL byte"),
        (b"a: 1\nb: \x00", 2, 4, "NUL byte"),
        (b"\x1f\x8b\x08\x00", 1, 2, "not UTF-8"),
        (b"", 1, 1, "empty"),
        (b"\xef\xbb\xbf", 1, 1, "empty"),
    ],
)
def test_bytes_that_are_no_text(data: bytes, line: int, column: int, message: str) -> None:
    (problem,) = refused(data)
    assert (problem.line, problem.column) == (line, column)
    assert message in problem.message


@pytest.mark.parametrize("text", [EXAMPLE, EXAMPLE.replace("\n", "\r\n")])
def test_a_byte_order_mark_and_other_line_ends_do_no_harm(text: str) -> None:
    assert parse_spec(b"\xef\xbb\xbf" + text.encode()) == parse_spec(EXAMPLE)
    assert parse_spec("\ufeff" + text) == parse_spec(EXAMPLE)


def test_places_count_characters_and_all_line_ends() -> None:
    for end in ("\n", "\r\n", "\r"):
        text = HEAD.replace("\n", end) + f"  # \u00e4\U0001f600{end}  git: {{commit: 'ä', x: 5}}"
        problems = refused(text)
        assert [(p.line, p.column) for p in problems] == [(6, 17), (6, 22)]


@settings(deadline=None)
@given(st.text())
def test_any_text_gets_an_answer(text: str) -> None:
    refused(text)


@settings(deadline=None)
@given(st.binary())
def test_any_bytes_get_an_answer(data: bytes) -> None:
    refused(data)


@settings(deadline=None)
@given(st.lists(st.sampled_from(
    ["a", ": ", "- ", "\n", "  ", "[", "]", "{", "}", ",", "&a ", "*a", "!t ", "|", ">", "'", '"', "#",
     "? ", "---\n", "...\n", "%", "@", "\t", "\\", "<<", "1", "true", "~", "\u2028", "spec", "git", "é"]
), max_size=60))  # fmt: skip
def test_any_yaml_like_text_gets_an_answer(parts: list[str]) -> None:
    refused("".join(parts))


@settings(deadline=None)
@given(st.lists(st.sampled_from(
    ["a", ": ", "- ", "\n  ", "\n    ", "[", "]", "{", "}", ",", "&a ", "*a", "!t ", "|", "'", '"', "#",
     "git", "docker", "verify", "checks", "commit: v1", "\n  git: {commit: v1}", "1", "true", "~"]
), max_size=30))  # fmt: skip
def test_any_spec_like_text_gets_an_answer(parts: list[str]) -> None:
    answer = parse_spec(HEAD + "  " + "".join(parts), "f")
    assert isinstance(answer, Spec) or answer


LINES = EXAMPLE.splitlines(keepends=True)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.data())
def test_a_damaged_example_gets_an_answer_near_the_damage(data: st.DataObject) -> None:
    lines = list(LINES)
    at = data.draw(st.integers(0, len(lines) - 1))
    how = data.draw(st.sampled_from(["drop", "twice", "insert", "cut", "indent", "swap"]))
    if how == "drop":
        del lines[at]
    elif how == "twice":
        lines.insert(at, lines[at])
    elif how == "insert":
        column = data.draw(st.integers(0, len(lines[at])))
        lines[at] = lines[at][:column] + data.draw(st.text(max_size=3)) + lines[at][column:]
    elif how == "cut":
        lines[at] = lines[at][: data.draw(st.integers(0, len(lines[at])))]
    elif how == "indent":
        lines[at] = " " + lines[at]
    else:
        other = data.draw(st.integers(0, len(lines) - 1))
        lines[at], lines[other] = lines[other], lines[at]
    answer = parse_spec("".join(lines), "f")
    if isinstance(answer, list):
        assert answer
        for problem in answer:
            assert 1 <= problem.line <= len(lines) + 1
            assert problem.message.isprintable()


@settings(deadline=None)
@given(
    st.sampled_from(["kind", "commit", "project", "image", "migration", "deployment", "timeout",
                     "onFailure", "status", "checks", "soak", "projectRef"]),
    st.sampled_from(["{}", "[]", "12", "1.5", "true", "~", "yes", "''", "!!str x", "&a x", "*a", "[[1]]", "{a: b}"]),
)  # fmt: skip
def test_a_wrong_value_is_told_in_its_own_line(field: str, value: str) -> None:
    at = next(i for i, line in enumerate(LINES) if line.strip().startswith(f"{field}:"))
    lines = list(LINES)
    indent = len(lines[at]) - len(lines[at].lstrip())
    rest = at + 1
    while rest < len(lines) and len(lines[rest]) - len(lines[rest].lstrip()) > indent:
        rest += 1
    lines[at:rest] = [" " * indent + f"{field}: {value}\n"]
    answer = parse_spec("".join(lines), "f")
    if isinstance(answer, list):
        assert any(problem.line == at + 1 for problem in answer), list(map(str, answer))
