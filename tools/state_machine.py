#!/usr/bin/env python3
"""Writes the pictures of the state machine into the README and the docs, from the table in `reconciler/core/table.py`.

tools/state_machine.py            write them
tools/state_machine.py --check    exit 1 if a file would change
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from reconciler.core.picture import embedded, pictures  # noqa: E402 - the path comes first

#: Which picture stands in which file.
PLACES = (
    ("README.md", "state machine"),
    ("docs/state-machine.md", "state machine"),
    ("docs/state-machine.md", "state machine as text"),
    ("docs/state-machine.md", "moves"),
)


def main(arguments: list[str]) -> int:
    """Writes or checks; gives the exit code."""
    drawn = pictures()
    changed = []
    for file, name in PLACES:
        path = ROOT / file
        before = path.read_text(encoding="utf-8")
        after = embedded(before, name, drawn[name])
        if after != before:
            changed.append(f"{file}: {name}")
            if "--check" not in arguments:
                path.write_text(after, encoding="utf-8")
    for line in changed:
        print(line)
    return 1 if changed and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
