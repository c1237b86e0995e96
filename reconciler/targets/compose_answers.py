"""Answers of Compose that depend on the question and the program alone, remembered between processes.

Starting Compose costs a tenth of a second each time: for its version, and for hashing a project it has hashed before,
as on the way back to a release that ran here. The question itself (it holds the values of env files) is kept only as
a digest. It is a cache: without it Compose is asked again. Called by `compose_command`.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_MOST = 64


class Answers:
    """Remembered answers.

    Args:
        path: Their file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: dict[str, str] | None = None

    def get(self, key: str) -> str | None:
        """A remembered answer."""
        return self._answers().get(key)

    def keep(self, key: str, answer: str) -> None:
        """Remembers an answer; the oldest one too many is forgotten."""
        kept = {**self._answers(), key: answer}
        self._kept = dict(list(kept.items())[-_MOST:])
        scratch = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            scratch.write_text(json.dumps(self._kept), encoding="utf-8")
            scratch.replace(self._path)
        except OSError:
            with suppress(OSError):
                scratch.unlink()

    def _answers(self) -> dict[str, str]:
        if self._kept is None:
            self._kept = {}
            with suppress(OSError, ValueError):
                found = json.loads(self._path.read_bytes())
                if isinstance(found, dict) and all(isinstance(v, str) for v in found.values()):
                    self._kept = found
        return self._kept


def key_of(program: Sequence[str], arguments: Sequence[str], stdin: str) -> str | None:
    """What an answer is remembered by; None where the program cannot be told from its next version.

    Args:
        program: The command Compose is run by: its own file, or `docker compose`.
        arguments: Its arguments.
        stdin: What it reads.
    """
    if len(program) != 1:
        return None
    try:
        stat = Path(program[0]).stat()
    except OSError:
        return None
    identity = [program[0], stat.st_ino, stat.st_mtime_ns, stat.st_size]
    question = json.dumps([identity, list(arguments), stdin])
    return hashlib.sha256(question.encode()).hexdigest()
