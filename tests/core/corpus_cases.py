"""Reads the cases of `corpus/`; see its README for the format."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
HEAD = "apiVersion: reconciler/v1\nkind: Environment\nmetadata: {name: prod}\nspec:\n"

_EXPECTED = re.compile(r"!! (\d+):(\d+) (.+?): (.*)")


@dataclass(frozen=True)
class Expected:
    line: int
    column: int
    path: str
    message: str


@dataclass
class Case:
    name: str
    flags: str
    expected: list[Expected] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        body = "\n".join(self.lines)
        if "escaped" in self.flags:
            body = body.encode("ascii").decode("unicode_escape")
        if "whole" in self.flags:
            return body + "\n" if body else ""
        # A document marker stands at the margin or it is none.
        return HEAD + "".join(
            line + "\n" if line in {"---", "..."} else f"  {line}\n" for line in body.split("\n")
        )


def cases() -> list[Case]:
    found: list[Case] = []
    for file in sorted(CORPUS.glob("*.txt")):
        for line in file.read_text("utf-8").splitlines():
            if line.startswith("## "):
                name, _, flags = line[3:].partition(" [")
                found.append(Case(f"{file.stem}: {name}", flags))
            elif match := _EXPECTED.fullmatch(line):
                row, column, path, message = match.groups()
                path = "" if path == "-" else path
                found[-1].expected.append(Expected(int(row), int(column), path, message))
            else:
                found[-1].lines.append(line)
    return found
