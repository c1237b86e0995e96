"""What resolving finds out for planning: scripts by reference, with what the classifier says of each. Pure data."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

from reconciler.core.migrations import Route
from reconciler.core.pins import Artifact
from reconciler.core.sql import Judgement
from reconciler.targets.pg.driver import Direction

#: Things that can hide a loss from the classifier; a mere function call is left to the dry run.
_HIDING = ("DO", "CASCADE", "CALL", "EXECUTE", "PREPARE", "LOAD", "statement", "COPY")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Move(_Frozen):
    """One version to take down or to apply.

    Attributes:
        version: The version.
        direction: Which way.
        path: The script, from the project root; empty when there is none, or when the history holds it.
        commit: The commit whose tree has it; None for the working folder.
        sha256: Digest of the script; empty when there is none.
        name: The file's name part.
        stored: The script is the history's own `rollback` column.
        missing: The file that would have to be made; empty when a script was found.
        conflict: Two sources that differ, in words.
        destructive: Statements that destroy data.
        unclear: What cannot be judged from the text.
        access: Changes of who may see what.
        refused: What may not stand in it.
        outside: Statements that cannot run in a transaction.
        statements: How many statements there are.
    """

    version: str
    direction: Direction
    path: str = ""
    commit: str | None = None
    sha256: str = ""
    name: str = ""
    stored: bool = False
    missing: str = ""
    conflict: str = ""
    destructive: tuple[str, ...] = ()
    unclear: tuple[str, ...] = ()
    access: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    statements: int = 0

    @property
    def found(self) -> bool:
        """Whether there is a script."""
        return bool(self.sha256)

    @property
    def risky(self) -> bool:
        """Whether it may destroy data, as far as its text tells."""
        return bool(self.destructive) or any(text.startswith(_HIDING) for text in self.unclear)

    @property
    def where(self) -> str:
        """The script's place for messages."""
        if self.stored:
            return f"the history's rollback script of {self.version}"
        return f"{self.path} at {self.commit[:9]}" if self.commit else self.path

    def judged(self, judgement: Judgement) -> Move:
        """A copy with the classifier's findings; a down script may not leave settings behind."""
        refused = judgement.refused + (judgement.outlasting if self.direction == "down" else ())
        return self.model_copy(
            update={
                "destructive": _texts(judgement.destructive),
                "unclear": _texts(judgement.unclear),
                "access": _texts(judgement.access),
                "refused": _texts(refused),
                "outside": _texts(judgement.outside),
                "statements": judgement.statements,
            }
        )


def _texts(findings: Iterable[object]) -> tuple[str, ...]:
    return tuple(str(finding) for finding in findings)


class Materials(_Frozen):
    """All that planning needs.

    Attributes:
        down: Versions to take down, newest first.
        up: Versions to apply, oldest first.
        undo: What would take all that back, in the order in which it would run.
        passed: Digest of the applied set before the first move, and after each.
        rows: Dumps to put back, parents first (compensation only).
        compensating: The way back of a failed run: the policy on data loss was applied on the way there.
        pitr: Unix time to restore to instead of running down scripts; None otherwise.
        warnings: What a human should know, one sentence each.
    """

    down: tuple[Move, ...] = ()
    up: tuple[Move, ...] = ()
    undo: tuple[Move, ...] = ()
    passed: tuple[str, ...] = ()
    rows: tuple[Artifact, ...] = ()
    compensating: bool = False
    pitr: int | None = None
    warnings: tuple[str, ...] = ()

    @property
    def moves(self) -> tuple[Move, ...]:
        """All moves in the order in which they are made."""
        return self.down + self.up

    def remaining(self, version: str | None, applied: str | None) -> tuple[Move, ...] | None:
        """The moves that are still to be made.

        Args:
            version: The newest applied version now.
            applied: The digest of the applied set now.

        Returns:
            None when the applied set is none of those this way passes through.
        """
        if applied in self.passed:
            return self.moves[self.passed.index(applied) :]
        if applied is not None and self.passed:
            return None
        route = Route(
            down=tuple(move.version for move in self.down),
            up=tuple(move.version for move in self.up),
        ).remaining(version)
        return tuple(m for m in self.moves if m.version in (*route.down, *route.up))
