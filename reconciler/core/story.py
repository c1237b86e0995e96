"""The history as a story: from ledger entries to lines a human reads from top to bottom. Pure; knows no colours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from reconciler.core.entry import Entry, EntryKind, Outcome
from reconciler.core.phase import RESTING_PHASES, Phase, Trigger


def tell(entries: Iterable[Entry]) -> Iterator[str]:
    """The story of some entries, oldest first."""
    told = _Told()
    for entry in entries:
        yield from told.lines(entry)


class _Told:
    """What has to be remembered from line to line: when each environment entered its phase, what each effect is."""

    def __init__(self) -> None:
        self._entered: dict[str, datetime] = {}
        self._summaries: dict[str, str] = {}

    def lines(self, entry: Entry) -> Iterator[str]:
        match entry.kind:
            case EntryKind.TRANSITION:
                yield from self._transition(entry)
            case EntryKind.INTENT:
                step = entry.body.get("step")
                if isinstance(step, dict):
                    self._summaries[self._effect(entry)] = str(step.get("summary", ""))
            case EntryKind.RESULT:
                yield self._result(entry)
            case EntryKind.DECISION:
                yield from self._decision(entry)
            case EntryKind.APPROVAL:
                verdict = entry.body.get("verdict")
                yield f"{_at(entry)}   {verdict} by {entry.actor}: {entry.body.get('message', '')}"
            case _:
                yield f"{_at(entry)}   {entry.kind}: {entry.body.get('message', '')}"

    def _transition(self, entry: Entry) -> Iterator[str]:
        run = entry.body.get("run")
        if isinstance(run, dict) and entry.from_state in RESTING_PHASES | {Phase.NEW}:
            yield ""
            yield f"{_at(entry)} run {entry.run} of {entry.environment}, generation {entry.generation}"
            yield f"           because: {entry.reason} ({run.get('cause')}), by {entry.actor} through {entry.origin}"
        spent = ""
        if entry.from_state and (began := self._entered.get(entry.environment)):
            spent = f"{entry.from_state} took {(entry.at - began).total_seconds():.2f} s"
        self._entered[entry.environment] = entry.at
        back = " (back)" if entry.trigger is Trigger.COMPENSATE else ""
        move = f"{_at(entry)} {entry.from_state} -> {entry.to_state}{back}"
        yield "   ".join(filter(None, (move, str(entry.body.get("message", "")), spent)))
        yield from _certificate(entry)
        if hint := entry.body.get("hint"):
            yield f"           next: {hint}"

    def _result(self, entry: Entry) -> str:
        outcome = entry.body.get("outcome")
        mark = {Outcome.DONE.value: "done", Outcome.FAILED.value: "FAILED"}.get(
            str(outcome), "settled"
        )
        summary = self._summaries.get(self._effect(entry)) or entry.effect or ""
        detail = entry.body.get("error") or entry.body.get("note") or ""
        seconds = entry.body.get("seconds")
        spent = f" ({seconds:.2f} s)" if isinstance(seconds, int | float) else ""
        return f"{_at(entry)}   {mark}: {summary}{spent}{f'  {detail}' if detail else ''}"

    def _decision(self, entry: Entry) -> Iterator[str]:
        decision, message = entry.body.get("decision"), entry.body.get("message", "")
        match decision:
            case "spec-accepted":
                given = f"gave {entry.environment} generation {entry.generation}"
                yield f"{_at(entry)} {entry.actor} {given} ({entry.body['path']})"
            case "spec-queued":
                yield f"{_at(entry)}   a newer spec waits its turn ({entry.body['path']})"
            case "evidence":
                before = entry.body.get("checksBefore")
                failing = (
                    ", ".join(map(str, before)) if isinstance(before, list) and before else "none"
                )
                yield f"{_at(entry)}   evidence saved; checks failing before: {failing}"
            case "resolved":
                yield f"{_at(entry)}   goal resolved"
            case _:
                yield f"{_at(entry)} {decision} by {entry.actor}: {message}"

    @staticmethod
    def _effect(entry: Entry) -> str:
        return f"{entry.run} {entry.effect}"


def _certificate(entry: Entry) -> Iterator[str]:
    certificate = entry.body.get("certificate")
    if not isinstance(certificate, dict):
        return
    facts = certificate.get("facts")
    for fact in facts if isinstance(facts, list) else ():
        if isinstance(fact, dict):
            yield f"           = {fact['key']}  {fact['value'] if fact['value'] is not None else 'absent'}"


def _at(entry: Entry) -> str:
    return f"{entry.at:%Y-%m-%d %H:%M:%S}"
